"""Tuning before a comparison: settings are tried on validation parts, with the same budget for every contender.

Successive halving: many settings are tried for a few rounds, the best part of them for more, and so on; Jamieson and
Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016, arXiv:1502.07943,
figure 3, with runs begun anew at each step. All settings of a step are compared when all of them have ended, so that
the rounds that a contender spends, and what it ends with, depend on no order and no speed.

Every try is an ordinary run directory below `tuning/`: those that are finished are not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedgraft.errors import FedGraftError
from fedgraft.metrics import PRIMARY
from scenarios.comparison.records import Forecast, PlannedRun, Tuning, Values, condition_key
from scenarios.comparison.results import CLIENTS, Result
from scenarios.comparison.titles import metric_of
from scenarios.sweep.bench import Listener, Message, Task
from scenarios.sweep.costs import rounds_of, shortened
from scenarios.sweep.proposals import proposals
from scenarios.sweep.searches import Search, with_settings
from scenarios.sweep.tune_settings import RangeSettings, TuneSettings

Make = Callable[[Sequence[Task], Listener], None]
"""Makes runs and tells of each."""


@dataclass(frozen=True)
class Step:
    """One step of halving: so many settings have so many rounds."""

    settings: int
    rounds: int


def steps_of(number: int, halving: int | None, rounds: int) -> list[Step]:
    """Return the steps of a search, the last with all rounds.

    Steps of one setting are left out, since nothing is left to choose, and of steps with equal rounds all but the
    first, since they would repeat it.

    Args:
        number: settings that are tried.
        halving: one of so many goes on, to so many times the rounds; None: all have all rounds.
        rounds: of the whole run.
    """
    sizes = [number]
    while halving is not None and sizes[-1] // halving > 1:
        sizes.append(sizes[-1] // halving)
    steps: list[Step] = []
    for place, size in enumerate(sizes):
        part = math.ceil(rounds / (halving or 1) ** (len(sizes) - 1 - place))
        if not steps or part > steps[-1].rounds:
            steps.append(Step(size, part))
    return steps


@dataclass
class _Try:
    """One setting of a search.

    Attributes:
        number: from 1, in the order in which settings were proposed.
        settings: key -> value.
        rank: how good it was in the last step; less is better. None: it failed.
        score: the metric.
        error: why it failed.
    """

    number: int
    settings: Mapping[str, Any]
    rank: tuple[float, float, int] | None = None
    score: float | None = None
    error: str | None = None


@dataclass
class _Course:
    """A search under way; `error` is why the first try that failed did."""

    search: Search
    steps: list[Step]
    tries: list[_Try]
    all_tries: int
    num_runs: int = 0
    num_rounds: int = 0
    metric: str | None = None
    error: str | None = None


def tune(
    searches: Sequence[Search],
    settings: TuneSettings,
    metric: str | None,
    folder: Path,
    make: Make,
    tell: Callable[[int, int], None],
) -> tuple[Tuning, ...]:
    """Return what each search chose.

    Args:
        searches: a contender and condition each.
        settings: how many settings are tried, and how they are halved.
        metric: what decides the comparison; searches are decided by the same on the clients' validation parts.
        folder: for the runs; those that are finished there are not made again.
        make: makes runs.
        tell: called with how many runs of the search are done, and of how many.
    """
    courses = [_course(search, settings) for search in searches]
    total = sum(step.settings for course in courses for step in course.steps)
    done = 0
    for place in range(max((len(course.steps) for course in courses), default=0)):
        going = [course for course in courses if place < len(course.steps)]
        for course in going:
            course.tries = _best(course.tries)[: course.steps[place].settings] if place else course.tries
        done += _made(going, place, folder, make, lambda number, done=done: tell(done + number, total))  # type: ignore[misc]
        for course in going:
            _judge(course, place, metric, folder)
    return tuple(_chosen(course, settings) for course in courses)


def _course(search: Search, settings: TuneSettings) -> _Course:
    found = proposals(search.space, settings.trials, settings.seed)
    tries = [_Try(number, proposed) for number, proposed in enumerate(found, 1)]
    return _Course(search, steps_of(len(tries), settings.halving, rounds_of(search.scenario)), tries, len(tries))


def _best(tries: Sequence[_Try]) -> list[_Try]:
    """Return the tries that did not fail, the best first."""
    return sorted((one for one in tries if one.rank is not None), key=lambda one: one.rank or (0.0, 0.0, 0))


def _directory(folder: Path, course: _Course, one: _Try, step: Step) -> Path:
    return folder / course.search.stem / f"{one.number:03d}-rounds={step.rounds}"


def _made(courses: Sequence[_Course], place: int, folder: Path, make: Make, tell: Callable[[int], None]) -> int:
    """Make the runs of one step of all searches; return how many it has."""
    waiting: dict[str, _Try] = {}
    tasks, ended = [], 0
    for course in courses:
        step = course.steps[place]
        for one in course.tries:
            directory = _directory(folder, course, one, step)
            one.error = None
            if (directory / "summary.json").exists():
                ended += 1
                continue
            scenario, faults = with_settings(shortened(course.search.scenario, step.rounds), one.settings)
            if scenario is None:
                one.error = "; ".join(fault.message for fault in faults)
                ended += 1
                continue
            waiting[str(directory)] = one
            tasks.append(Task(str(directory), scenario.model_dump_json(), str(directory)))
    tell(ended)

    def heard(identifier: str, message: Message) -> None:
        nonlocal ended
        if message["kind"] == "failed":
            waiting[identifier].error = str(message["error"])
        if message["kind"] in ("failed", "finished"):
            ended += 1
            tell(ended)

    make(tasks, heard)
    return sum(len(course.tries) for course in courses)


def _judge(course: _Course, place: int, metric: str | None, folder: Path) -> None:
    """Read off each run of a step how good its setting is."""
    step = course.steps[place]
    for one in course.tries:
        course.num_runs += 1
        course.num_rounds += step.rounds
        one.rank = one.score = None
        if one.error is None:
            directory = _directory(folder, course, one, step)
            try:
                course.metric, one.score, one.rank = _judged(directory, one, course.search, metric)
            except FedGraftError as error:
                one.error = str(error)
        course.error = course.error or one.error


def _judged(
    directory: Path, one: _Try, search: Search, metric: str | None
) -> tuple[str, float, tuple[float, float, int]]:
    """Return which metric decides, a finished run's value of it, and its rank: by score, loss, order of proposal.

    Raises:
        StoreError: it is damaged, or ended with numbers that are not finite.
        FedGraftError: its clients have no validation parts.
    """
    planned = PlannedRun(directory.name, search.contender, search.condition, {}, search.scenario.seed)
    result = Result(replace(planned, directory=directory))
    result.check()
    name = metric_by(metric, str(result.summary["task"]))
    if name not in result.final:
        raise FedGraftError(f"{directory} has no {name}: give clients validation parts, data.validation_fraction")
    score = result.final[name]
    sign = -1.0 if metric_of(name, str(result.summary["task"])).higher_is_better else 1.0
    return name, score, (sign * score, result.final.get(f"{CLIENTS}/loss", 0.0), one.number)


def metric_by(metric: str | None, task: str) -> str:
    """Return what decides a search: the comparison's metric, of the heads that clients would use on their parts."""
    of_single_heads = ("log_loss", "calibration_error")  # own heads have none
    name = metric.partition("/")[2] if metric else ""
    return f"{CLIENTS}/{name if name and name not in of_single_heads else PRIMARY[task]}"  # type: ignore[index]


