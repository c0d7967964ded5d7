"""What the conductor hears of an actor whose cluster fails it; no cluster is needed for that."""

from __future__ import annotations

import queue
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from scenarios.sweep.bench import Task
from scenarios.sweep.on_ray import RayWorker


class Gone:
    """An actor's method, whose call ends as Ray's calls do when an actor is gone."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def remote(self, *arguments: Any) -> None:
        """Raise the error."""
        raise self._error


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError(), "RuntimeError"), (ValueError(" \n"), "ValueError"), (OSError("no node\nat all"), "no node")],
)
def test_an_end_is_heard_of_whatever_its_error_says(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))
    inbox: Any = queue.SimpleQueue()
    worker = RayWorker(SimpleNamespace(begin=Gone(error)), inbox)
    worker.give(Task("one", "{}", "/nowhere"))
    assert inbox.get(timeout=10) == (worker, None)
    assert worker.death() == f"its actor on the Ray cluster ended: {said}"
