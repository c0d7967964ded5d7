"""The command line as a user meets it: what it prints, and that every fault is one clear text and exit code 2."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from fedgraft import cli

SMALL = """
name: small
data:
  source: {name: synthetic, kind: features, num_samples: 200, num_classes: 3, num_features: 5}
  partition: {name: iid, clients: 4}
backbone: identity
server: {rounds: 2}
"""


class Answer:
    """What one call of the command line gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Call = Callable[..., Answer]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Call the command line in this process, from a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["fedgraft", *map(str, arguments)])
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return Answer(int(code or 0), out, err)

    return run


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[[str], Path]:
    """Write a scenario file."""

    def write(text: str) -> Path:
        path = tmp_path / "scenario.yaml"
        path.write_text(text)
        return path

    return write


def data_scenario(source: str, backbone: str = "identity", clients: int = 2) -> str:
    return (
        f"name: bad\nbackbone: {backbone}\nserver: {{rounds: 1}}\ndata:\n  source: {source}\n"
        f"  partition: {{name: iid, clients: {clients}}}\n"
    )


def assert_refused(answer: Answer, *texts: str) -> None:
    assert answer.code == 2
    assert "Traceback" not in answer.err
    shown = " ".join(answer.err.split())
    for text in texts:
        assert text in shown
    assert answer.out == ""


def test_run_prints_a_table_and_where_the_results_lie(call: Call, scenario: Callable[[str], Path]) -> None:
    answer = call("run", scenario(SMALL), "--out", "here")
    assert answer.code == 0
    assert "accuracy, central test part" in answer.out
    assert "results: here" in answer.out
    assert "bytes from the server" in answer.out
    assert "4 clients" in answer.err


def test_json_is_one_document_and_nothing_else(call: Call, scenario: Callable[[str], Path]) -> None:
    answer = call("run", scenario(SMALL), "--json")
    summary = json.loads(answer.out)
    assert answer.err == ""
    assert summary["rounds"] == 2
    assert Path(summary["directory"]).parent.name == "runs"
    assert json.loads((Path(summary["directory"]) / "summary.json").read_text())["central"] == summary["central"]


def test_quiet_prints_nothing(call: Call, scenario: Callable[[str], Path]) -> None:
    answer = call("run", scenario(SMALL), "--quiet", "--set", "server.rounds=1", "--out", "r")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert (Path("r") / "summary.json").exists()


def test_check_shows_each_client_and_trains_nothing(call: Call, scenario: Callable[[str], Path]) -> None:
    answer = call("check", scenario(SMALL))
    assert answer.code == 0
    assert "small can run" in answer.out
    assert "client-0003" in answer.out
    assert not Path("runs").exists()
    facts = json.loads(call("check", scenario(SMALL), "--json").out)
    assert facts["num_train"] + facts["num_validation"] + facts["num_test"] == 200
    assert facts["feature_dim"] == 5
    assert facts["runtime"] == "runtime inline: server and clients in one process"


def test_check_says_what_it_would_do_with_ray(call: Call, scenario: Callable[[str], Path]) -> None:
    """Ray is neither loaded nor started for it."""
    ray = SMALL + "runtime: {name: ray, hosts: 3, gpus_per_host: 0.5}\n"
    answer = call("check", scenario(ray))
    expected = "runtime ray: 3 hosts of 1 CPUs and 0.5 GPUs for 12 shards, on a Ray of its own on this machine"
    assert (answer.code, expected in answer.out) == (0, True)
    answer = call("check", scenario(ray), "--set", "shards=2", "--set", "runtime=flower")
    assert "for 2 shards, in Flower's simulation runtime" in answer.out
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        answer = call("check", scenario(ray), "--set", f"runtime.address={address}")
        assert f"3 hosts of 1 CPUs and 0.5 GPUs, on the cluster at {address}" in answer.out
    answer = call("check", scenario(ray), "--set", f"runtime.address={address}")
    assert answer.code == 2
    assert f"no Ray answers at runtime.address '{address}' (Connection refused); start one there" in answer.err


