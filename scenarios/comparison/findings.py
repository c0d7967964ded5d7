"""What a comparison found: plain numbers, as the report, the tables and the command line show them.

Accuracies are fractions from 0 to 1, losses are as trained, bytes are payload down and up, seconds are wall time.
None stands for what can't be known, such as the interval of a single seed; why is said in `notes`. `docs/statistics.md`
says how each number is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from scenarios.comparison.client_findings import ClientRow, TransferReport
from scenarios.comparison.estimates import Difference, Estimate
from scenarios.comparison.records import Forecast, LeftOut, Tuning


@dataclass(frozen=True)
class Metric:
    """What is measured.

    Attributes:
        name: part and metric, as `central/accuracy`.
        title: in words: `accuracy on the central test part`.
        higher_is_better: whether more is better.
        in_points: whether it is a share, of which differences are spoken of in percentage points.
        short: as a column is headed: `accuracy, central`.
    """

    name: str
    title: str
    higher_is_better: bool
    in_points: bool
    short: str = ""

    @property
    def heading(self) -> str:
        """What a column of it is called."""
        return self.short or self.title


@dataclass(frozen=True)
class ToTarget:
    """What it took to reach the target, over the seeds that reached it.

    Attributes:
        reached: seeds that did.
        num_seeds: seeds that there are.
        rounds: the first round whose evaluated head reached it.
        bytes: sent until then, down and up.
        seconds: until then.
    """

    reached: int
    num_seeds: int
    rounds: Estimate | None
    bytes: Estimate | None
    seconds: Estimate | None


@dataclass(frozen=True)
class Resources:
    """What a contender's runs cost.

    Attributes:
        seconds: from a run's start to its end, without what other runs had computed for it.
        bytes: down and up of a whole run, roll call and last evaluation included.
        memory_bytes: the most that a run held, where it was measured.
        forecast: the means of what was expected before.
    """

    seconds: Estimate | None
    bytes: Estimate | None
    memory_bytes: Estimate | None
    forecast: Forecast | None


@dataclass(frozen=True)
class Row:
    """One contender under one condition.

    Attributes:
        contender: its name.
        title: its name as a text speaks of it.
        num_planned: its runs.
        num_finished: those that came to their end and could be read.
        value: the deciding metric; None if no run has it.
        metrics: every metric that a run ended with, by name.
        difference: to the baseline; None for the baseline itself, and where no seed is shared.
        best_probability: how often it has the best mean when seeds are drawn anew; None with less than two shared
            seeds.
        to_target: None without a target.
        at_equal_bytes: the deciding metric of the last head that cost no more than `Condition.equal_bytes`; None: it
            made none for so much, or sends no heads at all.
        resources: what it cost.
        own_heads: whether it answers with the clients' own heads, so that no part for a global one judges it.
    """

    contender: str
    title: str
    num_planned: int
    num_finished: int
    value: Estimate | None
    metrics: Mapping[str, Estimate]
    difference: Difference | None
    best_probability: float | None
    to_target: ToTarget | None
    at_equal_bytes: Estimate | None
    resources: Resources
    own_heads: bool = False


@dataclass(frozen=True)
class Point:
    """A metric after a round, over the seeds whose runs evaluated it then.

    Attributes:
        round: 0: before training.
        bytes: sent until then, mean.
        seconds: until then, mean.
        mean: of the metric.
        low: lower end of its 95 % t interval; None with one seed.
        high: its upper end.
        num_seeds: how many it is over.
    """

    round: int
    bytes: float
    seconds: float
    mean: float
    low: float | None
    high: float | None
    num_seeds: int


@dataclass(frozen=True)
class Curve:
    """A contender's metric over rounds, bytes and seconds."""

    contender: str
    title: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Confusion:
    """Central test samples by true class (rows) and answer, summed over the seeds."""

    contender: str
    title: str
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ReliabilityBin:
    """Samples whose confidence (probability of the answer) lies in `(low, high]`.

    Attributes:
        low: exclusive, but for the first bin.
        high: inclusive.
        count: samples, over all seeds.
        confidence: their mean confidence; None without samples.
        accuracy: the share of right answers among them; None without samples.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How far a contender's confidence can be trusted, on the central test part.

    Attributes:
        error: expected calibration error: the mean of |confidence - accuracy| over the bins, weighted by samples.
        bins: ascending.
    """

    contender: str
    title: str
    error: Estimate
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Lifelong:
    """What a contender still knows of earlier tasks; see `server.lifelong` for the measures.

    Attributes:
        part: where it was judged, `central` or `validation`.
        classes: names of each task's classes.
        accuracy: on each task (columns) after each (rows), means over seeds; None: the task had not come.
        measures: `average_accuracy`, `forgetting` and `backward_transfer` at the end.
    """

    contender: str
    title: str
    part: str
    classes: tuple[tuple[str, ...], ...]
    accuracy: tuple[tuple[float | None, ...], ...]
    measures: Mapping[str, Estimate]


