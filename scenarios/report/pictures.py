"""Figures for papers and slides: PNG and SVG, drawn by matplotlib on white."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgraft.files import replacing
from scenarios.report.look import GAIN, GRID, HARM, MUTED, STYLES, TEXT
from scenarios.report.plots import Axis, Bars, Dot, Dots, Figure, Heat, Line, Lines, Plot
from scenarios.report.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

LONGEST_NAME = 26

LOOK: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": TEXT,
    "text.parse_math": False,  # a name with dollar signs is a name, no formula
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "fedgraft",  # equal numbers give equal files
    "figure.dpi": 100,
}


def write_pictures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Draw each figure as `<key>.png` and `<key>.svg`; return the files."""
    import matplotlib as mpl

    written = []
    with mpl.rc_context(LOOK):
        for figure in figures:
            drawing = draw(figure)
            for ending in ("png", "svg"):
                path = folder / f"{figure.key}.{ending}"
                with replacing(path) as temporary:
                    metadata = {"Date": None} if ending == "svg" else {"Software": None}
                    drawing.savefig(temporary, format=ending, dpi=200, metadata=metadata)
                written.append(path)
                drawing.set_layout_engine("none")  # it has been laid out; once is enough
    return written


def draw(figure: Figure) -> Drawing:
    """Draw one figure, without pyplot, so that a user's own figures and backend are left alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=_size(figure.plot), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    drawn = {Lines: _lines, Heat: _heat, Dots: _dots, Bars: _bars}[type(figure.plot)]
    drawn(axes, figure.plot)  # type: ignore[operator]
    drawing.suptitle(figure.title, x=0.012, ha="left", fontsize=10, fontweight="bold")
    return drawing


def _size(plot: Plot) -> tuple[float, float]:
    """Return width and height in inches."""
    if isinstance(plot, Heat):
        width = float(np.clip(2.6 + 0.42 * len(plot.columns), 4.6, 11))
        return (width, float(np.clip(1.4 + 0.26 * len(plot.rows), 2.6, 12)))
    if isinstance(plot, Dots):
        return (6.4, 1.1 + 0.3 * len(plot.dots))
    if isinstance(plot, Lines) and plot.diagonal:
        return (5.2, 4.2)
    return (6.4, 3.6)


def _name_axis(axes: Axes, which: str, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    getattr(axes, f"set_{which}label")(axis.label)
    line = getattr(axes, f"{which}axis")
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
    if axis.marked:
        _mark(line, axis.marked)
    elif axis.percent:
        line.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    elif axis.log:
        line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    elif axis.whole and not axis.marked:
        line.set_major_locator(MaxNLocator(integer=True))


def _mark(line: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    line.set_minor_locator(NullLocator())
    line.set_ticks(list(values), [f"{value:g}" for value in values])


def _lines(axes: Axes, plot: Lines) -> None:
    _name_axis(axes, "x", plot.x)
    _name_axis(axes, "y", plot.y)
    axes.grid(visible=True)
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    if plot.target is not None:
        axes.axhline(plot.target, color=MUTED, linewidth=0.8, linestyle=":")
    for line in plot.lines:
        _line(axes, line)
    named = [line for line in plot.lines if line.style is not None]
    if len(named) > 1 or any(line.style is None for line in plot.lines):
        axes.legend(frameon=False, fontsize=8, handlelength=3.2, labelcolor=TEXT)


def _line(axes: Axes, line: Line) -> None:
    if line.style is None:
        axes.plot(line.x, line.y, color="#b5bcc6", linewidth=0.7)
        return
    kind = STYLES[line.style]
    look: dict[str, Any] = {"color": kind.colour, "linestyle": kind.dashes, "linewidth": 1.7, "label": line.name}
    if line.marks:
        look |= {"marker": kind.symbol, "markersize": 5}
    if line.marks and len(line.low):
        away = [np.subtract(line.y, line.low), np.subtract(line.high, line.y)]
        axes.errorbar(line.x, line.y, yerr=np.maximum(away, 0), capsize=2.5, elinewidth=1, **look)
        return
    axes.plot(line.x, line.y, **look)
    if len(line.low):
        axes.fill_between(line.x, line.low, line.high, color=kind.colour, alpha=0.15, linewidth=0)


def _heat(axes: Axes, plot: Heat) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import FuncFormatter

    low, high = plot.ends
    ends = (HARM, "#f7f7f7", GAIN) if plot.diverging else ("#f4f7fa", "#74aedb", "#08406b")
    colours = LinearSegmentedColormap.from_list("report", list(ends))
    image = axes.imshow(plot.values, aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.spines[:].set_visible(False)
    turned = max(map(len, plot.columns), default=0) > 4
    axes.set_xticks(
        range(len(plot.columns)),
        [_short(name) for name in plot.columns],
        rotation=40 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )
    axes.set_yticks(range(len(plot.rows)), [_short(name) for name in plot.rows])
    axes.tick_params(length=0, labelsize=8 if len(plot.rows) <= 40 else 6)
    axes.set_xlabel(plot.column_label)
    axes.set_ylabel(plot.row_label)
    if plot.written:
        _write_values(axes, plot, low, high)
    else:
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label(plot.label)
        if plot.percent:
            sign = "+" if plot.diverging else ""
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:{sign}.0f} %"))


def _write_values(axes: Axes, plot: Heat, low: float, high: float) -> None:
    for row, column in np.argwhere(np.isfinite(plot.values) & (plot.values != 0)):
        value = float(plot.values[row, column])
        text = percent(value, 0 if len(plot.columns) > 6 else 1) if plot.percent else f"{value:.3g}"
        dark = value > low + 0.6 * (high - low)
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else TEXT)


def _dots(axes: Axes, plot: Dots) -> None:
    _name_axis(axes, "x", plot.x)
    axes.grid(visible=True, axis="x")
    if plot.reference is not None:
        axes.axvline(plot.reference, color=MUTED, linewidth=0.8, linestyle=":")
    for place, dot in enumerate(plot.dots):
        _dot(axes, place, dot)
    axes.set_yticks(range(len(plot.dots)), [_short(dot.name) for dot in plot.dots])
    axes.tick_params(axis="y", length=0, labelcolor=TEXT)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(plot.dots) - 0.4, -0.6)


def _dot(axes: Axes, place: int, dot: Dot) -> None:
    kind = STYLES[dot.style] if dot.style is not None else None
    away = None
    if dot.low is not None and dot.high is not None:
        away = [[max(dot.value - dot.low, 0.0)], [max(dot.high - dot.value, 0.0)]]
    colour, symbol = (kind.colour, kind.symbol) if kind else (MUTED, "o")
    axes.errorbar([dot.value], [place], xerr=away, fmt=symbol, color=colour, capsize=3, markersize=5.5)


def _bars(axes: Axes, plot: Bars) -> None:
    _name_axis(axes, "x", plot.x)
    _name_axis(axes, "y", plot.y)
    axes.grid(visible=True, axis="y")
    values = np.asarray(plot.values, dtype=np.float64)
    few = len(values) <= 30
    away = np.maximum([np.subtract(values, plot.low), np.subtract(plot.high, values)], 0) if len(plot.low) else None
    axes.bar(
        np.arange(len(values)),
        values,
        width=0.75 if few else 1.0,
        color=[GAIN if value >= 0 else HARM for value in values],
        yerr=away,
        error_kw={"elinewidth": 0.8, "ecolor": MUTED},
    )
    axes.axhline(0, color=MUTED, linewidth=0.8)
    names = [_short(name, 14) for name in plot.names]
    axes.set_xticks(range(len(names)) if few else [], names if few else [], rotation=55, ha="right", fontsize=7)


def _short(name: str, limit: int = LONGEST_NAME) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
