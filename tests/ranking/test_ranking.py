"""`fedgraft rank` as a user meets it: real features of real digits, faults, and what a ranking lets one say."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fedgraft
from fedgraft import cli
from fedgraft.commands.rank import ranking_table
from fedgraft.errors import FedGraftError, ModelError, ScenarioError
from fedgraft.models.settings import BackboneSettings
from fedgraft.preparation import check_cuts
from fedgraft.ranking.records import Ranking, Scored, name_and_cut, title
from fedgraft.ranking.verdict import recommend
from fedgraft.transferability import h_score, log_me
from scenarios.loader import load_scenario

LITE = "bundled:efficientnet_lite0"
DIGITS = """
name: few-digits
data:
  source: {name: arrays, path: digits.npz}
  partition: {name: dirichlet, clients: 6, alpha: 0.5}
backbone: {name: "bundled:efficientnet_lite0", input_size: 32}
server: {rounds: 2}
train: {local_epochs: 2}
"""
FEATURES = """
name: ready
data:
  source: {name: synthetic, task: TASK, num_samples: 200, num_classes: 3, num_targets: 2, num_features: 5}
  partition: {name: iid, clients: 4}
backbone: identity
shards: 3
"""


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A scenario of 240 real digits."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels[:240].reshape(-1, 8, 8) * 15).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", images=images, labels=labels[:240].astype(np.int64))
    path = tmp_path / "digits.yaml"
    path.write_text(DIGITS)
    return path


@pytest.fixture
def ready(tmp_path: Path) -> Callable[[str], Path]:
    """A scenario of ready features."""

    def write(task: str) -> Path:
        path = tmp_path / "ready.yaml"
        path.write_text(FEATURES.replace("TASK", task))
        return path

    return write


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Call the command line in this process; return its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedgraft", "rank", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return int(code), out, err

    return run


def pooled(task: str, path: Path) -> tuple[Any, Any]:
    """Features and targets of all training samples in one place, as only a test may see them."""
    from fedgraft.workspace import open_workspace

    resolved = load_scenario(path)
    workspace = open_workspace(resolved.data, resolved.seed, resolved.backbone, resolved.features)
    rows = workspace.federation.train.indices
    return workspace.features[rows].astype(np.float64), workspace.federation.samples.targets[rows]


def left_out_by_hand(path: Path, task: str, penalty: float) -> float:
    """The score of scikit-learn's Ridge, refitted without each client in turn."""
    from sklearn.linear_model import Ridge

    from fedgraft.workspace import open_workspace

    resolved = load_scenario(path)
    workspace = open_workspace(resolved.data, resolved.seed, resolved.backbone, resolved.features)
    train, targets = workspace.federation.train, workspace.federation.samples.targets
    features = np.asarray(workspace.features, dtype=np.float64)
    answers = np.eye(3)[targets] if task == "classes" else targets.reshape(len(targets), -1).astype(np.float64)
    if task == "labels":
        answers = 2 * answers - 1
    right, error = 0, 0.0
    for client in range(len(train)):
        own = train.of(client)
        others = np.setdiff1d(train.indices, own)
        outputs = Ridge(alpha=penalty).fit(features[others], answers[others]).predict(features[own])
        error += float(np.square(outputs - answers[own]).sum())
        hits = (outputs > 0) == (answers[own] > 0) if task == "labels" else outputs.argmax(1) == answers[own].argmax(1)
        right += int(np.count_nonzero(hits))
    if task == "real":
        used = answers[train.indices]
        return 1 - error / float(np.square(used - used.mean(axis=0)).sum())
    return right / (len(train.indices) * (3 if task == "labels" else 1))


@pytest.mark.parametrize("task", ["classes", "labels", "real"])
def test_scores_are_those_of_all_samples_in_one_place(task: str, ready: Callable[[str], Path], tmp_path: Path) -> None:
    """Through messages, shards and the Python way in, for each kind of targets; ready features have no pixels."""
    from clients.statistics import statistics_sums

    path, notes = ready(task), list[str]()
    found = fedgraft.rank(
        path, out=tmp_path / "out", on_event=lambda event: notes.append(str(event.get("text", ""))), baselines=True
    )
    assert any("ready features, so there are no raw pixels" in note for note in notes)
    (only,) = found.candidates
    features, targets = pooled(task, path)
    outputs = 2 if task == "real" else 3
    sums = statistics_sums(features, targets, np.arange(len(features)), task, outputs, "shared", True)
    assert only.log_me == pytest.approx(log_me(sums, task), rel=1e-10)
    assert only.h_score == (pytest.approx(h_score(sums), rel=1e-10) if task == "classes" else None)
    assert only.validated == pytest.approx(left_out_by_hand(path, task, only.penalty), rel=1e-9)
    assert found.num_samples == len(features)
    assert found.recommendation.reasons[1] == "it is the only candidate"
    assert (only.picture_seconds, found.baselines, found.recommendation.warnings) == (None, (), ())
    if task != "real":  # Agresti and Coull, by hand
        middle = (only.validated * len(features) + 2) / (len(features) + 4)
        assert only.standard_error == pytest.approx(math.sqrt(middle * (1 - middle) / (len(features) + 4)))


