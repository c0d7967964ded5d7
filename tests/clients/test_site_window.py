"""The window between Flower's process and the resident host: a real Unix socket, real users of this machine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict

from clients.site.desk import Answer, Desk
from clients.site.window import HostAwayError, SiteError, hand_over, note_refusal
from fedgraft.errors import LaunchError, WireError
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import DescribeRequest

RECORD = pack(DescribeRequest(run_id="r"), {"head": {"weight": np.arange(6.0)}})


def echo(kind: str, scenario: str, record: RecordDict) -> RecordDict:
    if kind == "fail":
        raise WireError(f"no {scenario} here")
    return record


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A short path for a socket, whatever pytest's own folders are called."""
    here = Path(f"/tmp/fg-window-{os.getpid()}.sock")
    yield here
    here.unlink(missing_ok=True)


def serving(path: Path, answer: Answer = echo, users: tuple[int, ...] = (os.getuid(),)) -> list[tuple[str, ...]]:
    """Serve from a thread that ends with the test's process; return the refusals that are noted."""
    desk, noted = Desk(path, users), list[tuple[str, ...]]()

    def note(*words: str) -> None:
        if words[0] == "fail":
            raise WireError("the ledger is full")
        noted.append(words)

    threading.Thread(target=desk.serve, args=(answer, note), daemon=True).start()
    return noted


def test_a_question_is_answered(path: Path) -> None:
    serving(path)
    came = hand_over(path, "train", "{}", RECORD)
    body, groups = unpack(came, DescribeRequest, "test")
    assert body.run_id == "r"
    np.testing.assert_array_equal(groups["head"]["weight"], np.arange(6.0))


def test_only_its_owner_and_group_reach_it(path: Path) -> None:
    serving(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_refusal_comes_as_text(path: Path) -> None:
    serving(path)
    with pytest.raises(SiteError, match=r"^no data here$"):
        hand_over(path, "fail", "data", RECORD)
    assert hand_over(path, "train", "{}", RECORD)["body"] == RECORD["body"]  # and the next is answered


def test_a_refusal_of_the_messengers_own_is_noted_and_not_answered(path: Path) -> None:
    noted = serving(path, answer=lambda *_: pytest.fail("was asked"))
    note_refusal(path, "train", "{}", "knows no bundle")
    assert noted == [("train", "{}", "knows no bundle")]
    with pytest.raises(SiteError, match=r"^the ledger is full$"):
        note_refusal(path, "fail", "{}", "knows no bundle")


def test_garbage_does_not_end_the_host(path: Path) -> None:
    serving(path)
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"FGS1" + b"\xff" * 12, b"FGS1\0\0\0\2\0\0\0\0\0\0\0\0[]"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(garbage)
    assert hand_over(path, "train", "{}", RECORD)["body"] == RECORD["body"]


def test_another_user_is_sent_away_even_with_the_socket_open_to_it(path: Path) -> None:
    serving(path, users=(os.getuid() + 1,))
    with pytest.raises(HostAwayError):
        hand_over(path, "train", "{}", RECORD)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not os.access("/usr/bin/perl", os.X_OK), reason="needs a program that any user can run")
def test_the_kernel_keeps_others_from_the_socket(path: Path) -> None:
    serving(path)
    code = f"use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, pack_sockaddr_un('{path}')) or die $!"
    command = ["/usr/bin/perl", "-e", code]
    done = subprocess.run(command, user=65534, group=65534, extra_groups=[], capture_output=True, text=True)
    assert "Permission denied" in done.stderr
    assert subprocess.run(command).returncode == 0  # as ourselves it connects


def test_nobody_there_is_said(path: Path) -> None:
    with pytest.raises(HostAwayError, match="the site's resident host did not answer"):
        hand_over(path, "train", "{}", RECORD)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"more than 100 bytes; name a shorter one in site\.yaml"):
        Desk(tmp_path / ("x" * 120), (os.getuid(),))


def test_what_speaks_with_the_server_imports_nothing_heavy() -> None:
    """A message's process starts anew in plain Flower, and must not take 600 MB and seconds each time."""
    code = (
        "import sys, clients.app, clients.site.window, clients.site.messenger\n"
        "print({'torch', 'torchvision', 'timm', 'sklearn', 'ray', 'pandas', 'flwr_datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
