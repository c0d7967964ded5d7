"""The table and the heat map of a partition."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fedgraft.data.federation import Federation
from fedgraft.data.summary import partition_picture, partition_table

Build = Callable[..., Federation]


def text_of(federation: Federation, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(partition_table(federation))
    return console.export_text()


def of_arrays(build: Build, tmp_path: Path, client: list[str], labels: list[int]) -> Federation:
    path = tmp_path / "a.npz"
    np.savez(path, features=np.eye(len(labels)), labels=labels, client=client, label_names=["cat", "dog", "eel"])
    return build({"name": "arrays", "path": str(path)}, "natural", test_fraction=0, validation_fraction=0.25)


def test_a_row_says_what_a_client_has(build: Build, tmp_path: Path) -> None:
    """Of 4 samples at 'a [b]', a quarter is for validation; 'c' has one, for training."""
    federation = of_arrays(build, tmp_path, ["a [b]"] * 4 + ["c"], [0, 2, 2, 2, 1])
    lines = text_of(federation).splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [["a [b]", "3", "1", "2", "eel (3), cat (1)"], ["c", "1", "0", "1", "dog (1)"]]
    assert "2 clients of 1 to 4 samples (median 2); central test 0" in lines[0]


def test_many_clients_stay_a_short_table(build: Build) -> None:
    federation = build({"name": "synthetic", "num_samples": 2000}, {"name": "iid", "clients": 160}, test_fraction=0)
    text = text_of(federation)
    assert text.count("client-") == 24
    assert "… and 136 more" in text
    sizes = federation.train.counts[24:].sum()
    assert f"{sizes:,}" in text


@pytest.mark.parametrize(
    ("clients", "values"),
    [(1, {}), (5, {}), (60, {}), (1500, {}), (9, {"task": "labels"}), (9, {"task": "real"}), (9, {"num_classes": 80})],
)
def test_a_picture_is_drawn_for_any_federation(build: Build, tmp_path: Path, clients: int, values: Any) -> None:
    source = {"name": "synthetic", "num_samples": 3000, "num_features": 2, **values}
    federation = build(source, {"name": "iid", "clients": clients})
    partition_picture(federation, tmp_path / "deep" / "map.png")
    with Image.open(tmp_path / "deep" / "map.png") as picture:
        assert 900 <= picture.width <= 1900
        assert 400 <= picture.height <= 1400
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 20


def test_the_ending_says_the_format(build: Build, tmp_path: Path) -> None:
    federation = build("digits", {"name": "iid", "clients": 3})
    partition_picture(federation, tmp_path / "map.svg")
    assert "<svg" in (tmp_path / "map.svg").read_text()[:500]


def test_the_brightest_cells_are_the_fullest(build: Build, tmp_path: Path) -> None:
    """Client a has dogs only, c eels only: the cells of viridis's end (yellow) and start (dark) are there."""
    federation = of_arrays(build, tmp_path, ["a"] * 4 + ["c"] * 4, [1] * 4 + [2] * 4)
    partition_picture(federation, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    yellow, dark = [(abs(pixels - colour).max(axis=-1) <= 1).sum() for colour in ((253, 231, 37), (68, 1, 84))]
    assert dark / yellow == pytest.approx(2, rel=0.1)
