"""Figures for the page, as plotly's JSON, one function a kind of plot."""

from __future__ import annotations

from typing import Any

import numpy as np

from scenarios.report.look import STYLES
from scenarios.report.plotly_basics import (
    axis_of,
    colour_of,
    escape,
    layout_of_all,
    rule,
    shortened,
    shown_as,
    template,
    whole_step,
)
from scenarios.report.plots import Axis, Bars, Dots, Figure, Heat, Line, Lines
from scenarios.report.wording import percent


def plotly_json(figure: Figure) -> dict[str, Any]:
    """Return a figure as `{data, layout}`."""
    drawn = {Lines: _lines, Heat: _heat, Dots: _dots, Bars: _bars}[type(figure.plot)]
    traces, layout = drawn(figure.plot)  # type: ignore[operator]
    return {"data": traces, "layout": layout_of_all() | layout}


def _lines(plot: Lines) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    for line in plot.lines:
        if len(line.low) and not line.marks:
            traces.append(_band(line, plot))
        traces.append(_line(line, plot))
    shapes = []
    ends = (100 if plot.x.percent else 1, 100 if plot.y.percent else 1)
    if plot.diagonal:
        shapes.append(rule(0, 0, *ends))
    if plot.target is not None:
        shapes.append(rule(0, ends[1] * plot.target, 1, ends[1] * plot.target) | {"xref": "paper"})
    across = axis_of(plot.x)
    if plot.x.whole:
        across["dtick"] = whole_step(max((value for line in plot.lines for value in line.x), default=0.0))
    layout: dict[str, Any] = {"height": 340, "xaxis": across, "yaxis": axis_of(plot.y), "shapes": shapes}
    if plot.diagonal:
        layout["xaxis"]["range"], layout["yaxis"]["range"] = ([-0.02 * end, 1.02 * end] for end in ends)
    return traces, layout


def _band(line: Line, plot: Lines) -> dict[str, Any]:
    x = shown_as(line.x, plot.x.percent)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *x[::-1]],
        "y": [*shown_as(line.high, plot.y.percent), *shown_as(line.low, plot.y.percent)[::-1]],
        "fill": "toself",
        "fillcolor": f"{colour_of(line.style)}/0.14",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": escape(line.name),
        "legendgroup": line.name,
    }


def _line(line: Line, plot: Lines) -> dict[str, Any]:
    kind = STYLES[line.style] if line.style is not None else None
    y = "%{y:.1f} %" if plot.y.percent else "%{y:.4~g}"
    x = "%{x:.0f} %" if plot.x.percent else "%{x:,.4~g}"
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if line.marks else "lines",
        "x": shown_as(line.x, plot.x.percent),
        "y": shown_as(line.y, plot.y.percent),
        "name": escape(line.name),
        "legendgroup": line.name,
        "line": {
            "color": colour_of(line.style) if kind else "@faint",
            "width": 2.2 if kind else 1,
            "dash": kind.dash if kind else "solid",
        },
        "hovertemplate": f"<b>{template(line.name)}</b><br>{y}<br>{template(plot.x.label)}: {x}<extra></extra>",
    }
    if line.marks:
        trace["marker"] = {"symbol": kind.marker if kind else "circle", "size": 8, "color": colour_of(line.style)}
        if len(line.low):
            trace["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": shown_as(np.subtract(line.high, line.y), plot.y.percent),
                "arrayminus": shown_as(np.subtract(line.y, line.low), plot.y.percent),
                "thickness": 1.4,
                "width": 4,
                "color": colour_of(line.style),
            }
    return trace


