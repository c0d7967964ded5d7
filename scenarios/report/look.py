"""Colours, dashes and markers. The colours are those of Okabe and Ito (2008), which colour-blind people tell apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How a contender looks in every figure; each of the three alone tells it from the others.

    Attributes:
        colour: as `#rrggbb`.
        dash: plotly's name of the dash.
        marker: plotly's name of the marker.
        dashes: matplotlib's line style.
        symbol: matplotlib's marker.
    """

    colour: str
    dash: str
    marker: str
    dashes: str | tuple[int, tuple[int, ...]]
    symbol: str


STYLES = (
    Style("#0072b2", "solid", "circle", "solid", "o"),
    Style("#d55e00", "8px,3px", "square", (0, (8, 3)), "s"),
    Style("#009e73", "2px,3px", "diamond", (0, (2, 3)), "D"),
    Style("#cc79a7", "8px,3px,2px,3px", "triangle-up", (0, (8, 3, 2, 3)), "^"),
    Style("#e69f00", "14px,4px", "triangle-down", (0, (14, 4)), "v"),
    Style("#56b4e9", "4px,4px", "cross", (0, (4, 4)), "P"),
    Style("#808080", "10px,3px,2px,3px,2px,3px", "x", (0, (10, 3, 2, 3, 2, 3)), "X"),
)
"""Seven; Okabe and Ito's yellow can't be read on white, and black is grey here, so that it is seen on dark too."""

GAIN, HARM = "#0072b2", "#d55e00"
"""Blue and vermilion: the pair that every kind of colour-blindness leaves distinct (red and green would not do)."""

TEXT, MUTED, GRID, SURFACE = "#1c2430", "#5b6675", "#e3e7ec", "#ffffff"
"""On paper and in pictures; the page has its own for light and dark (`page/report.css`)."""
