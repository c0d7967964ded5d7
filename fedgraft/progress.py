"""Progress events: what long work says of itself to whoever listens (the command line, a notebook, a file)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

Event = Mapping[str, Any]
"""`kind` and its values: `phase` (name), `progress` (what, done, total), `note` (text), `round` (number, of, ...)."""

_listeners: ContextVar[tuple[Callable[[Event], None], ...]] = ContextVar("listeners", default=())


def report(kind: str, **values: Any) -> None:
    """Tell every listener of this context; free when there is none."""
    for listener in _listeners.get():
        listener({"kind": kind, **values})


@contextlib.contextmanager
def listening(listener: Callable[[Event], None], *, alone: bool = False) -> Iterator[None]:
    """Have `listener` called with each event that is reported inside the block; `alone`: and nobody else."""
    token = _listeners.set((listener,) if alone else (*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
