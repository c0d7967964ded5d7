"""A comparison on disk: which runs belong to it, what each stands for, and how far each has come.

`comparison.json` is the plan and never changes while the runs go on; a run's state is read off its own directory: it is
finished where it has a `summary.json`, failed where it has a `failed.json`, and open otherwise.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from fedgraft.errors import StoreError, WireError, listed
from fedgraft.files import write_text
from fedgraft.runs import Run
from fedgraft.wire.protocol import SCHEMA, check_number

COMPARISON_FILE = "comparison.json"
FAILED_FILE = "failed.json"
RUNS_FOLDER = "runs"

State = Literal["open", "finished", "failed"]
Role = Literal["contender", "alone"]
Amount = Annotated[float, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.=+-]*$", max_length=200)]
"""A name that stays inside its folder."""
MetricName = Annotated[str, Field(pattern=r"^(central|validation|personal|clients)/[a-z0-9_]+$")]
"""A part and a metric of `summary.json`, as `central/accuracy`; `clients` is `personal` where there is that, and
`validation` elsewhere: of the head that clients would use."""
Values: TypeAlias = dict[str, JsonValue]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Forecast:
    """What a run was expected to cost, before it began; None: not known.

    Attributes:
        seconds: from its start to its end.
        bytes: down and up, of the whole run.
        memory_bytes: the most that its process holds.
    """

    seconds: Amount | None = None
    bytes: Amount | None = None
    memory_bytes: Amount | None = None

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        id: its folder below `runs/`.
        contender: what is compared, by its short name.
        condition: under which circumstance: key of the scenario -> value.
        settings: all that this run changes in the scenario: key -> value.
        seed: pairs runs: equal seeds have equal splits, first heads and batches.
        forecast: what it was expected to cost.
        role: `contender`, or `alone`: clients by themselves, for the transfer report, who compete with nobody.
        tuned: what it changes beside `settings`: key -> value that tuning chose, or that clients alone are tried with.
        directory: where it lies; a comparison that was written or read knows it.
    """

    id: FileName
    contender: Annotated[str, Field(min_length=1, max_length=200)]
    condition: Values
    settings: Values
    seed: Annotated[int, Field(ge=0)]
    forecast: Forecast | None = None
    role: Role = "contender"
    tuned: Values = field(default_factory=dict)
    directory: Path = field(default=Path(), compare=False)

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @cached_property
    def run(self) -> Run:
        """The run itself, finished or not."""
        return Run(self.directory)

    @property
    def state(self) -> State:
        """How far it has come, as its directory says now."""
        if self.run.finished:
            return "finished"
        return "failed" if (self.directory / FAILED_FILE).exists() else "open"

    @property
    def error(self) -> str | None:
        """Why it failed; None if it did not."""
        if self.state != "failed":
            return None
        try:
            text = json.loads((self.directory / FAILED_FILE).read_text(encoding="utf-8"))["error"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"unknown: {self.directory / FAILED_FILE} is damaged"
        return str(text)

    def fail(self, error: str) -> None:
        """Say that the run failed, and why."""
        write_text(self.directory / FAILED_FILE, json.dumps({"error": error}, indent=2) + "\n")

    def retry(self) -> None:
        """Forget that it failed; it is open again."""
        (self.directory / FAILED_FILE).unlink(missing_ok=True)


@dataclass(frozen=True)
class Tuning:
    """What a search on validation parts chose for a contender under one condition.

    Attributes:
        contender: its name.
        condition: under which it was searched for.
        seed: of the split, the first heads and the batches; none of those that are compared.
        metric: what it was chosen by, of the heads that clients would use: `clients/accuracy`; None: nothing was.
        settings: what was chosen: key -> value.
        score: the metric with it; None: no setting could be run.
        error: why the first of them failed, where all did.
        num_settings: that were tried.
        num_runs: that this took.
        num_rounds: of all of them together.
    """

    contender: str
    condition: Values
    seed: int
    metric: MetricName | None
    settings: Values
    score: float | None
    error: str | None
    num_settings: int
    num_runs: int
    num_rounds: int

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class LeftOut:
    """A run directory that was given and could not be used.

    Attributes:
        path: where it lies.
        reason: why not.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All runs of a comparison and what is asked of them.

    Attributes:
        comparison_id: a UUID.
        name: the scenario's.
        baseline: the contender that the others are measured against.
        metric: what decides, as `central/accuracy`; None: the main metric of the task on the central test part, or on
            the validation parts where there is none.
        target: a value of the metric; how long and how many bytes it took to reach it is reported.
        seeds: those of the runs.
        condition_keys: keys of the scenario that make the conditions.
        created: UTC, as `2026-01-31T12:00:00Z`.
        environment: versions, machine, revision; see `server.run_directory.environment`.
        runs: in the order in which they were planned.
        tuning: what was chosen for whom, once it is; empty without `tune`.
        directory: where it lies; None: nowhere, it was put together of runs that lie elsewhere.
        left_out: directories that could not be used.
        notes: what a reader has to know of how it was put together.
    """

    comparison_id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    baseline: str
    metric: MetricName | None
    target: float | None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    condition_keys: tuple[str, ...]
    created: str
    environment: Values
    runs: Annotated[tuple[PlannedRun, ...], Field(min_length=1)]
    tuning: tuple[Tuning, ...] = ()
    directory: Path | None = field(default=None, compare=False)
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @cached_property
    def contenders(self) -> tuple[str, ...]:
        """What is compared, each name once, in the order of the plan."""
        return tuple(dict.fromkeys(run.contender for run in self.runs if run.role == "contender"))

    @cached_property
    def alone(self) -> tuple[str, ...]:
        """The names of those runs in which clients train by themselves, for the transfer report."""
        return tuple(dict.fromkeys(run.contender for run in self.runs if run.role == "alone"))

    @cached_property
    def conditions(self) -> tuple[Values, ...]:
        """The circumstances, each once, in the order of the plan."""
        return tuple({condition_key(run.condition): run.condition for run in self.runs}.values())

    def runs_in(self, condition: Mapping[str, JsonValue]) -> tuple[PlannedRun, ...]:
        """Return the runs of one condition."""
        wanted = condition_key(condition)
        return tuple(run for run in self.runs if condition_key(run.condition) == wanted)

    def placed(self, directory: Path) -> Comparison:
        """Return the comparison with its runs below a directory."""
        runs = tuple(replace(run, directory=directory / RUNS_FOLDER / run.id) for run in self.runs)
        return replace(self, directory=directory, runs=runs)

    def write(self, directory: Path) -> Comparison:
        """Write `comparison.json` into a directory; return the comparison that lies there.

        Raises:
            StoreError: it can't be written, or does not make sense.
        """
        faults = _faults(self)
        if faults:
            raise _refused(directory / COMPARISON_FILE, faults)
        known = {"schema": SCHEMA, **dataclasses.asdict(self)}
        for name in ("directory", "left_out"):
            del known[name]
        for run in known["runs"]:
            del run["directory"]
        write_text(directory / COMPARISON_FILE, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
        return self.placed(directory)


def condition_key(condition: Mapping[str, JsonValue]) -> str:
    """Return a text that is the same for equal conditions."""
    return json.dumps(condition, sort_keys=True)


def read_comparison(directory: str | Path) -> Comparison:
    """Return the comparison in a directory.

    Raises:
        StoreError: there is none, it is damaged, or another release wrote it; names all faults.
    """
    place = Path(directory).absolute()
    path = place / COMPARISON_FILE
    try:
        tree: Any = json.loads(path.read_bytes())
        if not isinstance(tree, dict):
            raise _refused(path, ["expected a mapping"])
        check_number("schema", tree.pop("schema", None), SCHEMA, f"comparison {place}")
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{place} holds no comparison (it has no {COMPARISON_FILE})") from None
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror or error}") from error
    except ValueError as error:  # bad UTF-8 and bad JSON are both
        raise _refused(path, [str(error)]) from error
    except WireError as error:
        raise StoreError(str(error)) from error
    try:
        comparison = TypeAdapter(Comparison).validate_json(json.dumps(tree))
    except ValidationError as error:
        raise _refused(path, [_fault(entry) for entry in error.errors()]) from error
    faults = _faults(comparison)
    if faults:
        raise _refused(path, faults)
    return replace(comparison, left_out=()).placed(place)


def _fault(entry: Any) -> str:
    return f"{'.'.join(map(str, entry['loc']))}: {entry['msg'].lower()}"


def _refused(path: Path, faults: list[str]) -> StoreError:
    return StoreError(f"{path} is damaged: {listed(faults, 10)}; put it back, or compare again")


def _faults(comparison: Comparison) -> list[str]:
    """Return what does not fit together in a comparison."""
    runs, keys = comparison.runs, set(comparison.condition_keys)
    faults = [f"{name} stands for two runs" for name in _repeated([run.id for run in runs])]
    places = [(run.contender, condition_key(run.condition), run.seed) for run in runs]
    faults += [
        f"contender {contender!r} has two runs of seed {seed} under {condition}"
        for contender, condition, seed in _repeated(places)
    ]
    if comparison.baseline not in comparison.contenders:
        names = listed(comparison.contenders)
        faults.append(f"baseline: came {comparison.baseline!r}, which is none of the contenders: {names}")
    for run in runs:
        if run.seed not in comparison.seeds:
            faults.append(f"run {run.id}: seed {run.seed} is none of the seeds {listed(map(str, comparison.seeds))}")
        if not set(run.condition) <= keys:
            faults.append(
                f"run {run.id}: condition has the keys {sorted(run.condition)}, expected some of {sorted(keys)}"
            )
    return faults


def _repeated(entries: list[Any]) -> list[Any]:
    return [entry for entry, count in Counter(entries).items() if count > 1]
