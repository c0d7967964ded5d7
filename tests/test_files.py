"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedgraft.errors import StoreError
from fedgraft.files import cache_directory, replacing, write_bytes, write_text
from fedgraft.progress import listening, report


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    write_text(path, "eins\n")
    write_text(path, "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    write_bytes(path, b"\r\n\x00")
    assert path.read_bytes() == b"\r\n\x00"
    assert names_in(path.parent) == {"file.txt"}


def test_a_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path: Path, kind: type[BaseException]) -> None:
    write_text(tmp_path / "file", "old")

    def fail() -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half of the n")
            raise kind

    with pytest.raises(kind):
        fail()
    assert (tmp_path / "file").read_text() == "old"
    assert names_in(tmp_path) == {"file"}


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "runs", "")
    with pytest.raises(StoreError, match=r"can't write .*runs/run\.json: .*choose another folder"):
        write_text(tmp_path / "runs" / "run.json", "{}")


def test_a_target_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(StoreError, match=r"can't write .*run\.json: Is a directory"):
        write_text(tmp_path / "run.json", "{}")
    assert names_in(tmp_path) == {"run.json"}


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel refuses to write beyond 4,096 bytes, as a full disk does."""
    code = f"""
import resource
from pathlib import Path
from fedgraft.errors import StoreError
from fedgraft.files import write_bytes
path = Path({str(tmp_path)!r}) / "file"
write_bytes(path, b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_bytes(path, bytes(10_000))
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"can't write {tmp_path}/file: File too large; free space or choose another folder\n"
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == {"file"}


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from fedgraft.files import replacing, write_text
path = Path({str(tmp_path)!r}) / "file"
write_text(path, "old")
with replacing(path) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"


def test_the_cache_stands_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory() == Path("/somewhere/fedgraft")
    monkeypatch.setenv("HOME", "/home/someone")
    for unset in ("", None):  # the XDG specification treats an empty value as unset
        monkeypatch.setenv("XDG_CACHE_HOME", unset) if unset == "" else monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_directory() == Path("/home/someone/.cache/fedgraft")


def test_a_relative_cache_is_not_taken_from_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG specification: a relative path is invalid and is to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_directory() == Path("/home/someone/.cache/fedgraft")


def test_events_reach_every_listener_inside_its_block_only() -> None:
    outer, inner = [], []

    def fail() -> None:
        with listening(inner.append):
            report("progress", what="features", done=1, total=2)
            raise ValueError("x")

    report("note", text="nobody listens")
    with listening(outer.append):
        report("note", text="one")
        with pytest.raises(ValueError, match="x"):
            fail()
        report("note", text="two")
    report("note", text="nobody listens again")
    assert inner == [{"kind": "progress", "what": "features", "done": 1, "total": 2}]
    assert outer == [{"kind": "note", "text": "one"}, *inner, {"kind": "note", "text": "two"}]
