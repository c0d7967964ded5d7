"""What meets in one scenario: attacks, availability, heads of clients' own, closed forms, unequal label sets."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scenarios import relative_difference, small

import fedgraft

NUM_CLIENTS, EACH, CLASSES = 6, 12, 3
LABELS = np.tile(np.arange(CLASSES), NUM_CLIENTS * EACH // CLASSES)
OWNERS = np.repeat(np.arange(NUM_CLIENTS), EACH)


def data_of(path: Path, labels: np.ndarray = LABELS, owners: np.ndarray = OWNERS) -> dict[str, Any]:
    """Return data of some clients, all of them for training, with features that tell of the class."""
    features = np.random.default_rng(1).standard_normal((len(LABELS), 8)) + 2 * np.eye(CLASSES, 8)[LABELS]
    names = [f"c{number}" for number in owners]
    np.savez(path, features=features.astype(np.float32), labels=labels, client=names)
    source = {"name": "arrays", "path": str(path)}
    return {"source": source, "partition": "natural", "validation_fraction": 0, "test_fraction": 0}


@pytest.mark.parametrize(
    "blocks",
    [
        {"strategy": "ridge"},
        {"strategy": "fedcof"},
        pytest.param({"strategy": "lda"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "fedpft"}, marks=pytest.mark.slow),
        {"strategy": "fedavg", "init": "ncm", "train.optimizer.learning_rate": 1e-30},
    ],
    ids=lambda blocks: "init" if "init" in blocks else blocks["strategy"],
)
def test_sums_of_features_are_of_flipped_labels_from_whatever_round(blocks: dict[str, Any], tmp_path: Path) -> None:
    """The head that a file gives in which those who lie have wrong labels; sums are told before round 3."""
    attack = {"name": "label-flip", "fraction": 0.34, "from_round": 3}
    blocks = {"server.rounds": 1, **blocks}
    path = tmp_path / "right.npz"
    lied = fedgraft.run(small(data=data_of(path), attack=attack, **blocks), out=tmp_path / "lied")
    liars = [int(name[1:]) for name in lied.summary["attackers"]]
    assert len(liars) == 2
    wrong = np.where(np.isin(OWNERS, liars), CLASSES - 1 - LABELS, LABELS)
    by_hand = fedgraft.run(small(data=data_of(tmp_path / "wrong.npz", wrong), **blocks), out=tmp_path / "by hand")
    honest = fedgraft.run(small(data=data_of(path), **blocks), out=tmp_path / "honest")
    np.testing.assert_array_equal(lied.head["weight"], by_hand.head["weight"])
    assert relative_difference(lied.head["weight"], honest.head["weight"]) > 1e-3


def own_rows(run: fedgraft.Run, part: str = "personal") -> dict[tuple[str, str], str]:
    """Return what each client's own head loses on its validation part, after each round."""
    with (run.directory / "client_metrics.csv").open() as file:
        return {(row["round"], row["client"]): row["loss"] for row in csv.DictReader(file) if row["part"] == part}


@pytest.mark.parametrize("strategy", ["local-only", {"name": "ditto", "pull": 0.0}])
def test_lies_about_updates_leave_heads_that_are_not_shared(strategy: Any, tmp_path: Path) -> None:
    """A liar lies to the federation, not to itself."""
    attack = {"name": "sign-flip", "scale": 5.0, "fraction": 0.3}
    honest = fedgraft.run(small(strategy=strategy), out=tmp_path / "honest")
    lied = fedgraft.run(small(strategy=strategy, attack=attack), out=tmp_path / "lied")
    assert own_rows(honest) == own_rows(lied)
    assert np.array_equal(honest.head["weight"], lied.head["weight"]) == (strategy == "local-only")


@pytest.mark.parametrize("strategy", ["fedper", pytest.param("fedrod", marks=pytest.mark.slow)])
def test_lies_about_what_is_shared_of_a_head(strategy: str, tmp_path: Path) -> None:
    """One round: the global head is linear in the scale of the lie, which is -1 where nobody lies."""
    blocks = {"strategy": strategy, "head": {"name": "adapter", "rank": 3}, "server.rounds": 1}
    honest = fedgraft.run(small(**blocks), out=tmp_path / "honest").head
    one, three = (
        fedgraft.run(
            small(**blocks, attack={"name": "sign-flip", "scale": scale, "fraction": 0.3}), out=tmp_path / str(scale)
        ).head
        for scale in (1.0, 3.0)
    )
    moved = 0.0
    for name, value in honest.items():
        np.testing.assert_allclose(2 * one[name] - three[name], value, rtol=1e-4, atol=1e-5)
        moved += float(np.abs(one[name] - value).max())
    assert moved > 1e-3


def trace(path: Path, rounds: Mapping[int, Iterable[int]]) -> str:
    rows = [f"{number},client-{client:04d}" for number, clients in rounds.items() for client in clients]
    path.write_text("\n".join(["round,client", *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize("strategy", ["local-only", {"name": "ditto", "pull": 0.0}])
def test_who_joins_late_begins_a_head_of_its_own_then(strategy: Any, tmp_path: Path) -> None:
    """Client 4 joins in round 3: until then it is judged by the global head."""
    everybody, late = list(range(9)), "client-0004"
    others = [client for client in everybody if client != 4]
    blocks = {"strategy": strategy, "server.rounds": 3}
    joins = {"availability.trace": trace(tmp_path / "joins.csv", {1: others, 2: others, 3: everybody})}
    run, always = (
        fedgraft.run(small(**blocks, **more), out=tmp_path / name) for name, more in (("joins", joins), ("always", {}))
    )
    own, received, own_always = own_rows(run), own_rows(run, "validation"), own_rows(always)
    assert ("1", late) not in own  # it is judged in the rounds to which it comes, and in the end
    assert own["2", late] == received["2", late]
    assert own["3", late] != received["3", late]
    assert own["3", late] != own_always["3", late]
    if strategy == "local-only":  # under ditto heads begin at the global one, which is another without client 4
        alone = {"availability.trace": trace(tmp_path / "alone.csv", {1: [0], 2: [0], 3: [4]})}
        other = fedgraft.run(small(**blocks, **alone), out=tmp_path / "alone")
        assert own["3", late] == own_rows(other)["3", late]
        for client in others:
            assert own["3", f"client-{client:04d}"] == own_always["3", f"client-{client:04d}"]


@pytest.mark.parametrize(
    "strategy",
    [{"name": "ridge", "penalty": 1.0}, "ncm", "lda", {"name": "ccvr", "covariance": "diagonal"}],
    ids=["ridge", "ncm", "lda", "ccvr"],
)
def test_clients_of_one_class_each_make_the_head_of_all_data(strategy: Any, tmp_path: Path) -> None:
    """Two clients a class, against all classes at each of six clients."""
    one_each = LABELS + CLASSES * (np.arange(len(LABELS)) % 2)
    unlike, alike = (
        fedgraft.run(
            small(strategy=strategy, data=data_of(tmp_path / f"{name}.npz", owners=owners)), out=tmp_path / name
        )
        for name, owners in (("unlike", one_each), ("alike", OWNERS))
    )
    assert unlike.summary["num_clients"] == alike.summary["num_clients"] == 6
    assert relative_difference(unlike.head["weight"], alike.head["weight"]) < 1e-4
