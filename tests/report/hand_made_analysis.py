"""Analyses made of plain formulas, as large and as hostile as wanted, for tests of what is drawn from them."""

from __future__ import annotations

import math
from pathlib import Path

from scenarios.comparison.client_findings import ClientRow, Gain, Third, Trait, Transfer, TransferReport
from scenarios.comparison.estimates import Difference, Estimate
from scenarios.comparison.findings import (
    Analysis,
    Calibration,
    Condition,
    Confusion,
    Curve,
    Failure,
    Metric,
    Point,
    ReliabilityBin,
    Resources,
    Row,
    Verdict,
)
from scenarios.comparison.records import Comparison, Forecast, LeftOut, PlannedRun

ACCURACY = Metric("central/accuracy", "accuracy on the central test part", higher_is_better=True, in_points=True)
LOSS = Metric("central/loss", "loss on the central test part", higher_is_better=False, in_points=False)
NAMES = ("fedavg", "fedprox mu=0.1", "ridge", "scaffold", "feddyn", "fedadam")


def spread(mean: float, half: float = 0.01, num_seeds: int = 5) -> Estimate:
    """Return an estimate whose seeds' values lie evenly around its mean."""
    middle = (num_seeds - 1) / 2
    values = {seed: mean + half * (seed - 1 - middle) / max(middle, 1) for seed in range(1, num_seeds + 1)}
    return Estimate(mean, mean - half, mean + half, values) if num_seeds > 1 else Estimate(mean, None, None, values)


def final(place: int, case: int) -> float:
    """Return the accuracy of contender number `place` under condition number `case`: each is 0.5 points better."""
    return 0.7 + 0.005 * place + 0.03 * case


def curve(name: str, end: float, rounds: int, step_bytes: float) -> Curve:
    points = [
        Point(number, number * step_bytes, number * 0.4, mean, mean - 0.01, mean + 0.01, 5)
        for number in range(rounds + 1)
        for mean in [0.1 + (end - 0.1) * (1 - math.exp(-5 * number / rounds))]
    ]
    return Curve(name, name, tuple(points))


def row(name: str, place: int, case: int, num_seeds: int) -> Row:
    value = spread(final(place, case), num_seeds=num_seeds)
    gap = spread(0.005 * place, 0.004, num_seeds)
    p = 0.3 / (place + 1) ** 3
    cost = Resources(
        spread(10.0 + place), spread(2e6 * (place + 1)), spread(3e8), Forecast(12.0, 2e6 * (place + 1), 2.5e8)
    )
    return Row(
        contender=name,
        title=name,
        num_planned=num_seeds,
        num_finished=num_seeds - (1 if place == 1 else 0),
        value=value,
        metrics={ACCURACY.name: value, LOSS.name: spread(2.0 - final(place, case))},
        difference=Difference(gap, num_seeds, 0, "t", p, min(1.0, 2 * p)) if place else None,
        best_probability=0.9 if place == 2 else 0.02,
        to_target=None,
        at_equal_bytes=spread(final(place, case) - 0.1),
        resources=cost,
    )


def client_rows(names: tuple[str, ...], num_clients: int, case: int) -> tuple[ClientRow, ...]:
    return tuple(
        ClientRow(
            client=f"client-{number:04}",
            seed=1,
            num_train=10 + number % 50,
            num_validation=5 + number % 7,
            label_skew=(number % 100) / 100,
            distance=1 + (number % 10) / 10,
            scores={
                name: min(1.0, final(place, case) * (0.6 + 0.4 * math.cos(number))) for place, name in enumerate(names)
            },
            global_scores={},
        )
        for number in range(num_clients)
    )


def transfer(name: str, num_clients: int) -> TransferReport:
    gains = tuple(
        Gain(f"client-{number:04}", None, 0.4 - 0.6 * number / num_clients, None, None, 5)
        for number in range(num_clients)
    )
    thirds = tuple(Third(low, low + 5, spread(0.3 - low / 50), spread(0.2)) for low in (0.0, 6.0, 12.0))
    found = Transfer(
        kind="global-against-own",
        contender=name,
        title=name,
        gain=spread(0.1),
        gain_against_last=None,
        gaining=spread(2 / 3),
        harmed=spread(1 / 3),
        clients=gains,
        sure_gains=10,
        sure_harms=3,
        traits=(Trait("num_train", "training samples", spread(-0.4), thirds),),
        verdict=("Two thirds of the clients gain; the small ones gain most.",),
    )
    return TransferReport("local-only", True, (found,), ("Own heads are those of local-only.",))


