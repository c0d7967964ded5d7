"""Control variates in every form against a tutorial's loop over torch.optim, and against the paper's own expression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from plain_loop import batches_of, optimizer_of, rate_of
from test_client_engine import DIM, OUTPUTS, Arrays, Case, by_engine, by_loop, cases, distance, heads, same
from torch import nn

from clients.engine.cohort import Engine
from clients.halves import Control
from clients.replies import SumReply
from clients.settings import Sgd, TrainSettings
from clients.state.tables import Layout, StateTable
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.heads import head_shapes
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.randomness import name_keys


def shared_of(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Return some control variate of the federation, of about the size of a gradient."""
    generator = np.random.default_rng(case.seed + 4)
    shapes = head_shapes(case.head, DIM, OUTPUTS)
    return {name: torch.tensor(0.1 * generator.normal(size=shape)).to(dtype) for name, shape in shapes.items()}


def control_of(case: Case, layout: Layout, dtype: Any = torch.float64) -> Control:
    kind = np.float64 if dtype == torch.float64 else np.float32
    return Control(shared_of(case, dtype), StateTable(layout, "span", kind), np.arange(len(case.sizes)))


def alone(case: Case) -> Layout:
    """Return the layout of the plain loop, where nothing is kept in coefficients."""
    sizes = np.array(case.sizes, dtype=np.int64)
    return Layout(sizes, np.zeros(len(sizes), dtype=np.bool_), OUTPUTS, head_shapes(case.head, DIM, OUTPUTS))


def kept(case: Case, table: StateTable) -> dict[int, Arrays]:
    """Return every client's control variate as arrays of the head's shapes."""
    found = {}
    for position in np.flatnonzero(table.layout.sizes).tolist():
        client = np.array([position])
        if not table.layout.dual[position]:
            found[position] = {name: value[0] for name, value in table.heads(client).items()}
            continue
        coefficients = table.coefficients(client, case.sizes[position])[0]
        found[position] = {"weight": coefficients.T @ case.features[case.parts.of(position)]}
        if case.head.bias:
            found[position]["bias"] = coefficients.sum(axis=0)
    return found


@settings(max_examples=80)
@given(case=cases())
def test_three_rounds_are_the_plain_loops_in_float64(case: Case) -> None:
    engine = case.engine()
    ours, theirs = control_of(case, engine.layout), control_of(case, alone(case))
    for round_number in (1, 2, 3):
        case = replace(case, round_number=round_number)
        same(by_engine(case, engine=engine, control=ours), by_loop(case, control=theirs), 1e-10)
        expected = kept(case, theirs.own)
        for client, value in kept(case, ours.own).items():
            assert distance(value, expected[client]) <= 1e-10


@settings(max_examples=50)
@given(case=cases(epsilon=1e-3))
def test_three_rounds_are_the_plain_loops_in_float32(case: Case) -> None:
    engine = case.engine(torch.float32)
    ours, theirs = (control_of(case, layout, torch.float32) for layout in (engine.layout, alone(case)))
    for round_number in (1, 2, 3):
        case = replace(case, round_number=round_number)
        trained = by_engine(case, dtype=torch.float32, engine=engine, control=ours)
        exact = heads(case, by_loop(case, torch.float32, theirs))
        for turn, head in heads(case, trained).items():
            assert distance(head, exact[turn]) <= 1e-5
        expected = kept(case, theirs.own)
        for client, value in kept(case, ours.own).items():
            assert distance(value, expected[client]) <= 2e-5


def by_tutorial(case: Case, position: int, own: Arrays) -> tuple[Arrays, Arrays]:
    """Return a client's head and its next control variate, as nn.Module and torch.optim compute them."""
    module = nn.Linear(DIM, OUTPUTS, bias=case.head.bias).double()
    start, shared = case.start(torch.float64), shared_of(case)
    module.load_state_dict(start)
    features, targets = case.client(position, torch.float64)
    optimizer = optimizer_of(case.train, module, rate_of(case.train, case.round_number, case.local_task.num_rounds))
    gradients: list[Arrays] = []
    order = (case.seed, case.round_number, int(name_keys(case.names)[position]))
    for batch in batches_of(case.train, *order, len(features)):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(module(features[batch]), targets[batch]).backward()
        if case.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), case.train.clip_norm)
        gradients.append({name: value.grad.numpy().copy() for name, value in module.named_parameters()})
        for name, value in module.named_parameters():
            value.grad += shared[name] - torch.from_numpy(own[name]) + case.mu * (value.detach() - start[name])
        optimizer.step()
    mean = {name: np.mean([gradient[name] for gradient in gradients], axis=0) for name in start}
    return {name: value.numpy() for name, value in module.state_dict().items()}, mean


