"""What all of the page's figures share, as plotly's JSON: layout, axes, colours, and names that stay what they are.

Colours are names such as `@text`, `@style-2` or `@style-2/0.15` (a seventh opaque), which the page replaces by those of
its light or dark side; a name that a user gave never stands where such a colour is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scenarios.report.plots import Axis

LONGEST_NAME = 26
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def layout_of_all() -> dict[str, Any]:
    """Return what the layouts of all figures begin with."""
    return {
        "autosize": True,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8, "autoexpand": True},
        "paper_bgcolor": "@clear",
        "plot_bgcolor": "@clear",
        "font": {"family": FONT, "size": 13, "color": "@text"},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "@surface",
            "bordercolor": "@line",
            "font": {"color": "@text", "size": 13},
            "align": "left",
        },
        "dragmode": "zoom",
    }


def axis_of(axis: Axis, **more: Any) -> dict[str, Any]:
    """Return an axis as plotly takes it, with more of its settings."""
    shown: dict[str, Any] = {
        "automargin": True,
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
        "tickfont": {"size": 12, "color": "@muted"},
        "ticks": "",
    }
    if axis.label:
        shown["title"] = {"text": escape(axis.label), "font": {"size": 12, "color": "@muted"}, "standoff": 10}
    if axis.log:
        shown |= {"type": "log", "dtick": 1, "exponentformat": "none", "minor": {"showgrid": False}}
    if axis.percent:
        shown |= {"tickformat": ".4~g", "ticksuffix": " %"}
    if axis.marked:
        shown |= {
            "tickmode": "array",
            "tickvals": list(axis.marked),
            "ticktext": [f"{value:g}" for value in axis.marked],
        }
    if axis.whole:
        shown["tickformat"] = ",d"
    return shown | more


def whole_step(largest: float) -> int:
    """Return a step of whole numbers, 1, 2 or 5 times a power of ten, that marks an axis about ten times."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if largest <= 12 * step:
                return step
        power *= 10


def rule(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    """Return a dotted straight line below the data."""
    line = {"color": "@muted", "width": 1, "dash": "dot"}
    return {"type": "line", "layer": "below", "x0": x0, "y0": y0, "x1": x1, "y1": y1, "line": line}


def colour_of(style: int | None) -> str:
    """Return the name of a style's colour."""
    return "@muted" if style is None else f"@style-{style}"


def shown_as(values: Sequence[float] | np.ndarray[Any, Any], percent: bool) -> list[float | None]:
    """Return numbers as a figure shows them: shares in per cent; plotly itself writes no blank before the sign."""
    return numbers(np.multiply(values, 100.0)) if percent else numbers(values)


def numbers(values: Sequence[float] | np.ndarray[Any, Any]) -> list[float | None]:
    """Return numbers with six digits, which no screen shows more of; not a number as None, which JSON has."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=np.float64)]


def shortened(name: str, limit: int = LONGEST_NAME) -> str:
    """Return a name as an axis has room for it, harmless in plotly's own small HTML."""
    return escape(name if len(name) <= limit else name[: limit - 1] + "…")


def escape(text: str) -> str:
    """Return text as plotly writes it: its labels know some tags and entities, and names are to stay what they are."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def template(text: str) -> str:
    """Return text for a template, where `%{...}` would be looked up."""
    return escape(text).replace("%{", "%&#123;")