@dataclass(frozen=True)
class StageFound:
    """What one stage of a contender's runs came to, as means over seeds.

    Attributes:
        name: as the scenario calls it.
        strategy: its strategy.
        rounds: that it had; fewer than it was given where it stopped early.
        bytes: sent both ways.
        seconds: of its rounds.
        value: the deciding metric at its end, of the global head; None: it was not evaluated.
    """

    name: str
    strategy: str
    rounds: Estimate
    bytes: Estimate
    seconds: Estimate
    value: Estimate | None


@dataclass(frozen=True)
class Staged:
    """The stages of a contender, in order."""

    contender: str
    title: str
    stages: tuple[StageFound, ...]


@dataclass(frozen=True)
class Verdict:
    """What the numbers let one say, and no more.

    Attributes:
        headline: one sentence.
        sentences: what follows.
        best: contenders that the one with the best mean can't be told apart from, itself first.
    """

    headline: str
    sentences: tuple[str, ...]
    best: tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    """All that was found under one condition.

    Attributes:
        settings: key -> value; empty where there is one condition only.
        title: in words: `alpha 0.05`; empty with `settings`.
        rows: contenders, in the order of the plan.
        shared_seeds: seeds that all contenders with a result have; paired over them: the probability of being best.
        equal_bytes: the largest number of bytes that all runs of several rounds sent; None: there are none.
        curves: metric -> a curve a contender; the deciding metric is always there, first.
        clients: scores of each client, by seed, then by the federation's order.
        confusions: one a contender, for up to 200 classes.
        calibrations: one a contender, for classes.
        transfer: who gains and who is harmed; None where clients have no scores of their own.
        verdict: for this condition.
        notes: what a reader has to know: missing runs, seeds that are not shared.
        tuning: what was chosen for whom before; empty without tuning.
        lifelong: one a contender, where classes arrive task by task.
        staged: one a contender whose runs are made of stages.
    """

    settings: Mapping[str, JsonValue]
    title: str
    rows: tuple[Row, ...]
    shared_seeds: tuple[int, ...]
    equal_bytes: float | None
    curves: Mapping[str, tuple[Curve, ...]]
    clients: tuple[ClientRow, ...]
    confusions: tuple[Confusion, ...]
    calibrations: tuple[Calibration, ...]
    transfer: TransferReport | None
    verdict: Verdict
    notes: tuple[str, ...]
    tuning: tuple[Tuning, ...] = ()
    lifelong: tuple[Lifelong, ...] = ()
    staged: tuple[Staged, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end, or whose files are damaged."""

    id: str
    contender: str
    condition: str
    seed: int
    error: str
    directory: Path


@dataclass(frozen=True)
class Analysis:
    """All that a comparison found.

    Attributes:
        comparison_id: the comparison's.
        name: the scenario's.
        task: `classes`, `labels` or `real`.
        label_names: of the outputs.
        metric: what decides.
        target: a value of it, or None.
        baseline: a contender's name.
        contenders: name -> title, in the order of the plan.
        seeds: of the plan.
        conditions: in the order of the plan.
        verdict: over all conditions.
        metric_facts: what each metric of the rows means, by name.
        failures: runs that failed or are damaged.
        num_planned: runs of the plan.
        num_finished: those that count.
        num_open: those that have not begun or go on.
        left_out: directories that could not be used.
        notes: what a reader has to know of the whole.
        created: UTC.
        environment: versions, machine, revision.
    """

    comparison_id: str
    name: str
    task: str
    label_names: tuple[str, ...]
    metric: Metric
    target: float | None
    baseline: str
    contenders: Mapping[str, str]
    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...]
    verdict: Verdict
    metric_facts: Mapping[str, Metric]
    failures: tuple[Failure, ...] = ()
    num_planned: int = 0
    num_finished: int = 0
    num_open: int = 0
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    environment: Mapping[str, JsonValue] = field(default_factory=dict)
