"""The scenarios that compare and come with the package: each runs, in a reduced form."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fedgraft
from scenarios.loader import load_scenario, shipped
from scenarios.sweep.plan import plan

SIZES = {"strategies": 165, "robustness": 90, "personalisation": 80, "availability": 48, "scale": 18, "own-folder": 9}
SIZES |= {"spoken-digits-rotated": 18}
"""Contenders x conditions x seeds, by hand: (9 + 1) x 3 x 5 and 3 x 5 of clients alone,
6 x 5 x 3, 8 x 2 x 5, 4 x 4 x 3, 3 x 3 x 2, 3 x 3, 3 x 6."""

TINY = ("backbone={name: timm:test_resnet, weights: random, input_size: 32}", "server.rounds=2", "compare.seeds=1")
"""Random weights of a tiny network: what is tested is that all of it goes together."""

REDUCED = {
    "strategies": ("compare.grid.data.partition.alpha=[0.5]",),
    "robustness": ("compare.grid.attack=[{name: label-flip}]",),
    "personalisation": ("compare.grid.data.partition.alpha=[1]",),
    "availability": ("compare.grid.strategy=[fedavg]", "server.rounds=6"),
    "scale": (
        *("backbone=identity", "data.source.num_samples=3000", "data.max_samples_per_client=5"),
        "compare.grid.data.partition.clients=[50, 100]",
    ),
}


def test_sizes() -> None:
    compared = [name for name, _ in shipped() if load_scenario(name).compare is not None]
    assert {name: len(plan(name).runs) for name in compared} == SIZES


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_it_runs(name: str, tmp_path: Path) -> None:
    found = fedgraft.compare(name, [*TINY, *REDUCED[name]], out=tmp_path / "c", jobs=1)
    assert [(run.id, run.error) for run in found.runs if run.state != "finished"] == []
    assert set(found.contenders) <= set(plan(name).contenders)


def test_the_template_runs_on_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    for number, label in enumerate(("cat", "dog")):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for picture in range(12):
            pixels = draws.integers(0, 128, (16, 16, 3)) + 127 * number
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / label / f"{picture}.png")
    sets = [*TINY, "data.source.path=pictures", "data.partition.clients=2"]
    found = fedgraft.compare("own-folder", sets, out=tmp_path / "c", jobs=1)
    assert Counter(run.state for run in found.runs) == {"finished": 3}
    assert found.runs[0].run.summary["label_names"] == ["cat", "dog"]