def test_ranking_digits_says_what_to_take_and_leaves_its_features(digits: Path, call: Any, tmp_path: Path) -> None:
    """Every line for a person, the same for a machine, both files, and a warm run with the winner."""
    code, out, err = call(
        digits, "--backbones", f"{LITE}, {{name: 'timm:resnet18', weights: random}}", "--cuts", "penultimate,blocks.2",
        "--out", tmp_path / "ranked",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads((tmp_path / "ranked" / "ranking.json").read_text())
    titles = [(one["backbone"]["name"], one["backbone"]["cut"]) for one in document["candidates"]]
    assert sorted(titles) == [(LITE, "blocks.2"), (LITE, "penultimate"), ("timm:resnet18", "penultimate")]
    scores = [one["validated"] for one in document["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert {one["role"] for one in document["baselines"]} == {"pixels", "random"}
    assert {one["backbone"]["name"] for one in document["baselines"]} == {"pixels", LITE}  # resnet18 is random itself
    assert document["candidates"][0]["input_size"] == 32
    for text in ("take ", "ms a picture", "LogME", "H-score", "in the scenario:", "backbone: {name:"):
        assert text in out, text
    assert sum(line.split()[0] == "pixels" for line in out.splitlines() if line.strip()) == 1  # a row of the table
    chosen = document["recommendation"]["backbone"]
    shown = yaml.safe_load(document["recommendation"]["yaml"])["backbone"]
    assert BackboneSettings(**shown) == BackboneSettings(**{k: v for k, v in chosen.items() if v is not None})
    assert load_scenario(tmp_path / "ranked" / "scenario.yaml").backbone == BackboneSettings(**shown)
    assert all(one["num_bytes"] > 8 * one["feature_dim"] ** 2 for one in document["candidates"])
    computed = list[Any]()
    fedgraft.run(
        tmp_path / "ranked" / "scenario.yaml",
        out=tmp_path / "run",
        on_event=lambda event: computed.append(event) if event["kind"] == "progress" else None,
    )
    assert [event for event in computed if event["what"] == "features"] == []  # the run starts warm
    code, out, _ = call(digits, "--backbones", LITE, "--json", "--no-baselines", "--out", tmp_path / "again")
    again = json.loads(out)
    assert (code, again["baselines"]) == (0, [])
    before = next(one for one in document["candidates"] if one["backbone"] == again["candidates"][0]["backbone"])
    for score in ("validated", "log_me", "h_score", "penalty", "num_bytes"):
        assert again["candidates"][0][score] == pytest.approx(before[score], rel=1e-3 if score == "num_bytes" else 0)


def test_all_cuts(digits: Path, tmp_path: Path) -> None:
    """`--cuts all` ranks every named cut, and random weights stand beside the best one only."""
    from fedgraft.models.registry import describe

    resolved = load_scenario(digits)
    found = fedgraft.rank(digits, backbones=[LITE], cuts="all", out=tmp_path / "all")
    assert sorted(one.backbone.cut for one in found.candidates) == sorted(describe(resolved.backbone).cuts)
    (random,) = (one for one in found.baselines if one.role == "random")
    assert random.backbone.cut == found.candidates[0].backbone.cut


@pytest.mark.parametrize(("frozen", "kept"), [("blocks.1", True), ("blocks.2", False), ("blocks.6", False)])
def test_the_winner_s_scenario_can_be_run_when_blocks_were_to_be_trained(
    frozen: str, kept: bool, digits: Path, tmp_path: Path
) -> None:
    """The head moves to `blocks.2`: what lies past `blocks.1` can be trained still, past `blocks.2` nothing is left."""
    notes = list[str]()
    fedgraft.rank(
        digits, [f"unfreeze={{cut: {frozen}}}"], backbones=[LITE], cuts="blocks.2", out=tmp_path / "out",
        baselines=False, on_event=lambda event: notes.append(str(event.get("text", ""))),
    )  # fmt: skip
    written = load_scenario(tmp_path / "out" / "scenario.yaml")
    check_cuts(written)
    assert (written.unfreeze is not None) == kept
    told = [note for note in notes if "which scenario.yaml sets to null" in note]
    assert len(told) == (not kept)
    assert all(f"unfreeze.cut came '{frozen}'; expected a cut before 'blocks.2'" in note for note in told)


def test_pixels_that_cannot_be_ranked_are_called_by_their_name(tmp_path: Path) -> None:
    """Squares of a checkerboard of grey 127 and 129 on 128: at 16 px one grey is left, at 32 px they can be seen."""
    random = np.random.default_rng(0)
    images = np.full((120, 32, 32), 128, dtype=np.uint8)
    for image in images:
        top, left = random.integers(0, 16, 2)
        image[top : top + 16, left : left + 16] = 127 + 2 * (np.indices((16, 16)).sum(axis=0) % 2)
    np.savez(tmp_path / "digits.npz", images=images, labels=np.arange(120) % 3)
    path, notes = tmp_path / "digits.yaml", list[str]()
    path.write_text(DIGITS)
    fedgraft.rank(
        path, backbones=[LITE], cuts="stem", out=tmp_path / "out",
        on_event=lambda event: notes.append(str(event.get("text", ""))),
    )  # fmt: skip
    (note,) = (note for note in notes if "is left out" in note)
    assert note.startswith("the baseline pixels is left out: pixels can't be ranked: ")


def test_a_candidate_has_one_name() -> None:
    """In sentences and in the table, with the weights wherever they are not the pretrained ones."""
    mine = scored("timm:a", 0.9, cut="layer2", weights="/data/mine.safetensors")
    assert name_and_cut(mine.backbone) == ("timm:a (mine.safetensors weights)", "layer2")
    assert mine.title == title(mine.backbone) == "timm:a (mine.safetensors weights) at layer2"
    assert scored("timm:a", 0.9, weights="random").title == "timm:a (random weights) at penultimate"
    assert scored("timm:a", 0.9).title == "timm:a at penultimate"
    assert PIXELS.title == "pixels"
    found = recommend((mine, scored("timm:b", 0.7)), (PIXELS,), "classes")
    ranking = Ranking("few", "classes", 2, 1000, (mine,), (PIXELS,), (), found, Path("out"))
    assert list(ranking_table(ranking).columns[1].cells) == ["timm:a (mine.safetensors weights)", "pixels"]
    assert list(ranking_table(ranking).columns[2].cells) == ["layer2", ""]


def test_every_fault_at_once(digits: Path, call: Any) -> None:
    """Unknown names with near misses, bad values, and a name that only its library can tell to be wrong."""
    code, out, err = call(digits, "--backbones", "bundled:efficientnet_lit0, {name: pixels, input_size: 2}, squeeze")
    shown = " ".join(err.split())
    assert (code, out) == (2, "")
    assert "few-digits: 3 faults" in shown
    assert "--backbones[0].name: no bundled backbone 'bundled:efficientnet_lit0'" in shown
    assert "did you mean 'bundled:efficientnet_lite0'?" in shown
    assert "--backbones[1].input_size: came 2" in shown
    assert "unknown backbone 'squeeze'" in shown
    code, _, err = call(
        digits, "--backbones", f"timm:resnet81, {LITE}, {{name: '{LITE}', cut: blok.2}}", "--cuts", "blocks.77,blocks.2"
    )
    shown = " ".join(err.split())
    assert code == 2
    assert "3 faults" in shown
    assert "--backbones[0]: timm has no model 'resnet81'" in shown
    assert "--backbones[2]: bundled:efficientnet_lite0 has no cut 'blok.2'" in shown
    assert "--cuts: no backbone has a cut 'blocks.77': bundled:efficientnet_lite0 has stem, blocks.0" in shown
    assert not list(digits.parent.glob("rankings"))
    for words, text in (
        (("--backbones", ""), "  --backbones: names no backbone"),
        (("--backbones", "[a"), "--backbones: "),
    ):
        code, _, err = call(digits, *words)
        assert code == 2
        assert text in err
        assert "Traceback" not in err


def test_weights_that_are_not_here_leave_the_others_ranked(digits: Path, call: Any, tmp_path: Path) -> None:
    """There is no network in tests; the others are ranked, and the reason is told. Alone it is an error."""
    code, out, err = call(digits, "--backbones", f"timm:resnet10t,{LITE}", "--no-baselines", "--out", tmp_path / "out")
    assert code == 0, err
    assert "timm:resnet10t is left out: the pretrained weights of timm:resnet10t aren't on this machine" in " ".join(
        err.split()
    )
    assert "left out: timm:resnet10t, for the reason that the note gives" in out
    code, _, err = call(digits, "--backbones", "timm:resnet10t")
    assert code == 2
    assert "no backbone can be ranked" in err


def test_features_that_no_score_can_be_made_of_leave_the_others_ranked(digits: Path, tmp_path: Path) -> None:
    """Weights so large that activations overflow: the candidate is left out at both cuts, and the reason is kept."""
    from safetensors.numpy import save_file

    from fedgraft.models.registry import load

    small = BackboneSettings(name="torchvision:mobilenet_v3_small", weights="random", input_size=32)
    arrays = load(small).state_arrays()
    for name in ("features.0.0.weight", "features.1.block.2.0.weight", "features.2.block.2.0.weight"):
        arrays[name] = arrays[name] * np.float32(1e30)
    save_file(arrays, tmp_path / "huge.safetensors")
    huge = {"name": small.name, "weights": str(tmp_path / "huge.safetensors"), "input_size": 32}
    found = fedgraft.rank(
        digits, backbones=["pixels", {**huge, "cut": "features.3"}, huge], out=tmp_path / "out", baselines=False
    )
    assert [one.title for one in found.candidates] == ["pixels"]
    (first, why), (second, _) = found.missing
    assert first == "torchvision:mobilenet_v3_small (huge.safetensors weights) at features.3"
    assert second == "torchvision:mobilenet_v3_small (huge.safetensors weights) at penultimate"
    assert "gives NaN or infinite features" in why
    with pytest.raises(
        ModelError, match=r"no backbone can be ranked:\n  torchvision:mobilenet_v3_small \(huge.* at penult.*NaN"
    ):
        fedgraft.rank(digits, backbones=[huge], out=tmp_path / "other", baselines=False)


def test_a_backbone_that_takes_one_size_only_keeps_it(digits: Path, tmp_path: Path) -> None:
    """The scenario's 32 px are for its own backbone; a vision transformer of torchvision needs 224."""
    from fedgraft.ranking.candidates import choose

    own = load_scenario(digits).backbone
    notes = list[str]()
    from fedgraft.progress import listening

    both = "{name: 'torchvision:vit_b_32', weights: random}, {name: 'timm:resnet18', weights: random}"
    with listening(lambda event: notes.append(event["text"])):
        chosen = choose("few", own, both, None)
    assert [one.input_size for one in chosen.backbones] == [None, 32]
    assert notes == ["torchvision:vit_b_32 can't take 32 px; it is ranked at its own 224 px"]


def test_what_cannot_be_ranked(digits: Path, ready: Callable[[str], Path], tmp_path: Path, call: Any) -> None:
    """Each by its text."""
    code, _, err = call(digits, "--set", "runtime=flower")
    assert (code, "a ranking runs inline or on ray" in err) == (2, True)
    with pytest.raises(FedGraftError, match="the data lie at sites, and a ranking has to read them"):
        fedgraft.rank(digits, ["data={source: sites}"], out=tmp_path / "out")
    with pytest.raises(FedGraftError, match="this source gives ready features"):
        fedgraft.rank(ready("classes"), backbones=[LITE], out=tmp_path / "out")
    with pytest.raises(FedGraftError, match="leave-one-client-out needs two"):
        fedgraft.rank(ready("classes"), ["data.partition.clients=1"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fedgraft.rank(ready("classes"), out=tmp_path / "out")
    with pytest.raises(FedGraftError, match="already holds a ranking; give another folder with --out"):
        fedgraft.rank(ready("classes"), out=tmp_path / "out")
    with pytest.raises(ScenarioError, match="backbones"):
        fedgraft.rank(digits, backbones=[], out=tmp_path / "other")
    with pytest.raises(ModelError, match="no backbone can be ranked"):
        fedgraft.rank(digits, backbones=["timm:resnet10t"], out=tmp_path / "other")


def scored(name: str, share: float, role: Any = "candidate", ms: float | None = 1.0, **values: Any) -> Scored:
    """A made candidate: 1,000 samples, so that a share of 0.9 has a standard error of 0.0095."""
    facts = {
        "log_me": share,
        "h_score": share,
        "feature_dim": 100,
        "cut": "penultimate",
        "weights": "pretrained",
    } | values
    backbone = BackboneSettings(name=name, cut=facts.pop("cut"), weights=facts.pop("weights"))
    return Scored(
        backbone=backbone, role=role, input_size=32, validated=share,
        standard_error=math.sqrt(share * (1 - share) / 1000), penalty=1.0, feature_seconds=0.0, sum_seconds=0.0,
        picture_seconds=None if ms is None else ms / 1000, num_bytes=1, **facts,
    )  # fmt: skip


PIXELS = scored("pixels", 0.80, "pixels")


def test_a_clear_winner() -> None:
    """10 points ahead: sqrt(0.09 + 0.16) / sqrt(1000) = 0.0158, times 1.96 is 3.1 points."""
    found = recommend((scored("timm:a", 0.9), scored("timm:b", 0.8)), (PIXELS,), "classes")
    assert found.chosen.backbone.name == "timm:a"
    assert "90.0 % of the samples right" in found.reasons[0]
    assert "(95 % interval 88.1 % to 91.9 %)" in found.reasons[0]
    assert found.reasons[1] == "it is 10.0 points (± 3.1 points) ahead of the next, timm:b at penultimate"
    assert found.reasons[2] == "LogME puts it 1st, the H-score 1st of 2; neither decides"
    assert found.reasons[3] == "what it learned helps here: it is 10.0 points (± 3.1 points) ahead of raw pixels"
    (warning,) = found.warnings  # b is no better than pixels
    assert warning.startswith("likely negative transfer: timm:b at penultimate (80.0 %) can't be told apart from raw")
    assert yaml.safe_load(found.yaml) == {"backbone": {"name": "timm:a"}}


def test_of_those_that_are_alike_the_cheapest_is_taken() -> None:
    """2 points are within chance, sqrt(0.0736 + 0.09) / sqrt(1000) times 1.96 or 2.51; 10 are not, however cheap."""
    three = (
        scored("timm:slow", 0.92, ms=9.0, feature_dim=1000, h_score=0.5),
        scored("timm:quick", 0.90, ms=3.0),
        scored("timm:bad", 0.80, ms=0.1),
    )
    found = recommend(three, (), "classes")
    assert found.chosen.backbone.name == "timm:quick"
    assert found.reasons[1] == (
        "the best, timm:slow at penultimate, is ahead by 2.0 points, within the ± 2.5 points of chance; of the two it "
        "is the cheapest: 3.00 ms a picture (the other 9.00 ms a picture), 100 features (the other 1,000 features)"
    )
    assert found.reasons[2] == "LogME puts it 2nd, the H-score 1st of 3; neither decides"


def test_equal_times_are_told_apart_by_features() -> None:
    three = (scored("timm:a", 0.9, ms=None, feature_dim=50), scored("timm:b", 0.9, ms=None, feature_dim=10))
    found = recommend(three, (), "classes")
    assert found.chosen.backbone.name == "timm:b"
    assert "timm:a at penultimate is as good; of the two it is the cheapest: 10 features" in found.reasons[1]


def test_sources_that_are_too_far_are_warned_of() -> None:
    """Worse than pixels, no better than random weights; each backbone at its best cut only, random ones not at all."""
    candidates = (
        scored("timm:near", 0.95, cut="blocks.1"),
        scored("timm:far", 0.75, cut="blocks.1"),
        scored("timm:far", 0.50, cut="blocks.2"),
        scored("timm:untaught", 0.5, weights="random"),
    )
    baselines = (PIXELS, scored("timm:far", 0.74, "random", weights="random"), scored("timm:near", 0.6, "random"))
    found = recommend(candidates, baselines, "classes")
    (warning,) = found.warnings
    assert warning.startswith(
        "likely negative transfer: timm:far at blocks.1 (75.0 %) is worse than raw pixels (80.0 %) and can't be told "
        "apart from the same architecture with random weights (74.0 %)"
    )
    assert "15.0 points (± 2.8 points) ahead of raw pixels" in found.reasons[3]
    assert "35.0 points (± 3.3 points) ahead of the same architecture with random weights" in found.reasons[3]


def test_real_targets_have_no_interval() -> None:
    """Squared errors tell no spread, so any difference counts, and none is called chance."""
    pair = [scored("timm:a", 0.61), scored("timm:b", 0.60)]
    from dataclasses import replace

    found = recommend([replace(one, standard_error=None, h_score=None) for one in pair], (), "real")
    assert found.reasons[0].startswith("ridge heads on its features explain 0.610 of the targets' variance")
    assert found.reasons[1] == "it is 0.010 ahead of the next, timm:b at penultimate"
    assert found.reasons[2] == "LogME puts it 1st of 2; neither decides"
