"""Runs on texts: what they say of texts, files and tables, and the files that other software loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import fedgraft
from fedgraft import Run
from fedgraft.cli import app
from fedgraft.errors import DataError
from fedgraft.trained import load_safetensors

pytest.importorskip("transformers", reason="needs the extra text")

from text_encoder_folders import WORDS, by_transformers, save_encoder

ASKED = ["the film was good", "bad", "not a good day and the music was long", "the &amp; film  was\tbad"]
READ = [*ASKED[:3], "the & film was bad"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("texts")
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        yield place


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    save_encoder(folder / "encoder")
    generator = np.random.default_rng(4)
    rows = []
    for number in range(60):
        label = ("bad", "good")[number % 2]
        rows.append(f"{' '.join([*generator.choice(WORDS, 6), label])},{label},{'north' if number < 30 else 'south'}")
    (folder / "texts.csv").write_text("text,label,shop\n" + "\n".join(rows) + "\n")
    values = {
        "name": "small",
        "backbone": f"transformers:{folder / 'encoder'}",
        "data": {
            "source": {"name": "text-csv", "path": str(folder / "texts.csv"), "client_column": "shop"},
            "partition": "natural",
        },
        "strategy": "ridge",
        "server": {"rounds": 1},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    return fedgraft.run(folder / "small.yaml", out=folder / "run")


def by_hand(folder: Path, run: Run, texts: list[str]) -> torch.Tensor:
    """Return the linear head's logits of transformers' own embeddings."""
    head = {name: torch.from_numpy(np.array(value)) for name, value in run.head.items()}
    return by_transformers(folder / "encoder", texts) @ head["weight"].T + head["bias"]


def test_texts_in_any_form_get_the_same_prediction(folder: Path, run: Run, tmp_path: Path) -> None:
    logits = by_hand(folder, run, READ)
    given = run.predict_texts(ASKED)
    assert [one.text for one in given] == READ
    assert [one.best for one in given] == logits.argmax(1).tolist()
    wanted = logits.softmax(1).numpy()
    np.testing.assert_allclose(np.stack([one.outputs for one in given]), wanted, atol=1e-5)
    table = tmp_path / "asked.csv"
    table.write_text("id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(ASKED)) + "4, \n")
    (tmp_path / "one.txt").write_text(ASKED[1] + "\n")
    found = run.predict([table, tmp_path / "one.txt"])
    assert [(one.file, one.row_number) for one in found] == [
        *((table, n) for n in range(4)),
        (tmp_path / "one.txt", None),
    ]
    np.testing.assert_allclose(np.stack([one.outputs for one in found]), wanted[[0, 1, 2, 3, 1]], atol=1e-5)


def test_the_command_takes_texts(run: Run) -> None:
    asked = CliRunner().invoke(app, ["predict", str(run.directory), "--text", ASKED[0], "--text", ASKED[3], "--json"])
    assert asked.exit_code == 0, asked.output
    found = json.loads(asked.stdout)
    assert [one["text"] for one in found] == [READ[0], READ[3]]
    assert set(found[0]["probabilities"]) == {"bad", "good"}
    shown = CliRunner().invoke(app, ["predict", str(run.directory), "--text", "[bold]good"])
    assert shown.stdout.splitlines()[0].split() == ["text", "prediction", "probability"]
    assert "[bold]good" in shown.stdout


def test_what_is_no_text_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "old.txt").write_bytes(b"caf\xe9")
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "cat.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        run.predict([tmp_path / name for name in ("empty.txt", "old.txt", "two.csv", "cat.png")])
    for reason in (
        "it holds no text",
        "it is not UTF-8 (byte 3); save it as UTF-8",
        "it has the columns a, b; call the one of the texts 'text'",
        "this run takes texts: .txt files, or .csv files",
    ):
        assert reason in str(caught.value)
    with pytest.raises(DataError, match=r"1 of 2 texts are empty \(number 1\)"):
        run.predict_texts(["good", "&nbsp;"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_files_for_torch(folder: Path, run: Run, tmp_path: Path, suffix: str) -> None:
    report = run.export(tmp_path / f"model{suffix}")
    assert report.largest_difference is not None
    assert report.largest_difference < 1e-5
    ids, mask = tokens_by(tmp_path / "model.tokenizer.json", READ)
    if suffix == ".pt2":
        outputs = torch.export.load(report.file).module()(ids, mask)
    else:
        (folder / "encoder").rename(folder / "away")  # the file holds all that the encoder needs
        try:
            outputs = load_safetensors(report.file)(torch.stack([ids, mask], dim=-1))
        finally:
            (folder / "away").rename(folder / "encoder")
    torch.testing.assert_close(outputs["logits"], by_hand(folder, run, READ), rtol=1e-4, atol=1e-5)


def test_onnxruntime_gives_the_outputs_of_any_number_of_texts(folder: Path, run: Run, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    report = run.export(tmp_path / "model.onnx")
    assert report.tokenizer == tmp_path / "model.tokenizer.json"
    assert "model.tokenizer.json" in report.text()
    session = onnxruntime.InferenceSession(str(report.file), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
    facts = session.get_modelmeta().custom_metadata_map
    assert str(folder) not in json.dumps(facts)  # no path of this machine goes along
    assert facts["input"].startswith("texts: int64 input_ids and attention_mask (batch, tokens), 32 tokens at most")
    for texts in (READ, READ[:1], ["word " * 100, "good"]):
        ids, mask = tokens_by(tmp_path / "model.tokenizer.json", texts)
        given: dict[str, Any] = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        logits = session.run(["logits"], given)[0]
        np.testing.assert_allclose(logits, by_hand(folder, run, texts).numpy(), rtol=1e-4, atol=1e-5)


def tokens_by(path: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return numbers and mask by the tokenizer that was exported."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(texts)
    return torch.tensor([one.ids for one in found]), torch.tensor([one.attention_mask for one in found])
