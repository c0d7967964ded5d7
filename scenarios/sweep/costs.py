"""What runs will cost, from one short run of each contender: seconds, bytes, memory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgraft.errors import FedGraftError
from fedgraft.runs import Run
from fedgraft.simulation.settings import InlineRuntime
from scenarios.comparison.records import Forecast
from scenarios.schema import Scenario
from scenarios.sweep.bench import Message, Task, perform
from scenarios.sweep.plan import SweepRun
from server.settings import ServerSettings

ROUNDS = 2
"""Of a short run: the first one has work that is done once, such as the products of features."""

ONCE = ("libraries", "features")
"""Phases that a process pays once, not each of its runs."""

NO_COST = ("alpha",)
"""Ends of keys that change what is learned and not what it costs, so that one short run speaks for all values."""

START_SECONDS = 6.0
"""A worker process takes as long until it begins its first run."""

SPARE_MEMORY = 0.2
"""Part of the free memory that is left alone."""


@dataclass(frozen=True)
class Rate:
    """What the runs of a group cost: a part that does not depend on the number of rounds, and a part for each."""

    fixed_seconds: float
    round_seconds: float
    fixed_bytes: float
    round_bytes: float
    memory_bytes: float

    def forecast(self, rounds: int) -> Forecast:
        """Return what a run of this many rounds will cost."""
        return Forecast(
            seconds=round(self.fixed_seconds + rounds * self.round_seconds, 3),
            bytes=float(round(self.fixed_bytes + rounds * self.round_bytes)),
            memory_bytes=self.memory_bytes,
        )


def rounds_of(scenario: Scenario) -> int:
    """Return how many rounds a run of a scenario has; of a run of tasks, those of one task."""
    parts = scenario.in_stages()
    return sum(
        min(part.server.rounds, part.strategy.rounds_with(part.pseudo_labels is not None) or part.server.rounds)
        for part in parts
    )


def shortened(scenario: Scenario, rounds: int) -> Scenario:
    """Return a scenario with no more than some rounds, in each stage if it has stages, that tells no tracker of it."""

    def short(server: ServerSettings) -> ServerSettings:
        return server.model_copy(update={"rounds": min(rounds, server.rounds)})

    stages = scenario.stages and tuple(
        stage.model_copy(update={"server": short(stage.server)}) for stage in scenario.stages
    )
    return scenario.model_copy(update={"server": short(scenario.server), "stages": stages, "tracking": ()})


def group_of(run: SweepRun) -> str:
    """Return a text that is the same for runs that cost the same but for chance."""
    cheap = ("attack", "availability")
    condition = {
        key: value
        for key, value in run.planned.condition.items()
        if key.split(".")[0] not in cheap and key.split(".")[-1] not in NO_COST
    }
    return json.dumps([run.planned.contender, condition], sort_keys=True)


def forecasts(
    runs: Sequence[SweepRun], folder: Path, tell: Callable[[int, int], None]
) -> tuple[dict[str, Forecast], dict[str, str]]:
    """Return what each run will cost, from a short run of the first of each group.

    Args:
        runs: all that are planned.
        folder: for the short runs; what lies in it afterwards means nothing.
        tell: called with how many short runs are done, and of how many.

    Returns:
        Forecasts by the run's id, of groups whose short run came to its end; and the errors of the others, by group.
    """
    firsts: dict[str, SweepRun] = {}
    for run in runs:
        firsts.setdefault(group_of(run), run)
    rates: dict[str, Rate] = {}
    errors: dict[str, str] = {}
    for number, (group, run) in enumerate(firsts.items()):
        tell(number, len(firsts))
        found = _measured(run, folder / f"short-{number}")
        if isinstance(found, str):
            errors[group] = found
        else:
            rates[group] = found
    tell(len(firsts), len(firsts))
    costs = {
        run.planned.id: rates[group_of(run)].forecast(rounds_of(run.scenario) * max(run.scenario.data.num_tasks, 1))
        for run in runs
        if group_of(run) in rates
    }
    return costs, errors


def _measured(run: SweepRun, directory: Path) -> Rate | str:
    """Return what a short run cost, for each round and beside the rounds; or why it failed."""
    scenario = run.scenario
    runtime = InlineRuntime(threads=scenario.runtime.threads, device=scenario.runtime.device)
    short = shortened(scenario, ROUNDS).model_copy(update={"runtime": runtime})
    error = _prepared(short)
    if error is not None:
        return error
    messages: list[Message] = []
    perform(Task(run.planned.id, short.model_dump_json(), str(directory)), messages.append)
    if messages[-1]["kind"] == "failed":
        return str(messages[-1]["error"])
    return rate_of(Run(directory))


def _prepared(scenario: Scenario) -> str | None:
    """Divide the samples and compute the features, whose cost is that of no run; return what went wrong."""
    from fedgraft.preparation import prepare

    try:
        prepare(scenario, keep_data=True)
    except FedGraftError as error:
        return str(error)
    return None


def rate_of(run: Run) -> Rate:
    """Return what a finished run cost, for each round and beside the rounds."""
    summary = run.summary
    rows = [row for row in run.metrics if row["group"] == "train"]
    last = rows[-1] if rows else {"seconds": 0.0, "bytes_down": 0, "bytes_up": 0}
    round_bytes = last["bytes_down"] + last["bytes_up"]
    seconds = seconds_of(summary)
    return Rate(
        fixed_seconds=max(0.0, seconds - len(rows) * last["seconds"]),
        round_seconds=last["seconds"],
        fixed_bytes=max(0.0, summary["bytes_down"] + summary["bytes_up"] - len(rows) * round_bytes),
        round_bytes=round_bytes,
        memory_bytes=float(summary["peak_memory_bytes"]),
    )


def seconds_of(summary: Mapping[str, Any]) -> float:
    """Return the seconds of a run, without what a process pays once."""
    return float(sum(value for phase, value in summary["seconds"].items() if phase not in ONCE))


def fitting_jobs(costs: Sequence[Forecast | None], threads: int) -> int:
    """Return how many processes make the runs soonest, as cores and memory allow.

    Args:
        costs: of the runs that are to be made.
        threads: of each run.
    """
    from fedgraft.launch import usable_cores

    most = min(max(1, usable_cores() // threads), max(1, len(costs)))
    memory = max((cost.memory_bytes or 0.0 for cost in costs if cost is not None), default=0.0)
    free = free_memory()
    if memory and free is not None:
        most = max(1, min(most, int((1 - SPARE_MEMORY) * free / memory)))
    total = sum(cost.seconds or 0.0 for cost in costs if cost is not None)
    return min(range(1, most + 1), key=lambda jobs: total / jobs + (START_SECONDS if jobs > 1 else 0.0))


def free_memory() -> int | None:
    """Return the bytes of memory that new processes can have; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
