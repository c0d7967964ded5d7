"""Flower's strategies by name: the same head as Flower's own class, driven as Flower drives it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategies

from fedgraft.errors import FedGraftError, ScenarioError
from fedgraft.simulation.flower_identity import claim_identity
from server.flower_strategy import REFUSED, UnpackedStrategy, flower_classes
from strategies.base import Replies
from strategies.flower import FlowerStrategy

NUM_CLIENTS, NUM_ROUNDS = 8, 3
PARAMETERS: dict[str, dict[str, float]] = {
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "FedProx": {"proximal_mu": 0.25},
    "FedTrimmedAvg": {"beta": 0.3},
    "QFedAvg": {"client_learning_rate": 0.1, "q": 0.7},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
}


@pytest.fixture(autouse=True, scope="module")
def identity() -> Iterator[None]:
    claim_identity(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    gc.freeze()  # QFedAvg and Bulyan collect garbage once a client: seconds, beside all that other tests imported
    yield
    gc.unfreeze()


class Nodes(Grid):
    """What a strategy asks a grid for when it configures a round."""

    def get_node_ids(self) -> list[int]:
        return list(range(1, NUM_CLIENTS + 1))

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Any) -> Any:
        raise NotImplementedError

    def pull_messages(self, message_ids: Any) -> Any:
        raise NotImplementedError

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        raise NotImplementedError


def updates_of(round_number: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return every client's update, its samples and its loss; client 3 has no samples in any round."""
    random = np.random.default_rng(round_number)
    stack = {
        "weight": random.standard_normal((NUM_CLIENTS, 3, 5)).astype(np.float32),
        "bias": random.standard_normal((NUM_CLIENTS, 3)).astype(np.float32),
    }
    weights = random.integers(1, 50, NUM_CLIENTS).astype(np.float64)
    weights[3] = 0
    for value in stack.values():
        value[3] = 0
    return stack, weights, random.uniform(0.1, 2, NUM_CLIENTS)


def initial() -> dict[str, np.ndarray]:
    random = np.random.default_rng(99)
    return {
        "weight": random.standard_normal((3, 5)).astype(np.float32),
        "bias": random.standard_normal(3).astype(np.float32),
    }


def as_flower_does_it(name: str) -> list[dict[str, np.ndarray]]:
    """Return the head after each round: one object for all rounds, one message a client that has samples."""
    everybody = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    strategy = getattr(flwr_strategies, name)(**everybody, **PARAMETERS.get(name, {}))
    head, heads = initial(), []
    for round_number in range(1, NUM_ROUNDS + 1):
        stack, weights, losses = updates_of(round_number)
        arrays = ArrayRecord({key: Array(value) for key, value in head.items()})
        strategy.configure_train(round_number, arrays, ConfigRecord(), Nodes())
        replies = []
        for client in np.flatnonzero(weights):
            local = ArrayRecord({key: Array(head[key] + stack[key][client]) for key in head})
            numbers = MetricRecord({"num-examples": int(weights[client]), "train_loss": float(losses[client])})
            content = RecordDict({"arrays": local, "metrics": numbers})
            replies.append(Message(content, dst_node_id=int(client) + 1, message_type="train"))
        aggregated, _ = strategy.aggregate_train(round_number, replies)
        assert aggregated is not None
        # Clients hold float32 heads; some classes promote to float64 on the way.
        head = {key: aggregated[key].numpy().astype(np.float32) for key in head}
        heads.append(head)
    return heads


@pytest.mark.parametrize("name", sorted(flower_classes()))
def test_same_head_as_flower_s_own_class(name: str) -> None:
    strategy = UnpackedStrategy.of(FlowerStrategy(name=f"flower:{name}", parameters=PARAMETERS.get(name, {})))
    head = initial()
    state = strategy.init(head)
    for round_number, expected in enumerate(as_flower_does_it(name), start=1):
        stack, weights, losses = updates_of(round_number)
        replies = Replies({}, {}, NUM_CLIENTS, stack, weights, losses)
        # What lives between rounds goes through a checkpoint: names and plain arrays, nothing else.
        state = {key: np.array(value) for key, value in state.items()}
        outcome = strategy.aggregate(state, head, (replies,))
        head, state = dict(outcome.head), outcome.state
        for key in head:
            np.testing.assert_array_equal(head[key], expected[key], err_msg=f"round {round_number}, {key}")


