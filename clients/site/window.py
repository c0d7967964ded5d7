"""The window in the wall between Flower's process and the resident host: a question goes in, an answer comes out.

This side of it is light, and needs nothing of the site but the socket.
"""

from __future__ import annotations

import socket
from pathlib import Path

from flwr.app import RecordDict

from fedgraft.errors import FedGraftError, WireError
from fedgraft.wire.frames import Frame, read_frame, write_frame

CONNECT_SECONDS = 10.0


class SiteError(FedGraftError):
    """The site's resident host refused a request or failed at it; the text is its own."""


class HostAwayError(SiteError):
    """The site's resident host is not there, or went away while it was being asked; it will be back."""


def hand_over(path: Path, kind: str, scenario: str, record: RecordDict) -> RecordDict:
    """Have the resident host answer a request, however long that takes.

    Args:
        path: its socket.
        kind: Flower's message type.
        scenario: the run key `scenario`.
        record: the request's content.

    Raises:
        SiteError: it refused the request or failed.
        HostAwayError: it is not there.
    """
    return _exchange(path, Frame({"kind": kind, "scenario": scenario}, record)).record


def note_refusal(path: Path, kind: str, scenario: str, text: str) -> None:
    """Have the resident host write down a text that leaves instead of an answer, without its being asked.

    Args:
        path: its socket.
        kind: Flower's message type.
        scenario: the run key `scenario`, whatever it holds.
        text: what the server is told.

    Raises:
        SiteError: it could not write it down.
        HostAwayError: it is not there.
    """
    _exchange(path, Frame({"kind": kind, "scenario": scenario, "refused": text}))


def _exchange(path: Path, question: Frame) -> Frame:
    """Put a question and return the answer to it."""
    kind = question.facts["kind"]
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(str(path))
            connection.settimeout(None)
            write_frame(connection, question)
            answer = read_frame(connection)
    except OSError as error:
        raise HostAwayError(f"the site's resident host did not answer: {error}; it is started again") from error
    if "error" in answer.facts:
        raise SiteError(str(answer.facts["error"]))
    if answer.facts.get("kind") != kind:
        raise WireError(f"the resident host answered '{answer.facts.get('kind')}' to '{kind}'")
    return answer
