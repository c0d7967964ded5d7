"""Own heads in every form against a tutorial's loop over torch.optim; their evaluation against one client at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_loop import batches_of, optimizer_of, rate_of
from small_scenario import Site, head_of, naming, request
from test_client_engine import DIM, OUTPUTS, Arrays, Case, cases, distance
from torch import nn

from clients.engine.cohort import Engine
from clients.personal import evaluation as evaluation_module
from clients.personal.evaluation import OwnEvaluation
from clients.personal.heads import OwnHeads
from clients.personal.training import OwnTrained, train_own, train_own_one_by_one
from clients.settings import Sgd, TrainSettings
from clients.state.tables import Layout, StateTable
from fedgraft.errors import FedGraftError
from fedgraft.evaluation import evaluate_rows
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.heads import head_shapes
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.randomness import name_keys
from fedgraft.wire.requests import EvaluateRequest, StateSettings

PULLS = st.sampled_from([0.0, 0.1, 1.0])


def own_of(case: Case, dtype: Any = torch.float64) -> OwnHeads:
    sizes = np.array(case.sizes, dtype=np.int64)
    layout = Layout(sizes, np.ones(len(sizes), dtype=np.bool_), OUTPUTS, head_shapes(case.head, DIM, OUTPUTS))
    kind = np.float64 if dtype == torch.float64 else np.float32
    return OwnHeads(StateTable(layout, "head", kind), StateTable(layout, "number"), case.start(dtype))


def with_received(case: Case, own: OwnHeads) -> OwnHeads:
    """Return the same heads after another head came from the server."""
    generator = np.random.default_rng(case.seed + case.round_number)
    moved = {name: value + 0.1 * torch.tensor(generator.normal(size=value.shape)) for name, value in
             own.received.items()}  # fmt: skip
    return replace(own, received={name: value.to(own.received[name].dtype) for name, value in moved.items()})


def kept(trained: list[OwnTrained], own: OwnHeads) -> dict[int, Arrays]:
    found: dict[int, Arrays] = {}
    for clients in trained:
        own.keep(clients.clients, clients.heads)
        for position in clients.clients.tolist():
            heads = own.of(np.array([position]))
            found[position] = {name: value[0].numpy() for name, value in heads.items()}
    return found


def facts(trained: list[OwnTrained]) -> dict[int, tuple[float, ...]]:
    return {
        int(turn): tuple(float(column[place]) for column in (
            clients.num_samples, clients.num_steps, clients.mean_losses, clients.losses_before, clients.losses_after,
            clients.scores_after,
        ))
        for clients in trained
        for place, turn in enumerate(clients.turns)
    }  # fmt: skip


def by_engine(case: Case, engine: Engine, own: OwnHeads, pull: float) -> list[OwnTrained]:
    index = np.arange(len(case.sizes))
    return list(train_own(engine, case.local_task, index, case.names, own.of, own.received, pull))


def by_loop(case: Case, own: OwnHeads, pull: float, dtype: torch.dtype = torch.float64) -> list[OwnTrained]:
    index, keys = np.arange(len(case.sizes)), name_keys(case.names)
    samples = (case.client(position, dtype) for position in index.tolist())
    return list(train_own_one_by_one(case.local_task, samples, index, keys, case.names, own.of, own.received, pull))


@settings(max_examples=60)
@given(case=cases(), pull=PULLS)
def test_three_rounds_are_the_plain_loops(case: Case, pull: float) -> None:
    engine, ours, theirs = case.engine(), own_of(case), own_of(case)
    for round_number in (1, 2, 3):
        case = replace(case, round_number=round_number)
        ours, theirs = with_received(case, ours), with_received(case, theirs)
        some, others = by_engine(case, engine, ours, pull), by_loop(case, theirs, pull)
        expected, told = kept(others, theirs), facts(others)
        for turn, fact in facts(some).items():
            assert fact == pytest.approx(told[turn], rel=1e-9, abs=1e-9)
        for client, head in kept(some, ours).items():
            assert distance(head, expected[client]) <= 1e-9


@settings(max_examples=40)
@given(case=cases().filter(lambda case: isinstance(case.head, LinearHead) and case.loss == SoftmaxLoss()), pull=PULLS)
def test_the_engine_is_the_tutorials(case: Case, pull: float) -> None:
    """Every form and optimiser; the oracle shares no code with ours. Own heads differ from the received one."""
    engine, own = case.engine(), own_of(case)
    kept(by_engine(case, engine, own, pull), own)
    case = replace(case, round_number=case.round_number + 1, ascent=0.0)  # these loops do not climb
    own = with_received(case, own)
    starts = {position: {name: value[0].clone() for name, value in own.of(np.array([position])).items()}
              for position, size in enumerate(case.sizes) if size}  # fmt: skip
    for position, head in kept(by_engine(case, engine, own, pull), own).items():
        module = nn.Linear(DIM, OUTPUTS, bias=case.head.bias).double()
        module.load_state_dict(starts[position])
        features, targets = case.client(position, torch.float64)
        optimizer = optimizer_of(case.train, module, rate_of(case.train, case.round_number, case.local_task.num_rounds))
        order = (case.seed, case.round_number, int(name_keys(case.names)[position]))
        for batch in batches_of(case.train, *order, len(features)):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(module(features[batch]), targets[batch]).backward()
            if case.train.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), case.train.clip_norm)
            for name, value in module.named_parameters():
                value.grad += pull * (value.detach() - own.received[name])
            optimizer.step()
        assert distance(head, {name: value.numpy() for name, value in module.state_dict().items()}) <= 1e-9


@settings(max_examples=30)
@given(case=cases(epsilon=1e-3), pull=PULLS)
def test_in_float32_it_is_the_plain_loops(case: Case, pull: float) -> None:
    engine, ours, theirs = case.engine(torch.float32), own_of(case, torch.float32), own_of(case, torch.float32)
    expected = kept(by_loop(case, theirs, pull, torch.float32), theirs)
    for client, head in kept(by_engine(case, engine, ours, pull), ours).items():
        assert distance(head, expected[client]) <= 2e-5


@settings(max_examples=40)
@given(case=cases(), room=st.sampled_from([1, 3000, 2**25]))
def test_evaluation_is_that_of_each_client_alone(case: Case, room: int) -> None:
    """Padded and many at once, in groups of any size: the metrics of each head on its own rows, and their sums."""
    objective, clients = case.local_task.objective, np.arange(len(case.sizes))
    features, generator = case.features.astype(np.float32), np.random.default_rng(case.seed)
    heads = {
        name: torch.tensor(generator.normal(size=(len(clients), *value.shape)), dtype=torch.float32)
        for name, value in case.start(torch.float32).items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_module, "BYTES_AT_ONCE", room)
        evaluation = OwnEvaluation(features, case.targets, case.parts, clients, objective)
        evaluation.add(clients, lambda places: {name: value[torch.from_numpy(places)] for name, value in heads.items()})
    total = {name: np.zeros_like(value) for name, value in evaluation.sums.items()}
    for client in clients.tolist():
        one = {name: value[client].numpy() for name, value in heads.items()}
        alone = evaluate_rows(features, case.targets, case.parts.of(client), one, objective)
        total = {name: value + alone.sums[name] for name, value in total.items()}
        expected = (alone.losses.mean(), alone.scores.mean()) if case.sizes[client] else (0.0, 0.0)
        assert (evaluation.losses[client], evaluation.scores[client]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for name, value in total.items():
        np.testing.assert_allclose(evaluation.sums[name], value, rtol=1e-4, atol=1e-6)


EVERYBODY = naming(0, 1, 2, 3, 4)
DITTO = {"name": "ditto", "parameters": {"pull": 0.2}}


def own_site(**changes: Any) -> Site:
    return Site(shards=1, **changes)


def ask_train(site: Site, version: int = 0, index: dict[str, Any] | None = None, **body: Any) -> Any:
    state = StateSettings(version=version, becomes=version + 1).model_dump()
    asked = {"half": DITTO, "state": state, "per_client": True, **body}
    return site.ask(request(**asked), {"head": head_of(), "clients": index or EVERYBODY})


def ask_evaluation(site: Site, version: int, half: dict[str, Any] = DITTO) -> Any:
    body = EvaluateRequest.model_validate(
        {"run_id": "r", "weights_digest": "", "round_number": 1, "shard": 0, "personal": half, "state_version": version}
    )
    return site.ask(body, {"head": head_of(), "clients": EVERYBODY})


def test_who_has_no_head_yet_is_judged_by_the_received_one() -> None:
    site = own_site()
    _, groups = ask_train(site, index=naming(0, 2))
    clients = groups["clients"]
    assert clients["personal_loss"].tolist() == pytest.approx(clients["validation_loss"].tolist())
    _, after = ask_evaluation(site, 1)
    gap = np.abs(after["clients"]["personal_loss"] - after["clients"]["validation_loss"])
    assert (gap[[0, 2]] > 1e-4).all()
    assert gap[[1, 3, 4]].max() < 1e-6
    counts = after["clients"]["num_validation"]
    assert after["personal"]["loss"] == pytest.approx(counts @ after["clients"]["personal_loss"])
    assert after["metrics"]["loss"] == pytest.approx(counts @ after["clients"]["validation_loss"])


def test_evaluation_changes_nothing() -> None:
    site = own_site()
    ask_train(site)
    one, other = (ask_evaluation(site, 1)[1]["clients"]["personal_loss"].tolist() for _ in range(2))
    assert one == other


def test_a_host_without_the_state_says_so() -> None:
    body, groups = ask_evaluation(own_site(), 7)
    assert (body.has_state, groups) == (False, {})


REFUSED: dict[str, tuple[Callable[[Site], Any], str]] = {
    "an update of heads that stay": (
        lambda site: ask_train(site, half={"name": "alone"}),
        "asks for updates of heads that stay with their clients; ask for scalars only",
    ),
    "every head": (
        lambda site: ask_train(site, half={"name": "alone"}, sums=(), reply="stack"),
        "asks for updates of heads that stay with their clients; ask for scalars only",
    ),
    "no state": (
        lambda site: ask_train(site, state=None),
        "names no version of client state, but the half 'ditto' keeps some",
    ),
    "heads of a half that has none": (
        lambda site: ask_evaluation(site, 0, {"name": "plain"}),
        "own heads of the half 'plain', which makes none; those that do are alone",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    ask, text = REFUSED[case]
    with pytest.raises(FedGraftError, match=text):
        ask(own_site())


def test_nothing_but_the_weight_leaves_a_client_that_trains_alone() -> None:
    body, groups = ask_train(own_site(), half={"name": "alone"}, sums=(), per_client=False)
    assert body.scalars == {"weight": 22.0}
    assert set(groups) == {"metrics", "personal"}


@pytest.mark.parametrize("form", ["auto", "loop"])
def test_fine_tuning_is_a_round_of_the_plain_loop(form: str) -> None:
    """With three epochs in place of two, in the round after the last; the client without training samples has none."""
    train = {"local_epochs": 2, "batch_size": 4, "form": form, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    site = own_site(train=train)
    _, groups = ask_evaluation(site, 0, {"name": "fine_tune", "parameters": {"epochs": 3}})
    other = own_site(train={**train, "local_epochs": 3, "form": "loop"}, server={"rounds": 30})
    state = {"version": 0, "becomes": 1}
    ask_train(other, half={"name": "alone"}, sums=(), state=state, round_number=21)
    _, expected = ask_evaluation(other, 1, {"name": "alone"})
    for column in ("personal_loss", "personal_score"):
        np.testing.assert_allclose(groups["clients"][column], expected["clients"][column], rtol=1e-5)


def test_a_client_that_diverges_is_named() -> None:
    site = own_site(train={"optimizer": {"name": "sgd", "learning_rate": 1e30}, "local_steps": 60}, loss="squared")
    with pytest.raises(FedGraftError, match=r"the head of client '\w+-?\w*' is not finite after 60 local steps"):
        ask_train(site, half={"name": "alone"}, sums=(), evaluate=False)


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_plain_steps_are_the_plain_loops(form: Any, pull: float) -> None:
    """Without momentum and decay the dual form writes its coefficients in place."""
    settings = TrainSettings(local_epochs=2, batch_size=4, optimizer=Sgd(learning_rate=0.2), form=form)
    case = Case((13, 0, 7, 25), settings)
    ours, theirs = own_of(case), own_of(case)
    expected = kept(by_loop(case, theirs, pull), theirs)
    for client, head in kept(by_engine(case, case.engine(), ours, pull), ours).items():
        assert distance(head, expected[client]) <= 1e-10
