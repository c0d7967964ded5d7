"""The desk behind the window: a Unix socket on which the resident host takes questions, one after another."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Collection
from pathlib import Path

from flwr.app import RecordDict

from fedgraft.errors import LaunchError, WireError
from fedgraft.wire.frames import Frame, read_frame, write_frame

SILENCE_SECONDS = 30.0
"""How long somebody at the window may take to say the next thing before the next one has a turn."""

LONGEST_PATH = 100
"""Bytes of a socket's path; Linux takes 107."""

log = logging.getLogger("fedgraft.site.host")

Answer = Callable[[str, str, RecordDict], RecordDict]
"""Takes the kind of request, the run key `scenario`, and the request; what it raises is said as text."""

Note = Callable[[str, str, str], None]
"""Takes the kind of request, the run key `scenario`, and the text by which the messenger refuses it."""


class Desk:
    """A listening socket that only some users of this machine may speak to.

    Args:
        path: where it lies; an older one is replaced.
        users: Unix user ids that are listened to.
        group: Unix group id that may reach it, beside the owner; None: the owner's own.

    Raises:
        LaunchError: it can't be made.
    """

    def __init__(self, path: Path, users: Collection[int], group: int | None = None) -> None:
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise LaunchError(f"the socket {path} has more than {LONGEST_PATH} bytes; name a shorter one in site.yaml")
        self._path, self._users = path, frozenset(users)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            path.unlink(missing_ok=True)
            before = os.umask(0o177)  # nobody but the owner, until the group is set
            try:
                self._socket.bind(str(path))
            finally:
                os.umask(before)
            if group is not None:
                os.chown(path, -1, group)
            path.chmod(0o660)
        except OSError as error:
            self._socket.close()
            raise LaunchError(f"can't make the socket {path}: {error.strerror or error}") from error
        self._socket.listen(8)

    def serve(self, answer: Answer, note: Note) -> None:
        """Answer questions, and note refusals, until the process ends."""
        while True:
            connection, _ = self._socket.accept()
            with connection:
                self._serve_one(connection, answer, note)

    def _serve_one(self, connection: socket.socket, answer: Answer, note: Note) -> None:
        pid, user = peer(connection)
        if user not in self._users:
            log.warning("process %d of user %d came to the window and was sent away", pid, user)
            return
        connection.settimeout(SILENCE_SECONDS)
        try:
            frame = read_frame(connection)
            kind, scenario = frame.facts.get("kind"), frame.facts.get("scenario")
            if not isinstance(kind, str) or not isinstance(scenario, str):
                raise WireError("a question names no kind or no scenario")
        except (OSError, WireError) as error:
            log.warning("process %d asked what can't be read: %s", pid, error)
            with contextlib.suppress(OSError):
                write_frame(connection, Frame({"error": str(error)}))
            return
        refused = frame.facts.get("refused")
        if refused is None:
            reply = answered(lambda: answer(kind, scenario, frame.record), kind)
        else:
            reply = answered(lambda: note(kind, scenario, str(refused)), kind)
        try:
            write_frame(connection, reply)
        except OSError as error:
            log.warning("the answer to '%s' was not taken: %s", kind, error)


def answered(work: Callable[[], RecordDict | None], kind: str) -> Frame:
    """Return the answer as a frame, or the text of what went wrong."""
    try:
        record = work()
    except Exception as error:  # the host stays, whatever one request does
        return Frame({"error": str(error)})
    return Frame({"kind": kind}) if record is None else Frame({"kind": kind}, record)


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return the process id and the user id of who is at the other end, as the kernel knows them."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user, _ = struct.unpack("3i", credentials)
    return pid, user
