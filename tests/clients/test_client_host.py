"""A host behind the real ClientApp: what it says, trains and evaluates, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_loop import train
from sklearn import metrics as reference
from small_scenario import VALUES, Site, evaluation, head_of, naming, request
from torch import nn

from clients.host import forget_hosts
from fedgraft.data.federation import Federation, build_federation
from fedgraft.errors import FedGraftError, ModelError, TrainingError, WireError
from fedgraft.metrics import metric_shapes
from fedgraft.models.heads import initial_head
from fedgraft.models.weights import weights_digest
from fedgraft.randomness import name_key
from fedgraft.wire.protocol import code_digest
from fedgraft.wire.requests import BackboneRequest, DescribeRequest, HalfSettings


@pytest.fixture(autouse=True)
def fresh_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a cache of its own and no resident host."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget_hosts()
    yield
    forget_hosts()


FORMS = pytest.mark.parametrize("form", ["auto", "dual", "primal", "loop"])


def federation_of(site: Site) -> Federation:
    return build_federation(site.scenario.data, site.scenario.seed)


def describe(site: Site) -> tuple[Any, dict[str, Any]]:
    body, groups = site.ask(DescribeRequest(run_id="r"))
    return body, groups["clients"]


def refusal(site: Site, *arguments: Any) -> str:
    with pytest.raises(FedGraftError) as caught:
        site.ask(*arguments)
    return str(caught.value)


def test_describe_says_whom_it_speaks_for() -> None:
    site = Site()
    federation = federation_of(site)
    body, clients = describe(site)
    assert (body.task, body.feature_dim, body.code_digest) == ("classes", 8, code_digest())
    assert body.label_names == federation.samples.label_names
    assert clients["names"].tobytes().decode().split("\n") == list(federation.client_names)
    assert clients["num_train"].tolist() == [6, 1, 9, 4, 2]  # of 9, 1, 14, 6, 3: a third goes to validation
    assert clients["num_validation"].tolist() == [3, 0, 5, 2, 1]


def test_two_hosts_share_the_clients_by_shards() -> None:
    names = [describe(Site(number, num_hosts=2))[1]["names"].tobytes().decode().split("\n") for number in range(2)]
    everyone = describe(Site())[1]["names"].tobytes().decode().split("\n")
    assert names == [everyone[:3], everyone[3:]]


def test_a_host_without_clients_says_so() -> None:
    _, clients = describe(Site(2, num_hosts=3))
    assert clients["names"].tolist() == clients["num_train"].tolist() == []


def trained_by_hand(site: Site, head: dict[str, np.ndarray], position: int, round_number: int = 1) -> dict[str, Any]:
    """Return one client's update by the plain loop on the federation's own samples."""
    federation = federation_of(site)
    rows = federation.train.of(position)
    module = nn.Linear(8, 3)
    module.load_state_dict({name: torch.tensor(value) for name, value in head.items()})
    features = torch.tensor(federation.samples.features()[rows])
    targets = torch.tensor(federation.samples.targets[rows])
    order = (site.scenario.seed, round_number, name_key(federation.client_names[position]))
    before = nn.CrossEntropyLoss()(module(features), targets).item()
    steps, total = train(module, nn.CrossEntropyLoss(), features, targets, site.scenario.train, 0.1, order)
    update = {name: value.numpy() - head[name] for name, value in module.state_dict().items()}
    outputs = module(features)
    return {
        "update": update,
        "steps": steps,
        "samples": len(rows),
        "mean_loss": total / (2 * len(rows)),
        "loss_before": before,
        "loss_after": nn.CrossEntropyLoss()(outputs, targets).item(),
        "score": float((outputs.argmax(1) == targets).double().mean()),
    }


@FORMS
def test_training_gives_the_sums_of_the_plain_loop(form: str) -> None:
    site, head = Site(train={**VALUES["train"], "form": form}), head_of()
    chosen = [0, 2, 3]
    body, groups = site.ask(
        request(scalars=("weight", "steps", "clients"), round_number=4), {"head": head, "clients": naming(*chosen)}
    )
    by_hand = [trained_by_hand(site, head, position, round_number=4) for position in chosen]
    for name, value in groups["update"].items():
        expected = sum(one["samples"] * one["update"][name].astype(float) for one in by_hand)
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert body.scalars == {"weight": 19, "steps": sum(one["steps"] for one in by_hand), "clients": 3}
    assert (body.round_number, body.shard, body.num_clients) == (4, 0, 3)
    clients = groups["clients"]
    assert clients["index"].tolist() == chosen
    assert clients["num_train"].tolist() == [one["samples"] for one in by_hand]
    assert clients["steps"].tolist() == [one["steps"] for one in by_hand]
    for name in ("mean_loss", "loss_before", "loss_after", "score"):
        column = "train_loss" if name == "mean_loss" else f"train_{name}"
        np.testing.assert_allclose(clients[column], [one[name] for one in by_hand], rtol=1e-5)
    assert groups["metrics"]["train_count"] == 19
    weighted = sum(one["samples"] * one["mean_loss"] for one in by_hand)
    np.testing.assert_allclose(groups["metrics"]["train_loss"], weighted, rtol=1e-5)


def test_the_reply_to_train_speaks_of_the_head_that_came() -> None:
    site, head = Site(), head_of()
    _, groups = site.ask(request(), {"head": head, "clients": naming(0, 1, 2)})
    federation = federation_of(site)
    rows = [federation.validation.of(position) for position in range(3)]
    losses, scores = [], []
    for part in rows:
        logits = federation.samples.features()[part].astype(float) @ head["weight"].T + head["bias"]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        actual = federation.samples.targets[part]
        losses.append(reference.log_loss(actual, probabilities, labels=[0, 1, 2]) if len(part) else 0.0)
        scores.append(reference.accuracy_score(actual, logits.argmax(axis=1)) if len(part) else 0.0)
    clients, metrics = groups["clients"], groups["metrics"]
    assert clients["num_validation"].tolist() == [3, 0, 5]
    np.testing.assert_allclose(clients["validation_loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(clients["validation_score"], scores)
    assert metrics["count"] == 8
    np.testing.assert_allclose(metrics["loss"], np.dot(losses, [3, 0, 5]), rtol=1e-4)
    assert metrics["correct"] == pytest.approx(np.dot(scores, [3, 0, 5]))
    _, evaluated = site.ask(evaluation(), {"head": head, "clients": naming(0, 1, 2)})
    for name in ("count", "loss", "correct", "confusion"):
        assert np.array_equal(evaluated["metrics"][name], metrics[name])
    for name in ("index", "num_validation", "validation_loss", "validation_score"):
        assert np.array_equal(evaluated["clients"][name], clients[name])


@pytest.mark.parametrize(
    ("task", "loss", "num_outputs"),
    [
        ("labels", "auto", 3),
        ("labels", "squared", 3),
        ("real", "auto", 2),
        ("classes", "sigmoid", 3),
        ("classes", "squared", 3),
    ],
)
@pytest.mark.parametrize("head", ["linear", "cosine", {"name": "mlp", "hidden": [5]}], ids=["linear", "cosine", "mlp"])
def test_every_kind_of_targets_and_head(task: Any, loss: str, num_outputs: int, head: Any) -> None:
    source = {"name": "synthetic", "task": task, "num_samples": 40, "num_classes": 3, "num_targets": 2}
    data = {"source": {**source, "num_features": 8}, "partition": {"name": "iid", "clients": 3}}
    site = Site(data=data, loss=loss, head=head)
    body, clients = describe(site)
    assert (body.task, len(body.label_names)) == (task, num_outputs)
    start = initial_head(site.scenario.head, body.feature_dim, num_outputs, seed=1)
    groups = {"head": start, "clients": naming(0, 1, 2)}
    _, reply = site.ask(request(), groups)
    assert {name: value.shape for name, value in reply["update"].items()} == {
        name: value.shape for name, value in start.items()
    }
    assert any(value.any() for value in reply["update"].values())
    shapes = metric_shapes(task, num_outputs)
    assert {name: value.shape for name, value in reply["metrics"].items() if not name.startswith("train_")} == shapes
    assert reply["metrics"]["count"] == clients["num_validation"].sum()
    moved = {name: value + reply["update"][name] / clients["num_train"].sum() for name, value in start.items()}
    _, after = site.ask(evaluation(), groups | {"head": {n: v.astype(np.float32) for n, v in moved.items()}})
    np.testing.assert_allclose(
        after["clients"]["validation_loss"] @ after["clients"]["num_validation"], after["metrics"]["loss"], rtol=1e-6
    )


def test_what_is_not_asked_for_is_not_sent() -> None:
    site, groups = Site(), {"head": head_of(), "clients": naming(0)}
    _, reply = site.ask(request(per_client=False, evaluate=False), groups)
    assert {group: set(values) for group, values in reply.items()} == {
        "update": {"weight", "bias"},
        "metrics": {"train_loss", "train_count"},
    }
    _, reply = site.ask(evaluation(per_client=False), groups)
    assert set(reply) == {"metrics"}


def test_nobody_may_be_asked() -> None:
    body, groups = Site().ask(request(), {"head": head_of(), "clients": naming()})
    assert (body.num_clients, body.scalars) == (0, {"weight": 0})
    assert not groups["update"]["weight"].any()
    assert groups["metrics"]["count"] == groups["metrics"]["train_count"] == 0


def stack_of(site: Site, *chosen: int) -> dict[int, np.ndarray]:
    """Return each client's update, weight and bias in one row."""
    head = head_of()
    _, groups = site.ask(request(reply="stack"), {"head": head, "clients": naming(*chosen)})
    stack = groups["stack"]
    return {
        position: np.concatenate([stack["weight"][turn].ravel(), stack["bias"][turn]])
        for turn, position in enumerate(chosen)
    }


