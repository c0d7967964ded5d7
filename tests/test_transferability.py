"""LogME and the shrunk H-score from sums, against pooled computations that never see a sum.

LogME's oracle is a transcription of its authors' published code, `LogME.py` of github.com/thuml/LogME at commit 56551ca
(MIT): `_fit_fixed_point`, which the paper of 2022 describes, from a singular value decomposition of the features. The
H-score's is scikit-learn's Ledoit-Wolf estimator on the features, and the class means by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clients.statistics import statistics_sums
from fedgraft.transferability import h_score, ledoit_wolf, log_me

Array = NDArray[np.float64]
TASKS = ("classes", "labels", "real")
NUM_OUTPUTS = 3


def samples(task: str, num_samples: int, feature_dim: int, seed: int = 2) -> tuple[Array, NDArray[Any]]:
    """Features with means far from 0 and unequal spreads, and targets that depend on them."""
    draw = np.random.default_rng(seed)
    features = draw.normal(2.0, 1.0, (num_samples, feature_dim)) * np.linspace(0.3, 2, feature_dim)
    outputs = features @ draw.normal(size=(feature_dim, NUM_OUTPUTS)) + draw.normal(size=(num_samples, NUM_OUTPUTS))
    outputs -= outputs.mean(axis=0)
    if task == "classes":
        return features, outputs.argmax(axis=1)
    return features, (outputs > 0).astype(np.uint8) if task == "labels" else outputs


def sums_of(features: Array, targets: NDArray[Any], task: str, rows: NDArray[np.int64] | None = None) -> Any:
    rows = np.arange(len(features)) if rows is None else rows
    return statistics_sums(features, targets, rows, task, NUM_OUTPUTS, "shared", True)  # type: ignore[arg-type]


def authors_evidence(features: Array, y: Array, whole_determinant: bool) -> float:
    """The authors' fixed point for one output, line by line; `x` are the targets in the left singular vectors.

    With fewer samples than features their code of 2022 leaves the directions out of the determinant that no sample has;
    `whole_determinant` adds them, as the papers' `|A|` and their code of 2021 (`_fit_icml`) have them.
    """
    num_samples, feature_dim = features.shape
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    sigma, x2 = s**2, (u.T @ y) ** 2
    res_x2 = (y**2).sum() - x2.sum()
    alpha, beta = 1.0, 1.0
    for _ in range(11):
        t = alpha / beta
        gamma = (sigma / (sigma + t)).sum()
        m2 = (sigma * x2 / ((t + sigma) ** 2)).sum()
        res2 = (x2 / ((1 + sigma / t) ** 2)).sum() + res_x2
        alpha = gamma / (m2 + 1e-5)
        beta = (num_samples - gamma) / (res2 + 1e-5)
        t_ = alpha / beta
        if abs(t_ - t) / t <= 1e-3:
            break
    determinant = np.sum(np.log(alpha + beta * sigma))
    if whole_determinant:
        determinant += (feature_dim - len(sigma)) * np.log(alpha)
    evidence = feature_dim / 2.0 * np.log(alpha) + num_samples / 2.0 * np.log(beta) - 0.5 * determinant
    evidence += -beta / 2.0 * res2 - alpha / 2.0 * m2 - num_samples / 2.0 * np.log(2 * np.pi)
    return float(evidence / num_samples)


def authors_log_me(features: Array, targets: NDArray[Any], task: str) -> float:
    """The mean over outputs; classes one against the rest."""
    if task == "classes":
        columns: Sequence[Array] = [(targets == number).astype(np.float64) for number in range(targets.max() + 1)]
    else:
        columns = list(targets.astype(np.float64).T)
    whole = features.shape[0] < features.shape[1]
    return float(np.mean([authors_evidence(features, column, whole) for column in columns]))


@pytest.mark.parametrize(("num_samples", "feature_dim"), [(200, 7), (60, 40), (30, 50), (12, 80)])
@pytest.mark.parametrize("task", TASKS)
def test_log_me_is_that_of_its_authors(task: str, num_samples: int, feature_dim: int) -> None:
    """With more samples than features, and with fewer."""
    features, targets = samples(task, num_samples, feature_dim)
    expected = authors_log_me(features, targets, task)
    assert log_me(sums_of(features, targets, task), task) == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_log_me_is_the_evidence_of_a_gaussian() -> None:
    """Without any of the authors' formulas: the density of the targets under `N(0, F F^T / alpha + I / beta)`.

    At the precisions that scikit-learn's BayesianRidge finds, which maximises the same evidence (its priors switched
    off, no intercept). The 1e-5 in LogME's denominators and its stop at 0.1 % leave less than 1e-5 between them.
    """
    from scipy.stats import multivariate_normal
    from sklearn.linear_model import BayesianRidge

    features, targets = samples("real", 150, 6)
    evidences = []
    for y in targets.T:
        none = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
        found = BayesianRidge(fit_intercept=False, tol=1e-12, max_iter=1000, **none).fit(features, y)
        covariance = features @ features.T / found.lambda_ + np.eye(len(y)) / found.alpha_
        evidences.append(multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) / len(y))
    assert log_me(sums_of(features, targets, "real"), "real") == pytest.approx(np.mean(evidences), abs=1e-5)


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e6, 1e30])
def test_features_of_any_scale_have_scores(scale: float) -> None:
    """Deep networks with random weights give such; fewer samples than features leave the noise next to nothing."""
    features, classes = samples("classes", 20, 60)
    sums = sums_of(features * scale, classes, "classes")
    assert np.isfinite(log_me(sums, "classes"))
    assert h_score(sums) == pytest.approx(pooled_h_score(features, classes), rel=1e-8)  # which knows no scale


def test_features_that_repeat_each_other_are_no_trouble() -> None:
    """A copy of every feature: half the eigenvalues are 0, and rounding must not pass for a direction."""
    features, targets = samples("classes", 90, 8)
    doubled = np.hstack([features, features])
    u, s, _ = np.linalg.svd(doubled, full_matrices=False)
    assert (s[8:] < 1e-10 * s[0]).all()
    cleaned = (u[:, :8] * s[:8]) @ np.eye(8, 16)  # the same products between samples, exactly 0 elsewhere
    expected = authors_log_me(cleaned, targets, "classes")
    assert log_me(sums_of(doubled, targets, "classes"), "classes") == pytest.approx(expected, rel=1e-8)


def test_classes_that_nobody_has_do_not_count() -> None:
    """Neither score changes when the head has an output more."""
    features, targets = samples("classes", 80, 5)
    sums = sums_of(features, targets, "classes")
    wider = statistics_sums(features, targets, np.arange(80), "classes", NUM_OUTPUTS + 2, "shared", True)
    assert log_me(wider, "classes") == log_me(sums, "classes")
    assert h_score(wider) == pytest.approx(h_score(sums), rel=1e-12)


def pooled_h_score(features: Array, classes: NDArray[Any]) -> float:
    """Trace of the inverse of scikit-learn's shrunk covariance and of the covariance of class means (by n)."""
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(features)
    means = np.zeros_like(features)
    for number in np.unique(classes):
        means[classes == number] = features[classes == number].mean(axis=0)
    between = np.cov(means, rowvar=False, bias=True)
    return float(np.trace(np.linalg.inv(fitted.covariance_) @ between) * (1 - fitted.shrinkage_))


