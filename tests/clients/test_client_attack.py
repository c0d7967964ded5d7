"""Attacks, against what their papers say, computed here from the updates of the same clients when nobody lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from small_scenario import Site, head_of, host_of, naming, request, scenario_of

from clients.attack import flipped, hidden_deviations
from clients.host import forget_hosts
from fedgraft.attack_settings import SignFlip
from fedgraft.attackers import attackers
from fedgraft.errors import ScenarioError
from fedgraft.submission import RunFacts, Submission

NAMES = [f"client-{number:02}" for number in range(10)]
SIZES = {"source": {"name": "synthetic", "num_samples": 200, "num_classes": 3, "num_features": 8}}
DATA = {**SIZES, "partition": {"name": "sizes", "sizes": [30, 12, 1, 24, 9, 17, 40, 5]}, "validation_fraction": 0.1}
ALL = naming(*range(8))
FORMS = ("dual", "primal", "loop")


def site_of(form: str = "auto", **changes: Any) -> Site:
    train = {"local_epochs": 2, "batch_size": 4, "optimizer": {"name": "sgd", "learning_rate": 0.1}, "form": form}
    return Site(**{"data": DATA, "shards": 1, "train": train, **changes})


def asked(site: Site, reply: str, **changes: Any) -> tuple[Any, dict[str, Any]]:
    forget_hosts()
    return site.ask(request(reply=reply, evaluate=False, **changes), {"head": head_of(), "clients": ALL})


def liars_of(site: Site) -> np.ndarray:
    attack = host_of(site.context).members.attack
    assert attack is not None
    return np.flatnonzero(attack.lies)


def check_attack(form: str, attack: dict[str, Any], expected: Any, tolerance: float = 1e-5) -> None:
    """Compare both kinds of replies with `expected(honest updates, liars)`, a parameter at a time."""
    honest, lying = site_of(form), site_of(form, attack=attack)
    told, stacked = asked(lying, "stack")[1], asked(honest, "stack")[1]
    body, summed = asked(lying, "sum", scalars=("weight", "square_norm"))
    liars = liars_of(lying)
    assert 0 < len(liars) < 8
    weights, square = stacked["weights"]["weight"], np.zeros(8)
    np.testing.assert_array_equal(told["weights"]["weight"], weights)
    for name, updates in stacked["stack"].items():
        wanted = updates.astype(np.float64)
        wanted[liars] = expected(updates.astype(np.float64), liars)
        np.testing.assert_allclose(told["stack"][name], wanted, rtol=tolerance, atol=1e-6)
        total = np.einsum("k,k...->...", weights, wanted)
        np.testing.assert_allclose(summed["update"][name], total, rtol=tolerance, atol=1e-4)
        square += np.square(wanted).reshape(8, -1).sum(axis=1)
    assert body.scalars["weight"] == weights.sum()
    assert body.scalars["square_norm"] == pytest.approx(float(weights @ square), rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_sign_flip(form: str) -> None:
    attack = {"name": "sign-flip", "scale": 5.0, "fraction": 0.4}
    check_attack(form, attack, lambda updates, liars: -5 * updates[liars])


@pytest.mark.parametrize("form", FORMS)
def test_scaled_update(form: str) -> None:
    check_attack(form, {"name": "scaled-update", "scale": 7.0}, lambda updates, liars: 7 * updates[liars])


@pytest.mark.parametrize("form", FORMS)
def test_a_little_is_enough(form: str) -> None:
    def agreed(updates: np.ndarray, liars: np.ndarray) -> np.ndarray:
        honest = np.delete(updates, liars, axis=0)
        return honest.mean(axis=0) - 1.5 * honest.std(axis=0)

    attack = {"name": "a-little-is-enough", "deviations": 1.5, "fraction": 0.4}
    check_attack(form, attack, agreed, tolerance=1e-4)


def test_deviations_that_hide() -> None:
    """The paper's example: of 50 workers 24 lie, so 2 more are needed; Phi(z) = 24 / 26 = 0.923 at z = 1.43.

    Of 20, 4 lie and need 7 of the 16: Phi(z) = 9 / 16 at z = 0.157. Of 12, 2 lie: Phi(z) = 5 / 10 at 0.
    """
    assert hidden_deviations(50, 24) == pytest.approx(1.43, abs=5e-3)
    assert hidden_deviations(20, 4) == pytest.approx(0.157, abs=5e-4)
    assert hidden_deviations(12, 2) == pytest.approx(0, abs=1e-9)
    assert hidden_deviations(3, 2) == 0


def test_noise_is_of_the_deviation_that_was_set_and_new_in_each_round() -> None:
    attack = {"name": "gaussian-noise", "standard_deviation": 3.0, "fraction": 0.5}
    site = site_of(attack=attack)
    honest, first = asked(site_of(), "stack")[1], asked(site, "stack")[1]
    again, second = asked(site, "stack")[1], asked(site, "stack", round_number=2)[1]
    others = np.delete(np.arange(8), liars_of(site))
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(first["stack"][name][others], honest["stack"][name][others])
        np.testing.assert_array_equal(first["stack"][name], again["stack"][name])
    noise = np.array([one["stack"]["weight"][liars_of(site)] for one in (first, second)])  # 2 x 4 x 24 draws
    assert noise.std() == pytest.approx(3, abs=4 * 3 / np.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 4 * 3 / np.sqrt(noise.size)
    assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.5
    assert abs(np.corrcoef(noise[0].reshape(4, -1))[0, 1]) < 0.9


@pytest.mark.parametrize("form", FORMS)
def test_noise_is_the_same_in_sums_and_stacks(form: str) -> None:
    site = site_of(form, attack={"name": "gaussian-noise", "fraction": 0.5})
    told = asked(site, "stack")[1]
    body, summed = asked(site, "sum", scalars=("square_norm",))
    weights = told["weights"]["weight"]
    for name, updates in told["stack"].items():
        np.testing.assert_allclose(summed["update"][name], np.einsum("k,k...->...", weights, updates), atol=1e-4)
    squares = sum(np.square(value).reshape(8, -1).sum(axis=1) for value in told["stack"].values())
    assert body.scalars["square_norm"] == pytest.approx(float(weights @ squares), rel=1e-5)


def by_owner(path: Path, labels: np.ndarray) -> dict[str, Any]:
    """Return data of 6 clients with 9 samples each, all of them for training."""
    features = np.random.default_rng(1).standard_normal((54, 8)).astype(np.float32)
    np.savez(path, features=features, labels=labels, client=np.repeat([f"c{number}" for number in range(6)], 9))
    source = {"name": "arrays", "path": str(path)}
    return {"source": source, "partition": "natural", "validation_fraction": 0, "test_fraction": 0}


@pytest.mark.parametrize("form", FORMS)
def test_label_flip_is_training_on_a_file_with_wrong_labels(form: str, tmp_path: Path) -> None:
    """From round 2 on: before it the same as ever. Of 3 classes 0 becomes 2, 1 stays, 2 becomes 0."""
    labels = np.tile([0, 1, 2], 18)
    attack = {"name": "label-flip", "fraction": 0.34, "from_round": 2}
    site = site_of(form, data=by_owner(tmp_path / "right.npz", labels), attack=attack)
    everybody = {"head": head_of(), "clients": naming(*range(6))}
    before, after = (site.ask(request(round_number=number, evaluate=False), everybody)[1] for number in (1, 2))
    liars = liars_of(site)
    assert len(liars) == 2
    wrong = np.where(np.isin(np.repeat(np.arange(6), 9), liars), 2 - labels, labels)
    right = site_of(form, data=by_owner(tmp_path / "right.npz", labels))
    by_hand = site_of(form, data=by_owner(tmp_path / "wrong.npz", wrong))
    for number, told, other in ((1, before, right), (2, after, by_hand)):
        forget_hosts()
        expected = other.ask(request(round_number=number, evaluate=False), everybody)[1]
        for name, value in expected["update"].items():
            np.testing.assert_array_equal(told["update"][name], value)
    assert not np.array_equal(before["update"]["weight"], after["update"]["weight"])


def test_flipped_targets_of_every_kind() -> None:
    rows = np.array([1, 2])
    np.testing.assert_array_equal(flipped(np.array([0, 0, 3, 3]), rows, "classes", 4), [0, 3, 0, 3])
    labels = np.array([[True, False], [True, False], [False, False]])
    np.testing.assert_array_equal(flipped(labels, rows, "labels", 2), [[1, 0], [0, 1], [1, 1]])
    np.testing.assert_array_equal(flipped(np.array([[1.0], [2.0], [-3.0]]), rows, "real", 1), [[1], [-2], [3]])


def test_nobody_lies_before_the_first_round_of_the_attack() -> None:
    attack = {"name": "sign-flip", "from_round": 3}
    for number, same in ((2, True), (3, False)):
        honest, told = (asked(site, "sum", round_number=number)[1] for site in (site_of(), site_of(attack=attack)))
        assert np.array_equal(honest["update"]["weight"], told["update"]["weight"]) == same


def test_who_lies_is_a_function_of_seed_and_name() -> None:
    half = np.array([5, 0] * 5)
    lies = attackers(SignFlip(fraction=0.2), 1, NAMES, np.full(10, 5))
    assert lies.sum() == 2
    turned = attackers(SignFlip(fraction=0.2), 1, NAMES[::-1], np.full(10, 5))
    np.testing.assert_array_equal(turned[::-1], lies)
    drawn = {tuple(np.flatnonzero(attackers(SignFlip(), seed, NAMES, np.full(10, 5)))) for seed in range(20)}
    assert len(drawn) > 5
    for fraction, count in ((0.01, 1), (0.3, 2), (0.5, 2)):  # round(0.3 x 5) = 2, round(0.5 x 5) = 2
        lying = attackers(SignFlip(fraction=fraction), 1, NAMES, half)
        assert lying.sum() == count
        assert not lying[half == 0].any()
    assert not attackers(None, 1, NAMES, half).any()
    assert not attackers(SignFlip(), 1, NAMES, np.zeros(10)).any()


def test_a_site_does_not_lie() -> None:
    scenario = scenario_of(attack="sign-flip")
    config = {"scenario": Submission(scenario.model_dump_json(), RunFacts(run_id="at-a-site")).to_run_config()}
    with pytest.raises(ScenarioError, match=r"attack: is for simulations only, and this node is none's"):
        host_of(Context(1, 2, {}, RecordDict(), config))


@pytest.mark.parametrize("name", ["ridge", "ncm", "lda"])
def test_sums_of_features_know_no_updates(name: str) -> None:
    with pytest.raises(ValueError, match=f"came sign-flip, a lie about updates, but {name} asks for sums of features"):
        scenario_of(strategy=name, attack="sign-flip")
    assert scenario_of(strategy=name, attack="label-flip").attack is not None
