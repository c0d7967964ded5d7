"""Logs of deployed processes: lines of text or JSON, and files that rotate."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedgraft.deployment.logs import start_log
from fedgraft.deployment.settings import LogSettings


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a log, below a folder that is not there yet, and close it afterwards."""
    yield tmp_path / "log" / "site.log"
    log = logging.getLogger("fedgraft.processes")
    for handler in log.handlers:
        handler.close()
    log.handlers.clear()


def test_files_rotate_and_the_oldest_are_removed(file: Path) -> None:
    """Of 1,000 lines of 100 characters, files of 10,000 bytes keep the last: the present one and two older."""
    log = start_log(LogSettings(file=str(file), largest_bytes=10_000, kept_files=2, format="json"))
    for number in range(1000):
        log.info("%s", f"line {number:04d}".ljust(100, "."), extra={"process_name": "host"})
    files = sorted(file.parent.iterdir())
    assert [path.name for path in files] == ["site.log", "site.log.1", "site.log.2"]
    assert all(path.stat().st_size <= 10_000 for path in files)
    kept = [json.loads(line) for path in reversed(files) for line in path.read_text().splitlines()]
    numbers = [int(line["text"].split(".")[0].split()[1]) for line in kept]
    assert numbers == list(range(numbers[0], 1000))
    assert len(numbers) > 100


def test_a_line_of_json_is_one_line_whatever_it_says(file: Path) -> None:
    log = start_log(LogSettings(file=str(file), format="json"))
    log.warning('two\nlines, "quoted"', extra={"process_name": "messenger"})
    try:
        raise KeyError("what")
    except KeyError:
        log.exception("failed")
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first["text"] == 'two\nlines, "quoted"'
    assert (first["level"], first["process"]) == ("warning", "messenger")
    assert "KeyError: 'what'" in second["traceback"]


def test_what_is_less_serious_than_asked_for_is_left_out(file: Path) -> None:
    log = start_log(LogSettings(file=str(file), level="warning"))
    log.info("not this")
    log.warning("but this")
    assert file.read_text().count("\n") == 1