@FORMS
def test_a_client_is_the_same_alone_in_a_cohort_and_on_another_host(form: str) -> None:
    """To the last bit in the loop; in the engine to 1e-6 of the largest value, since sums are grouped otherwise."""
    changes = {"train": {**VALUES["train"], "form": form}}
    tolerance = 0.0 if form == "loop" else 1e-6

    def same(ours: dict[int, np.ndarray], positions: dict[int, int]) -> None:
        assert set(ours) == set(positions)
        for turn, position in positions.items():
            expected = together[position]
            assert np.abs(ours[turn] - expected).max() <= tolerance * np.abs(expected).max()

    together = stack_of(Site(**changes), 0, 1, 2, 3, 4)
    for position in range(5):
        same(stack_of(Site(**changes), position), {position: position})
    same(stack_of(Site(**changes), 1, 3), {1: 1, 3: 3})
    forget_hosts()
    second = stack_of(Site(1, num_hosts=2, **changes), 0, 1)  # the clients 3 and 4, in another process's order
    same(second, {0: 3, 1: 4})
    assert len({update.tobytes() for update in together.values()}) == 5


@FORMS
def test_stack_and_sum_say_the_same(form: str) -> None:
    site, groups = Site(train={**VALUES["train"], "form": form}), {"head": head_of(), "clients": naming(0, 2, 4)}
    _, stacked = site.ask(request(reply="stack"), groups)
    _, summed = site.ask(request(), groups)
    weights = stacked["weights"]["weight"]
    assert weights.tolist() == [6, 9, 2]
    for name, value in summed["update"].items():
        expected = np.tensordot(weights, stacked["stack"][name].astype(float), axes=1)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ({"head": head_of()}, "the request names no clients; expected clients.index, int64 positions"),
        (
            {"head": head_of(), "clients": {"index": np.array([0], dtype=np.int32)}},
            "the request names no clients; expected clients.index, int64 positions",
        ),
        (
            {"head": head_of(), "clients": {"index": np.array(0)}},
            "the request names no clients; expected clients.index, int64 positions",
        ),
        (
            {"head": head_of(), "clients": naming(3, 5)},
            "the request names clients 3 to 5 of this host's 5; expected ascending positions in its description",
        ),
        (
            {"head": head_of(), "clients": naming(-1, 2)},
            "the request names clients -1 to 2 of this host's 5; expected ascending positions in its description",
        ),
        (
            {"head": head_of(), "clients": naming(1, 1)},
            "the request names clients 1 to 1 of this host's 5; expected ascending positions in its description",
        ),
        (
            {"head": head_of(), "clients": naming(2, 1)},
            "the request names clients 1 to 2 of this host's 5; expected ascending positions in its description",
        ),
        ({"clients": naming(0)}, "the request's head is missing"),
        (
            {"head": head_of(4), "clients": naming(0)},
            "the request's head: weight has shape (4, 8), expected (3, 8); bias has shape (4,), expected (3,)",
        ),
        (
            {"head": {"weight": head_of()["weight"]}, "clients": naming(0)},
            "the request's head: missing bias",
        ),
        (
            {"head": head_of() | {"scale": np.ones(1, dtype=np.float32)}, "clients": naming(0)},
            "the request's head: unexpected scale",
        ),
        (
            # finite in float64, infinite in float32
            {"head": head_of() | {"bias": np.full(3, 1e300)}, "clients": naming(0)},
            "the request's head: bias is float64, expected float32",
        ),
    ],
)
@pytest.mark.parametrize("body", [request(), evaluation()], ids=["train", "evaluate"])
def test_ill_requests_are_refused(groups: dict[str, Any], text: str, body: Any) -> None:
    assert refusal(Site(), body, groups) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"half": HalfSettings(name="scaffold")}, "the strategy asks for the client half 'scaffold'"),
        ({"half": HalfSettings(name="proximal")}, "came with parameters none, expected mu"),
        ({"sums": ("controls",)}, "the strategy asks for the sum controls, this client has update, control"),
        (
            {"sums": ("control",)},
            "the sum control, which its client half 'plain' does not give; ask for it with control_",
        ),
        ({"scalars": ("step",)}, "did you mean 'steps'?"),
    ],
)
def test_other_releases_are_refused(changes: dict[str, Any], text: str) -> None:
    assert text in refusal(Site(), request(**changes), {"head": head_of(), "clients": naming(0)})


