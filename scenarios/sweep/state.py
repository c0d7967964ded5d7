"""How far a sweep is, from the events that its conductor shows: counts, time left, best so far."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedgraft.errors import FedGraftError
from fedgraft.progress import Event
from scenarios.comparison.records import Comparison, PlannedRun
from scenarios.comparison.results import CLIENTS, OF_THE_GLOBAL_HEAD

LESS_IS_BETTER = ("loss", "error", "spread")
"""Last words of metrics of which less is better."""


ROUNDS_OF_A_PACE = 3
"""After which a run's own pace says more of the rest than any forecast; the first rounds have work of their own."""


@dataclass
class SweepState:
    """A sweep in progress.

    Attributes:
        comparison: what is made, with its forecasts.
        jobs: how many runs are made side by side.
        began: id -> when each running run began, by the caller's clock, in seconds.
        rounds: id -> the last round of each running run, and of how many.
        took: id -> seconds of each run that finished while it was watched.
        finished: ids, those of before too.
        failed: id -> why.
        values: contender -> the deciding metric of its finished runs.
        own_answers: contenders that answer with their clients' own heads.
    """

    comparison: Comparison
    jobs: int
    began: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    own_answers: frozenset[str] = frozenset()
    metric: str | None = None
    task: str = "classes"

    def __post_init__(self) -> None:
        self._runs = {run.id: run for run in self.comparison.runs}
        for run in self.comparison.runs:
            if run.state == "finished":
                self._count(run)

    @property
    def num_open(self) -> int:
        """Runs that have neither finished nor failed nor begun."""
        return len(self._runs) - len(self.finished) - len(self.failed) - len(self.began)

    def hear(self, event: Event, now: float) -> None:
        """Take note of an event of kind `run`."""
        identifier, what = str(event["id"]), event["what"]
        if what == "started":
            self.began[identifier] = now
        elif what == "moved":
            self.began.pop(identifier, None)
        elif what == "round":
            self.rounds[identifier] = (int(event["number"]), int(event["of"]))
        elif what in ("finished", "failed"):
            began = self.began.pop(identifier, now)
            self.rounds.pop(identifier, None)
            if what == "failed":
                self.failed[identifier] = str(event["error"])
            else:
                self.took[identifier] = now - began
                self._count(self._runs[identifier])

    def _count(self, run: PlannedRun) -> None:
        self.finished.add(run.id)
        value = self.value_of(run)
        if value is not None and run.role == "contender":
            self.values.setdefault(run.contender, []).append(value)

    def value_of(self, run: PlannedRun) -> float | None:
        """Return the deciding metric of a finished run; None if it has none, or its summary is damaged."""
        try:
            summary = run.run.summary
            self.task = str(summary["task"])
            self.metric = self.comparison.metric or self.metric or self._main_metric(summary)
            part = self.metric.partition("/")[0]
            own_heads = run.role == "alone" or run.contender in self.own_answers
            if own_heads and part in OF_THE_GLOBAL_HEAD:
                return None  # its global head is no answer
            return value_in(summary, self.metric)
        except (FedGraftError, OSError, ValueError, KeyError, TypeError):
            return None

    def _main_metric(self, summary: Mapping[str, Any]) -> str:
        """Return what decides where nothing is said: on the central test part only if it judges all contenders."""
        part = "central" if summary["central"] and not self.own_answers else CLIENTS
        return f"{part}/{summary['metric']}"

    def seconds_left(self, now: float) -> float | None:
        """Return for how long the sweep will go on; None as long as nothing is known of it."""
        remaining = [run for run in self._runs.values() if run.id not in self.finished and run.id not in self.failed]
        usual = statistics.mean(self.took.values()) if self.took else None
        pairs = [(self._forecast(identifier), seconds) for identifier, seconds in self.took.items()]
        expected = sum(cost for cost, _ in pairs if cost is not None)
        ratio = sum(seconds for cost, seconds in pairs if cost is not None) / expected if expected else 1.0
        total = 0.0
        for run in remaining:
            cost = self._forecast(run.id)
            seconds = usual if cost is None else cost * ratio
            if seconds is None:
                return None
            total += self._rest(run.id, seconds, now)
        return total / max(1, min(self.jobs, len(remaining)))

    def _rest(self, identifier: str, expected: float, now: float) -> float:
        """Return the seconds that a run still takes: by its own pace once it has one, else as expected."""
        spent = now - self.began[identifier] if identifier in self.began else 0.0
        number, of = self.rounds.get(identifier, (0, 0))
        if number >= ROUNDS_OF_A_PACE:
            return spent / number * (of - number)
        return max(0.0, expected - spent)

    def _forecast(self, identifier: str) -> float | None:
        forecast = self._runs[identifier].forecast
        return None if forecast is None else forecast.seconds

    def best(self) -> tuple[str, float, int] | None:
        """Return the contender with the best mean so far, that mean, and over how many runs; None before the first."""
        if not self.values or self.metric is None:
            return None
        means = {name: statistics.mean(values) for name, values in self.values.items()}
        choose = min if less_is_better(self.metric, self.task) else max
        name = choose(means, key=lambda name: means[name])
        return name, means[name], len(self.values[name])


def value_in(summary: Mapping[str, Any], metric: str) -> float | None:
    """Return a metric of a run's summary, as `central/accuracy`; `clients/` is of the heads that clients use."""
    part, _, name = metric.partition("/")
    found = summary.get("personal") or summary.get("validation") if part == "clients" else summary.get(part)
    value = (found or {}).get(name)
    return None if value is None else float(value)


def _main_metric(summary: Mapping[str, Any]) -> str:
    return f"{'central' if summary['central'] else 'validation'}/{summary['metric']}"


def less_is_better(metric: str, task: str) -> bool:
    """Whether less of a metric is better; scores of clients are squared errors where targets are real numbers."""
    name = metric.partition("/")[2]
    return name.endswith(LESS_IS_BETTER) or (task == "real" and name.startswith("client_"))
