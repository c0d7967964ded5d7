"""The cohort engine against the plain loop and the tutorial's loop: every kind of training, sizes drawn.

Features have a norm of at most 1, so the curvature of every loss by a linear head's parameters is at most 2 (the
squared loss, with a bias); the learning rates drawn times that, the proximal term and the decay stay below 1, and
other heads take smaller ones. A rate at which training diverges makes no two implementations agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plain_loop import batches_of, rate_of, train
from torch import nn

from clients.engine import choice, tables
from clients.engine.batches import num_steps, plan_steps
from clients.engine.cohort import Engine
from clients.halves import Control, build_half
from clients.replies import Trained
from clients.settings import Adam, AdamW, Constant, Cosine, OptimizerSettings, Sgd, Step, TrainSettings
from clients.training import LocalTask, batches, train_one_by_one
from fedgraft.data.ragged import Ragged, ragged
from fedgraft.errors import TrainingError
from fedgraft.evaluation import Objective
from fedgraft.models.head_settings import CosineHead, HeadSettings, LinearHead, MlpHead
from fedgraft.models.heads import head_shapes
from fedgraft.models.loss_settings import LossSettings, SigmoidLoss, SoftmaxLoss, SquaredLoss
from fedgraft.models.losses import target_tensor
from fedgraft.randomness import name_keys
from fedgraft.wire.requests import HalfSettings

DIM, OUTPUTS, SPARE = 7, 4, 5
LINEAR, SOFTMAX = LinearHead(), SoftmaxLoss()
Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Case:
    """A round of a small federation. Some samples belong to nobody, and clients' samples lie scattered."""

    sizes: tuple[int, ...]
    train: TrainSettings
    head: HeadSettings = LINEAR
    loss: LossSettings = SOFTMAX
    task: Any = "classes"
    mu: float = 0.0
    seed: int = 0
    round_number: int = 3
    ascent: float = 0.0

    @property
    def names(self) -> list[str]:
        return [f"client-{number}" for number in range(len(self.sizes))]

    @property
    def local_task(self) -> LocalTask:
        return LocalTask(
            Objective(self.head, self.loss, self.task, OUTPUTS),
            self.train,
            self.seed,
            self.round_number,
            10,
            self.ascent,
        )

    @property
    def parts(self) -> Ragged:
        total = sum(self.sizes)
        return ragged(np.random.default_rng(self.seed).permutation(total + SPARE)[:total], self.sizes)

    @property
    def features(self) -> NDArray[np.float64]:
        values = np.random.default_rng(self.seed + 1).normal(size=(sum(self.sizes) + SPARE, DIM))
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    @property
    def targets(self) -> NDArray[Any]:
        generator, total = np.random.default_rng(self.seed + 2), sum(self.sizes) + SPARE
        if self.task == "classes":
            return generator.integers(0, OUTPUTS, total)
        if self.task == "labels":
            return (generator.random((total, OUTPUTS)) < 0.3).astype(np.uint8)
        return generator.normal(size=(total, OUTPUTS)).astype(np.float32)

    def start(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng(self.seed + 3)
        shapes = head_shapes(self.head, DIM, OUTPUTS)
        head = {name: torch.tensor(0.5 * generator.normal(size=shape)) for name, shape in shapes.items()}
        if isinstance(self.head, CosineHead):
            head["scale"] = torch.full((1,), self.head.scale, dtype=torch.float64)
        return {name: value.to(dtype) for name, value in head.items()}

    def engine(self, dtype: torch.dtype = torch.float64, features: NDArray[Any] | None = None) -> Engine:
        count = len(self.sizes)
        return Engine(
            self.features if features is None else features,
            self.targets,
            self.parts,
            np.arange(count),
            name_keys(self.names),
            self.names,
            self.local_task,
            dtype=dtype,
        )

    def client(self, position: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a client's features and targets."""
        rows = self.parts.of(position)
        targets = target_tensor(self.targets[rows], self.task, self.loss, OUTPUTS)
        return torch.from_numpy(self.features[rows]).to(dtype), (
            targets if targets.dtype == torch.int64 else targets.to(dtype)
        )


@dataclass(frozen=True)
class Outcome:
    """What a round gave: each client's update, its steps and losses by its turn, and the sums over clients."""

    updates: dict[int, Arrays]
    facts: dict[int, tuple[float, ...]]
    sums: Arrays


def gathered(trained: list[Trained]) -> Outcome:
    """Read each client's update in float64: as a sum with the weight 1 for it and 0 for the others."""
    updates: dict[int, Arrays] = {}
    facts: dict[int, tuple[float, ...]] = {}
    sums: Arrays = {}
    for clients in trained:
        for name, value in clients.weighted_sum(clients.num_samples.astype(np.float64)).items():
            sums[name] = sums.get(name, np.zeros(value.shape)) + value
        for place, turn in enumerate(clients.turns.tolist()):
            assert turn not in updates
            alone = np.zeros(len(clients.turns))
            alone[place] = 1
            updates[turn] = clients.weighted_sum(alone)
            columns = (clients.mean_losses, clients.losses_before, clients.losses_after, clients.scores_after)
            facts[turn] = (int(clients.num_steps[place]), *(float(column[place]) for column in columns))
    return Outcome(updates, facts, sums)


def by_engine(
    case: Case,
    index: list[int] | None = None,
    dtype: torch.dtype = torch.float64,
    engine: Engine | None = None,
    control: Control | None = None,
) -> Outcome:
    chosen = np.arange(len(case.sizes)) if index is None else np.array(index, dtype=np.int64)
    engine = engine or case.engine(dtype)
    return gathered(list(engine.run(case.local_task, case.start(dtype), chosen, case.mu, control)))


def by_loop(case: Case, dtype: torch.dtype = torch.float64, control: Control | None = None) -> Outcome:
    samples = (case.client(position, dtype) for position in range(len(case.sizes)))
    half = HalfSettings(name="proximal", parameters={"mu": case.mu}) if case.mu else HalfSettings()
    keys, adjust = name_keys(case.names), build_half(half)
    task, start = case.local_task, case.start(dtype)
    return gathered(list(train_one_by_one(task, start, samples, keys, case.names, adjust, control)))


def distance(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest max|a - b| / max|b| over the arrays; b of nothing but zeros must be met exactly."""
    assert set(ours) == set(theirs)
    found = 0.0
    for name, value in theirs.items():
        gap, scale = np.abs(ours[name] - value).max(), np.abs(value).max()
        found = max(found, float(gap / scale) if scale else float(gap))
    return found


def heads(case: Case, outcome: Outcome) -> dict[int, Arrays]:
    start = {name: value.numpy() for name, value in case.start(torch.float64).items()}
    return {turn: {name: start[name] + value for name, value in one.items()} for turn, one in outcome.updates.items()}


def same(ours: Outcome, theirs: Outcome, tolerance: float) -> None:
    assert ours.facts.keys() == theirs.facts.keys()
    for turn, (steps, *losses, score) in theirs.facts.items():
        assert ours.facts[turn][0] == steps
        assert ours.facts[turn][1:4] == pytest.approx(losses, rel=tolerance, abs=tolerance)
        assert ours.facts[turn][4] == pytest.approx(score, rel=tolerance, abs=tolerance)
        assert distance(ours.updates[turn], theirs.updates[turn]) <= tolerance, turn
    assert distance(ours.sums, theirs.sums) <= tolerance


RATES = st.floats(0.02, 0.3)
SMALL = st.floats(0.001, 0.02)
SCHEDULES = [Constant(), Constant(warmup_rounds=9), Step(every=20), Cosine(final_factor=0.2, warmup_rounds=2)]


@st.composite
def sgd(draw: st.DrawFn, rates: st.SearchStrategy[float] = RATES) -> Sgd:
    momentum = draw(st.sampled_from([0.0, 0.5, 0.9]))
    nesterov = momentum > 0 and draw(st.booleans())
    decay = draw(st.sampled_from([0.0, 0.01, 0.1]))
    return Sgd(learning_rate=draw(rates), momentum=momentum, nesterov=nesterov, weight_decay=decay)


@st.composite
def adam(draw: st.DrawFn, epsilon: float) -> OptimizerSettings:
    values = {"learning_rate": draw(SMALL), "weight_decay": draw(st.sampled_from([0.0, 0.1])), "epsilon": epsilon}
    return draw(st.sampled_from([Adam, AdamW]))(**values, beta_1=draw(st.sampled_from([0.0, 0.9])), beta_2=0.99)


@st.composite
def cases(draw: st.DrawFn, epsilon: float = 1e-8) -> Case:
    head = draw(
        st.sampled_from([LinearHead(), LinearHead(), LinearHead(bias=False), CosineHead(scale=2), MlpHead(hidden=(6,))])
    )
    linear = isinstance(head, LinearHead)
    optimizer = draw(st.one_of(sgd(), sgd(), adam(epsilon)) if linear else st.one_of(sgd(SMALL), adam(epsilon)))
    loss, task = draw(
        st.sampled_from(
            [
                (SoftmaxLoss(), "classes"),
                (SoftmaxLoss(label_smoothing=0.2), "classes"),
                (SoftmaxLoss(label_smoothing=0.2, class_weights=(0.5, 1.0, 3.0, 2.0)), "classes"),
                (SigmoidLoss(), "classes"),
                (SigmoidLoss(), "labels"),
                (SquaredLoss(), "classes"),
                (SquaredLoss(), "labels"),
                (SquaredLoss(), "real"),
            ]
        )
    )
    steps = draw(st.one_of(st.none(), st.integers(1, 9)))
    train_settings = TrainSettings(
        local_steps=steps,
        local_epochs=None if steps else draw(st.integers(1, 3)),
        batch_size=draw(st.integers(1, 12)),
        drop_last=draw(st.booleans()),
        optimizer=optimizer,
        schedule=draw(st.sampled_from(SCHEDULES)),
        clip_norm=draw(st.one_of(st.none(), st.floats(0.01, 1))),
        form=draw(st.sampled_from(["auto", "dual", "primal"])),
    )
    equal = st.builds(lambda size, count: (size,) * count, st.integers(1, 25), st.integers(1, 6))
    sizes = draw(st.one_of(equal, st.lists(st.integers(0, 40), min_size=1, max_size=9).map(tuple)))
    mu = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    seed, round_number = draw(st.integers(0, 2**32)), draw(st.integers(1, 50))
    ascent = draw(st.sampled_from([0.0, 0.0, 0.05, 0.5]))
    return Case(sizes, train_settings, head, loss, task, mu, seed, round_number, ascent)


@settings(max_examples=120)
@given(case=cases())
def test_every_training_is_the_plain_loops_in_float64(case: Case) -> None:
    same(by_engine(case), by_loop(case), 1e-10)


@settings(max_examples=70)
@given(case=cases(epsilon=1e-3))
def test_every_training_is_the_plain_loops_in_float32(case: Case) -> None:
    """Of the heads after training: an update is a difference, so in it the loop itself is less exact."""
    ours, theirs = by_engine(case, dtype=torch.float32), by_loop(case, torch.float32)
    exact = heads(case, theirs)
    for turn, head in heads(case, ours).items():
        assert distance(head, exact[turn]) <= 1e-5


def module_of(case: Case) -> tuple[nn.Module, dict[str, str]]:
    """Return the head as a PyTorch user would build it, and our name of each of its parameters."""
    if isinstance(case.head, LinearHead):
        module: nn.Module = nn.Linear(DIM, OUTPUTS, bias=case.head.bias)
        names = {name: name for name in module.state_dict()}
    else:
        module = nn.Sequential(nn.Linear(DIM, 6), nn.ReLU(), nn.Linear(6, OUTPUTS))
        names = {f"{2 * layer}.{part}": f"layers.{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")}
    start = case.start(torch.float64)
    module.double().load_state_dict({theirs: start[ours] for theirs, ours in names.items()})
    return module, names


@settings(max_examples=70)
@given(case=cases().filter(lambda case: case.mu == 0 and not isinstance(case.head, CosineHead)))
def test_every_training_is_the_tutorials(case: Case) -> None:
    """The oracle shares no code with ours: nn.Module, torch.optim, PyTorch's criteria, batches from plain integers."""
    criterion: Any = nn.BCEWithLogitsLoss()
    if isinstance(case.loss, SoftmaxLoss):
        weights = None if case.loss.class_weights is None else torch.tensor(case.loss.class_weights).double()
        criterion = nn.CrossEntropyLoss(weights, label_smoothing=case.loss.label_smoothing)
    elif isinstance(case.loss, SquaredLoss):
        criterion = lambda outputs, wanted: (outputs - wanted).square().sum() / 2 / len(outputs)  # noqa: E731  # one line
    ours = by_engine(case)
    start = {name: value.numpy() for name, value in case.start(torch.float64).items()}
    trained = 0
    for turn, size in enumerate(case.sizes):
        module, names = module_of(case)
        features, targets = case.client(turn, torch.float64)
        order = (case.seed, case.round_number, int(name_keys(case.names)[turn]))
        rate = rate_of(case.train, case.round_number, case.local_task.num_rounds)
        before = criterion(module(features), targets).item() if size else 0.0
        steps, total = train(module, criterion, features, targets, case.train, rate, order, case.ascent)
        if size == 0:
            assert (turn in ours.updates, steps) == (False, 0)
            continue
        trained += 1
        seen = sum(len(batch) for batch in batches_of(case.train, *order, size))
        losses = (total / seen, before, criterion(module(features), targets).item())
        assert ours.facts[turn][:4] == (steps, *(pytest.approx(loss, rel=1e-10, abs=1e-10) for loss in losses))
        update = {names[name]: value.numpy() - start[names[name]] for name, value in module.state_dict().items()}
        assert distance(ours.updates[turn], update) <= 1e-10
    assert trained == len(ours.updates)


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    batch_size=st.integers(1, 20),
    drop_last=st.booleans(),
    epochs=st.integers(1, 4),
    steps=st.one_of(st.none(), st.integers(1, 30)),
    seed=st.integers(-5, 2**63 - 1),
    round_number=st.integers(1, 1000),
)
def test_steps_are_those_of_each_client_alone(
    sizes: list[int], batch_size: int, drop_last: bool, epochs: int, steps: int | None, seed: int, round_number: int
) -> None:
    train_settings = TrainSettings(
        local_epochs=None if steps else epochs, local_steps=steps, batch_size=batch_size, drop_last=drop_last
    )
    keys = name_keys([f"client-{number}" for number in range(len(sizes))])
    counts = np.array(sizes, dtype=np.int64)
    planned = plan_steps(train_settings, seed, round_number, keys, counts)
    task = LocalTask(Objective(LinearHead(), SoftmaxLoss(), "classes", 2), train_settings, seed, round_number, 1)
    for place, size in enumerate(sizes):
        alone = [batch.tolist() for batch in batches(task, int(keys[place]), size)]
        taken = [
            planned.index[place, step, : planned.counts[place, step]].tolist() for step in range(planned.lengths[place])
        ]
        assert taken == alone
        assert not planned.counts[place, planned.lengths[place] :].any()
        assert planned.index[place].min(initial=0) >= 0
        assert planned.index[place].max(initial=0) < max(size, 1)
    assert planned.lengths.tolist() == num_steps(counts, train_settings).tolist()
    by_size = np.argsort(-counts, kind="stable")
    assert (np.diff(planned.lengths[by_size]) <= 0).all()  # what training in falling order of sizes relies on


@settings(max_examples=40)
@given(case=cases(epsilon=1e-3), data=st.data())
def test_a_client_does_not_feel_its_cohort(case: Case, data: st.DataObject) -> None:
    """Any subset, in float32: each client's head to 1e-6 of its largest value."""
    everyone = by_engine(case, dtype=torch.float32)
    index = sorted(data.draw(st.sets(st.integers(0, len(case.sizes) - 1))))
    some = by_engine(case, index, dtype=torch.float32)
    together, apart = heads(case, everyone), heads(case, some)
    assert set(some.updates) == {turn for turn, position in enumerate(index) if case.sizes[position]}
    for turn, head in apart.items():
        assert distance(head, together[index[turn]]) <= 1e-6
        assert some.facts[turn] == pytest.approx(everyone.facts[index[turn]], rel=1e-5)


@settings(max_examples=40)
@given(case=cases())
def test_sums_are_the_weighted_sums_of_the_updates(case: Case) -> None:
    for clients in case.engine().run(case.local_task, case.start(torch.float64), np.arange(len(case.sizes)), case.mu):
        updates, weights = clients.updates(), np.random.default_rng(case.seed).normal(size=len(clients.turns))
        summed = clients.weighted_sum(weights)
        for name, value in updates.items():
            assert (value.dtype, value.shape) == (np.float32, (len(weights), *summed[name].shape))
            expected = np.tensordot(weights, value.astype(np.float64), axes=1)
            scale = np.abs(np.tensordot(np.abs(weights), np.abs(value.astype(np.float64)), axes=1)).max()
            assert np.abs(summed[name] - expected).max() <= 1e-7 * scale


RAGGED = Case((13, 0, 1, 7, 10, 25, 24, 3, 10, 11), TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5)))