def test_another_backbone_is_refused() -> None:
    said = refusal(Site(), request(weights_digest="ab" * 32), {"head": head_of(), "clients": naming(0)})
    assert said == "the run's backbone has weights abababababab, this host has none; send query.backbone first"


def test_a_stack_that_is_too_large_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.replies.LARGEST_STACK_BYTES", 108 * 2)
    monkeypatch.setattr("clients.members.Engine", None)  # would fail before the first client
    groups = {"head": head_of(), "clients": naming(0, 1, 2)}
    assert "3 clients x 108 bytes = 324 bytes" in refusal(Site(), request(reply="stack"), groups)


@FORMS
def test_a_client_that_diverges_is_named(form: str) -> None:
    rate = {"name": "sgd", "learning_rate": 1e30}
    site = Site(train={"local_epochs": 5, "optimizer": rate, "form": form}, loss="squared")
    said = refusal(site, request(), {"head": head_of(), "clients": naming(0)})
    name = federation_of(site).client_names[0]
    assert said.startswith(f"the head of client '{name}' is not finite after ")
    assert "round 1, so training diverged; lower train.optimizer.learning_rate (now 1e+30)" in said
    with pytest.raises(TrainingError):
        site.ask(request(reply="stack"), {"head": head_of(), "clients": naming(0, 2)})


WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(4)}


def test_weights_are_asked_for_and_kept(tmp_path: Path) -> None:
    site, digest = Site(), weights_digest(WEIGHTS)
    manifest = BackboneRequest(run_id="r", weights_digest=digest, feature_dim=3)
    assert not site.ask(manifest)[0].has_weights
    carrying = manifest.model_copy(update={"carries_weights": True})
    assert site.ask(carrying, {"weights": WEIGHTS})[0].has_weights
    assert site.ask(manifest)[0].has_weights
    assert digest in describe(site)[0].backbone_digests
    forget_hosts()  # as a new process does
    assert Site().ask(manifest)[0].has_weights
    assert [path.name for path in (tmp_path / "cache/fedgraft/weights").iterdir()] == [f"{digest}.safetensors"]


@pytest.mark.parametrize(
    "weights", [{}, {"a": WEIGHTS["a"]}, WEIGHTS | {"n": np.array(5)}], ids=["no", "less", "other"]
)
def test_weights_of_another_digest_are_refused_and_not_kept(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    site, digest = Site(), weights_digest(WEIGHTS)
    manifest = BackboneRequest(run_id="r", weights_digest=digest, feature_dim=3, carries_weights=True)
    with pytest.raises(ModelError, match=rf"digest \w{{12}} came, {digest[:12]} was announced; refused"):
        site.ask(manifest, {"weights": weights})
    assert not (tmp_path / "cache/fedgraft/weights").exists()
    assert not site.ask(manifest.model_copy(update={"carries_weights": False}))[0].has_weights


def test_a_digest_that_is_a_path_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache/fedgraft").mkdir(parents=True)
    (tmp_path / "cache/fedgraft/outside.safetensors").write_bytes(b"")
    site = Site()
    assert not site.ask(BackboneRequest(run_id="r", weights_digest="../outside", feature_dim=3))[0].has_weights
    with pytest.raises(WireError, match=r"the run's backbone has weights \.\./outside"):
        site.ask(request(weights_digest="../outside"), {"head": head_of(), "clients": naming(0)})


IMAGES = {
    "data": {
        "source": {"name": "synthetic", "kind": "images", "num_samples": 12, "num_classes": 3, "image_size": 16},
        "partition": {"name": "iid", "clients": 2},
    },
    "backbone": {"name": "torchvision:resnet18", "weights": "random", "input_size": 32},
}


def test_features_are_those_of_the_weights_that_the_run_names() -> None:
    """A process that has served a run with its own weights serves the next one, of other weights, with those."""
    from fedgraft.models.registry import load
    from fedgraft.models.settings import BackboneSettings

    other = load(BackboneSettings(**IMAGES["backbone"], random_seed=5))
    own = load(BackboneSettings(**IMAGES["backbone"]))
    head = head_of(3, own.info.feature_dim)
    groups = {"head": head, "clients": naming(0, 1)}

    def loss_with(site: Site, digest: str) -> float:
        return float(site.ask(evaluation(weights_digest=digest), groups)[1]["metrics"]["loss"])

    fresh = Site(**{**IMAGES, "backbone": {**IMAGES["backbone"], "random_seed": 5}})
    expected = loss_with(fresh, other.info.weights_digest)  # a run whose scenario names the other weights
    forget_hosts()
    site, same_backbone = Site(**IMAGES), Site(**IMAGES, train={"local_epochs": 1})
    before = loss_with(site, own.info.weights_digest)
    assert abs(before - expected) > 1e-3
    digest = other.info.weights_digest
    manifest = BackboneRequest(
        run_id="r", weights_digest=digest, feature_dim=own.info.feature_dim, carries_weights=True
    )
    assert site.ask(manifest, {"weights": other.state_arrays()})[0].has_weights
    assert loss_with(site, digest) == pytest.approx(expected, rel=1e-6)
    assert loss_with(same_backbone, own.info.weights_digest) == before  # another host of the same workspace
    assert loss_with(site, digest) == pytest.approx(expected, rel=1e-6)
    assert loss_with(site, own.info.weights_digest) == before