def test_check_without_ray(call: Call, scenario: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else found(name, *more))
    answer = call("check", scenario(SMALL + "runtime: ray\n"))
    assert answer.code == 2
    assert "the runtime ray needs Ray, which is not installed; install it (pip install 'flwr[sim" in answer.err


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("backbones", "bundled:efficientnet_lite0"),
        ("sources", "folder"),
        ("partitions", "dirichlet"),
        ("strategies", "fedavg"),
        ("scenarios", "quickstart"),
    ],
)
def test_list(call: Call, what: str, name: str) -> None:
    assert name in call("list", what).out
    assert name in [row["name"] for row in json.loads(call("list", what, "--json").out)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "line 1"),
        (SMALL + "serverr: 1\n", "serverr: unknown key; "),
        (SMALL + "strategy: fedavgg\n", "did you mean 'fedavg'?"),
        (SMALL + "strategy: flower:FedAdamm\n", "did you mean 'FedAdam'?"),
        (SMALL.replace("identity", "bundled:efficientnet_lite9"), "did you mean 'bundled:efficientnet_lite"),
        (SMALL.replace("name: synthetic", "name: digit"), "did you mean 'digits'?"),
        (SMALL + "privacy: {epsilon: 1}\n", "privacy"),
        (SMALL + "train: {local_epochs: 1, local_steps: 2}\n", "train.local_steps: came 2 beside local_epochs 1"),
        (SMALL + "train: {optimizer: {nesterov: true}}\n", "train.optimizer.nesterov: is true but momentum is 0"),
    ],
)
def test_bad_scenarios(call: Call, scenario: Callable[[str], Path], text: str, expected: str) -> None:
    assert_refused(call("run", scenario(text)), expected)
    assert not Path("runs").exists()


def test_no_such_scenario(call: Call) -> None:
    assert_refused(call("run", "quickstrat"), "no such file", "did you mean 'quickstart'?")


def test_more_clients_a_round_than_there_are(call: Call, scenario: Callable[[str], Path]) -> None:
    answer = call("run", scenario(SMALL), "--set", "server.clients_per_round=9")
    assert_refused(answer, "server.clients_per_round", "came 9, but the federation has 4 clients")
    assert not Path("runs").exists()


def test_cut_that_the_backbone_lacks(call: Call, scenario: Callable[[str], Path]) -> None:
    backbone = "{name: 'torchvision:resnet18', weights: random, cut: layer9}"
    answer = call("run", scenario(data_scenario("digits", backbone)))
    assert_refused(answer, "layer9", "layer1, layer2, layer3, layer4, penultimate")


def test_weights_file_of_another_model(call: Call, scenario: Callable[[str], Path], tmp_path: Path) -> None:
    save_file({"stem.weight": np.zeros(3, dtype=np.float32)}, str(tmp_path / "other.safetensors"))
    backbone = "{name: 'torchvision:resnet18', weights: other.safetensors}"
    answer = call("run", scenario(data_scenario("digits", backbone)))
    assert_refused(answer, "other.safetensors", "missing", "conv1.weight", "unexpected", "stem.weight")


def test_weights_without_a_network(
    call: Call, scenario: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}.items():
        monkeypatch.setenv(name, value)
    source = data_scenario("digits", "timm:resnet18")
    script = [sys.executable, "-m", "fedgraft", "run", str(scenario(source))]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert_refused(Answer(done.returncode, done.stdout, done.stderr), "timm/resnet18.a1_in1k", "weights:")


