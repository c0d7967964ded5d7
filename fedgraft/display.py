"""What the command line shows of a run: progress while it goes on, and a short table at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedgraft.metrics import BESIDE
from fedgraft.progress import Event
from fedgraft.runs import Run
from fedgraft.stages import strategies_text

if TYPE_CHECKING:
    from types import TracebackType

PHASES = {
    "data": "dividing the samples among the clients",
    "features": "looking for the features",
    "start": "starting Flower's simulation runtime",
    "hosts": "asking the hosts for their clients",
    "results": "writing the results",
}

SPENT = {
    "data": "dividing the samples",
    "libraries": "loading torch",
    "describe": "starting and asking the hosts",
    "backbone": "sharing the backbone",
    "moments": "summing moments",
    "train": "training",
    "statistics": "summing features",
    "class_sums": "summing features of classes",
    "mixtures": "fitting mixtures",
    "cross_validate": "choosing the penalty",
    "leave_out": "leaving clients out",
    "aggregate": "aggregating",
    "evaluate": "evaluating",
    "checkpoint": "writing checkpoints",
}
"""What a phase of `summary.json` is called in the table."""


class RunDisplay:
    """Shows a run's events on the terminal; use it as a context manager, and give `show` to `fedgraft.run`."""

    def __init__(self, console: Console, details: bool) -> None:
        self._console = console
        self._details = details
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started = 0.0
        self._shown: dict[str, Callable[[dict[str, Any]], None]] = {
            "phase": self._phase,
            "progress": self._work,
            "partition": self._partition,
            "round": self._round,
            "explain": self._explain,
            "stage": lambda event: self._console.print(escape(event["text"]), highlight=False),
            "note": lambda event: self._console.print(f"[yellow]note:[/] {escape(event['text'])}", highlight=False),
        }

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show one event; kinds that are not known are passed over."""
        shown = self._shown.get(event["kind"])
        if shown is not None:
            shown(dict(event))

    def _phase(self, event: dict[str, Any]) -> None:
        if self._details and event["name"] in PHASES:
            self._console.print(f"[dim]{PHASES[event['name']]}[/]")

    def _explain(self, event: dict[str, Any]) -> None:
        if self._details:
            self._console.print(f"[dim]{escape(event['text'])}[/]", highlight=False)

    def _partition(self, event: dict[str, Any]) -> None:
        from fedgraft.data.summary import partition_table

        federation = event["federation"]
        if self._details:
            self._console.print(partition_table(federation))
            return
        samples, unlabelled = federation.samples, len(federation.unlabelled.indices)
        without = f" (and {unlabelled:,} without labels)" if unlabelled else ""
        self._console.print(
            f"{federation.num_clients:,} clients, {int(federation.train.counts.sum()):,} training{without} and "
            f"{int(federation.validation.counts.sum()):,} validation samples, {len(federation.test):,} in the "
            f"central test part, {_counted(samples.num_classes, OUTPUTS[samples.task])}",
            highlight=False,
        )

    def _work(self, event: dict[str, Any]) -> None:
        task = self._task(event["what"], event["total"])
        self._progress.update(task, completed=event["done"])
        running = self._progress.tasks[self._progress.task_ids.index(task)]
        if running.elapsed and event["done"]:
            self._progress.update(task, note=f"{event['done'] / running.elapsed:,.0f} a second")

    def _round(self, event: dict[str, Any]) -> None:
        values = (
            event.get(f"{group}/{metric}") for group in ("central", "validation", "personal") for metric in METRICS
        )
        value = next((value for value in values if value is not None), None)
        note = "" if value is None else f"{self._metric(event).replace('_', ' ')} {value:.4f}"
        self._progress.update(self._task("rounds", event["of"]), completed=event["number"], note=note)

    def _metric(self, event: dict[str, Any]) -> str:
        return next((metric for metric in METRICS if any(key.endswith(f"/{metric}") for key in event)), "")

    def _task(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        return self._tasks[name]


def _counted(number: int, word: str) -> str:
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number} {word}{ending}"


METRICS = ("accuracy", "root_mean_squared_error")
OUTPUTS = {"classes": "class", "labels": "label", "real": "real target"}
GROUPS = {
    "central": "central test part",
    "validation": "clients' validation parts",
    "personal": "own heads on their clients' validation parts",
}


def show_result(console: Console, run: Run) -> None:
    """Print a finished run's table, and what its own validation advises."""
    console.print(result_table(run))
    tasks: Mapping[str, Any] = run.summary.get("tasks", {})
    part = next((part for part in ("central", "validation") if part in tasks), None)
    if part is not None:
        console.print(tasks_table(tasks, part))
    for found in run.summary.get("advice", []):
        console.print(f"[yellow]advice:[/] {escape(found['text'])}", highlight=False)