def _heat(plot: Heat) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    low, high = (100 * end if plot.percent else end for end in plot.ends)
    number, shorter, unit = (".1f", ".0f", " %") if plot.percent else (".3~g", ".3~g", "")
    if plot.diverging:
        number, shorter = "+" + number, "+" + shorter
    rows, columns = [shortened(name) for name in plot.rows], [shortened(name) for name in plot.columns]
    names = [[f"{escape(row)}<br>{escape(column)}" for column in plot.columns] for row in plot.rows]
    scale = (
        [[0, "@harm"], [0.5, "@middle"], [1, "@gain"]]
        if plot.diverging
        else [[0, "@heat-0"], [0.5, "@heat-1"], [1, "@heat-2"]]
    )
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [shown_as(row, plot.percent) for row in plot.values],
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "customdata": names,
        "zmin": low,
        "zmax": high,
        "colorscale": scale,
        "hovertemplate": f"<b>%{{customdata}}</b><br>%{{z:{number}}}{unit}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1 if len(columns) <= 40 else 0,
        "ygap": 1 if len(rows) <= 60 else 0,
        "colorbar": {
            "title": {"text": escape(plot.label), "side": "right", "font": {"size": 12, "color": "@muted"}},
            "thickness": 10,
            "outlinewidth": 0,
            "tickformat": shorter,
            "ticksuffix": unit,
            "tickfont": {"size": 11, "color": "@muted"},
        },
    }
    if plot.written:
        trace |= {"text": _written(plot), "texttemplate": "%{text}", "showscale": False}
    place = {"showgrid": False, "tickmode": "array"}
    turned = {"autotickangles": [0, -40, -90]}
    layout = {
        "height": int(np.clip(110 + (30 if plot.written else 18) * len(rows), 240, 900)),
        "xaxis": axis_of(
            Axis(plot.column_label), tickvals=list(range(len(columns))), ticktext=columns, **turned, **place
        ),
        "yaxis": axis_of(
            Axis(plot.row_label), tickvals=list(range(len(rows))), ticktext=rows, autorange="reversed", **place
        ),
    }
    return [trace], layout


def _written(plot: Heat) -> list[list[str]]:
    """Return what stands in each field; nothing where it is 0, so that the others are seen."""
    digits = 0 if len(plot.columns) > 6 else 1
    return [
        [
            "" if value == 0 or not np.isfinite(value) else percent(value, digits) if plot.percent else f"{value:.3g}"
            for value in row
        ]
        for row in plot.values
    ]


def _dots(plot: Dots) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    traces = []
    number, unit = (".1f", " %") if plot.x.percent else (".4~g", "")
    for place, dot in enumerate(plot.dots):
        kind = STYLES[dot.style] if dot.style is not None else None
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "x": shown_as([dot.value], plot.x.percent),
            "y": [place],
            "marker": {
                "symbol": kind.marker if kind else "circle",
                "size": 10,
                "color": colour_of(dot.style),
                "line": {"width": 0},
            },
            "name": escape(dot.name),
            "hovertemplate": f"<b>{template(dot.name)}</b><br>%{{x:{number}}}{unit}<extra></extra>",
        }
        if dot.low is not None and dot.high is not None:
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": shown_as([dot.high - dot.value], plot.x.percent),
                "arrayminus": shown_as([dot.value - dot.low], plot.x.percent),
                "thickness": 2,
                "width": 5,
                "color": colour_of(dot.style),
            }
        traces.append(trace)
    names = [shortened(dot.name) for dot in plot.dots]
    layout = {
        "height": 84 + 30 * len(names),
        "xaxis": axis_of(plot.x),
        "yaxis": axis_of(
            Axis(""),
            tickvals=list(range(len(names))),
            ticktext=names,
            range=[len(names) - 0.4, -0.6],
            showgrid=False,
        ),
        "shapes": [],
    }
    if plot.reference is not None:
        layout["shapes"] = [rule(plot.reference, 0, plot.reference, 1) | {"yref": "paper"}]
    return traces, layout


def _bars(plot: Bars) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    values = np.asarray(plot.values, dtype=np.float64)
    number, unit = ("+.1f", " %") if plot.y.percent else ("+.3~g", "")
    notes = plot.notes or ("",) * len(values)
    trace: dict[str, Any] = {
        "type": "bar",
        "x": list(range(len(values))),
        "y": shown_as(values, plot.y.percent),
        "marker": {"color": ["@gain" if value >= 0 else "@harm" for value in values]},
        "customdata": [
            f"{escape(name)}</b>{'<br>' if note else ''}{escape(note)}"
            for name, note in zip(plot.names, notes, strict=True)
        ],
        "hovertemplate": f"<b>%{{customdata}}<br>%{{y:{number}}}{unit}<extra></extra>",
    }
    if len(plot.low):
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": shown_as(np.subtract(plot.high, values), plot.y.percent),
            "arrayminus": shown_as(np.subtract(values, plot.low), plot.y.percent),
            "thickness": 1.2,
            "width": 2,
            "color": "@muted",
        }
    few = len(values) <= 30
    ticks = {"tickvals": list(range(len(values))), "ticktext": [shortened(name, 14) for name in plot.names]}
    layout = {
        "height": 340,
        "bargap": 0.25 if few else 0,
        "xaxis": axis_of(plot.x, showgrid=False, **(ticks | {"tickangle": -55} if few else {})),
        "yaxis": axis_of(plot.y, zeroline=True, zerolinecolor="@muted", zerolinewidth=1),
    }
    return [trace], layout