@settings(max_examples=60)
@given(case=cases().filter(lambda case: isinstance(case.head, LinearHead) and case.loss == SoftmaxLoss()))
def test_the_engine_is_the_tutorials(case: Case) -> None:
    """Every form and optimiser; the oracle shares no code with ours."""
    engine = case.engine()
    control = control_of(case, engine.layout)
    by_engine(case, engine=engine, control=control)  # one round, so that control variates differ
    own = kept(case, control.own)
    case = replace(case, round_number=case.round_number + 1, ascent=0.0)  # these loops do not climb
    trained = heads(case, by_engine(case, engine=engine, control=control))
    for position, after in kept(case, control.own).items():
        head, mean = by_tutorial(case, position, own[position])
        assert distance(trained[position], head) <= 1e-10
        assert distance(after, mean) <= 1e-10


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_under_plain_sgd_it_is_the_papers_option_two(form: Any) -> None:
    """`c_k - c + (w_start - w) / (K lr)`: algorithm 1, line 12."""
    case = Case(
        (13, 0, 7, 25), TrainSettings(local_epochs=2, batch_size=4, optimizer=Sgd(learning_rate=0.2), form=form)
    )
    engine = case.engine()
    control = control_of(case, engine.layout)
    shared = {name: value.numpy() for name, value in control.shared.items()}
    by_engine(case, engine=engine, control=control)
    before = kept(case, control.own)
    outcome = by_engine(case, engine=engine, control=control)
    after = kept(case, control.own)
    for position, update in outcome.updates.items():
        steps = outcome.facts[position][0]
        expected = {
            name: before[position][name] - shared[name] - value / (steps * 0.2) for name, value in update.items()
        }
        assert distance(after[position], expected) <= 1e-10


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_the_sum_is_that_of_the_changes(form: Any) -> None:
    case = Case((13, 0, 7, 25, 8), TrainSettings(optimizer=Sgd(momentum=0.5), form=form), mu=0.1)
    engine = case.engine()
    control = control_of(case, engine.layout)
    by_engine(case, engine=engine, control=control)
    before = kept(case, control.own)
    reply = SumReply(("update", "control"), (), head_shapes(case.head, DIM, OUTPUTS))
    for trained in engine.run(case.local_task, case.start(torch.float64), np.array([0, 2, 4]), case.mu, control):
        reply.add(trained)
    after = kept(case, control.own)
    for name, total in reply.totals["control"].items():
        expected = sum(case.sizes[k] * (after[k][name] - before[k][name]) for k in (0, 2, 4))
        np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-12)
    assert distance(after[3], before[3]) == 0  # who does not train keeps what it has


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_stacked_updates_hold_the_control(form: Any) -> None:
    case = Case((13, 7), TrainSettings(optimizer=Sgd(momentum=0.5), form=form))
    control = control_of(case, case.engine().layout)
    expected = by_engine(case, control=control_of(case, case.engine().layout)).updates
    for trained in case.engine().run(case.local_task, case.start(torch.float64), np.arange(2), 0.0, control):
        updates = trained.updates()
        for place, turn in enumerate(trained.turns.tolist()):
            assert distance({name: value[place] for name, value in updates.items()}, expected[turn]) <= 1e-6


def test_equal_variates_change_nothing() -> None:
    """`c = c_k = 0` in the first round of all: the numbers of plain training."""
    case = Case((13, 7, 3), TrainSettings(local_epochs=2, optimizer=Sgd(momentum=0.5)))
    engine = case.engine()
    zeros = {name: torch.zeros_like(value) for name, value in shared_of(case).items()}
    control = replace(control_of(case, engine.layout), shared=zeros)
    same(by_engine(case, engine=engine, control=control), by_engine(case), 1e-14)


def positions(case: Case, own: list[int]) -> Engine:
    names = [case.names[position] for position in own]
    return Engine(
        case.features, case.targets, case.parts, np.array(own), name_keys(names), names, case.local_task,
        dtype=torch.float64,
    )  # fmt: skip


def test_a_host_keeps_its_own_clients() -> None:
    """Rows are those of the host's list, not of the federation's."""
    case = Case((13, 0, 7, 25, 8), TrainSettings(optimizer=Sgd(momentum=0.5)))
    whole = control_of(case, case.engine().layout)
    by_engine(case, control=whole)
    engine = positions(case, [1, 2, 4])
    some = Control(shared_of(case), StateTable(engine.layout, "span", np.float64), np.arange(3))
    by_engine(case, [0, 1, 2], engine=engine, control=some)
    for mine, theirs in ((1, 2), (2, 4)):
        size = case.sizes[theirs]
        expected: NDArray[Any] = whole.own.coefficients(np.array([theirs]), size)
        np.testing.assert_allclose(some.own.coefficients(np.array([mine]), size), expected, rtol=1e-12)
