"""What FedNova, FedExP and q-FedAvg ask of replies, against every client's own update, in every form of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_scenario import Site, head_of, naming, request

from clients.local_solver import LocalSolver
from clients.replies import Terms, Weighed
from clients.settings import Adam, Sgd
from fedgraft.errors import TrainingError, WireError

CLIENTS = naming(0, 1, 2, 3, 4)
TRAIN: dict[str, dict[str, Any]] = {
    "plain": {"name": "sgd", "learning_rate": 0.05},
    "momentum": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.5},
    "decay": {"name": "sgd", "learning_rate": 0.05, "weight_decay": 0.1, "momentum": 0.5, "nesterov": True},
}


def asked(form: str, optimizer: dict[str, Any], bias: bool, half: dict[str, Any], **body: Any) -> tuple[Any, Any]:
    """Return the body and arrays of a reply; one host, one shard."""
    train = {"local_epochs": 2, "batch_size": 4, "form": form, "optimizer": optimizer}
    site = Site(train=train, shards=1, head={"name": "linear", "bias": bias})
    head = head_of() if bias else {"weight": head_of()["weight"]}
    return site.ask(request(half=half, evaluate=False, **body), {"head": head, "clients": CLIENTS})


@pytest.mark.parametrize("form", ["dual", "primal", "loop"])
@pytest.mark.parametrize("optimizer", TRAIN)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_sums_are_those_over_the_stacked_updates(form: str, optimizer: str, bias: bool, mu: float) -> None:
    """The plain loop gives every client's update; norms and weights are taken of these here, in float64."""
    settings, half = TRAIN[optimizer], {"name": "proximal", "parameters": {"mu": mu}}
    power, rate = 0.7, 0.05
    scalars = ("weight", "path_length", "square_norm", "fair_weight", "fair_curvature")
    sums = ("normalised_update", "fair_update")
    body, found = asked(form, settings, bias, half, sums=sums, scalars=scalars, loss_power=power, per_client=False)
    _, each = asked("loop", settings, bias, half, reply="stack")
    stack, weights, clients = each["stack"], each["weights"]["weight"], each["clients"]
    squares = sum(np.square(value.astype(np.float64)).reshape(5, -1).sum(axis=1) for value in stack.values())
    lengths = LocalSolver(Sgd(**settings), rate, mu).path_lengths(clients["steps"])
    losses = clients["train_loss_before"]
    expected = {
        "weight": weights.sum(),
        "path_length": weights @ lengths,
        "square_norm": weights @ squares,
        "fair_weight": weights @ losses**power,
        "fair_curvature": weights @ (losses ** (power - 1) * squares) / rate,
    }
    assert set(body.scalars) == set(expected)
    for name, value in expected.items():
        assert body.scalars[name] == pytest.approx(value, rel=2e-5), name
    for name, factors in (("normalised_update", weights / lengths), ("fair_update", weights * losses**power)):
        for part, value in stack.items():
            total = np.einsum("k,k...->...", factors, value.astype(np.float64))
            np.testing.assert_allclose(found[name][part], total, rtol=0, atol=2e-5 * np.abs(total).max())


@pytest.mark.parametrize("form", ["dual", "primal", "loop"])
@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_sums_by_nearness_are_those_over_the_stacked_updates(form: str, lost: bool) -> None:
    """Asked again, nobody trains; a host that has lost what was trained trains it again, with the same bits."""
    train = {"local_epochs": 2, "batch_size": 4, "form": form, "optimizer": TRAIN["momentum"]}
    head, random = head_of(), np.random.default_rng(3)
    each = Site(train=train, shards=1).ask(request(evaluate=False, reply="stack"), {"head": head, "clients": CLIENTS})
    stack, weights = each[1]["stack"], each[1]["weights"]["weight"]
    site = Site(train=train, shards=1)
    for again in (False, True, True):
        point = {name: random.normal(size=value.shape).astype(np.float32) * 0.01 for name, value in head.items()}
        body = request(
            evaluate=False, per_client=not again, sums=("near_update",), scalars=("near_weight",), smoothing=1e-6,
            again=again,
        )  # fmt: skip
        groups = {"head": head, "clients": CLIENTS, "extra": {f"point.{name}": point[name] for name in point}}
        reply, found = (Site(train=train, shards=1) if lost else site).ask(body, groups)
        apart = [(stack[name].astype(np.float64) - point[name]).reshape(5, -1) for name in stack]
        near = weights / np.maximum(1e-6, np.linalg.norm(np.concatenate(apart, axis=1), axis=1))
        assert reply.scalars["near_weight"] == pytest.approx(near.sum(), rel=1e-5)
        for name, value in stack.items():
            total = np.einsum("k,k...->...", near, value.astype(np.float64))
            np.testing.assert_allclose(found["near_update"][name], total, rtol=0, atol=2e-5 * np.abs(total).max())