def test_empty_folder(call: Call, scenario: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    answer = call("run", scenario(data_scenario("{name: folder, path: pictures}", "bundled:efficientnet_lite0")))
    assert_refused(answer, "pictures is empty", "one sub-folder of images a class")


def test_one_class_only(call: Call, scenario: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "pictures" / "cat" / f"{number}.png")
    answer = call("run", scenario(data_scenario("{name: folder, path: pictures}", "bundled:efficientnet_lite0")))
    assert_refused(answer, "cat", "at least two")


@pytest.mark.parametrize(
    ("features", "labels", "expected"),
    [
        ([[1.0, np.nan]] * 6, [0, 1] * 3, "6 of 6 rows of 'features' have NaN"),
        ([[1.0, 2.0]] * 6, [0, 1, -2, 1, 0, 1], "-2"),
        ([[1.0, 2.0]] * 6, [0, 1], "2"),
    ],
)
def test_arrays_that_make_no_sense(
    call: Call, scenario: Callable[[str], Path], tmp_path: Path, features: object, labels: object, expected: str
) -> None:
    np.savez(tmp_path / "a.npz", features=np.asarray(features, dtype=np.float32), labels=np.asarray(labels))
    assert_refused(call("run", scenario(data_scenario("{name: arrays, path: a.npz}"))), "a.npz", expected)


def test_client_names_of_several_lines(call: Call, scenario: Callable[[str], Path], tmp_path: Path) -> None:
    owners = np.array(["north\nward", "south"] * 3)
    np.savez(tmp_path / "a.npz", features=np.eye(6, dtype=np.float32), labels=[0, 1] * 3, client=owners)
    text = data_scenario("{name: arrays, path: a.npz}").replace("{name: iid, clients: 2}", "natural")
    assert_refused(call("run", scenario(text)), "a client's name must be one line", "north\\nward")


@pytest.mark.parametrize("form", ["auto", "loop"])
def test_training_that_diverges_names_client_and_remedy(call: Call, scenario: Callable[[str], Path], form: str) -> None:
    steep = f"loss: squared\ntrain: {{form: {form}, local_epochs: 9, optimizer: {{learning_rate: 50}}}}\n"
    answer = call("run", scenario(SMALL + steep))
    assert_refused(answer, "client 'client-0000'", "training diverged", "lower train.optimizer.learning_rate (now 50)")


def test_more_clients_than_samples(call: Call, scenario: Callable[[str], Path]) -> None:
    source = "{name: synthetic, kind: features, num_samples: 20, num_classes: 2, num_features: 3}"
    assert_refused(call("run", scenario(data_scenario(source, clients=50))), "50", "clients")


def test_output_folder_that_cant_be_written(call: Call, scenario: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = call("run", scenario(SMALL), "--out", tmp_path / "file" / "run")
    assert_refused(answer, "can't write", "choose another folder")


def test_output_folder_that_holds_a_run(call: Call, scenario: Callable[[str], Path]) -> None:
    call("run", scenario(SMALL), "--out", "here", "--quiet")
    before = load_file("here/head.safetensors")
    assert_refused(call("run", scenario(SMALL), "--out", "here"), "already holds a run", "--resume")
    assert all(np.array_equal(value, before[name]) for name, value in load_file("here/head.safetensors").items())


def test_cache_is_listed_and_cleared(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    backbone = ["--set", "backbone={name: 'torchvision:resnet18', weights: random, input_size: 32}"]
    source = "{name: synthetic, kind: images, num_samples: 40, num_classes: 2, image_size: 16}"
    file = tmp_path / "images.yaml"
    file.write_text(data_scenario(source))
    assert call("run", file, *backbone, "--quiet").code == 0
    rows = json.loads(call("cache", "list", "--json").out)
    assert [(row["backbone"], row["samples"], row["features"]) for row in rows] == [("torchvision:resnet18", 40, 512)]
    assert "1 kept" in call("cache", "list").out
    assert "removed 1" in call("cache", "clear").out
    assert json.loads(call("cache", "list", "--json").out) == []


def test_predict_and_export_want_a_run(call: Call, tmp_path: Path) -> None:
    assert_refused(call("predict", tmp_path / "none", tmp_path / "a.png"), "holds no run")
    assert_refused(call("export", tmp_path / "none", "--to", tmp_path / "a.onnx"), "holds no run")


def test_help_says_what_arguments_are(call: Call) -> None:
    for command in ("run", "check", "compare", "submit"):
        shown = " ".join(call(command, "--help").out.replace("\u2502", " ").split())
        assert "A scenario file, or the name of a shipped one" in shown


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "flwr", "ray", "timm", "torchvision", "sklearn", "pandas", "matplotlib")
    code = f"import sys, fedgraft.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_warm_inline_run_imports_no_ray_and_no_model_library(scenario: Callable[[str], Path], tmp_path: Path) -> None:
    code = (
        "import sys, fedgraft\n"
        f"for number in range(2): fedgraft.run({str(scenario(SMALL))!r}, out=f'warm-{{number}}')\n"
        "print([name for name in ('ray', 'timm', 'torchvision', 'sklearn', 'pandas') if name in sys.modules])"
    )
    warm = "import fedgraft; fedgraft.run('scenario.yaml', out='cold')"
    subprocess.run([sys.executable, "-c", warm], check=True, cwd=tmp_path, capture_output=True)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr
