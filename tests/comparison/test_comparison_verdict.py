"""The verdict's sentences, word by word, where the numbers are clear, unclear, too few or strange."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from written_runs import planned

from scenarios.comparison.analysis import analyse
from scenarios.comparison.estimates import Estimate
from scenarios.comparison.findings import Analysis
from scenarios.comparison.titles import STRATEGY_TITLES, metric_of
from scenarios.comparison.wording import amount_text, bytes_text, estimate_text, joined
from strategies.registry import STRATEGIES

ACCURACY = "In accuracy on the central test part, "
ALPHA = "data.partition.alpha"
Made = Mapping[str, Callable[[int], Sequence[float]]]


def said(folder: Path, contenders: Made, seeds: Sequence[int] = (1, 2, 3, 4, 5), **changes: Any) -> Analysis:
    return analyse(planned(folder, contenders, seeds, **changes))


def around(mean: float, *gaps: float) -> Callable[[int], list[float]]:
    """Return accuracies of seeds 1, 2, ...: the mean and a gap each, in points."""
    return lambda seed: [0.1, mean / 2, mean + gaps[seed - 1] / 100]


BASE = around(0.88, 0.3, -0.3, 0.1, -0.1, 0.0)


def test_a_clear_answer(tmp_path: Path) -> None:
    """Differences 4.0, 4.6, 4.2, 3.6 and 4.1: mean 4.1, deviation 0.3606, so +- 2.776 * 0.3606 / sqrt(5) = 0.45."""
    contenders = {
        "fedavg": BASE,
        "ridge": around(0.92, 0.3, 0.3, 0.3, -0.5, 0.1),
        "fedprox": around(0.88, 0.2, -0.1, 0.2, -0.4, 0.1),
    }
    verdict = said(tmp_path, contenders, target=0.9).verdict
    assert verdict.headline == f"{ACCURACY}ridge beats FedAvg by 4.1 ± 0.4 points on all 5 seeds."
    assert verdict.sentences == (
        "FedProx and FedAvg can't be told apart.",
        "ridge is ahead of all others too.",
        "ridge reaches 90.0 % after 2 kB and 2 rounds (mean of 5 seeds).",
        "FedAvg and FedProx never reach 90.0 %.",
    )
    assert verdict.best == ("ridge",)


def test_the_baseline_may_be_the_best(tmp_path: Path) -> None:
    contenders = {"fedavg": BASE, "median": around(0.7, 0, 0.1, 0, 0.2, 0), "krum": around(0.6, 0.3, 0, 0, -0.2, 0)}
    verdict = said(tmp_path, contenders).verdict
    assert verdict.headline == f"{ACCURACY}FedAvg has the best mean, 88.0 ± 0.3 %, ahead of every other contender."
    assert verdict.sentences[0].startswith("FedAvg beats median by 17.9 ± 0.")
    assert verdict.sentences[1].endswith("points on all 5 seeds.")


def test_nothing_can_be_told_apart(tmp_path: Path) -> None:
    contenders = {"fedavg": BASE, "fedprox": around(0.881, -0.4, 0.5, 0.0, 0.1, 0.0)}
    verdict = said(tmp_path, contenders).verdict
    assert verdict.headline.startswith(f"{ACCURACY}FedProx has the best mean, 88.1 ± 0.")
    assert verdict.headline.endswith("%, but it can't be told apart from FedAvg.")
    assert verdict.sentences == ("FedProx and FedAvg can't be told apart.",)
    assert verdict.best == ("fedprox", "fedavg")


def test_the_leader_is_not_called_best_of_those_it_can_not_be_told_apart_from(tmp_path: Path) -> None:
    contenders = {
        "fedavg": BASE,
        "ridge": around(0.92, 0.3, 0.3, 0.3, -0.5, 0.1),
        "lda": around(0.919, 0.5, 0.2, 0.1, -0.3, 0.2),
    }
    verdict = said(tmp_path, contenders).verdict
    assert verdict.best == ("ridge", "lda")
    assert verdict.sentences[-1] == (
        "ridge has the best mean, but can't be told apart from linear discriminant (0.1 ± 0.2 points behind)."
    )


def test_one_seed_says_so(tmp_path: Path) -> None:
    verdict = said(tmp_path, {"fedavg": BASE, "ridge": around(0.92, 0.1)}, seeds=[1]).verdict
    assert (
        verdict.headline == f"{ACCURACY}ridge has the best mean, 92.1 %, but one seed can't say whether that is chance."
    )
    assert verdict.sentences == (
        "ridge is 3.8 points ahead of FedAvg on seed 1, the only one that both have; another seed may say otherwise.",
    )


def test_what_never_varies_is_not_tested(tmp_path: Path) -> None:
    contenders = {"fedavg": around(0.5, 0, 0, 0), "ridge": around(0.6, 0, 0, 0), "fedprox": around(0.5, 0, 0, 0)}
    sentences = said(tmp_path, contenders, seeds=[1, 2, 3]).verdict.sentences
    assert "FedProx gave the same as FedAvg on every seed." in sentences
    assert "ridge is 10.0 points ahead of FedAvg on each of 3 seeds; what never varies can't be tested." in sentences


def test_less_can_be_better(tmp_path: Path) -> None:
    contenders = {"fedavg": BASE, "ridge": around(0.92, 0.3, 0.3, 0.3, -0.5, 0.1)}
    verdict = said(tmp_path, contenders, metric="central/loss").verdict
    assert verdict.headline == "In loss on the central test part, ridge beats FedAvg by 0.0410 ± 0.0045 on all 5 seeds."


def test_a_baseline_without_a_result(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"fedavg": BASE, "ridge": BASE}, [1, 2])
    for run in plan.runs[:2]:
        (run.directory / "summary.json").unlink()
        run.fail("no")
    verdict = analyse(plan).verdict
    assert verdict.headline == "ridge reaches 88.0 ± 3.8 % in accuracy on the central test part, over 2 seeds."


def test_over_conditions(tmp_path: Path) -> None:
    contenders = {
        "fedavg": BASE,
        "ridge": around(0.92, 0.3, 0.3, 0.3, -0.5, 0.1),
        "fedprox mu=0.1": around(0.88, 0.2, -0.1, 0.2, -0.4, 0.1),
    }
    verdict = said(tmp_path, contenders, conditions=[{ALPHA: 0.05}, {ALPHA: 100.0}]).verdict
    assert verdict.headline == f"{ACCURACY}ridge has the best mean under both conditions."
    assert verdict.sentences == (
        "ridge beats FedAvg under both conditions.",
        "FedProx (mu=0.1) can't be told apart from FedAvg under any condition.",
        "alpha 0.05: ridge beats FedAvg by 4.1 ± 0.4 points on all 5 seeds.",
        "alpha 100.0: ridge beats FedAvg by 4.1 ± 0.4 points on all 5 seeds.",
    )
    assert verdict.best == ("ridge",)


def test_a_verdict_that_changes_with_the_condition(tmp_path: Path) -> None:
    better = around(0.92, 0.3, 0.3, 0.3, -0.5, 0.1)
    plan = planned(
        tmp_path, {"fedavg": BASE, "ridge": better}, [1, 2, 3, 4, 5], conditions=[{ALPHA: 0.1}, {ALPHA: 9.0}]
    )
    for run in plan.runs_in({ALPHA: 9.0}):  # under the second condition they change places
        other = {"fedavg": better, "ridge": BASE}[run.contender](run.seed)[-1]
        text = (run.directory / "summary.json").read_text()
        own = {"fedavg": BASE, "ridge": better}[run.contender](run.seed)[-1]
        (run.directory / "summary.json").write_text(text.replace(str(own), str(other)))
    verdict = analyse(plan).verdict
    assert verdict.headline.startswith(f"{ACCURACY}no contender is best everywhere: of 2 conditions ")
    assert verdict.sentences[0] == "ridge beats FedAvg under 1 and loses to it under 1 of 2 conditions."
    assert verdict.best == ()


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.041, 0.006, "4.1 ± 0.6 points"),
        (-0.041, 0.006, "4.1 ± 0.6 points"),
        (0.0004, 0.0002, "0.04 ± 0.02 points"),
        (0.041, None, "4.1 points"),
        (0.0, 0.0, "0.0 ± 0.0 points"),
    ],
)
def test_amounts(mean: float, half: float | None, text: str) -> None:
    accuracy = metric_of("central/accuracy", "classes")
    found = Estimate(mean, None if half is None else mean - half, None if half is None else mean + half, {})
    assert amount_text(found, accuracy) == text


def test_losses_are_not_in_points() -> None:
    loss = metric_of("central/loss", "classes")
    assert (loss.higher_is_better, loss.in_points) == (False, False)
    assert estimate_text(Estimate(0.35412, 0.343, 0.365, {}), loss) == "0.354 ± 0.011"
    squared = metric_of("validation/client_mean", "real")
    assert (squared.higher_is_better, squared.in_points) == (False, False)


def test_small_words() -> None:
    assert [joined(list("abc")[:number]) for number in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [bytes_text(number) for number in (12, 6_500_000, 1.5e12)] == ["12 bytes", "6.5 MB", "1.5e+03 GB"]


def test_titles_are_of_strategies_that_there_are() -> None:
    assert set(STRATEGY_TITLES) <= set(STRATEGIES)