def calibration(name: str, place: int) -> Calibration:
    bins = tuple(
        ReliabilityBin(low / 10, (low + 1) / 10, 40, (low + 0.5) / 10, max(0.0, (low + 0.5) / 10 - 0.01 * place))
        for low in range(10)
    )
    return Calibration(name, name, spread(0.01 * place), bins)


def condition(
    names: tuple[str, ...], case: int, alpha: float | None, num_clients: int, num_labels: int, num_seeds: int
) -> Condition:
    rounds = 20
    confusion = tuple(
        tuple(
            90 if true == answer else (10 if answer == (true + 1) % num_labels else 0) for answer in range(num_labels)
        )
        for true in range(num_labels)
    )
    return Condition(
        settings={} if alpha is None else {"data.partition.alpha": alpha},
        title="" if alpha is None else f"alpha {alpha:g}",
        rows=tuple(row(name, place, case, num_seeds) for place, name in enumerate(names)),
        shared_seeds=tuple(range(1, num_seeds + 1)),
        equal_bytes=1e6,
        curves={
            ACCURACY.name: tuple(
                curve(name, final(place, case), 1 if name == "ridge" else rounds, 1e5 * (place + 1))
                for place, name in enumerate(names)
            )
        },
        clients=client_rows(names, num_clients, case),
        confusions=tuple(Confusion(name, name, confusion) for name in names),
        calibrations=tuple(calibration(name, place) for place, name in enumerate(names)),
        transfer=transfer(names[-1], num_clients) if num_clients else None,
        verdict=Verdict(f"{names[-1]} is best where {alpha}.", ("It wins on all seeds.",), (names[-1],)),
        notes=(),
    )


def analysis(
    names: tuple[str, ...] = NAMES,
    alphas: tuple[float | None, ...] = (0.05, 0.5, 100.0),
    num_clients: int = 20,
    num_labels: int = 10,
    num_seeds: int = 5,
    failures: tuple[Failure, ...] = (),
    left_out: tuple[LeftOut, ...] = (),
) -> Analysis:
    """Return an analysis: contender number k reaches `final(k, case)`, so the last one is best everywhere."""
    return Analysis(
        comparison_id="7c0d0ba2-0d4c-4d35-9d53-3f0f8ec4e1b9",
        name="digits, hand-made",
        task="classes",
        label_names=tuple(map(str, range(num_labels))),
        metric=ACCURACY,
        target=None,
        baseline=names[0],
        contenders={name: name for name in names},
        seeds=tuple(range(1, num_seeds + 1)),
        conditions=tuple(
            condition(names, case, alpha, num_clients, num_labels, num_seeds) for case, alpha in enumerate(alphas)
        ),
        verdict=Verdict(
            f"{names[-1]} beats {names[0]} by 2.5 ± 0.4 points on all {num_seeds} seeds.",
            ("The others can't be told apart.",),
            (names[-1],),
        ),
        metric_facts={ACCURACY.name: ACCURACY, LOSS.name: LOSS},
        failures=failures,
        num_planned=len(names) * len(alphas) * num_seeds,
        num_finished=len(names) * len(alphas) * num_seeds - len(failures),
        left_out=left_out,
        created="2026-11-21T12:00:00Z",
        environment={"fedgraft": "0.1.0", "python": "3.11.7", "libraries": {"torch": "2.15.0"}},
    )


def comparison_for(found: Analysis, directory: Path) -> Comparison:
    """Return the comparison that such an analysis could be of; none of its runs lies on the disk."""
    runs = tuple(
        PlannedRun(f"run-{place}-{case}-{seed}", name, dict(entry.settings), {}, seed)
        for case, entry in enumerate(found.conditions)
        for place, name in enumerate(found.contenders)
        for seed in found.seeds
    )
    return Comparison(
        comparison_id=found.comparison_id,
        name=found.name,
        baseline=found.baseline,
        metric=found.metric.name,
        target=None,
        seeds=found.seeds,
        condition_keys=tuple(found.conditions[0].settings),
        created=found.created,
        environment=dict(found.environment),
        runs=runs,
    ).placed(directory)
