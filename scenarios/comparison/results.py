"""What one finished run left, read and checked: its summary, and its metrics with what they had cost until then."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedgraft.errors import FedGraftError, StoreError
from scenarios.comparison.records import PlannedRun
from strategies.registry import STRATEGIES

PARTS = ("central", "validation", "personal")
CLIENTS = "clients"
"""The part of a metric that stands for whichever head clients use: their own where there is one, else the global."""

NO_FEDERATION = ("centralised", "zero-shot", "local-only")
"""Strategies that send no heads, so that their bytes are not to be compared with the others'."""

OF_THE_GLOBAL_HEAD = ("central", "validation")
"""Parts on which the global head is judged: those who answer with own heads have nothing there."""


@dataclass(frozen=True)
class Cost:
    """What had been spent until some moment of a run."""

    bytes: float
    seconds: float


@dataclass(frozen=True)
class ClientScores:
    """Scores of one evaluation of clients' heads, client -> (score, loss, samples)."""

    round: int
    of: Mapping[str, tuple[float, float, int]]


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        planned: what it stands for.
    """

    planned: PlannedRun

    @property
    def seed(self) -> int:
        """Pairs it with the other contenders' runs."""
        return self.planned.seed

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """What `summary.json` says."""
        return self.planned.run.summary

    @property
    def strategy(self) -> str:
        """The strategy's name."""
        return str(self.summary["strategy"])

    @property
    def own_answer(self) -> bool:
        """Whether it answers with the clients' own heads: its global one is never trained as a whole, nor judged."""
        known = STRATEGIES.get(self.strategy)  # runs of before do not say it themselves
        return bool(self.summary.get("answer", known.answer if known is not None else "global") == "own")

    @cached_property
    def final(self) -> dict[str, float]:
        """Every metric that the run ended with, as `central/accuracy`."""
        judged = [part for part in PARTS if self._judged(part)]
        found = {f"{part}/{name}": value for part in judged for name, value in (self.summary.get(part) or {}).items()}
        served = self.summary.get(self._served) or {}
        found |= {f"{CLIENTS}/{name}": value for name, value in served.items()}
        return {name: float(value) for name, value in found.items()}

    def _judged(self, part: str) -> bool:
        return not (self.own_answer and part in OF_THE_GLOBAL_HEAD)

    @property
    def _served(self) -> str:
        """The part that clients judge the head on which they would use."""
        return "personal" if self.own_answer or self.summary.get("personal") else "validation"

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self.planned.run.metrics

    @cached_property
    def costs(self) -> dict[int, Cost]:
        """What had been spent when a round's head was there: round -> cost; a head made before counts as round 0.

        What trains the head further after the last round counts as one round more.
        """
        of_round: dict[int, Cost] = {0: Cost(0.0, 0.0)}
        for row in self._rows:
            if row["group"] in ("init", "train", "calibrate"):
                number = int(row["round"]) + (row["group"] == "calibrate")
                spent = float(row.get("bytes_down", 0)) + float(row.get("bytes_up", 0))
                of_round[number] = Cost(spent, float(row.get("seconds", 0.0)))
        total, found = Cost(0.0, 0.0), {}
        for number in sorted(of_round):
            total = Cost(total.bytes + of_round[number].bytes, total.seconds + of_round[number].seconds)
            found[number] = total
        return found

    @cached_property
    def last_round(self) -> int:
        """The last round, a calibration counted as one more."""
        return max(self.costs)

    @cached_property
    def _calibrated(self) -> bool:
        return any(row["group"] == "calibrate" for row in self._rows)

    def course(self, metric: str) -> dict[int, float]:
        """Return a metric by the round whose head it is of; empty where the run has none."""
        part, _, name = metric.partition("/")
        if part == CLIENTS:
            part = self._served
        if not self._judged(part):
            return {}
        found: dict[int, float] = {}
        for row in self._rows:
            if name not in row:
                continue
            number = int(row["round"])
            if row["group"] == "calibrated" and part == "central":
                found[number + 1] = float(row[name])
            elif row["group"] == part:
                late = self._calibrated and part != "central" and number == self.last_round - 1
                found[number + late] = float(row[name])
        return {number: value for number, value in sorted(found.items()) if number in self.costs}

    @cached_property
    def client_scores(self) -> dict[str, list[ClientScores]]:
        """Each evaluation of `validation` (the global head) and `personal` (own heads) parts, by round."""
        path = self.planned.directory / "client_metrics.csv"
        found: dict[str, dict[int, dict[str, tuple[float, float, int]]]] = {"validation": {}, "personal": {}}
        if not path.exists():  # an unlearned run keeps nothing of single clients
            return {part: [] for part in found}
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["part"] in found and self._judged(row["part"]):
                    of_round = found[row["part"]].setdefault(int(row["round"]), {})
                    of_round[row["client"]] = (float(row["score"]), float(row["loss"]), int(row["num_samples"]))
        return {part: [ClientScores(number, of[number]) for number in sorted(of)] for part, of in found.items()}

    def check(self) -> None:
        """Read what the analysis needs of the run.

        Raises:
            StoreError: a file is damaged; says which.
        """
        where = self.planned.directory
        try:
            values = [*self.final.values(), *(cost.bytes for cost in self.costs.values())]
            _ = self.strategy, self.summary["task"], self.summary["metric"], list(self.summary["label_names"])
            _ = float(self.summary["bytes_down"]), float(self.summary["bytes_up"]), self.summary["seconds"].values()
            _ = self.client_scores
        except FedGraftError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"the run in {where} is damaged: {type(error).__name__}: {error}; run it again") from error
        if not all(math.isfinite(value) for value in values):
            raise StoreError(f"the run in {where} ended with numbers that are not finite; lower its learning rate")
