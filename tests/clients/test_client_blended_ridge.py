"""Personal ridge against scikit-learn's Ridge with sample weights, and what a host makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from small_scenario import Site, evaluation, head_of, naming

from clients.personal.blended_ridge import SHARES, BlendedRidge, crossed_choice
from clients.statistics import statistics_sums
from fedgraft.closed_form import predict, regression_moments, regression_targets, ridge
from fedgraft.data.federation import build_federation
from fedgraft.errors import WireError


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    dim=st.integers(1, 12),
    bias=st.booleans(),
    penalty=st.floats(1e-3, 10),
    seed=st.integers(0, 2**32),
)
def test_heads_are_scikit_learn_s_with_weights(
    sizes: tuple[int, int], dim: int, bias: bool, penalty: float, seed: int
) -> None:
    """Own samples first. With more of them than features and with fewer: both ways of solving."""
    generator, total = np.random.default_rng(seed), sum(sizes)
    features, targets = generator.normal(1, 1, size=(total, dim)), generator.normal(size=(total, 2))
    sums = statistics_sums(features, targets, np.arange(total), "real", 2, "shared")
    blended = BlendedRidge(regression_moments(sums, "real"), penalty, bias)
    own = slice(0, sizes[0])
    for share, head in zip(SHARES, blended.heads(features[own], targets[own]), strict=True):
        weights = np.full(total, 1 - share)
        weights[own] += share * total / sizes[0]
        reference = Ridge(alpha=penalty, fit_intercept=bias, solver="cholesky").fit(features, targets, weights)
        expected = reference.predict(features)
        np.testing.assert_allclose(
            predict(head, features), expected, rtol=0, atol=1e-8 * max(1, np.abs(expected).max())
        )


def test_each_half_is_judged_by_the_choice_of_the_other() -> None:
    """Even places like head 1, odd ones head 2: so even ones get 2, odd ones 1. A single sample gets the first head."""
    errors = np.array([[5.0, 5, 5, 5], [1, 9, 1, 9], [9, 1, 9, 1]])
    assert crossed_choice(errors).tolist() == [2, 1, 2, 1]
    assert crossed_choice(errors[:, :1]).tolist() == [0]
    assert crossed_choice(np.zeros((3, 5))).tolist() == [0] * 5


HALF = {"name": "blended_ridge", "parameters": {"penalty": 0.5, "temperature": 0.1}}
EVERYBODY = naming(0, 1, 2, 3, 4)


def test_a_host_blends_and_judges_as_by_hand() -> None:
    """By hand: sums of all, heads from the stacked and repeated samples by weights, choice and score by half."""
    site = Site(shards=1)
    federation = build_federation(site.scenario.data, site.scenario.seed)
    features = federation.samples.features().astype(np.float64)
    classes = federation.samples.targets
    everything = federation.train.indices
    wanted = regression_targets(classes, "classes", 3)
    moments = regression_moments(statistics_sums(features, classes, everything, "classes", 3, "shared"), "classes")
    extra = {f"moments.{name}": value for name, value in moments.items()}
    body, groups = site.ask(
        evaluation(shard=0, personal=HALF), {"head": head_of(), "clients": EVERYBODY, "extra": extra}
    )
    assert body.has_state
    for client in range(5):
        own, judged = federation.train.of(client), federation.validation.of(client)
        found = []
        for share in SHARES:
            weights = np.full(len(features), 0.0)
            weights[everything] = 1 - share
            weights[own] += share * len(everything) / len(own)
            rows = weights > 0
            model = Ridge(alpha=0.5, solver="cholesky").fit(features[rows], wanted[rows], weights[rows])
            found.append(model.predict(features[judged]) if len(judged) else np.zeros((0, 3)))
        if not len(judged):
            assert groups["clients"]["personal_score"][client] == 0
            continue
        outputs = np.stack(found)
        errors = np.square(outputs - wanted[judged]).sum(axis=2)
        even = np.arange(len(judged)) % 2 == 0
        by_even, by_odd = errors[:, even].sum(axis=1).argmin(), errors[:, ~even].sum(axis=1).argmin()
        if len(judged) == 1:
            by_odd = 0
        kept = np.where(even[:, None], outputs[by_odd], outputs[by_even])
        right = (kept.argmax(axis=1) == classes[judged]).mean()
        logits = kept / 0.1
        loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(judged)), classes[judged]]
        assert groups["clients"]["personal_score"][client] == pytest.approx(right)
        assert groups["clients"]["personal_loss"][client] == pytest.approx(loss.mean(), rel=1e-5)


def test_the_share_of_nothing_is_the_ridge_head() -> None:
    generator = np.random.default_rng(0)
    features, targets = generator.normal(size=(20, 5)), generator.normal(size=(20, 2))
    moments = regression_moments(statistics_sums(features, targets, np.arange(20), "real", 2, "shared"), "real")
    (head,) = BlendedRidge(moments, 0.3).heads(features[:0], targets[:0], (0.0,))
    for name, value in ridge(moments, 0.3).items():
        np.testing.assert_allclose(head[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"penalty": 0.0, "temperature": 0.1}, "moments and penalty: lambda came as 0.0"),
        ({"penalty": 0.5, "temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"penalty": 0.5}, "came with parameters penalty, expected penalty, temperature"),
    ],
)
def test_what_is_refused(changes: dict[str, float], text: str) -> None:
    moments = {
        "moments.count": np.array(3.0),
        "moments.feature_sum": np.zeros(8),
        "moments.target_sum": np.ones(3),
        "moments.cross_moment": np.zeros((3, 8)),
        "moments.second_moment": np.eye(8),
    }
    half = {"name": "blended_ridge", "parameters": changes}
    with pytest.raises(WireError, match=text):
        Site(shards=1).ask(evaluation(personal=half), {"head": head_of(), "clients": EVERYBODY, "extra": moments})


def test_moments_of_other_features_are_refused() -> None:
    with pytest.raises(WireError, match=r"the request's moments of all clients: missing moments\.count"):
        Site(shards=1).ask(evaluation(personal=HALF), {"head": head_of(), "clients": EVERYBODY})