@pytest.mark.parametrize("optimizer", [Sgd(momentum=0.9, weight_decay=0.01), Adam(epsilon=1e-4)], ids=["sgd", "adam"])
def test_rounds_after_the_first_are_those_of_a_fresh_engine(optimizer: OptimizerSettings) -> None:
    first = Case(RAGGED.sizes, TrainSettings(local_epochs=2, optimizer=optimizer), round_number=1, mu=0.1)
    second = Case(first.sizes, first.train, round_number=2, mu=0.1)
    engine = first.engine()
    by_engine(first, [0, 3, 5], engine=engine)  # some are read first, others later, some again
    by_engine(first, engine=engine)
    same(by_engine(second, engine=engine), by_engine(second), 0.0)
    same(by_engine(second, [1, 2, 6], engine=engine), by_engine(second, [1, 2, 6]), 0.0)
    assert distance(by_engine(second).sums, by_engine(first).sums) > 1e-3  # rounds do differ


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("bytes_at_once", [1, 4000])
def test_groups_of_any_size_give_the_same(form: Any, bytes_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(RAGGED.sizes * 4, TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5), form=form))
    expected = by_engine(case)
    monkeypatch.setattr(choice, "BYTES_AT_ONCE", bytes_at_once)
    ours = case.engine()
    trained = list(ours.run(case.local_task, case.start(torch.float64), np.arange(40)))
    assert len(trained) == 36 if bytes_at_once == 1 else 6 < len(trained) < 36
    same(gathered(trained), expected, 1e-12)  # where not one Gram matrix has room, of the primal form


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("room", [0, 3000, 6000])
def test_what_is_not_kept_is_read_again(form: Any, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether nothing, some, or all is kept between rounds: the same numbers."""
    case = Case(RAGGED.sizes, TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5), form=form))
    expected, part = by_engine(case), by_engine(case, [0, 4, 5])
    monkeypatch.setattr(tables, "LARGEST_KEPT_BYTES", room)
    engine = case.engine()
    for _ in range(2):
        same(by_engine(case, engine=engine), expected, 1e-14)
        same(by_engine(case, [0, 4, 5], engine=engine), part, 1e-14)


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_no_bit_depends_on_the_number_of_threads(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "ENOUGH", 3)
    case = Case(RAGGED.sizes * 12, TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5), form=form))

    def trained(threads: int) -> list[Trained]:
        start, engine = case.start(torch.float32), case.engine(torch.float32)
        return list(engine.run_each(lambda clients: clients, case.local_task, start, np.arange(120), threads=threads))

    alone = trained(1)
    assert len(alone) > 8
    for threads in (2, 5):
        many = trained(threads)
        assert [clients.turns.tolist() for clients in many] == [clients.turns.tolist() for clients in alone]
        same(gathered(many), gathered(alone), 0.0)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_client_that_diverges_is_named_whoever_is_first(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "ENOUGH", 2)
    train_settings = TrainSettings(local_epochs=60, optimizer=Sgd(learning_rate=1e30))
    case = Case((12,) * 12, train_settings, loss=SquaredLoss())
    start, engine = case.start(torch.float32), case.engine(torch.float32)
    with pytest.raises(TrainingError, match=r"client 'client-0' is not finite after 120 local steps"):
        list(engine.run_each(lambda clients: clients, case.local_task, start, np.arange(12), threads=threads))


def test_the_first_client_that_diverges_is_named() -> None:
    train_settings = TrainSettings(local_epochs=60, optimizer=Sgd(learning_rate=1e30))
    case = Case((3, 0, 12, 12), train_settings, loss=SquaredLoss(), round_number=4)
    with pytest.raises(TrainingError) as caught:
        by_engine(case, dtype=torch.float32)
    assert str(caught.value) == (
        "the head of client 'client-2' is not finite after 120 local steps of round 4, so training diverged; "
        "lower train.optimizer.learning_rate (now 1e+30) or set train.clip_norm"
    )


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_decay_alone_can_diverge(form: Any) -> None:
    """A head of zeros has outputs of zeros; what grows without bound is the scale of the head that came."""
    sgd_settings = Sgd(learning_rate=1e20, weight_decay=1e20)
    case = Case((4, 4), TrainSettings(local_epochs=1, optimizer=sgd_settings, form=form), loss=SquaredLoss())
    with pytest.raises(TrainingError, match=r"client 'client-0' is not finite after 1 local steps"):
        by_engine(case, dtype=torch.float32)


def test_one_client_that_diverges_is_found_among_others() -> None:
    """Under a rate that suits the others, one client's features are too long."""
    case = Case((10, 10, 10), TrainSettings(local_epochs=50, optimizer=Sgd(learning_rate=0.1)), loss=SquaredLoss())
    features = case.features
    features[case.parts.of(1)] *= 1000
    with pytest.raises(TrainingError, match="client 'client-1' is not finite after 50 local steps"):
        by_engine(case, dtype=torch.float32, engine=case.engine(torch.float32, features))


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_features_of_half_precision_are_read_from_their_map(form: Any, tmp_path: Path) -> None:
    case = Case(RAGGED.sizes, TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5), form=form))
    halves = case.features.astype(np.float16)
    np.save(tmp_path / "features.npy", halves)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(mapped, np.memmap)
    ours = by_engine(case, dtype=torch.float32, engine=case.engine(torch.float32, mapped))
    whole = case.engine(torch.float32, halves.astype(np.float32))
    same(ours, by_engine(case, dtype=torch.float32, engine=whole), 0.0)


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_what_came_is_not_changed(form: Any) -> None:
    case = Case(RAGGED.sizes, TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5), form=form))
    start, index, features = case.start(torch.float64), np.arange(10), case.features
    engine = case.engine(features=features)
    list(engine.run(case.local_task, start, index, 0.1))
    assert all(torch.equal(start[name], value) for name, value in case.start(torch.float64).items())
    assert np.array_equal(index, np.arange(10))
    assert np.array_equal(features, case.features)