def test_asked_again_nobody_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    site, head = Site(train={"local_epochs": 2, "batch_size": 4}, shards=1), head_of()
    near = {"sums": ("near_update",), "scalars": ("near_weight",), "smoothing": 1e-6, "evaluate": False}
    extra = {f"point.{name}": np.zeros_like(value) for name, value in head.items()}
    groups = {"head": head, "clients": CLIENTS, "extra": extra}
    first = site.ask(request(**near), groups)

    def trains(*_: Any, **__: Any) -> Any:
        raise TrainingError("it trains")

    monkeypatch.setattr("clients.engine.cohort.Engine.run_each", trains)
    again = site.ask(request(**near, again=True, per_client=False), groups)
    np.testing.assert_array_equal(again[1]["near_update"]["weight"], first[1]["near_update"]["weight"])
    other = {**groups, "head": {name: value + 1 for name, value in head.items()}}
    with pytest.raises(TrainingError, match="it trains"):  # from another head it would be another update
        site.ask(request(**near, again=True, per_client=False), other)


def test_nearness_needs_a_smoothing_and_no_state() -> None:
    with pytest.raises(WireError, match="near_update, near_weight with smoothing 0 of the half 'plain'"):
        asked("dual", TRAIN["plain"], True, {"name": "plain"}, sums=("near_update",), scalars=("near_weight",))


STEPS = np.array([0, 1, 2, 7, 40])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_path_length_with_momentum_is_the_paper_s(momentum: float) -> None:
    """`|a| = (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)`."""
    expected = (STEPS - momentum * (1 - momentum**STEPS) / (1 - momentum)) / (1 - momentum)
    lengths = LocalSolver(Sgd(momentum=momentum), 0.1).path_lengths(STEPS)
    np.testing.assert_allclose(lengths, expected, rtol=1e-12, atol=1e-12)


def test_path_length_with_a_proximal_term_is_the_paper_s() -> None:
    """`|a| = (1 - (1 - alpha)^tau) / alpha` with `alpha = learning rate * mu`."""
    lengths = LocalSolver(Sgd(), 0.1, mu=2.0).path_lengths(STEPS)
    np.testing.assert_allclose(lengths, (1 - 0.8**STEPS) / 0.2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("nesterov", [False, True])
def test_path_length_is_how_far_torch_goes_with_gradients_of_one(nesterov: bool, mu: float) -> None:
    import torch

    settings, rate = Sgd(momentum=0.8, nesterov=nesterov), 0.1
    value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([value], lr=rate, momentum=0.8, nesterov=nesterov)
    seen = [0.0]
    for _ in range(int(STEPS.max())):
        value.grad = 1 + mu * value.detach()
        optimizer.step()
        seen.append(-float(value.detach()) / rate)
    np.testing.assert_allclose(LocalSolver(settings, rate, mu).path_lengths(STEPS), np.array(seen)[STEPS], rtol=1e-12)


def test_adam_has_no_path_length() -> None:
    with pytest.raises(TrainingError, match=r"weights of a client's gradients, which adam does not have; set train"):
        LocalSolver(Adam(), 0.1).path_lengths(STEPS)


class Losses:
    """Two clients with 3 and 5 samples, of which the first fits perfectly."""

    num_samples = np.array([3, 5])
    losses_before = np.array([0.0, 2.0])


def test_a_loss_of_zero_has_negative_powers() -> None:
    """It counts as 1e-10: `3 (1e-10)^-0.5 = 3e5`, and `5 / sqrt 2`."""
    trained: Any = Losses()
    np.testing.assert_allclose(Weighed(trained, Terms()).powers(-0.5), [3e5, 5 / 2**0.5])
    np.testing.assert_allclose(Weighed(trained, Terms()).powers(0.0), [3, 5])
