"""Start a Ray of our own without the processes that a run has no use for.

Ray 2.55 starts a dashboard even where it is to have none, and waits for it; an autoscaler, and a process that forwards
logs, although neither is asked for; and a metrics exporter with all that a dashboard could want. Together they take
more processor time than Ray's own servers and hold up the start, and no argument of `ray.init` leaves them out. So
this file, and no other, leaves them out of Ray's own functions while Ray starts; under another version of Ray, for
which that was never tried, Ray starts as it always does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

TRIED = "2.55."


def _no_process(*_: Any, **__: Any) -> None:
    """Start nothing; Ray goes on without, as when such a process fails to start."""


def _no_dashboard() -> ImportError:
    return ImportError("a run has no use for Ray's dashboard")


@contextlib.contextmanager
def lean(forwards_logs: bool) -> Iterator[None]:
    """Have Ray, if it is started in this block, start only what a run needs.

    Args:
        forwards_logs: the hosts' output is wanted on the terminal.
    """
    import ray
    from ray._private import utils
    from ray._private.node import Node

    if not ray.__version__.startswith(TRIED):
        yield
        return
    unwanted = ["start_api_server", "start_monitor", *([] if forwards_logs else ["start_log_monitor"])]
    places = [(Node, name, _no_process) for name in unwanted]
    with _replaced([*places, (utils, "get_dashboard_dependency_error", _no_dashboard)]):
        yield


@contextlib.contextmanager
def _replaced(places: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)
