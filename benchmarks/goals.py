"""What a round is to cost at most: each figure that a report of `simulation.py` holds beside its goal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

GIB = 2**30
FEDGRAFT = ("inline", "ray")


@dataclass(frozen=True)
class Goal:
    """One figure and its limit."""

    what: str
    value: float
    limit: float
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        """Return the goal as a line of the table."""
        side = "at least" if self.at_least else "at most"
        value = f"{self.value:.1e}" if self.value < 0.001 else f"{self.value:.3g}"
        limit = f"{self.limit:.0e}" if self.limit < 0.001 else f"{self.limit:.3g}"
        return f"{self.what:58} {value:>8}{self.unit}   {side} {limit}{self.unit}: {'met' if self.met else 'missed'}"

    def facts(self) -> dict[str, Any]:
        """Return the goal for JSON."""
        return {**asdict(self), "met": self.met}


def goals(report: Mapping[str, Any]) -> list[Goal]:
    """Return the goals that apply to the sizes and engines of a report."""
    return [goal for engine in FEDGRAFT if engine in report["seconds_per_round"] for goal in _of(report, engine)]


def _of(report: Mapping[str, Any], engine: str) -> Iterator[Goal]:
    """Yield the goals of one of FedGraft's runtimes."""
    size = (report["clients"], report["samples"], report["dtype"])
    rival = {100: 60.0, 1000: 100.0}.get(report["clients"])
    if "flower" in report["ratios"][engine] and rival and report["samples"] == 50:
        yield Goal(f"stock Flower over {engine}", report["ratios"][engine]["flower"], rival, True, " x")
    if "loop" in report["ratios"][engine] and size == (1000, 50, "float32"):
        yield Goal(f"bare PyTorch loop over {engine}", report["ratios"][engine]["loop"], 30.0, True, " x")
    difference = report.get("largest_relative_difference", {}).get(engine)
    if difference is not None and not report["bfloat16"]:
        yield Goal(f"{engine}: difference from the loop, {report['rounds']} rounds", difference, 1e-5)
    seconds, memory = report["seconds_per_round"][engine], report["peak_memory_bytes"][engine]
    if size == (10_000, 50, "float32"):
        yield Goal(f"{engine}: one round", seconds, 1.5, unit=" s")
        yield Goal(f"{engine}: memory beyond the features", (memory - report["feature_bytes"]) / GIB, 1.5, unit=" GiB")
        compute, limit = ("bfloat16", 4.0) if report["bfloat16"] else ("float32", 8.0)
        floor = report["floor_seconds"]
        yield Goal(f"{engine}: round over the two-pass floor, {compute}", seconds / floor, limit, unit=" x")
    if size == (100_000, 20, "float16"):
        yield Goal(f"{engine}: one round", seconds, 20.0, unit=" s")
        yield Goal(f"{engine}: resident memory", memory / GIB, 10.0, unit=" GiB")
