"""`fedgraft report` on real runs, as a user types it, and what it says of bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from small_scenarios import small

import fedgraft
from fedgraft import cli

CHANGES = {
    "uneven": {},
    "uneven-ridge": {"strategy": "ridge"},
    "even": {"data.partition.alpha": 100.0},
    "even-ridge": {"data.partition.alpha": 100.0, "strategy": "ridge"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four small runs: two strategies, on an even and on an uneven split."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in CHANGES.items():
        fedgraft.run(small(**{"server.rounds": 2, **changes}), out=folder / name)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["fedgraft", "report", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_several_runs_give_one_report(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *(runs / name for name in CHANGES), "--out", "skew", "--baseline", "ridge") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["report: skew/report.html", "pictures and tables: skew/figures, skew/tables"]
    assert "data.partition.alpha" in err  # what differs
    text = (tmp_path / "skew/report.html").read_text()
    assert text.count('<details class="part"') == 2
    assert "FedAvg" in text
    table = (tmp_path / "skew/tables/results.md").read_text()
    for name in CHANGES:
        accuracy = json.loads((runs / name / "summary.json").read_text())["central"]["accuracy"]
        assert f"{100 * accuracy:.1f}" in table
    assert (tmp_path / "skew/figures/all-conditions.svg").exists()


@pytest.mark.slow
def test_a_single_run_has_its_report_beside_its_results(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, runs / "even") == 0
    text = (runs / "even/report.html").read_text()
    assert "Report on one run" in text
    assert "fedgraft run" in text
    assert (runs / "even/tables/clients.parquet").exists()


@pytest.mark.slow
def test_a_damaged_directory_is_named_and_left_out(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "uneven", tmp_path / "hurt")
    (tmp_path / "hurt/summary.json").write_text('{"metric": ')
    assert call(monkeypatch, runs / "even", tmp_path / "hurt", tmp_path / "nothing", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert f"left out: {tmp_path}/hurt: " in said
    assert f"left out: {tmp_path}/nothing: " in said
    text = (tmp_path / "out/report.html").read_text()
    assert "2 directories left out" in text
    assert f"{tmp_path}/hurt" in text


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["nothing"], ["there is no finished run to report on", "nothing"]),
        (["even", "kinds"], ["the runs can't be compared, they differ in", "report them apart"]),
        (["even", "uneven-ridge", "--baseline", "fedprox"], ["came 'fedprox'", "fedavg"]),
        (["even", "comparison"], ["is a comparison", "give one alone"]),
        (["comparison"], ["is damaged"]),
    ],
)
def test_bad_input_is_one_clear_text(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    texts: list[str],
) -> None:
    """`kinds` has other classes than the others have."""
    shutil.copytree(runs / "even", tmp_path / "kinds")
    summary = json.loads((tmp_path / "kinds/summary.json").read_text())
    (tmp_path / "kinds/summary.json").write_text(json.dumps({**summary, "label_names": ["cat", "dog", "cow", "hen"]}))
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison/comparison.json").write_text("{")
    for name in CHANGES:
        (tmp_path / name).symlink_to(runs / name)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    for text in texts:
        assert text in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("reports*"))
