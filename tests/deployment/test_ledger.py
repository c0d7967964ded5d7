"""The ledger: whatever is done to its file afterwards, `verify` says so."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clients.site.ledger import Ledger
from clients.site.ledger_check import head_path, verify
from clients.site.ledger_lines import Head, LedgerArray, LedgerEntry, LedgerError


def entry(number: int) -> LedgerEntry:
    array = LedgerArray(name="update.weight", shape=(10, 64), dtype="float32", bytes=2688)
    return LedgerEntry(
        run="1f0c",
        scenario="three-clinics",
        request="train",
        round=number,
        facts=("num_clients",),
        arrays=(array,),
        bytes=2700 + number,
        digest=hashlib.sha256(bytes([number])).hexdigest(),
    )


def write(folder: Path, count: int = 4) -> Path:
    path = folder / "ledger.jsonl"
    ledger = Ledger(path)
    for number in range(1, count + 1):
        ledger.append(entry(number))
    ledger.close()
    return path


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ledger"))


def judge(untouched: Path, folder: Path, data: bytes) -> tuple[str, ...]:
    """Return what `verify` finds in a ledger of the same head with other bytes."""
    path = folder / "ledger.jsonl"
    path.write_bytes(data)
    head_path(path).write_bytes(head_path(untouched).read_bytes())
    found = verify(path)
    return (*found.faults, *(["unfinished"] if found.torn else []))


def test_what_was_written_is_read_again(untouched: Path) -> None:
    found = verify(untouched)
    assert (found.faults, found.torn) == ((), b"")
    assert [line.entry for line in found.lines] == [entry(number) for number in range(1, 5)]
    assert [line.number for line in found.lines] == [1, 2, 3, 4]


def test_the_chain_is_plain_sha256(untouched: Path) -> None:
    """As anybody may check without our software: each hash is that of the rest of its own line, keys sorted."""
    previous = "0" * 64
    for line in untouched.read_text().splitlines():
        fields = json.loads(line)
        stated = fields.pop("hash")
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest() == stated
        assert fields["previous"] == previous
        previous = stated
    assert head_path(untouched).read_text() == f"4:{previous}\n"


anything = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_any_changed_byte_is_found(untouched: Path, tmp_path: Path, place: int, byte: int) -> None:
    data = bytearray(untouched.read_bytes())
    place %= len(data)
    assume(data[place] != byte)
    data[place] = byte
    assert judge(untouched, tmp_path, bytes(data))


@anything
@given(place=st.integers(min_value=0), text=st.binary(min_size=1, max_size=40))
def test_any_inserted_bytes_are_found(untouched: Path, tmp_path: Path, place: int, text: bytes) -> None:
    data = untouched.read_bytes()
    place %= len(data) + 1
    assert judge(untouched, tmp_path, data[:place] + text + data[place:])


@anything
@given(first=st.integers(min_value=0), length=st.integers(min_value=1))
def test_any_removed_bytes_are_found(untouched: Path, tmp_path: Path, first: int, length: int) -> None:
    """Also at the end: the kept head knows how long the chain was."""
    data = untouched.read_bytes()
    first %= len(data)
    last = min(len(data), first + 1 + length % len(data))
    assert judge(untouched, tmp_path, data[:first] + data[last:])


@anything
@given(order=st.permutations(range(4)), kept=st.integers(1, 4))
def test_lines_moved_removed_or_doubled_are_found(untouched: Path, tmp_path: Path, order: list[int], kept: int) -> None:
    lines = untouched.read_bytes().splitlines(keepends=True)
    chosen = [lines[number] for number in order[:kept]]
    assume(chosen != lines)
    assert judge(untouched, tmp_path, b"".join(chosen))
    assert judge(untouched, tmp_path, b"".join([*lines, chosen[0]]))


def test_an_edit_with_a_mended_hash_breaks_the_next_line(untouched: Path, tmp_path: Path) -> None:
    lines = untouched.read_text().splitlines()
    fields = json.loads(lines[1])
    fields.pop("hash")
    fields["entry"]["bytes"] = 1
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["hash"] = hashlib.sha256(text.encode()).hexdigest()
    lines[1] = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    found = judge(untouched, tmp_path, "".join(f"{line}\n" for line in lines).encode())
    assert found == ("line 3: does not follow the line before it",)


def test_a_shorter_chain_with_a_shorter_head_needs_a_noted_head(untouched: Path, tmp_path: Path) -> None:
    """What the two files can't tell: somebody took lines off and wrote the head anew."""
    noted = verify(untouched).head
    path = write(tmp_path, 3)
    assert verify(path).faults == ()
    assert "does not contain the noted head 4:" in verify(path, noted).faults[0]
    assert verify(untouched, noted).faults == ()


