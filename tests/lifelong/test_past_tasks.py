"""Sums that are kept from task to task, and what a matrix of accuracies comes to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.lifelong import Curriculum, measures, task_scores
from server.past_tasks import past_of, with_past
from strategies.base import ClassSums, CrossValidate, Exchange, Replies, Statistics


def replies(**values: object) -> Replies:
    return Replies(sums={}, scalars={}, num_clients=2, **values)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2), min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_sums_of_any_tasks_in_any_order_are_those_of_all_samples(task_of: list[int], random: object) -> None:
    """Samples of whole numbers, so that every order of adding gives the same bits."""
    rows = np.arange(24.0).reshape(12, 2) % 7
    plan: tuple[Exchange, ...] = (Statistics("shared"),)
    order = [0, 1, 2]
    random.shuffle(order)  # type: ignore[attr-defined]
    past: dict[str, np.ndarray] = {}
    gathered = replies()
    for task in order:
        own = rows[np.array(task_of) == task]
        said = replies(statistics={"sum": own.sum(axis=0), "second_moment": own.T @ own}, num_samples=len(own))
        gathered = with_past(past, 0, plan[0], said)
        past = past_of(plan, (gathered,))
    assert np.array_equal(gathered.statistics["sum"], rows.sum(axis=0))
    assert np.array_equal(gathered.statistics["second_moment"], rows.T @ rows)
    assert gathered.num_samples == 12


def test_rows_of_clients_are_put_together_by_client_then_class() -> None:
    def rows(*entries: tuple[int, int, int]) -> dict[str, np.ndarray]:
        table = np.array(entries)
        return {"client": table[:, 0], "class": table[:, 1], "count": table[:, 2], "class_sum": table[:, 2:] * 1.0}

    plan = (ClassSums(),)
    past = past_of(plan, (replies(statistics=rows((0, 3, 5), (2, 3, 7)), num_samples=12),))
    both = with_past(past, 0, plan[0], replies(statistics=rows((0, 1, 2), (1, 1, 4)), num_samples=6))
    assert both.statistics["client"].tolist() == [0, 0, 1, 2]
    assert both.statistics["class"].tolist() == [1, 3, 1, 3]
    assert both.statistics["count"].tolist() == [2, 5, 4, 7]
    assert both.statistics["class_sum"].tolist() == [[2.0], [5.0], [4.0], [7.0]]
    assert both.num_samples == 18


def test_scores_of_penalties_are_added_and_the_first_task_has_no_past() -> None:
    plan = (Statistics("shared"), CrossValidate((0.1, 1.0)))
    sums = replies(statistics={"sum": np.array([1.0])}, num_samples=4)
    first = replies(scores=np.array([3, 1]), penalties=np.array([5.0, 50.0]), num_samples=4)
    assert with_past({}, 1, plan[1], first) is first
    second = with_past(past_of(plan, (sums, first)), 1, plan[1], replies(scores=np.array([1, 2]), num_samples=3))
    assert second.scores.tolist() == [4, 3]
    assert second.num_samples == 7


def test_the_measures_of_a_matrix_by_hand() -> None:
    """Forgetting: task 1 was at best 0.9, after task 1 or 2, now 0.5; task 2 was 0.6, now 0.8: (0.4 - 0.2) / 2."""
    found = measures([[0.7, None, None], [0.9, 0.6, None], [0.5, 0.8, 1.0]])
    assert found["average_accuracy"] == pytest.approx(2.3 / 3)
    assert found["forgetting"] == pytest.approx(0.1)
    assert found["backward_transfer"] == pytest.approx((0.5 - 0.7 + 0.8 - 0.6) / 2)


def test_tasks_without_samples_are_left_out_of_the_measures() -> None:
    assert measures([[None, None], [None, 0.5]]) == {"average_accuracy": 0.5}


def test_the_scores_of_tasks_by_hand() -> None:
    """Classes 0 and 2 make task 1: of their 5 + 5 samples 3 + 4 are right, whatever the others were taken for."""
    confusion = np.array([[3, 2, 0], [1, 9, 0], [0, 1, 4]])
    tasks = (np.array([0, 2]), np.array([1]))
    assert task_scores({"confusion": confusion}, tasks) == [0.7, 0.9]
    assert task_scores({"confusion": np.zeros((3, 3))}, tasks) == [None, None]
    assert task_scores(None, tasks) == [None, None]


def test_rounds_belong_to_tasks() -> None:
    curriculum = Curriculum((np.array([0]), np.array([1])), 3)
    assert [curriculum.task_of(number) for number in range(7)] == [1, 1, 1, 1, 2, 2, 2]
    assert [number for number in range(7) if curriculum.begins_with(number)] == [4]
    assert [number for number in range(7) if curriculum.ends_after(number)] == [3, 6]
