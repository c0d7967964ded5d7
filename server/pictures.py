"""Pictures of a run, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgraft.files import replacing


def accuracy_picture(
    rows: Sequence[Mapping[str, Any]], picture: Path, metric: str, title: str, stages: Mapping[str, int] | None = None
) -> None:
    """Draw a metric over rounds, on the central test part and on the clients' validation parts.

    Args:
        rows: of `metrics.jsonl`.
        picture: the file that is made.
        metric: which one.
        title: above it.
        stages: name and last round of each stage, whose borders are drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for group, label, colour in (
        ("central", "central test part", "#0072b2"),
        ("validation", "clients' validation parts", "#d55e00"),
        ("personal", "own heads on their clients' validation parts", "#009e73"),
    ):
        points = [(row["round"], row[metric]) for row in rows if row["group"] == group and metric in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=".", linewidth=1.8)
    _draw_borders(axes, stages or {})
    axes.set_title(title)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(metric.replace("_", " "))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False)
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


def _draw_borders(axes: Any, stages: Mapping[str, int]) -> None:
    """Draw a line where a stage ends and the next begins, and each stage's name at its beginning."""
    last = 0
    for name, end in stages.items():
        if last:
            axes.axvline(last, color="0.5", linewidth=0.8, linestyle=":")
        axes.annotate(
            name, (last, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), textcoords="offset points",
            va="top", fontsize=8, color="0.4", rotation=90,
        )  # fmt: skip
        last = end
