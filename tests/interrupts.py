"""Processes that Ctrl-C reaches, also where the tests themselves run in the background."""

from __future__ import annotations

import signal


def listen_to_interrupts() -> None:
    """Let a child hear SIGINT; for `preexec_fn`.

    A shell starts a background job with SIGINT ignored, children inherit that, and Python then leaves it so.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
