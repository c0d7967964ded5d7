"""What `fedgraft compare` shows: the plan, a live view while the runs are made, and what came out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from fedgraft.progress import Event

if TYPE_CHECKING:
    from types import TracebackType

    from scenarios.comparison.records import Comparison, Forecast, PlannedRun
    from scenarios.sweep.state import SweepState

MOST_LINES = 8
"""Running runs that are shown."""

BAR_WIDTH = 40


class CompareDisplay:
    """Shows a sweep's events: a live view on a terminal, else a line for each run; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state: SweepState | None = None
        self._note = ""
        self._live: Live | None = None
        self._runs: dict[str, PlannedRun] = {}

    def __enter__(self) -> CompareDisplay:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Show one event; kinds that are not known are passed over."""
        if event["kind"] == "plan":
            for line in plan_lines_of(event["plan"]):
                self._say(line)
        elif event["kind"] == "calibrate":
            self._calibrate(event["done"], event["of"])
        elif event["kind"] == "tries":
            self._say(tries_line(event["costs"]))
        elif event["kind"] == "tune":
            self._tune(event["done"], event["of"])
        elif event["kind"] == "tuned":
            for line in tuned_lines(event["comparison"]):
                self._say(line)
        elif event["kind"] == "jobs":
            self._begin(dict(event))
        elif event["kind"] == "run":
            self._run(event)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=not self._console.is_terminal)  # whole words on a terminal

    def _calibrate(self, done: int, of: int) -> None:
        self._note = f"trying each contender for a moment, to know what it costs: {done} of {of}" if done < of else ""
        if self._live is None and done == 0:
            self._say(f"trying {of} short runs, to know what the others will cost")

    def _tune(self, done: int, of: int) -> None:
        self._note = f"tuning: {done} of {_counted(of, 'run')}" if of else ""
        if self._live is None and not of:
            self._say("tuning before the comparison")

    def _begin(self, event: dict[str, Any]) -> None:
        from scenarios.sweep.state import SweepState

        comparison = event["comparison"]
        self._runs = {run.id: run for run in comparison.runs}
        self._state = SweepState(comparison, event["jobs"], own_answers=event["own_answers"])
        done = len(self._state.finished)
        if done:
            self._say(f"{done} of {len(self._runs)} runs are finished already; {event['open']} are to be made")
        if event["open"]:
            left = self._state.seconds_left(time.monotonic())
            by = "" if event["jobs"] == 1 else f" by {event['jobs']} processes side by side"
            self._say(f"{_counted(event['open'], 'run')}{by}, in about {duration(left)}" if left else "")

    def _run(self, event: Event) -> None:
        if self._state is None:
            return
        now = time.monotonic()
        self._state.hear(event, now)
        run = self._runs[str(event["id"])]
        if event["what"] == "failed":
            self._say(f"[red]failed:[/] {escape(title_of(run))}: {escape(str(event['error']))}")
        elif event["what"] == "moved":
            self._say(f"[yellow]moved:[/] {escape(title_of(run))} goes on elsewhere: {escape(str(event['why']))}")
        elif event["what"] == "finished" and self._live is None:
            self._say(self._finished_line(run))

    def _finished_line(self, run: PlannedRun) -> str:
        state = self._state
        if state is None:
            return ""
        value = state.value_of(run)
        shown = "" if value is None or state.metric is None else f", {metric_words(state.metric)} {value:.4f}"
        done = len(state.finished) + len(state.failed)
        left = state.seconds_left(time.monotonic())
        rest = f"; {duration(left)} left" if left and done < len(self._runs) else ""
        return f"[{done}/{len(self._runs)}] {escape(title_of(run))}{shown}, {state.took[run.id]:.1f} s{rest}".replace(
            "[", "\\[", 1
        )

    def _view(self) -> RenderableType:
        """Return the live view."""
        if self._state is None:
            return self._note
        return live_view(self._state, self._runs, time.monotonic())


def live_view(state: SweepState, runs: dict[str, PlannedRun], now: float) -> RenderableType:
    """Return what a terminal shows of a sweep: a bar, counts, time left, best so far, and the runs that go on."""
    done = len(state.finished) + len(state.failed)
    left = state.seconds_left(now)
    head = Table.grid(padding=(0, 1))
    counts = f"{len(state.finished)} done, {len(state.began)} running, {state.num_open} to come"
    failed = f", [red]{len(state.failed)} failed[/]" if state.failed else ""
    rest = "" if left is None else f", {duration(left)} left"
    head.add_row(ProgressBar(total=len(runs), completed=done, width=BAR_WIDTH), f"{counts}{failed}{rest}")
    lines: list[RenderableType] = [head]
    best = state.best()
    if best is not None and state.metric is not None:
        name, value, number = best
        lines.append(
            f"best so far: [bold]{escape(name)}[/], {metric_words(state.metric)} {value:.4f} "
            f"(mean of {_counted(number, 'run')})"
        )
    going = Table.grid(padding=(0, 2))
    for identifier in list(state.began)[:MOST_LINES]:
        number, of = state.rounds.get(identifier, (0, 0))
        seconds = now - state.began[identifier]
        where = f"round {number} of {of}" if of else "beginning"
        going.add_row(f"  {escape(title_of(runs[identifier]))}", where, f"{seconds:.0f} s")
    lines.append(going)
    return Group(*lines)


def plan_lines_of(plan: Any) -> Iterator[str]:
    """Yield what a plan comes to: its runs, and what is tuned before them."""
    conditions = {str(run.planned.condition) for run in plan.runs}
    contenders, seeds = plan.contenders, {run.planned.seed for run in plan.runs}
    alone = sum(run.planned.role == "alone" for run in plan.runs)
    parts = [
        _counted(len(contenders), "contender"),
        _counted(len(conditions), "condition"),
        _counted(len(seeds), "seed"),
    ]
    parts += [f"{alone} of them each client alone"] if alone else []
    yield f"{plan.scenario.name}: {_counted(len(plan.runs), 'run')} ({', '.join(parts)})"
    if plan.searches:
        yield _tuning_line(plan)


def _tuning_line(plan: Any) -> str:
    from scenarios.sweep.tuning import budget_of

    settings = plan.settings.tune
    budgets = [budget_of(search, settings) for search in plan.searches]
    tried, rounds = ({budget[place] for budget in budgets} for place in (0, 1))
    searches, each = ("1 search", "") if len(budgets) == 1 else (f"{len(budgets):,} searches", " each")
    return (
        f"before them, {searches} on validation parts, with seed {settings.seed}: {_range(tried)} settings and "
        f"{_range(rounds)} rounds{each}"
    )


def _range(values: set[int]) -> str:
    return f"{min(values):,}" if len(values) == 1 else f"{min(values):,} to {max(values):,}"


def tuned_lines(found: Comparison) -> Iterator[str]:
    """Yield what was chosen for each contender under each condition."""
    from scenarios.comparison.titles import condition_title

    for one in found.tuning:
        who = ", ".join(part for part in (one.contender, condition_title(one.condition)) if part)
        if one.error is None and one.metric is not None and one.score is not None:
            reached = f"{metric_words(one.metric)} {one.score:.4f}"
            tried = f"best of {one.num_settings} settings in {one.num_rounds} rounds"
            yield escape(f"tuned: {who}: {condition_title(one.settings)} ({tried}: {reached})")
        else:
            yield f"[red]tuning failed:[/] {escape(who)}: {escape(str(one.error))}"


def plan_table(found: Comparison) -> Table:
    """Return each contender's number of runs and what one of them will cost."""
    table = Table(title=f"{found.name}: the plan", title_justify="left")
    table.add_column("contender")
    for column in ("runs", "seconds a run", "bytes a run", "memory"):
        table.add_column(column, justify="right")
    for contender in (*found.contenders, *found.alone):
        runs = [run for run in found.runs if run.contender == contender]
        mark = " (baseline)" if contender == found.baseline else ""
        cells = [_mean(runs, "seconds"), _mean(runs, "bytes"), _mean(runs, "memory_bytes")]
        seconds, sent, memory = cells
        table.add_row(
            f"{escape(contender)}{mark}",
            f"{len(runs):,}",
            "" if seconds is None else f"{seconds:.1f}",
            "" if sent is None else size(sent),
            "" if memory is None else size(memory),
        )
    return table


