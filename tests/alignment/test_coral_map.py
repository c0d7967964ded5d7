"""CORAL's map from sums of moments against SciPy's square roots of pooled covariances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fedgraft.alignment.maps import Reference, coral
from fedgraft.alignment.moments import Moments, moment_sums, moments_of


def summed(parts: list[np.ndarray], covariance: str) -> Moments:
    """Return moments from the sums of parts, as they come from several clients."""
    sums = [moment_sums(part, np.arange(len(part)), covariance) for part in parts]  # type: ignore[arg-type]
    return moments_of({name: sum(one[name] for one in sums) for name in sums[0]})


@pytest.fixture
def domains() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    mixing = random.normal(size=(2, 6, 6))
    return random.normal(size=(40, 6)) @ mixing[0] + 3, random.normal(size=(70, 6)) @ mixing[1] - 1


def test_the_map_is_that_of_pooled_covariances(domains: tuple[np.ndarray, np.ndarray]) -> None:
    """Sun, Feng and Saenko, AAAI 2016, algorithm 1, with means; lambda is 0.1 of the reference's mean variance."""
    source, target = domains
    found = coral(summed([source], "full"), Reference(summed(np.array_split(target, 3), "full"), 0.1))(source)
    theirs, ours = np.cov(source, rowvar=False, bias=True), np.cov(target, rowvar=False, bias=True)
    added = 0.1 * np.trace(ours) / 6 * np.eye(6)
    mixing = np.linalg.inv(sqrtm(theirs + added)) @ sqrtm(ours + added)
    expected = (source - source.mean(0)) @ mixing + target.mean(0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    assert np.abs(found - source).max() > 1


def test_the_diagonal_map_scales_each_feature_alone(domains: tuple[np.ndarray, np.ndarray]) -> None:
    source, target = domains
    found = coral(summed([source], "diagonal"), Reference(summed(np.array_split(target, 3), "diagonal"), 0.1))(source)
    added = 0.1 * target.var(0).mean()
    scale = np.sqrt((target.var(0) + added) / (source.var(0) + added))
    expected = (source - source.mean(0)) * scale + target.mean(0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
