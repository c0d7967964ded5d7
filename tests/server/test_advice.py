"""Each check speaks of the failure that it is for, and is silent where chance explains what is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from server.advice.checks import advice
from server.advice.facts import Facts, Point


def facts(**changes: Any) -> Facts:
    """Return the facts of a run where all is well: 200 validation samples in two classes, 180 of them right."""
    given: dict[str, Any] = {
        "task": "classes",
        "label_names": ("cat", "dog"),
        "client_names": ("a", "b", "c"),
        "num_train": np.array([100, 100, 100]),
        "validation": sums([[90, 10], [10, 90]]),
    }
    return Facts(**(given | changes))


def sums(confusion: list[list[int]]) -> dict[str, Any]:
    """Return the metric sums of a confusion matrix (rows: true class)."""
    matrix = np.array(confusion, dtype=np.float64)
    return {"count": np.array(matrix.sum()), "correct": np.array(np.trace(matrix)), "confusion": matrix}


def curve(*losses: float) -> list[Point]:
    """Return a curve over rounds 0, 1, ... of 200 samples each."""
    return [Point(number, loss, 200) for number, loss in enumerate(losses)]


def checks(of: Facts) -> list[str]:
    """Return the names of the checks that speak."""
    return [found.check for found in advice(of)]


def test_nothing_is_said_where_all_is_well() -> None:
    """Not even with everything at hand: equal clients, equal groups, a flat end of the curve."""
    fine = facts(
        central=sums([[88, 12], [12, 88]]),
        curve=curve(0.7, 0.4, 0.31, 0.3, 0.3, 0.3),
        num_validation=np.array([60, 70, 70]),
        scores=np.array([54, 63, 63]) / [60, 70, 70],
        groups={"left": (100, 91.0), "right": (100, 88.0)},
    )
    assert checks(fine) == []


def test_a_head_that_answers_the_commonest_class_transferred_nothing() -> None:
    """130 of 200 samples are cats: 129 right answers are 64.5 %, against 65 % for `cat` always."""
    found = advice(facts(validation=sums([[118, 12], [59, 11]])))
    assert [one.check for one in found] == ["negative_transfer", "weak_classes"]
    assert "right in 64 % of the validation samples" in found[0].text
    assert "'cat', would be in 65 %" in found[0].text


def test_a_loss_that_rose_again_was_trained_too_long() -> None:
    """Least after round 2; 0.34 is 13 % above 0.3. At 0.32, 7 % above, nothing is said."""
    found = advice(facts(curve=curve(0.7, 0.4, 0.3, 0.31, 0.34)))
    assert [one.check for one in found] == ["trained_too_long"]
    assert "least after round 2 (0.3) and rose to 0.34" in found[0].text
    assert "Stop there (server.patience)" in found[0].text
    assert checks(facts(curve=curve(0.7, 0.4, 0.3, 0.31, 0.32))) == []


def test_a_loss_that_only_rose_asks_for_a_lower_learning_rate() -> None:
    """There is no round to stop at."""
    found = advice(facts(curve=curve(0.7, 0.9, 1.4)))
    assert "least before training (0.7, now 1.4): lower train.optimizer.learning_rate" in found[0].text


def test_a_loss_that_still_falls_asks_for_more_rounds() -> None:
    """From 1 to 0.5 in ten rounds; the last two bring 0.1 of the 0.5. Bringing 0.02 of it they are passed over."""
    falling = curve(1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
    assert checks(facts(curve=falling)) == ["trained_too_short"]
    flat = curve(1, 0.9, 0.8, 0.7, 0.6, 0.55, 0.53, 0.52, 0.51, 0.505, 0.5)
    assert checks(facts(curve=flat)) == []
    assert checks(facts(curve=falling, trained=False)) == []


def test_a_test_part_from_elsewhere_is_another_domain() -> None:
    """90 % against 70 % of 200 each: a standard error of 3.9 points. 86 % is within two of them."""
    assert checks(facts(central=sums([[70, 30], [30, 70]]))) == ["other_domain"]
    assert checks(facts(central=sums([[86, 14], [14, 86]]))) == []


def test_a_client_with_most_samples_is_named() -> None:
    """900 of 1,000; with half of them nothing is said, nor of two clients, where one always has half."""
    found = advice(facts(num_train=np.array([50, 900, 50])))
    assert [one.check for one in found] == ["one_source"]
    assert "'b' has 90 % of all training samples" in found[0].text
    assert checks(facts(num_train=np.array([50, 100, 50]))) == []
    assert checks(facts(num_train=np.array([900, 100]), client_names=("a", "b"))) == []


def test_a_class_that_is_hardly_recognised_is_named() -> None:
    """2 of 20 foxes, where nine of ten answers are right otherwise; 4 of 9 are too few to speak of."""
    three: dict[str, Any] = {"label_names": ("cat", "dog", "fox")}
    found = advice(facts(validation=sums([[90, 10, 0], [10, 90, 0], [18, 0, 2]]), **three))
    assert [one.check for one in found] == ["weak_classes"]
    assert "'fox' (10 %)" in found[0].text
    assert checks(facts(validation=sums([[90, 10, 0], [10, 90, 0], [5, 0, 4]]), **three)) == []


def test_groups_are_compared_with_the_rest() -> None:
    """60 of 100 against 95 of 100 and 90 of 100; a group of 10 is not spoken of."""
    groups = {"old scanner": (100, 60.0), "new": (100, 95.0), "newer": (100, 90.0), "rare": (10, 1.0)}
    found = advice(facts(groups=groups))
    assert [one.check for one in found] == ["unequal_groups"]
    assert "'old scanner' (60 % of 100, the rest 89 %)" in found[0].text  # 186 of 210
    assert "'new" not in found[0].text


def test_clients_must_differ_by_more_than_chance() -> None:
    """Binomial scores of 30 clients with 20 samples are silent; half at 100 % and half at 80 % are not.

    There the variance is 0.1^2, of which 0.9 x 0.1 x 29 / 600 = 0.0659^2 is chance: 7.5 points remain.
    """
    sizes = {"num_train": np.full(30, 80), "client_names": tuple(str(number) for number in range(30))}
    draw = np.random.default_rng(0)
    for _ in range(5):
        chance = draw.binomial(20, 0.9, 30) / 20
        assert checks(facts(num_validation=np.full(30, 20), scores=chance, **sizes)) == []
    found = advice(facts(num_validation=np.full(30, 20), scores=np.repeat([1.0, 0.8], 15), **sizes))
    assert [one.check for one in found] == ["unequal_clients"]
    assert "differs by 8 points" in found[0].text


def test_small_clients_are_compared_with_large_ones() -> None:
    """The three smallest of nine are right in 70 of 100 each, all others in 90 of 100."""
    scores = np.array([0.7] * 3 + [0.9] * 6)
    known: dict[str, Any] = {"num_validation": np.full(9, 100), "client_names": tuple("abcdefghi")}
    found = advice(facts(num_train=np.array([10, 11, 12] + [50] * 6), scores=scores, **known))
    small = [one.text for one in found if one.check == "small_clients"]
    assert len(small) == 1
    assert "fewest samples (12 or fewer) is served worse: 70 % right, against 90 %" in small[0]
    assert "small_clients" not in checks(facts(num_train=np.full(9, 50), scores=scores, **known))


def test_own_heads_that_serve_worse_are_told() -> None:
    """Ten clients lose 5 to 15 points, one wins 5; gains and losses that cancel say nothing."""
    shared = np.full(11, 0.9)
    lost = np.array([0.05, 0.15] * 5 + [-0.05])
    known: dict[str, Any] = {
        "num_validation": np.full(11, 100),
        "num_train": np.full(11, 400),
        "client_names": tuple("abcdefghijk"),
        "scores": shared,
    }
    found = advice(facts(personal_scores=shared - lost, **known))
    assert [one.check for one in found] == ["own_heads_harm"]
    assert "by 8.6 points in the mean; 91 % of clients lose" in found[0].text  # 95 / 11, 10 of 11
    both = np.array([0.05, -0.05] * 5 + [0.0])
    assert checks(facts(personal_scores=shared + both, **known)) == []


def test_probabilities_that_are_off_are_told() -> None:
    """200 answers with 99 % confidence, 160 right: off by 19 points. Honest ones of 81 % are not spoken of."""

    def binned(confidence: float) -> dict[str, Any]:
        place = np.arange(15) == int(np.ceil(confidence * 15)) - 1
        return {"bin_count": 200.0 * place, "bin_confidence": 200 * confidence * place, "bin_correct": 160.0 * place}

    found = advice(facts(validation=sums([[80, 20], [20, 80]]) | binned(0.99)))
    assert [one.check for one in found] == ["unsure"]
    assert "off by 19 points: the head is 99 % sure and right in 80 %" in found[0].text
    assert checks(facts(central=sums([[85, 15], [15, 85]]) | binned(0.81))) == []


@pytest.mark.parametrize("task", ["labels", "real"])
def test_other_tasks_are_judged_by_their_loss(task: str) -> None:
    """Right answers are no business of theirs, a curve that rises is."""
    other = facts(task=task, validation={"count": np.array(200.0)}, curve=curve(1.0, 0.5, 0.9))
    assert checks(other) == ["trained_too_long"]


def test_nothing_is_said_of_clients_without_validation_samples() -> None:
    none: dict[str, Any] = {"num_validation": np.zeros(3, np.int64), "scores": np.zeros(3), "validation": {}}
    assert checks(facts(**none, personal_scores=np.zeros(3))) == []


def test_errors_no_smaller_than_those_of_the_mean_are_told_of_real_targets() -> None:
    """30 targets, half -1 and half 1, of mean 0: their spread is 30. Errors of 33 leave R² at -0.1, of 15 at 0.5."""
    targets = {"count": np.array(30.0), "loss": np.array(9.0), "absolute_error": np.array([20.0])}
    targets |= {"target": np.array([0.0]), "target_square": np.array([30.0])}
    given = {"task": "real", "label_names": ("dose",)}
    poor = advice(facts(**given, validation={**targets, "squared_error": np.array([33.0])}))
    assert [one.check for one in poor] == ["no_better_than_mean"]
    assert "R² is -0.10" in poor[0].text
    assert checks(facts(**given, validation={**targets, "squared_error": np.array([15.0])})) == []


def test_a_run_that_began_from_a_closed_form_is_not_told_to() -> None:
    falling = curve(1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
    assert "init: ridge" in advice(facts(curve=falling))[0].text
    assert "init: ridge" not in advice(facts(curve=falling, begun=True))[0].text
    assert "init: ridge" not in advice(facts(curve=curve(0.7, 0.9, 1.4), begun=True))[0].text
