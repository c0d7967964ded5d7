"""What stands on the page: parts, tables and numbers, as text that is ready to be shown (and not yet escaped)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scenarios.report.plots import Figure

Order = Literal["ascending", "descending"]

NO_STYLE = -1
"""The style of a row that no figure shows."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its heading.
        kind: how its values are sorted.
        first: how the first click sorts; what is best comes first.
        sorted: how the table already is sorted by it.
    """

    name: str
    kind: Literal["text", "number"] = "number"
    first: Order = "descending"
    sorted: Order | None = None


@dataclass(frozen=True)
class Cell:
    """One field.

    Attributes:
        text: what it shows.
        value: by which it is sorted; None: it comes last.
        note: shown smaller behind the text, such as an interval.
        look: `best`, `gain`, `harm` or nothing.
    """

    text: str
    value: float | None = None
    note: str = ""
    look: str = ""


@dataclass(frozen=True)
class Row:
    """One row; its first cell names it.

    Attributes:
        cells: as many as the table has columns.
        style: of its contender in the figures; None: in the background; -1: it has none.
        failed: show it as something that went wrong.
    """

    cells: tuple[Cell, ...]
    style: int | None = NO_STYLE
    failed: bool = False


@dataclass(frozen=True)
class Table:
    """A table that the reader sorts."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Key:
    """One entry of the key to a part's figures.

    Attributes:
        label: what it says.
        names: the contenders that it shows and hides.
        style: as that of a row.
    """

    label: str
    names: tuple[str, ...]
    style: int | None


@dataclass(frozen=True)
class Topic:
    """Figures, text and a table that belong together."""

    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    keys: tuple[Key, ...] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Part:
    """All of one condition, or of all conditions together."""

    key: str
    title: str
    summary: str = ""
    verdict: tuple[str, ...] = ()
    table: Table | None = None
    topics: tuple[Topic, ...] = ()

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures of all topics."""
        return tuple(figure for topic in self.topics for figure in topic.figures)


@dataclass(frozen=True)
class Number:
    """One of the few numbers at the top."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Failure:
    """A run that failed, or a directory that could not be used."""

    name: str
    error: str


@dataclass(frozen=True)
class Command:
    """What to type, and what for."""

    text: str
    code: str


@dataclass(frozen=True)
class Link:
    """An entry of the contents."""

    key: str
    title: str


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    kind: str
    facts: tuple[str, ...]
    verdict_title: str
    verdict: tuple[str, ...]
    numbers: tuple[Number, ...]
    notes: tuple[str, ...]
    failures_title: str
    failures: tuple[Failure, ...]
    overview: Part | None
    results_title: str
    parts: tuple[Part, ...]
    commands: tuple[Command, ...]
    scenario: str
    environment: tuple[tuple[str, str], ...]
    footer: tuple[str, ...]

    @property
    def contents(self) -> tuple[Link, ...]:
        """The sections, in their order."""
        links = [Link("verdict", "Verdict")]
        if self.failures:
            links.append(Link("failures", self.failures_title))
        if self.overview is not None:
            links.append(Link("overview", self.overview.title))
        links.append(Link("results", self.results_title))
        return (*links, Link("repeat", "How to repeat it"))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All figures, in their order."""
        parts = (*((self.overview,) if self.overview is not None else ()), *self.parts)
        return tuple(figure for part in parts for figure in part.figures)
