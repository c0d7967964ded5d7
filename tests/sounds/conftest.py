"""A finished run on small recordings: low tones and high ones of two speakers."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import yaml
from small_sounds import RATE, tone

import fedgraft
from fedgraft import Run


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recordings")
    for number in range(8):
        for speaker, pitch in (("ann", 1.2), ("bob", 0.9)):
            for label, hertz in (("high", 1200), ("low", 300)):
                path = root / speaker / label / f"{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                seed = 100 * number + hertz + len(speaker)
                soundfile.write(path, tone(hertz * pitch, 0.2 + 0.02 * number, seed=seed), RATE)
    return root


@pytest.fixture(scope="session")
def scenario(recordings: Path) -> dict[str, object]:
    return {
        "name": "tones",
        "backbone": {"name": "log-mel", "sample_rate": RATE, "seconds": 0.5},
        "data": {"source": {"name": "audio", "path": str(recordings), "sites": True}, "partition": "natural"},
        "strategy": "ridge",
    }


@pytest.fixture(scope="session")
def sound_run(scenario: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    (folder / "tones.yaml").write_text(yaml.safe_dump(scenario))
    return fedgraft.run(folder / "tones.yaml", out=folder / "run")