def test_nobody_may_train() -> None:
    assert by_engine(RAGGED, []).updates == by_engine(RAGGED, [1]).updates == {}
    empty = Case((0, 0), TrainSettings())
    assert (empty.engine().buckets, by_engine(empty).updates) == ([], {})


def test_a_host_of_some_clients_reads_their_own_samples() -> None:
    """An engine's clients are positions among a larger federation's."""
    everyone, own = by_engine(RAGGED), [2, 5, 9]
    names = [RAGGED.names[position] for position in own]
    engine = Engine(
        RAGGED.features,
        RAGGED.targets,
        RAGGED.parts,
        np.array(own),
        name_keys(names),
        names,
        RAGGED.local_task,
        dtype=torch.float64,
    )
    ours = by_engine(RAGGED, [0, 1, 2], engine=engine)
    for turn, position in enumerate(own):
        assert distance(ours.updates[turn], everyone.updates[position]) <= 1e-12


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_a_shard_has_the_same_bits_whoever_shares_its_host(form: Any) -> None:
    train_settings = TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5), form=form)
    case = Case(RAGGED.sizes * 2, train_settings)
    shards = np.repeat([0, 1, 2], [8, 7, 5])

    def engine_of(positions: NDArray[np.int64]) -> Engine:
        names = [case.names[position] for position in positions]
        return Engine(
            case.features,
            case.targets,
            case.parts,
            positions,
            name_keys(names),
            names,
            case.local_task,
            shards[positions],
            dtype=torch.float32,
        )

    together = engine_of(np.arange(20))
    for shard in range(3):
        members = np.flatnonzero(shards == shard)
        ours = by_engine(case, members.tolist(), torch.float32, together)
        alone = by_engine(case, list(range(len(members))), torch.float32, engine_of(members))
        same(ours, alone, 0.0)


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("task", ["classes", "real"])
def test_nothing_that_was_not_written_is_read(form: Any, task: Any) -> None:
    """Tables are made without zeros; under deterministic algorithms torch fills such memory with NaN."""
    train_settings = TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5, weight_decay=0.01), form=form)
    loss = SoftmaxLoss() if task == "classes" else SquaredLoss()
    case = Case(RAGGED.sizes, train_settings, loss=loss, task=task, mu=0.1)
    expected = by_loop(case)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        engine = case.engine()
        by_engine(case, [2, 4, 5], engine=engine)
        ours = by_engine(case, engine=engine)
    finally:
        torch.use_deterministic_algorithms(False)
    same(ours, expected, 1e-10)
