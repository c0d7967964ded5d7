"""What each client has, as a compact table and as a heat map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.federation import Federation
from fedgraft.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_MAX_ROWS = 25
_MAX_NAMED = 40  # clients or labels up to which every one has its name on the axis


def partition_table(federation: Federation) -> Table:
    """Return the clients with their samples and commonest labels; after 25 rows the rest is counted."""
    from rich.markup import escape
    from rich.table import Table

    samples = federation.samples
    table = Table(title=_title(federation), title_justify="left")
    table.add_column("client", overflow="ellipsis", no_wrap=True, max_width=32)
    table.add_column("train", justify="right")
    table.add_column("validation", justify="right")
    if samples.task != "real":
        table.add_column("labels", justify="right")
        table.add_column("most frequent", overflow="ellipsis", no_wrap=True)
    counts = federation.label_counts()
    shown = federation.num_clients if federation.num_clients <= _MAX_ROWS else _MAX_ROWS - 1
    for number in range(shown):
        row = [
            escape(federation.client_names[number]),
            f"{federation.train.counts[number]:,}",
            f"{federation.validation.counts[number]:,}",
        ]
        if samples.task != "real":
            row += [str(int((counts[number] > 0).sum())), escape(_commonest(counts[number], samples.label_names))]
        table.add_row(*row)
    if shown < federation.num_clients:
        table.add_row(
            f"… and {federation.num_clients - shown:,} more",
            f"{int(federation.train.counts[shown:].sum()):,}",
            f"{int(federation.validation.counts[shown:].sum()):,}",
        )
    return table


def _title(federation: Federation) -> str:
    sizes = federation.train.counts + federation.validation.counts
    spread = f"{sizes.min():,} to {sizes.max():,} samples (median {np.median(sizes):,.0f})"
    return f"{federation.num_clients:,} clients of {spread}; central test {len(federation.test):,}"


def _commonest(counts: NDArray[np.int64], names: tuple[str, ...], limit: int = 3) -> str:
    order = np.argsort(-counts, kind="stable")[:limit]
    return ", ".join(f"{names[number]} ({counts[number]:,})" for number in order if counts[number])


def partition_picture(federation: Federation, path: Path) -> None:
    """Save a heat map of samples by client and label; the ending of `path` says the format (png, svg, pdf).

    One row a client, one column a label, colour for the number of samples (train and validation); a bar beside
    each row gives its sum. Above 40 clients rows are ordered by their commonest label, and the colours end at
    the 99.5th percentile; above 1,000, neighbours are averaged into one row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    counts = federation.label_counts()
    many = federation.num_clients > _MAX_NAMED
    rows, together = _averaged((counts[_by_commonest(counts)] if many else counts).astype(np.float64))
    height = float(np.clip(1.6 + 0.24 * len(rows), 3.2, 8))
    width = float(np.clip(4.4 + 0.36 * counts.shape[1], 6.4, 12))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    heat, bars = figure.subplots(1, 2, width_ratios=(4, 1))
    brightest = max(float(np.quantile(rows, 0.995)) if many else float(rows.max()), 1 / together)
    image = heat.imshow(rows, aspect="auto", cmap="viridis", interpolation="nearest", vmin=0, vmax=brightest)
    _label_axes(heat, federation, len(rows), together)
    bars.barh(np.arange(len(rows)), rows.sum(axis=1), height=1.0 if many else 0.8, color="#3b528b")
    bars.set_ylim(*heat.get_ylim())
    bars.set_yticks([])
    bars.set_xlabel(
        ("labels" if federation.samples.task == "labels" else "samples") + (" in all" if together == 1 else ", mean")
    )
    bars.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    bars.spines[["top", "right"]].set_visible(False)
    beyond = "max" if rows.max() > brightest else "neither"
    bar = figure.colorbar(image, ax=(heat, bars), fraction=0.05, extend=beyond)
    bar.locator = MaxNLocator(nbins=6, integer=together == 1)
    bar.set_label("samples of a label" if together == 1 else f"samples of a label, mean of {together} clients")
    sizes = federation.train.counts + federation.validation.counts
    figure.suptitle(f"{federation.num_clients:,} clients, {int(sizes.sum()):,} samples", fontsize="medium")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150)


def _by_commonest(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order of clients by their commonest label, the largest first; empty clients stand last."""
    largest = counts.max(axis=1)
    return np.lexsort((-largest, counts.argmax(axis=1), largest == 0))


def _averaged(counts: NDArray[np.float64], limit: int = 1000) -> tuple[NDArray[np.float64], int]:
    """Return at most `limit` rows, each the mean of so many neighbours, and how many."""
    together = -(-len(counts) // limit)
    starts = np.arange(0, len(counts), together)
    sums = np.add.reduceat(counts, starts, axis=0)
    return sums / np.diff([*starts, len(counts)])[:, None], together


def _label_axes(axes: Axes, federation: Federation, num_rows: int, together: int) -> None:
    """Name clients and labels while names are legible; otherwise number them."""
    samples = federation.samples
    if num_rows <= _MAX_NAMED:
        axes.set_yticks(range(num_rows), [_short(name) for name in federation.client_names], fontsize="small")
        axes.set_ylabel("client")
    else:
        axes.yaxis.set_major_formatter(lambda value, _: f"{int(value * together):,}")
        axes.set_ylabel("clients, ordered by their commonest label")
    names = [_short(name) for name in samples.label_names]
    if samples.task == "real":
        axes.set_xticks([0], ["all samples"])
    elif len(names) <= _MAX_NAMED:
        turned = max(len(name) for name in names) > 3
        axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize="small")
        axes.set_xlabel("label")
    else:
        axes.set_xlabel("label, by number")


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
