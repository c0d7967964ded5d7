"""A run whose data name groups gives the score of each on the central test part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from small_scenarios import small_file

import fedgraft
from fedgraft.commands.terminal import out
from fedgraft.display import show_result


def test_each_group_has_its_own_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One scanner's labels in the test part are the wrong way round, so its share of right answers is the rest's."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 2, 600)
    features = (draw.standard_normal((600, 4)) + 3 * np.eye(4)[labels]).astype(np.float32)
    is_test, group = np.arange(600) >= 400, draw.choice(["new", "old"], 600)
    labels[is_test & (group == "old")] ^= 1
    np.savez(tmp_path / "samples.npz", features=features, labels=labels, group=group, is_test=is_test)
    scenario = {
        "name": "groups",
        "backbone": "identity",
        "data": {
            "source": {"name": "arrays", "path": str(tmp_path / "samples.npz")},
            "partition": {"name": "iid", "clients": 4},
        },
        "strategy": "ridge",
        "server": {"rounds": 1},
    }
    (tmp_path / "groups.yaml").write_text(yaml.safe_dump(scenario))
    run = fedgraft.run(tmp_path / "groups.yaml", out=tmp_path / "run")
    head = load_file(tmp_path / "run" / "head.safetensors")
    right = (features @ head["weight"].T + head["bias"]).argmax(1) == labels
    expected = {
        name: {"num_samples": int(some.sum()), "accuracy": float(right[some].mean())}
        for name in ("new", "old")
        for some in [is_test & (group == name)]
    }
    assert run.summary["central_groups"] == expected
    assert expected["new"]["accuracy"] > 0.9 > 0.1 > expected["old"]["accuracy"]
    advice = {found["check"]: found["text"] for found in run.summary["advice"]}
    assert "'old' (" in advice["unequal_groups"]
    assert "other_domain" in advice  # half of the test part is answered the wrong way round
    assert "advice: served worse than the other groups" in (tmp_path / "run" / "summary.txt").read_text()
    show_result(out, run)
    shown = " ".join(capsys.readouterr().out.split())
    assert "accuracy, group old" in shown
    assert "advice: served worse than the other groups: 'old'" in shown


def test_heads_that_stay_with_their_clients_are_judged_there(tmp_path: Path) -> None:
    """Nobody trains a global head under `local-only`: that it answers by chance says nothing."""
    run = fedgraft.run(small_file(tmp_path, strategy="local-only", **{"server.rounds": 2}), out=tmp_path / "run")
    accuracy = run.summary["personal"]["accuracy"]
    assert accuracy > 0.5 > run.summary["validation"]["accuracy"]
    assert {found["check"] for found in run.summary["advice"]} <= {"trained_too_short", "small_clients", "weak_classes"}
