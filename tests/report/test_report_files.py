"""Pictures and tables beside the page, read back by other libraries."""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import hand_made_analysis as made
import pytest

from fedgraft.errors import FedGraftError
from scenarios.report import check_installed
from scenarios.report.compose import compose
from scenarios.report.exported_tables import write_tables
from scenarios.report.paper_tables import latex_table, markdown_table
from scenarios.report.pictures import write_pictures


@pytest.fixture(scope="module")
def small_analysis() -> Any:
    return made.analysis(names=("fedavg", "ridge & co_1"), alphas=(0.05, 0.5), num_clients=6, num_labels=3)


@pytest.fixture(scope="module")
def tables(small_analysis: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(made.comparison_for(small_analysis, folder), small_analysis, folder)
    return folder


def test_the_markdown_table_by_hand(small_analysis: Any) -> None:
    """`final`: 0.700 and 0.705 under the first condition, 0.03 more under the second; intervals of 0.01."""
    lines = markdown_table(small_analysis).splitlines()
    assert lines[:4] == [
        "| contender | alpha 0.05 | alpha 0.5 |",
        "| --- | ---: | ---: |",
        "| fedavg | 70.0 ± 1.0 | 73.0 ± 1.0 |",
        r"| ridge & co\_1 | **70.5 ± 1.0** | **73.5 ± 1.0** |",
    ]


def test_the_latex_table_by_hand(small_analysis: Any) -> None:
    text = latex_table(small_analysis)
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"contender & alpha 0.05 & alpha 0.5 \\",
        r"\midrule",
        r"fedavg & $70.0 \pm 1.0$ & $73.0 \pm 1.0$ \\",
        r"ridge \& co\_1 & $\mathbf{70.5 \pm 1.0}$ & $\mathbf{73.5 \pm 1.0}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_latex_takes_no_name_for_a_command() -> None:
    text = latex_table(made.analysis(names=(r"a\input{x}", "50%_$^~#"), alphas=(None,), num_clients=0))
    assert r"a\textbackslash{}input\{x\}" in text
    assert r"50\%\_\$\textasciicircum{}\textasciitilde{}\#" in text


def test_csv_and_parquet_say_the_same(tables: Path) -> None:
    from pyarrow import parquet

    names = sorted(path.stem for path in tables.glob("*.parquet"))
    assert names == ["calibration", "clients", "confusion", "curves", "gains", "results", "runs"]
    for name in names:
        with (tables / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        stored = parquet.read_table(tables / f"{name}.parquet").to_pylist()
        assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in stored] == rows


def test_the_numbers_of_the_tables_are_those_of_the_analysis(tables: Path) -> None:
    with (tables / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "central/accuracy"]
    assert [(row["condition"], row["contender"], float(row["mean"])) for row in rows] == [
        ("alpha 0.05", "fedavg", pytest.approx(0.7)),
        ("alpha 0.05", "ridge & co_1", pytest.approx(0.705)),
        ("alpha 0.5", "fedavg", pytest.approx(0.73)),
        ("alpha 0.5", "ridge & co_1", pytest.approx(0.735)),
    ]
    with (tables / "confusion.csv").open(newline="") as file:
        assert sum(int(row["count"]) for row in csv.DictReader(file)) == 2 * 2 * 3 * 100  # conditions, ..., labels
    with (tables / "clients.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 6


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path: Path) -> None:
    found = made.analysis(names=("=HYPERLINK(1)", "@x"), alphas=(None,), num_clients=0, num_seeds=1)
    write_tables(made.comparison_for(found, tmp_path), found, tmp_path)
    with (tmp_path / "runs.csv").open(newline="") as file:
        assert {row["contender"] for row in csv.DictReader(file)} == {"'=HYPERLINK(1)", "'@x"}


def test_each_figure_becomes_a_png_and_an_svg(tmp_path: Path) -> None:
    found = made.analysis(names=("fed$avg$ <b>", "ridge"), alphas=(None,), num_clients=5, num_labels=3)
    figures = compose(made.comparison_for(found, tmp_path), found).figures
    one_of_each = list({type(figure.plot): figure for figure in figures}.values())
    assert len(one_of_each) == 4
    written = write_pictures(one_of_each, tmp_path / "figures")
    assert sorted(path.name for path in written) == sorted(
        f"{figure.key}.{ending}" for figure in one_of_each for ending in ("png", "svg")
    )
    for path in written:
        if path.suffix == ".png":
            data = path.read_bytes()
            assert data[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack(">II", data[16:24])
            assert 500 < width < 3000
            assert 200 < height < 3000
        else:
            root = ElementTree.parse(path).getroot()
            addresses = [value for node in root.iter() for name, value in node.items() if name.endswith("href")]
            assert all(value.startswith(("#", "data:image/png")) for value in addresses)


def test_equal_numbers_give_equal_pictures(tmp_path: Path) -> None:
    found = made.analysis(names=("fedavg", "ridge"), alphas=(None,), num_clients=0)
    figure = compose(made.comparison_for(found, tmp_path), found).figures[0]
    one, other = (write_pictures([figure], tmp_path / name) for name in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    there = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name in ("jinja2", "plotly") else there(name))
    with pytest.raises(FedGraftError) as caught:
        check_installed()
    assert str(caught.value) == (
        'a report needs jinja2, plotly, which are not installed; install with: pip install "fedgraft[report]"'
    )
