"""FedDyn's half in every form against the plain loop, and against the paper's own loss under torch.optim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from plain_loop import batches_of, optimizer_of, rate_of
from small_scenario import Site, head_of, naming, request, scenario_of
from test_client_control import alone, control_of, kept
from test_client_engine import DIM, OUTPUTS, Arrays, Case, by_engine, by_loop, cases, distance, heads, same
from torch import nn

from clients.halves import Control
from clients.state.tables import Layout
from fedgraft.errors import WireError
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.randomness import name_keys
from fedgraft.wire.requests import HalfSettings, StateSettings

ALPHA = 0.3


def bent(case: Case) -> Case:
    """Return a case without weight decay, held to its start by alpha."""
    optimizer = case.train.optimizer.model_copy(update={"weight_decay": 0.0})
    return replace(case, mu=ALPHA, train=case.train.model_copy(update={"optimizer": optimizer}))


def dynamic_of(case: Case, layout: Layout) -> Control:
    """Return the clients' h of zeros; the federation has no control variate."""
    control = control_of(case, layout)
    nothing = {name: torch.zeros_like(value) for name, value in control.shared.items()}
    return replace(control, shared=nothing, pull=ALPHA)


@settings(max_examples=50)
@given(case=cases().map(bent))
def test_three_rounds_are_the_plain_loops(case: Case) -> None:
    engine = case.engine()
    ours, theirs = dynamic_of(case, engine.layout), dynamic_of(case, alone(case))
    for round_number in (1, 2, 3):
        case = replace(case, round_number=round_number)
        same(by_engine(case, engine=engine, control=ours), by_loop(case, control=theirs), 1e-10)
        expected = kept(case, theirs.own)
        for client, value in kept(case, ours.own).items():
            assert distance(value, expected[client]) <= 1e-9


def by_paper(case: Case, position: int, h: Arrays) -> tuple[Arrays, Arrays]:
    """Return a client's head after steps down `L - <h, w> + alpha / 2 |w - w_start|^2`, and its next h."""
    module, start = nn.Linear(DIM, OUTPUTS, bias=case.head.bias).double(), case.start(torch.float64)
    module.load_state_dict(start)
    features, targets = case.client(position, torch.float64)
    optimizer = optimizer_of(case.train, module, rate_of(case.train, case.round_number, case.local_task.num_rounds))
    order = (case.seed, case.round_number, int(name_keys(case.names)[position]))
    for batch in batches_of(case.train, *order, len(features)):
        loss = nn.CrossEntropyLoss()(module(features[batch]), targets[batch])
        for name, value in module.named_parameters():
            loss = loss - (torch.from_numpy(h[name]) * value).sum() + ALPHA / 2 * (value - start[name]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = {name: value.numpy() for name, value in module.state_dict().items()}
    return trained, {name: h[name] - ALPHA * (value - start[name].numpy()) for name, value in trained.items()}


def linear(case: Case) -> Case:
    """Return a case that the tutorial's module and loss can be, unclipped: the paper has the whole gradient."""
    head = case.head if isinstance(case.head, LinearHead) else LinearHead()
    train = case.train.model_copy(update={"clip_norm": None})
    return replace(case, head=head, loss=SoftmaxLoss(), task="classes", train=train)


@settings(max_examples=40)
@given(case=cases().map(linear).map(bent))
def test_the_engine_goes_down_the_papers_loss(case: Case) -> None:
    """Every form and optimiser; the oracle shares no code with ours."""
    engine = case.engine()
    control = dynamic_of(case, engine.layout)
    by_engine(case, engine=engine, control=control)  # one round, so that there is an h
    h = kept(case, control.own)
    case = replace(case, round_number=case.round_number + 1, ascent=0.0)  # these loops do not climb
    trained = heads(case, by_engine(case, engine=engine, control=control))
    for position, after in kept(case, control.own).items():
        head, following = by_paper(case, position, h[position])
        assert distance(trained[position], head) <= 1e-10
        assert distance(after, following) <= 1e-9


def test_weight_decay_is_refused() -> None:
    train = {"optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.01}}
    text = "came 0.01, but the equations of strategy feddyn hold without weight decay only; set it to 0"
    with pytest.raises(ValueError, match=text):
        scenario_of(strategy="feddyn", train=train)
    body = request(half=HalfSettings(name="dynamic", parameters={"mu": 0.1}), state=StateSettings(version=0, becomes=1))
    with pytest.raises(WireError, match="the client half 'dynamic' takes no weight decay"):
        Site(train=train).ask(body, {"head": head_of(), "clients": naming(0)})


def test_a_host_keeps_h_in_every_form() -> None:
    found = []
    for form in ("dual", "loop"):
        train = {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "form": form, "local_epochs": 2}
        site, out = Site(train=train, shards=1), []
        for version in (0, 1):
            state = StateSettings(version=version, becomes=version + 1)
            half = HalfSettings(name="dynamic", parameters={"mu": ALPHA})
            body = request(half=half, state=state, round_number=version + 1, run_id=f"dynamic-{form}")
            out.append(site.ask(body, {"head": head_of(), "clients": naming(0, 2, 3)})[1]["update"]["weight"])
        assert np.abs(out[1] - out[0]).max() > 1e-3
        found.append(out)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