def result_table(run: Run) -> Table:
    """Return a finished run's table: what came out, what it cost, by phase."""
    summary = run.summary
    metric = str(summary["metric"])
    table = Table(show_header=False, title=f"{summary['name']}: {strategies_text(summary)}", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for group, label in GROUPS.items():
        if metric in summary.get(group, {}):
            table.add_row(f"{metric.replace('_', ' ')}, {label}", f"{summary[group][metric]:.4f}")
    for shown in [group for group in GROUPS if metric in summary.get(group, {})][:1]:
        for name in [name for name in BESIDE[summary["task"]] if name in summary[shown]]:
            table.add_row(f"{name.replace('_', ' ')}, {GROUPS[shown]}", f"{summary[shown][name]:.4f}")
    for key, who in (("client_mean", "mean"), ("client_worst_decile", "worst tenth")):
        if key in summary.get("personal", {}):
            own, shared = summary["personal"][key], summary["validation"][key]
            table.add_row(f"{who} of clients: own heads, global head", f"{own:.4f}, {shared:.4f}")
    for name, group in summary.get("central_groups", {}).items():
        score = next(key for key in group if key != "num_samples")
        table.add_row(f"{score.replace('_', ' ')}, group {escape(name)}", f"{group[score]:.4f}")
    for stage in summary.get("stages", []):
        scored: dict[str, float] = next(
            (stage[part] for part in ("central", "validation") if metric in stage.get(part, {})), {}
        )
        value = f"{scored[metric]:.4f}, " if scored else ""
        rounds = f"{stage['rounds']} round{'' if stage['rounds'] == 1 else 's'}"
        table.add_row(f"stage {escape(stage['name'])}: {stage['strategy']}", f"{value}{rounds}")
    table.add_row("rounds", f"{summary['rounds']}")
    table.add_row("clients", f"{summary['num_clients']:,}")
    pseudo = summary.get("pseudo_labels")
    if pseudo is not None:
        right = f", {100 * pseudo['accuracy']:.1f} % rightly" if "accuracy" in pseudo else ""
        text = f"{pseudo['labelled']:,} of {pseudo['unlabelled']:,}{right}"
        table.add_row(f"pseudo-labelled, round {pseudo['round']}", text)
    table.add_row("bytes from the server", _size(summary["bytes_down"]))
    table.add_row("bytes to the server", _size(summary["bytes_up"]))
    if "tuned" in summary:
        tuned = summary["tuned"]
        table.add_row(f"{tuned['method']} and head, each way a shard and round", _size(tuned["bytes"]))
        table.add_row("the same of full fine-tuning", _size(tuned["full_bytes"]))
    for phase, seconds in summary["seconds"].items():
        if seconds >= 0.005:
            table.add_row(f"seconds, {SPENT.get(phase, phase)}", f"{seconds:.2f}")
    return table


def tasks_table(tasks: Mapping[str, Any], part: str) -> Table:
    """Return what the head was right in on each task's classes, after each task."""
    found = tasks[part]
    measures = ("average_accuracy", "average"), ("forgetting", "forgetting"), ("backward_transfer", "backward transfer")
    said = ", ".join(f"{title} {found[name]:.4f}" for name, title in measures if name in found)
    table = Table(
        title=f"accuracy on each task's classes, {GROUPS[part]}",
        title_justify="left",
        caption=said,
        caption_justify="left",
    )
    table.add_column("after")
    for number in range(1, len(tasks["classes"]) + 1):
        table.add_column(f"task {number}", justify="right")
    for number, row in enumerate(found["accuracy"], 1):
        table.add_row(f"task {number}", *("" if value is None else f"{value:.4f}" for value in row))
    return table


def _size(num_bytes: int) -> str:
    size, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.2f} {unit}"