def _mean(runs: list[PlannedRun], name: str) -> float | None:
    values = [getattr(run.forecast, name) for run in runs if run.forecast is not None]
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def tries_line(costs: Sequence[Forecast | None]) -> str:
    """Return what tuning will cost, in a line."""
    return f"tuning: {_counted(len(costs), 'short run')}: {_cost(costs)}"


def plan_lines(found: Comparison) -> Iterator[str]:
    """Yield what the whole will cost, and which contenders could not be tried."""
    yield f"{_counted(len(found.runs), 'run')}: {_cost([run.forecast for run in found.runs])}"
    lacking = list(dict.fromkeys(run.contender for run in found.runs if run.forecast is None))
    for contender in lacking:
        yield f"[red]{escape(contender)} failed when it was tried[/]; its runs will most likely fail too"


def _cost(costs: Sequence[Forecast | None]) -> str:
    """Return what runs will cost, made as many side by side as is soonest."""
    from scenarios.sweep.costs import fitting_jobs

    total = sum(cost.seconds or 0.0 for cost in costs if cost is not None)
    sent = sum(cost.bytes or 0.0 for cost in costs if cost is not None)
    jobs = fitting_jobs(list(costs), 1)
    by = "one after another" if jobs == 1 else f"{jobs} side by side"
    return f"{by}, about {duration(total / jobs)}, {size(sent)} sent in all"


def title_of(run: PlannedRun) -> str:
    """Return what a run is called in a line: contender, condition, seed."""
    from scenarios.comparison.titles import condition_title

    return ", ".join(part for part in (run.contender, condition_title(run.condition), f"seed {run.seed}") if part)


def metric_words(metric: str) -> str:
    """Return a metric as a line names it."""
    part, _, name = metric.partition("/")
    return f"{part} {name.replace('_', ' ')}"


def duration(seconds: float | None) -> str:
    """Return a time as one says it."""
    if seconds is None:
        return "an unknown time"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def size(num_bytes: float) -> str:
    """Return a number of bytes as one says it."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
