"""What a figure shows, in plain numbers: drawn once by plotly for the page, once by matplotlib for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """What an axis says.

    Attributes:
        label: its title, with the unit.
        percent: the values are shares, shown as percentages.
        log: logarithmic.
        whole: only whole numbers are marked.
        marked: the values that are marked; empty: whatever fits.
    """

    label: str
    percent: bool = False
    log: bool = False
    whole: bool = False
    marked: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line with its band.

    Attributes:
        name: of the contender.
        x: `(num_points,)`.
        y: `(num_points,)`.
        low: `(num_points,)`, or empty: the line has no band.
        high: as `low`.
        style: number of its colour, dash and marker in `look.STYLES`; None: one of many in the background.
        marks: mark every point, with the band as an interval at each.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: int | None = 0
    marks: bool = False


@dataclass(frozen=True)
class Lines:
    """Lines over a number.

    Attributes:
        x: the number.
        y: what is shown.
        lines: those in the background first.
        diagonal: draw y = x from 0 to 1.
        target: draw a level line here.
    """

    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    diagonal: bool = False
    target: float | None = None


@dataclass(frozen=True)
class Heat:
    """A table of colours.

    Attributes:
        rows: their names, from the top.
        columns: their names, from the left.
        values: `(num_rows, num_columns)`; not a number: empty.
        label: what the colours mean.
        row_label: what the rows are.
        column_label: what the columns are.
        percent: the values are shares.
        diverging: 0 is in the middle, more is good and less is bad.
        written: write each value into its field.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    label: str
    row_label: str = ""
    column_label: str = ""
    percent: bool = False
    diverging: bool = False
    written: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The values at the ends of the colours."""
        known = self.values[np.isfinite(self.values)]
        if not len(known):
            return (0.0, 1.0)
        if self.diverging:
            most = max(float(np.quantile(np.abs(known), 0.98)), 1e-9)
            return (-most, most)
        low, high = float(known.min()), float(known.max())
        return (low, high) if high > low else (low - 0.5, high + 0.5)


@dataclass(frozen=True)
class Dot:
    """One value with its interval, on a row of its own.

    Attributes:
        name: of the row.
        value: the dot.
        low: the interval's lower end; None: no interval.
        high: its upper end.
        style: as that of a `Line`.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    style: int | None = 0


@dataclass(frozen=True)
class Dots:
    """Values with intervals, one below the other.

    Attributes:
        x: what is shown.
        dots: from the top.
        reference: draw an upright line here.
    """

    x: Axis
    dots: tuple[Dot, ...]
    reference: float | None = None


@dataclass(frozen=True)
class Bars:
    """Gains and losses, one bar each, in the order of their size; more than 0 is good.

    Attributes:
        x: what each bar is.
        y: what it shows.
        names: `(num_bars,)`.
        values: `(num_bars,)`.
        low: `(num_bars,)`, or empty: no intervals.
        high: as `low`.
        notes: `(num_bars,)`, or empty: what else is known of each.
    """

    x: Axis
    y: Axis
    names: tuple[str, ...]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    notes: tuple[str, ...] = ()


Plot: TypeAlias = Lines | Heat | Dots | Bars


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    Attributes:
        key: its name in the page and as a file.
        title: what it shows.
        caption: how to read it.
        alternative: what it shows, in words and numbers, for those who can't see it.
        plot: its numbers.
        wide: it takes the page's whole width.
    """

    key: str
    title: str
    caption: str
    alternative: str
    plot: Plot
    wide: bool = False