@pytest.mark.parametrize(("num_samples", "feature_dim"), [(300, 6), (60, 40), (30, 50), (12, 80)])
def test_the_h_score_is_the_pooled_one(num_samples: int, feature_dim: int) -> None:
    features, classes = samples("classes", num_samples, feature_dim)
    assert h_score(sums_of(features, classes, "classes")) == pytest.approx(pooled_h_score(features, classes), rel=1e-8)


@pytest.mark.parametrize(("num_samples", "feature_dim"), [(300, 6), (40, 60), (5, 1)])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_shrinkage_is_that_of_scikit_learn(num_samples: int, feature_dim: int, offset: float) -> None:
    """Also where the mean is many standard deviations away, which powers of lengths are sensitive to."""
    from sklearn.covariance import LedoitWolf

    features, classes = samples("classes", num_samples, feature_dim)
    features = features + offset
    expected = LedoitWolf().fit(features).shrinkage_
    assert ledoit_wolf(sums_of(features, classes, "classes")) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    owners=st.lists(st.integers(0, 4), min_size=50, max_size=50), task=st.sampled_from(TASKS), seed=st.integers(0, 20)
)
def test_any_split_gives_the_same_scores(owners: list[int], task: str, seed: int) -> None:
    """Five owners, some with nothing; sums of their sums."""
    features, targets = samples(task, 50, 9, seed)
    parts = [sums_of(features, targets, task, np.flatnonzero(np.array(owners) == owner)) for owner in range(5)]
    added = {name: sum(part[name] for part in parts) for name in parts[0]}
    whole = sums_of(features, targets, task)
    assert log_me(added, task) == pytest.approx(log_me(whole, task), rel=1e-8, abs=1e-8)
    if task == "classes":
        assert h_score(added) == pytest.approx(h_score(whole), rel=1e-8)


def test_better_features_score_higher() -> None:
    """The same samples, with more and more noise in front of the classes."""
    draw = np.random.default_rng(0)
    classes = np.arange(300) % NUM_OUTPUTS
    centres = draw.normal(size=(NUM_OUTPUTS, 8))
    scores = []
    for noise in (0.3, 1.0, 3.0):
        sums = sums_of(centres[classes] + noise * draw.normal(size=(300, 8)), classes, "classes")
        scores.append((log_me(sums, "classes"), h_score(sums)))
    assert scores == sorted(scores, reverse=True)
    assert [one for one, _ in scores] == sorted((one for one, _ in scores), reverse=True)
    assert [one for _, one in scores] == sorted((one for _, one in scores), reverse=True)
    assert scores[0][1] < NUM_OUTPUTS - 1


def test_what_no_score_can_be_made_of() -> None:
    features, classes = samples("classes", 20, 3)
    none = sums_of(features, classes, "classes", np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match="LogME needs samples; the sums are of none"):
        log_me(none, "classes")
    with pytest.raises(ValueError, match="a covariance needs samples; the sums are of none"):
        h_score(none)
    with pytest.raises(ValueError, match="LogME needs features that are not all 0"):
        log_me(sums_of(0 * features, classes, "classes"), "classes")
    with pytest.raises(ValueError, match="the H-score needs samples that are not all alike"):
        h_score(sums_of(0 * features + 2, classes, "classes"))
