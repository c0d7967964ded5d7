"""Runs that a test stops in the middle, as an error or a kill would."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from fedgraft.progress import Event, listening


class StoppedError(Exception):
    """What a test stops a run with."""


@contextlib.contextmanager
def stopped_in(round_number: int) -> Iterator[None]:
    """Stop a run that is made within: after it has told of a round, before that round's checkpoint."""

    def stop(event: Event) -> None:
        if event["kind"] == "round" and event["number"] == round_number:
            raise StoppedError

    with pytest.raises(StoppedError), listening(stop):
        yield
