"""Heads with an adapter under FedPer, FedRep, FedBABU and FedRoD against a tutorial's loop over torch.optim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain_loop import batches_of, optimizer_of
from small_scenario import Site, evaluation, head_of, naming, request
from test_client_engine import DIM, OUTPUTS, Arrays, Case, distance
from torch import nn

from clients.personal.heads import OwnHeads
from clients.personal.layers import Layers, LayerTraining
from clients.settings import Adam, OptimizerSettings, Sgd, TrainSettings
from clients.state.tables import Layout, StateTable
from fedgraft.errors import WireError
from fedgraft.models.head_settings import AdapterHead
from fedgraft.models.heads import head_shapes
from fedgraft.randomness import name_keys
from fedgraft.wire.requests import StateSettings

RANK = 5
SIZES = (13, 0, 1, 7, 25, 8)


def case_of(optimizer: OptimizerSettings, clip_norm: float | None = None) -> Case:
    train = TrainSettings(local_epochs=2, batch_size=4, optimizer=optimizer, clip_norm=clip_norm)
    return Case(SIZES, train, head=AdapterHead(rank=RANK), round_number=1)


def own_of(case: Case, added: bool) -> OwnHeads:
    shapes = head_shapes(case.head, DIM, OUTPUTS)
    layout = Layout(np.array(SIZES), np.zeros(len(SIZES), dtype=np.bool_), OUTPUTS, shapes)
    tables = StateTable(layout, "layers", np.float64), StateTable(layout, "number")
    assert set(tables[0].heads(np.array([0]))) == {"weight", "bias"}
    return OwnHeads(*tables, case.start(torch.float64), added)


class Tutorial:
    """One client: a body and a head as modules, with the received values; `own` is what it keeps."""

    def __init__(self, case: Case, position: int, received: dict[str, torch.Tensor]) -> None:
        self.case, self.position = case, position
        self.body = nn.Linear(DIM, RANK, bias=False).double()
        self.head = nn.Linear(RANK, OUTPUTS).double()
        self.body.load_state_dict({"weight": received["adapter.weight"]})
        self.head.load_state_dict({name: received[name] for name in ("weight", "bias")})
        self.features, self.targets = case.client(position, torch.float64)

    def train(self, trained: list[nn.Module], outputs: Any, offset: Any = 0.0, epochs: int | None = None) -> None:
        """Train some modules of `outputs(features)`, the others frozen as a tutorial freezes them."""
        case = self.case if epochs is None else replace(
            self.case, train=self.case.train.model_copy(update={"local_epochs": epochs})
        )  # fmt: skip
        module = nn.ModuleList(trained)
        optimizer = optimizer_of(case.train, module, case.train.optimizer.learning_rate)
        order = (case.seed, case.round_number, int(name_keys(case.names)[self.position]))
        for batch in batches_of(case.train, *order, len(self.features)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(outputs(self.features[batch]) + offset, self.targets[batch])
            loss.backward()
            if case.train.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), case.train.clip_norm)
            optimizer.step()

    def whole(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(features))

    def values(self) -> Arrays:
        layer = {name: value.detach().numpy() for name, value in self.head.state_dict().items()}
        return {"adapter.weight": self.body.weight.detach().numpy(), **layer}


def by_tutorial(
    case: Case, position: int, received: dict[str, torch.Tensor], own: Arrays | None, layers: Layers, layer_epochs: int
) -> tuple[Arrays, Arrays]:
    """Return what leaves the client, as values, and what it keeps."""
    one = Tutorial(case, position, received)
    if layers == "own" and own is not None:
        one.head.load_state_dict({name: torch.tensor(value) for name, value in own.items()})
    if layers == "own" and layer_epochs:
        one.train([one.head], one.whole, epochs=layer_epochs)
        one.train([one.body], one.whole)
    elif layers == "own":
        one.train([one.body, one.head], one.whole)
    elif layers == "frozen":
        one.train([one.body], one.whole)
    else:
        counts = torch.bincount(one.targets, minlength=OUTPUTS).double()
        one.train([one.body, one.head], one.whole, offset=counts.clamp_min(1e-6).log())
        personal = nn.Linear(RANK, OUTPUTS).double()
        personal.load_state_dict(
            {name: torch.tensor(own[name]) if own else torch.zeros_like(received[name]) for name in ("weight", "bias")}
        )
        leaves = {name: value.copy() for name, value in one.values().items()}
        one.train([personal], lambda features: one.whole(features).detach() + personal(one.body(features).detach()))
        return leaves, {name: value.detach().numpy() for name, value in personal.state_dict().items()}
    leaves = one.values()
    kept = {name: leaves[name] for name in ("weight", "bias")}
    return {"adapter.weight": leaves["adapter.weight"]}, kept


OPTIMIZERS: dict[str, OptimizerSettings] = {
    "sgd": Sgd(learning_rate=0.2),
    "momentum": Sgd(learning_rate=0.1, momentum=0.5),
    "adam": Adam(learning_rate=0.01, epsilon=1e-4),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize(
    ("layers", "layer_epochs"),
    [("own", 0), ("own", 3), ("frozen", 0), ("added", 0)],
    ids=["fedper", "fedrep", "fedbabu", "fedrod"],
)
def test_two_rounds_are_the_tutorials(
    layers: Layers, layer_epochs: int, optimizer: str, clip_norm: float | None
) -> None:
    """In the second round the server's head has moved, and own layers stand where the first left them."""
    case = case_of(OPTIMIZERS[optimizer], clip_norm)
    own, kept = own_of(case, layers == "added"), dict[int, Arrays]()
    engine = case.engine()
    for round_number in (1, 2):
        case = replace(case, round_number=round_number)
        received = {name: value + 0.05 * (round_number - 1) for name, value in own.received.items()}
        own = replace(own, received=received)
        keeps = None if layers == "frozen" else own
        training = LayerTraining(engine, case.local_task, case.names, received, keeps, layer_epochs)
        before = dict(kept)
        for group in training.run(layers, np.arange(len(SIZES))):
            if keeps is not None:
                own.keep(group.clients, group.kept or group.heads)
            for place, position in enumerate(group.clients.tolist()):
                leaves, stays = by_tutorial(case, position, received, before.get(position), layers, layer_epochs)
                weights = np.zeros(len(group.clients))
                weights[place] = 1
                update = group.weighted_sum(weights)
                for name, value in update.items():
                    expected = leaves[name] - received[name].numpy() if name in leaves else np.zeros(value.shape)
                    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-7)  # updates travel as float32
                if keeps is not None:
                    table = {name: value[0] for name, value in own.table.heads(np.array([position])).items()}
                    assert distance(table, stays) <= 1e-8
                    kept[position] = {name: value.copy() for name, value in stays.items()}
    assert set(kept) == ({0, 2, 3, 4, 5} if layers != "frozen" else set())