def test_a_ledger_that_was_changed_takes_no_more_lines(untouched: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(untouched.read_bytes().replace(b"2701", b"1"))
    head_path(path).write_bytes(head_path(untouched).read_bytes())
    with pytest.raises(LedgerError, match=r"line 1: .*changed after it was written.*move both files away"):
        Ledger(path)


def test_a_change_while_it_is_open_is_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(entry(1))
    with ledger.path.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(LedgerError, match="line 2: no entry"):
        ledger.append(entry(2))


@pytest.mark.parametrize("kept", [1, 20, 300])
@pytest.mark.parametrize("head_lags", [False, True])
def test_an_unfinished_line_does_not_stop_the_site(tmp_path: Path, kept: int, head_lags: bool) -> None:
    """A power failure in the middle of a line: it was not sent yet; the chain goes on and covers what is left of it."""
    path = write(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    head_path(path).write_text(f"2:{json.loads(lines[1])['hash']}\n")
    path.write_bytes(b"".join(lines[:2]) + lines[2][: -1 if head_lags else kept])
    assert verify(path).faults == ()
    Ledger(path).append(entry(9))
    found = verify(path)
    assert (found.faults, [line.entry.round for line in found.lines]) == ((), [1, 2, 9])
    damaged = path.read_bytes().replace(lines[2][:1] + lines[2][1:kept], b"{", 1) if kept > 1 else None
    if damaged and not head_lags and damaged != path.read_bytes():
        path.write_bytes(damaged)
        assert verify(path).faults


def test_a_line_whose_head_was_not_written_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    head_path(path).write_text(f"2:{json.loads(path.read_text().splitlines()[1])['hash']}\n")
    ledger = Ledger(path)
    ledger.append(entry(4))
    assert verify(path).faults == ()
    assert ledger.head.number == 4


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; from pathlib import Path; from test_ledger import entry\n"
        "from clients.site.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "for number in range(20): ledger.append(entry(number))"
    )
    command = [sys.executable, "-c", code, str(path), str(Path(__file__).parent), str(Path.cwd())]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = verify(path)
    assert (found.faults, found.head.number) == ((), 40)


def test_only_its_owner_reads_it(untouched: Path) -> None:
    assert untouched.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_had_is_said() -> None:
    with pytest.raises(LedgerError, match=r"can't be opened"):
        Ledger(Path("/dev/null/ledger.jsonl"))


def test_a_full_disk_keeps_the_answer_in_and_the_chain_whole(tmp_path: Path) -> None:
    """The file may grow by 100 bytes and no more: the line is cut short, the site goes on when there is room again."""
    path = write(tmp_path, 2)
    code = (
        "import sys, signal, resource; sys.path[:0] = sys.argv[2:]; from pathlib import Path\n"
        "from test_ledger import entry; from clients.site.ledger import Ledger\n"
        "from clients.site.ledger_lines import LedgerError\n"
        "ledger = Ledger(Path(sys.argv[1])); size = ledger.path.stat().st_size + 100\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "for _ in range(2):\n"
        "    try: ledger.append(entry(3))\n"
        "    except LedgerError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(path), str(Path(__file__).parent), str(Path.cwd())]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.count("can't be written: File too large") == 2
    assert verify(path).torn
    Ledger(path).append(entry(4))
    assert [line.entry.round for line in verify(path).lines] == [1, 2, 4]
    assert verify(path).faults == ()


@pytest.mark.parametrize("text", ["", "12", "x:y", "1:" + "g" * 64, "-1:" + "0" * 64])
def test_a_head_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="expected number:hash"):
        Head.parse(text)