def _chosen(course: _Course, settings: TuneSettings) -> Tuning:
    search, ranked = course.search, _best(course.tries)
    return Tuning(
        contender=search.contender,
        condition=search.condition,
        seed=settings.seed,
        metric=course.metric,
        settings=dict(ranked[0].settings) if ranked else {},
        score=ranked[0].score if ranked else None,
        error=None if ranked else course.error,
        num_settings=course.all_tries,
        num_runs=course.num_runs,
        num_rounds=course.num_rounds,
    )


def tuning_of(tunings: Sequence[Tuning], run: PlannedRun) -> Tuning | None:
    """Return what was chosen for a run's contender under its condition; None if nothing was searched for it."""
    return None if run.role == "alone" else chosen_for(tunings, run.contender, run.condition)


def chosen_for(tunings: Sequence[Tuning], contender: str, condition: Values) -> Tuning | None:
    """Return what was chosen for a contender under a condition; None if nothing was searched."""
    key = condition_key(condition)
    found = (one for one in tunings if one.contender == contender and condition_key(one.condition) == key)
    return next(found, None)


def open_searches(searches: Sequence[Search], tunings: Sequence[Tuning]) -> list[Search]:
    """Return the searches that have chosen nothing yet, as those of which every try failed."""
    chosen = [one for one in tunings if one.error is None]
    return [search for search in searches if chosen_for(chosen, search.contender, search.condition) is None]


def chosen_by_another(tunings: Sequence[Tuning], metric: str | None) -> str | None:
    """Return by what settings were chosen, if a comparison by `metric` would choose by another; otherwise None."""
    fitting = {metric_by(metric, task) for task in PRIMARY}
    others = (one.metric for one in tunings if one.error is None and one.metric not in fitting)
    return next(others, None)


def budget_of(search: Search, settings: TuneSettings) -> tuple[int, int]:
    """Return how many settings a search tries, and how many rounds that takes in all."""
    steps = _steps(search, settings)
    return steps[0].settings, sum(step.settings * step.rounds for step in steps)


def costs_of_tries(search: Search, settings: TuneSettings, whole: Forecast | None) -> list[Forecast | None]:
    """Return about what each run of a search will cost.

    Args:
        search: a contender under a condition.
        settings: how many settings are tried, and how they are halved.
        whole: what a run of the contender with all rounds will cost.
    """
    costs: list[Forecast | None] = []
    for step in _steps(search, settings):
        costs += [whole and _part(whole, step.rounds / rounds_of(search.scenario))] * step.settings
    return costs


def _steps(search: Search, settings: TuneSettings) -> list[Step]:
    lists = [values for values in search.space.values() if not isinstance(values, RangeSettings)]
    whole = math.prod(map(len, lists)) if len(lists) == len(search.space) else settings.trials
    return steps_of(min(whole, settings.trials), settings.halving, rounds_of(search.scenario))


def _part(whole: Forecast, part: float) -> Forecast:
    seconds, sent = (None if value is None else part * value for value in (whole.seconds, whole.bytes))
    return Forecast(seconds, sent, whole.memory_bytes)