def asked(site: Site, half: dict[str, Any], head: dict[str, np.ndarray], keeps: bool = True) -> Any:
    state = StateSettings(version=0, becomes=1).model_dump() if keeps else None
    return site.ask(request(half=half, state=state), {"head": head, "clients": naming(0, 1, 2, 3, 4)})


def adapter_head() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = head_shapes(AdapterHead(rank=4), 8, 3)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


ADAPTER = {"name": "adapter", "rank": 4}


def test_own_layers_do_not_leave() -> None:
    site = Site(shards=1, head=ADAPTER)
    half = {"name": "own_layer", "parameters": {"layer_epochs": 2.0}}
    _, groups = asked(site, half, adapter_head())
    assert np.abs(groups["update"]["adapter.weight"]).max() > 1e-3
    assert not groups["update"]["weight"].any()
    assert not groups["update"]["bias"].any()
    body = evaluation(shard=0, personal=half, state_version=1)
    _, after = site.ask(body, {"head": adapter_head(), "clients": naming(0, 1, 2, 3, 4)})
    assert (np.abs(after["clients"]["personal_loss"] - after["clients"]["validation_loss"]) > 1e-4)[[0, 2, 3, 4]].all()


def test_other_heads_are_refused() -> None:
    with pytest.raises(WireError, match="shares an adapter, but the head is linear; set head: adapter"):
        asked(Site(shards=1), {"name": "frozen_layer"}, head_of(), keeps=False)


def test_balanced_softmax_needs_classes_and_softmax() -> None:
    site = Site(shards=1, head=ADAPTER, loss="squared")
    with pytest.raises(WireError, match="needs one class a sample and the softmax loss"):
        asked(site, {"name": "added_layer"}, adapter_head())