@pytest.mark.parametrize("name", ["FedAdam", "FedAvgM"])
def test_state_is_carried(name: str) -> None:
    """The comparison above would not notice lost state if the classes had none."""
    strategy = UnpackedStrategy.of(FlowerStrategy(name=f"flower:{name}", parameters=PARAMETERS.get(name, {})))
    head = initial()
    stack, weights, losses = updates_of(1)
    replies = (Replies({}, {}, NUM_CLIENTS, stack, weights, losses),)
    once = strategy.aggregate(strategy.init(head), head, replies)
    fresh = strategy.aggregate(strategy.init(head), once.head, replies)
    carried = strategy.aggregate(once.state, once.head, replies)
    assert not np.allclose(fresh.head["weight"], carried.head["weight"])


def test_round_without_samples_leaves_the_head_and_counts() -> None:
    """Adam's bias correction in the round after is that of round 2."""
    strategy = UnpackedStrategy.of(FlowerStrategy(name="flower:FedAdam"))
    head = initial()
    nothing = {key: np.zeros((2, *value.shape), dtype=np.float32) for key, value in head.items()}
    empty = (Replies({}, {}, 2, nothing, np.zeros(2), np.zeros(2)),)
    outcome = strategy.aggregate(strategy.init(head), head, empty)
    for key in head:
        np.testing.assert_array_equal(outcome.head[key], head[key])
    assert int(outcome.state["rounds"]) == 1


def test_proximal_term_reaches_the_client_half() -> None:
    strategy = UnpackedStrategy.of(FlowerStrategy(name="flower:FedProx", parameters={"proximal_mu": 0.25}))
    half = strategy.plan(strategy.init(initial()), 1)[0].half
    assert (half.name, dict(half.parameters)) == ("proximal", {"mu": 0.25})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_by_name_with_the_reason(name: str) -> None:
    with pytest.raises(ScenarioError, match=rf"strategy\.name: flower:{name} can't be used here: it (combines|wraps)"):
        UnpackedStrategy.of(FlowerStrategy(name=f"flower:{name}"))


def test_refused_and_usable_are_all_that_flower_has() -> None:
    """A class that a new Flower brings must be looked at before it can be named."""
    abstract = {"Strategy", "FedOpt", "Result"}
    assert set(flower_classes()) | set(REFUSED) | abstract >= set(flwr_strategies.__all__)
    assert not set(flower_classes()) & set(REFUSED)


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("FedAdem", {}, r"Flower has no strategy 'FedAdem'; did you mean 'FedAdam'\?; it has Bulyan, FedAdagrad"),
        ("FedAdam", {"etta": 0.1}, r"FedAdam takes no parameter 'etta'; did you mean 'eta'\?; it takes eta, eta_l"),
        ("FedAvg", {"fraction_train": 0.5}, r"FedAvg takes no parameter 'fraction_train'.*set in the block 'server'"),
        ("FedAvg", {"weighted_by_key": 1}, "FedAvg takes no parameter 'weighted_by_key'"),
        ("QFedAvg", {}, "QFedAvg refuses its parameters: .*client_learning_rate"),
    ],
)
def test_bad_names_and_parameters(name: str, parameters: dict[str, float], text: str) -> None:
    with pytest.raises(ScenarioError, match=text):
        UnpackedStrategy.of(FlowerStrategy(name=f"flower:{name}", parameters=parameters))


def test_too_few_clients_are_said() -> None:
    """Flower's Bulyan logs it and goes on with the old head; a run would then train nothing, silently."""
    strategy = UnpackedStrategy.of(FlowerStrategy(name="flower:Bulyan", parameters={"num_malicious_nodes": 2}))
    stack, weights, losses = updates_of(1)
    replies = Replies({}, {}, NUM_CLIENTS, stack, weights, losses)
    with pytest.raises(FedGraftError, match="Bulyan could not combine the updates of 7 clients: it needs more clients"):
        strategy.aggregate(strategy.init(initial()), initial(), (replies,))


def test_an_error_of_flower_s_class_names_it() -> None:
    strategy = UnpackedStrategy.of(FlowerStrategy(name="flower:QFedAvg", parameters={"client_learning_rate": 0}))
    stack, weights, losses = updates_of(1)
    replies = Replies({}, {}, NUM_CLIENTS, stack, weights, losses)
    with pytest.raises(
        FedGraftError, match=r"QFedAvg could not combine .* ZeroDivisionError: .* change strategy\.parameters"
    ):
        strategy.aggregate(strategy.init(initial()), initial(), (replies,))
