"""The main table for papers, as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scenarios.comparison.findings import Analysis, Condition, Metric
from scenarios.report.contenders import leader
from scenarios.report.wording import NOTHING


def markdown_table(analysis: Analysis) -> str:
    """Return contenders by conditions, mean ± interval, the best of each condition in bold."""
    headings = [_markdown(text) for text in ("contender", *_headings(analysis))]
    lines = [f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * (len(headings) - 1)}"]
    for title, fields in _fields(analysis, "±"):
        cells = [_markdown(title)] + [f"**{text}**" if best else text for text, best in fields]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _explained(analysis, "±"), ""])


def latex_table(analysis: Analysis) -> str:
    """Return the same for LaTeX, with the rules of the package booktabs."""
    headings = " & ".join(latex(text) for text in ("contender", *_headings(analysis)))
    lines = ["% needs \\usepackage{booktabs}", f"% {_explained(analysis, '+-')}".replace("\n", " ")]
    lines += [f"\\begin{{tabular}}{{l{'r' * len(analysis.conditions)}}}", "\\toprule", f"{headings} \\\\", "\\midrule"]
    for title, fields in _fields(analysis, "\\pm"):
        cells = [latex(title)] + [f"$\\mathbf{{{text}}}$" if best else f"${text}$" for text, best in fields]
        lines.append(" & ".join(cells).replace(f"${NOTHING}$", "--") + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _headings(analysis: Analysis) -> Sequence[str]:
    if len(analysis.conditions) == 1:
        return [analysis.metric.title]
    return [condition.title for condition in analysis.conditions]


def _explained(analysis: Analysis, sign: str) -> str:
    unit = ", per cent" if analysis.metric.in_points else ""
    seeds = len(analysis.seeds)
    interval = f"mean {sign} 95 per cent interval over {seeds} seeds" if seeds > 1 else "one seed"
    return f"{analysis.metric.title}{unit}; {interval}; the best mean of each column is bold."


def _fields(analysis: Analysis, sign: str) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Yield each contender's title and, a condition, its text and whether it is the best."""
    several = len(analysis.contenders) > 1
    leaders = [leader(condition, analysis.metric.higher_is_better) for condition in analysis.conditions]
    for name, title in analysis.contenders.items():
        fields = []
        for condition, best in zip(analysis.conditions, leaders, strict=True):
            text = _field(condition, name, analysis.metric, sign)
            fields.append((text, several and best is not None and best.contender == name))
        yield title, fields


def _field(condition: Condition, contender: str, metric: Metric, sign: str) -> str:
    found = next((row.value for row in condition.rows if row.contender == contender), None)
    if found is None:
        return NOTHING
    factor, digits = (100.0, 1) if metric.in_points else (1.0, 3)
    text = f"{factor * found.mean:.{digits}f}"
    return text if found.half_width is None else f"{text} {sign} {factor * found.half_width:.{digits}f}"


def _markdown(text: str) -> str:
    """Return text as a Markdown table shows it, letter by letter."""
    for mark in "\\`*_{}[]<>|#~$":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "²": r"$^2$",
}


def latex(text: str) -> str:
    """Return text as LaTeX prints it, letter by letter."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
