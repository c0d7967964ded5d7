"""One client's training against a plain PyTorch loop, and the order of a step against NumPy in float64.

Features have a root mean square of 1 a row, so that the curvature of every loss here is at most about 2 and
the learning rates drawn are stable; a rate at which training diverges makes no two implementations agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_loop import batches_of, order_of, train
from torch import nn

from clients.halves import HALVES, build_half
from clients.settings import Adam, AdamW, Constant, Cosine, OptimizerSettings, Sgd, Step, TrainSettings
from clients.training import LocalResult, LocalTask, batches, train_client, train_one_by_one
from fedgraft.errors import TrainingError, WireError
from fedgraft.evaluation import Objective
from fedgraft.models.head_settings import HeadSettings, LinearHead, MlpHead
from fedgraft.models.loss_settings import LossSettings, SigmoidLoss, SoftmaxLoss, SquaredLoss
from fedgraft.models.losses import target_tensor
from fedgraft.randomness import name_key, name_keys
from fedgraft.wire.requests import HalfSettings

OPTIMIZERS: dict[str, OptimizerSettings] = {
    "sgd": Sgd(learning_rate=0.1),
    "momentum": Sgd(learning_rate=0.05, momentum=0.9),
    "nesterov": Sgd(learning_rate=0.05, momentum=0.8, nesterov=True),
    "decay": Sgd(learning_rate=0.1, weight_decay=0.05),
    "all of them": Sgd(learning_rate=0.05, momentum=0.7, nesterov=True, weight_decay=0.01),
    "adam": Adam(learning_rate=0.01, beta_1=0.8, epsilon=1e-4),
    "adam with decay": Adam(learning_rate=0.01, weight_decay=0.1),
    "adamw": AdamW(learning_rate=0.01, weight_decay=0.1, beta_2=0.99),
}
FEATURES, OUTPUTS, SEED, ROUND, CLIENT = 7, 4, 11, 3, name_key("client-0007")
PLAIN = build_half(HalfSettings())


def task_of(train_settings: TrainSettings, loss: LossSettings | None = None, head: HeadSettings | None = None) -> Any:
    loss = loss or SoftmaxLoss()
    kind = "real" if isinstance(loss, SquaredLoss) else "classes"
    return LocalTask(Objective(head or LinearHead(), loss, kind, OUTPUTS), train_settings, SEED, ROUND, 10)


def rows_of(num_samples: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, np.ndarray]:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(num_samples, FEATURES))
    features /= np.maximum(np.sqrt(np.square(features).mean(axis=1, keepdims=True)), 1e-9) * FEATURES**0.5
    return torch.tensor(features, dtype=dtype), generator.integers(0, OUTPUTS, num_samples)


def linear(seed: int = 1) -> nn.Linear:
    module = nn.Linear(FEATURES, OUTPUTS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    return module


def close(ours: dict[str, torch.Tensor], module: nn.Module, names: dict[str, str] | None = None) -> None:
    """Assert max|a-b| / max|b| <= 1e-6, of each array."""
    for name, theirs in module.state_dict().items():
        mine = ours[(names or {}).get(name, name)]
        assert ((mine - theirs).abs().max() / theirs.abs().max()).item() <= 1e-6, name


def compare(train_settings: TrainSettings, num_samples: int, factor: float = 1.0) -> LocalResult:
    """Train with ours and with the plain loop, and compare head, steps and loss."""
    features, classes = rows_of(num_samples)
    module, task = linear(), task_of(train_settings)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    before = {name: value.clone() for name, value in start.items()}
    targets = torch.from_numpy(classes)
    result = train_client(task, start, features, targets, CLIENT, PLAIN)
    rate = train_settings.optimizer.learning_rate * factor
    order = (SEED, ROUND, CLIENT)
    steps, total = train(module, nn.CrossEntropyLoss(), features, targets, train_settings, rate, order)
    close(result.parameters, module)
    assert result.num_steps == steps
    assert result.mean_loss == pytest.approx(_mean(total, train_settings, num_samples), rel=1e-5)
    assert all(torch.equal(start[name], before[name]) for name in start)
    return result


def _mean(total: float, train_settings: TrainSettings, num_samples: int) -> float:
    seen = sum(len(batch) for batch in batches_of(train_settings, SEED, ROUND, CLIENT, num_samples))
    return total / seen if seen else 0.0


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.05], ids=["", "clipped"])
def test_every_optimiser_is_torchs(optimizer: OptimizerSettings, clip_norm: float | None) -> None:
    compare(TrainSettings(local_epochs=3, batch_size=5, optimizer=optimizer, clip_norm=clip_norm), 23)


@settings(max_examples=100)
@given(
    num_samples=st.integers(0, 33),
    batch_size=st.integers(1, 12),
    drop_last=st.booleans(),
    epochs=st.one_of(st.none(), st.integers(1, 3)),
    steps=st.one_of(st.none(), st.integers(1, 9)),
    optimizer=st.sampled_from(list(OPTIMIZERS.values())),
    clip_norm=st.one_of(st.none(), st.floats(0.01, 2)),
)
def test_all_sizes_and_settings_are_those_of_the_plain_loop(
    num_samples: int, epochs: int | None, steps: int | None, **values: Any
) -> None:
    epochs = None if steps is not None else epochs
    compare(TrainSettings(local_epochs=epochs, local_steps=steps, **values), num_samples)


@pytest.mark.parametrize(
    ("num_samples", "values", "steps"),
    [
        (0, {}, 0),  # an empty client
        (0, {"local_steps": 5}, 0),
        (1, {"local_epochs": 4}, 4),
        (3, {"batch_size": 10}, 1),  # fewer than a batch
        (3, {"batch_size": 10, "drop_last": True, "local_epochs": 2}, 2),  # the only batch is never dropped
        (20, {"batch_size": 10, "drop_last": True}, 2),
        (23, {"batch_size": 10}, 3),
        (23, {"batch_size": 10, "drop_last": True, "local_epochs": 2}, 4),
        (23, {"batch_size": 10, "local_steps": 1}, 1),
        (23, {"batch_size": 10, "local_steps": 7}, 7),  # two epochs and a batch
        (23, {"batch_size": 10, "local_steps": 7, "drop_last": True}, 7),
        (1, {"batch_size": 1, "local_steps": 50}, 50),
    ],
)
def test_ragged_sizes(num_samples: int, values: dict[str, Any], steps: int) -> None:
    result = compare(TrainSettings(optimizer=OPTIMIZERS["momentum"], **values), num_samples)
    assert result.num_steps == steps


def test_an_empty_client_leaves_the_head_as_it_is() -> None:
    features, classes = rows_of(0)
    start = {name: value.clone() for name, value in linear().state_dict().items()}
    targets = target_tensor(classes, "classes", SoftmaxLoss(), OUTPUTS)
    result = train_client(task_of(TrainSettings()), start, features, targets, CLIENT, PLAIN)
    assert (result.num_steps, result.mean_loss) == (0, 0.0)
    assert all(torch.equal(result.parameters[name], value) for name, value in start.items())


@pytest.mark.parametrize(
    ("loss", "criterion"),
    [
        (SoftmaxLoss(label_smoothing=0.2), nn.CrossEntropyLoss(label_smoothing=0.2)),
        (SigmoidLoss(), nn.BCEWithLogitsLoss()),
        (SquaredLoss(), lambda outputs, targets: nn.MSELoss(reduction="sum")(outputs, targets) / 2 / len(outputs)),
    ],
    ids=["smoothed", "sigmoid", "squared"],
)
@pytest.mark.parametrize("hidden", [None, (6, 5)], ids=["linear", "mlp"])
def test_every_loss_and_head(loss: LossSettings, criterion: Any, hidden: tuple[int, ...] | None) -> None:
    features, classes = rows_of(23)
    values = np.random.default_rng(5).normal(size=(23, OUTPUTS)) if isinstance(loss, SquaredLoss) else classes
    train_settings = TrainSettings(local_epochs=2, batch_size=5, optimizer=OPTIMIZERS["momentum"])
    if hidden is None:
        module, head, names = linear(), LinearHead(), {"weight": "weight", "bias": "bias"}
    else:
        torch.manual_seed(3)
        module = nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, OUTPUTS))
        head = MlpHead(hidden=hidden)
        names = {f"{2 * i}.{part}": f"layers.{i}.{part}" for i in range(3) for part in ("weight", "bias")}
    task = task_of(train_settings, loss, head)
    targets = target_tensor(values, task.objective.task, loss, OUTPUTS)
    start = {names[name]: value.clone() for name, value in module.state_dict().items()}
    result = train_client(task, start, features, targets, CLIENT, PLAIN)
    train(module, criterion, features, targets, train_settings, 0.05, (SEED, ROUND, CLIENT))
    close(result.parameters, module, names)


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        (Constant(), 1.0),
        (Constant(warmup_rounds=5), 3 / 6),  # round 3 of five to warm up in, full in the sixth
        (Constant(warmup_rounds=1), 1.0),
        (Step(every=2, factor_per_step=0.25), 0.25),  # rounds 1 and 2 are before the first step
        (Step(every=1, factor_per_step=0.5), 0.25),
        (Step(every=3), 1.0),
        (Cosine(), (1 + np.cos(np.pi * 2 / 10)) / 2),  # two tenths of the way
        (Cosine(final_factor=0.5), 0.5 + 0.5 * (1 + np.cos(np.pi * 2 / 10)) / 2),
        (Cosine(warmup_rounds=2), (1 + np.cos(np.pi * 2 / 10)) / 2),
    ],
    ids=repr,
)
def test_schedules_multiply_the_rate_of_the_round(schedule: Any, factor: float) -> None:
    assert schedule.factor(ROUND, 10) == pytest.approx(factor, rel=1e-12)
    compare(TrainSettings(local_epochs=2, batch_size=5, schedule=schedule), 12, factor)


def test_schedules_begin_full_and_end_low() -> None:
    assert Cosine().factor(1, 10) == 1.0
    assert 0 < Cosine().factor(10, 10) < 0.03
    assert [Step(every=2).factor(number, 10) for number in range(1, 6)] == [1, 1, 0.5, 0.5, 0.25]
    assert [Constant(warmup_rounds=3).factor(number, 10) for number in range(1, 6)] == [0.25, 0.5, 0.75, 1, 1]


def step_by_step(
    start: dict[str, np.ndarray], x: np.ndarray, classes: np.ndarray, train_settings: TrainSettings, mu: float
) -> dict[str, np.ndarray]:
    """Write the proximal SGD step out, for softmax regression: clip, then the proximal term, then weight decay."""
    weight, bias = start["weight"].copy(), start["bias"].copy()
    velocity: list[np.ndarray] | None = None
    sgd = train_settings.optimizer
    for batch in batches_of(train_settings, SEED, ROUND, CLIENT, len(x)):
        logits = x[batch] @ weight.T + bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        residual = shifted / shifted.sum(axis=1, keepdims=True) - np.eye(OUTPUTS)[classes[batch]]
        gradients = [residual.T @ x[batch] / len(batch), residual.mean(axis=0)]
        if train_settings.clip_norm is not None:
            norm = np.sqrt(sum(np.square(gradient).sum() for gradient in gradients))
            gradients = [gradient * min(1, train_settings.clip_norm / (norm + 1e-6)) for gradient in gradients]
        gradients = [
            gradient + mu * (value - before) + sgd.weight_decay * value
            for gradient, value, before in zip(gradients, (weight, bias), (start["weight"], start["bias"]), strict=True)
        ]
        velocity = (
            gradients if velocity is None else [sgd.momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        )
        steps = [g + sgd.momentum * v for v, g in zip(velocity, gradients, strict=True)] if sgd.nesterov else velocity
        weight, bias = weight - sgd.learning_rate * steps[0], bias - sgd.learning_rate * steps[1]
    return {"weight": weight, "bias": bias}


@pytest.mark.parametrize("mu", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(
    ("name", "clip_norm"),
    [("sgd", None), ("sgd", 0.1), ("momentum", 0.1), ("decay", 0.1), ("all of them", None), ("all of them", 0.1)],
)
def test_the_proximal_step_by_hand(name: str, clip_norm: float | None, mu: float) -> None:
    """In float64, where the order of the parts of a step shows in the last digits and not in noise."""
    x, classes = rows_of(17, dtype=torch.float64)
    train_settings = TrainSettings(local_epochs=3, batch_size=4, optimizer=OPTIMIZERS[name], clip_norm=clip_norm)
    start = {key: value.double() for key, value in linear().state_dict().items()}
    half = build_half(HalfSettings(name="proximal", parameters={"mu": mu}))
    ours = train_client(task_of(train_settings), start, x, torch.from_numpy(classes), CLIENT, half).parameters
    expected = step_by_step(
        {key: value.numpy() for key, value in start.items()}, x.numpy(), classes, train_settings, mu
    )
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key].numpy(), value, rtol=0, atol=1e-12 * np.abs(value).max())


def test_mu_of_zero_is_the_plain_half_to_the_bit() -> None:
    features, classes = rows_of(17)
    start = dict(linear().state_dict())
    halves = [PLAIN, build_half(HalfSettings(name="proximal", parameters={"mu": 0.0}))]
    task, targets = task_of(TrainSettings(local_epochs=3)), torch.from_numpy(classes)
    plain, proximal = (train_client(task, start, features, targets, CLIENT, half).parameters for half in halves)
    assert all(torch.equal(plain[name], proximal[name]) for name in plain)


@given(num_samples=st.integers(1, 40), batch_size=st.integers(1, 12), drop_last=st.booleans(), epochs=st.integers(1, 3))
def test_an_epoch_holds_every_sample_once(num_samples: int, batch_size: int, drop_last: bool, epochs: int) -> None:
    train_settings = TrainSettings(local_epochs=epochs, batch_size=batch_size, drop_last=drop_last)
    taken = list(batches(task_of(train_settings), CLIENT, num_samples))
    a_epoch = len(taken) // epochs
    for epoch in range(epochs):
        part = taken[epoch * a_epoch : (epoch + 1) * a_epoch]
        seen = np.concatenate(part).tolist()
        assert len(set(seen)) == len(seen)
        dropped = num_samples % batch_size if drop_last and num_samples > batch_size else 0
        assert len(seen) == num_samples - dropped
        assert seen == order_of(SEED, ROUND, CLIENT, epoch, num_samples)[: len(seen)]


def test_torchs_generator_is_neither_asked_nor_moved() -> None:
    features, classes = rows_of(17)
    start, task = dict(linear().state_dict()), task_of(TrainSettings(local_epochs=2))
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        results.append(train_client(task, start, features, torch.from_numpy(classes), CLIENT, PLAIN).parameters)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(results[0][name], results[1][name]) for name in start)


def test_unknown_halves_and_parameters_are_refused() -> None:
    with pytest.raises(WireError) as caught:
        build_half(HalfSettings(name="proximl"))
    assert str(caught.value) == (
        f"the strategy asks for the client half 'proximl', this client has {', '.join(HALVES)}; "
        "install the release that the server runs; did you mean 'proximal'?"
    )
    with pytest.raises(WireError, match=r"half 'proximal' came with parameters none, expected mu$"):
        build_half(HalfSettings(name="proximal"))
    with pytest.raises(WireError, match=r"half 'plain' came with parameters mu, nu, expected none$"):
        build_half(HalfSettings(parameters={"nu": 1.0, "mu": 1.0}))


NAMES = ("a", "b", "c")


def one_by_one(train_settings: TrainSettings, sizes: tuple[int, ...]) -> list[Any]:
    """Train clients of the given sizes from the same head."""
    samples = []
    for number, size in enumerate(sizes):
        features, classes = rows_of(size, seed=number)
        samples.append((features, torch.from_numpy(classes)))
    start = dict(linear().state_dict())
    return list(train_one_by_one(task_of(train_settings), start, samples, name_keys(NAMES), NAMES, PLAIN))


def test_clients_train_one_by_one_without_the_empty() -> None:
    train_settings = TrainSettings(local_epochs=2, batch_size=5, optimizer=OPTIMIZERS["momentum"])
    trained = one_by_one(train_settings, (7, 0, 12))
    assert [clients.turns.tolist() for clients in trained] == [[0], [2]]
    assert [clients.num_samples.tolist() for clients in trained] == [[7], [12]]
    assert [clients.num_steps.tolist() for clients in trained] == [[4], [6]]
    for clients, size in zip(trained, (7, 12), strict=True):
        turn = int(clients.turns[0])
        features, classes = rows_of(size, seed=turn)
        module = linear()
        start = {name: value.clone() for name, value in module.state_dict().items()}
        order = (SEED, ROUND, name_key(NAMES[turn]))
        _, total = train(
            module, nn.CrossEntropyLoss(), features, torch.from_numpy(classes), train_settings, 0.05, order
        )
        assert clients.mean_losses[0] == pytest.approx(total / (2 * size), rel=1e-5)
        close({name: start[name] + value for name, value in clients.update.items()}, module)
        updates, summed = clients.updates(), clients.weighted_sum(np.array([3.0]))
        for name, value in clients.update.items():
            assert np.array_equal(updates[name], value[None].numpy())
            assert np.array_equal(summed[name], 3 * value.double().numpy())


def test_a_diverged_client_is_named_with_what_to_do() -> None:
    train_settings = TrainSettings(local_epochs=200, optimizer=Sgd(learning_rate=50, weight_decay=1))
    with pytest.raises(TrainingError) as caught:
        one_by_one(train_settings, (0, 20))
    assert str(caught.value) == (
        "the head of client 'b' is not finite after 400 local steps of round 3, so training diverged; "
        "lower train.optimizer.learning_rate (now 50) or set train.clip_norm"
    )
