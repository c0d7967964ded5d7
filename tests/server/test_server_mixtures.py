"""Mixtures of clients' classes as they arrive: taken, or refused with what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from inline_federation import FEATURE_DIM, federation
from numpy.typing import NDArray

from fedgraft.errors import WireError
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import MixturesReply
from server.mixtures import combine_mixtures


def answered(covariance: str, changes: dict[str, Callable[[Any], Any]]) -> Any:
    """Return what the server makes of a host's reply with some of its arrays changed."""
    with federation("classes") as asked:
        questions, grid = asked.inquiry.questions, asked.inquiry.grid
        calls = questions.roster.calls(np.arange(6))
        replies = list(grid.send_and_receive(questions.mixtures(calls, 2, covariance)))  # type: ignore[arg-type]
    body, groups = unpack(replies[0].content, MixturesReply, "the reply")
    for name, change in changes.items():
        groups["rows"][name] = change(groups["rows"][name].copy())
    replies[0].content = pack(body, groups)
    return combine_mixtures(calls, replies, questions.roster, FEATURE_DIM, 2, covariance)  # type: ignore[arg-type]


def negative(values: NDArray[Any]) -> NDArray[Any]:
    values[-1] = -values[-1]
    return values


def lopsided(values: NDArray[Any]) -> NDArray[Any]:
    values[0, 0, 1] += 1
    return values


def indefinite(values: NDArray[Any]) -> NDArray[Any]:
    values[0, 0, 1] = values[0, 1, 0] = 3 * np.trace(values[0])
    return values


REFUSED: list[tuple[str, dict[str, Callable[[Any], Any]], str]] = [
    ("diagonal", {"covariance": negative}, r"a variance is -[\d.]+; all must be above 0"),
    ("spherical", {"covariance": lambda v: v * 0}, r"a variance is 0; all must be above 0"),
    ("full", {"covariance": lopsided}, r"covariance of row 0 is not symmetric"),
    ("full", {"covariance": indefinite}, r"covariance of row 0 is not positive"),
    ("diagonal", {"share": lambda v: v * 2}, r"shares of a mixture must be from 0 and add up to 1; a sum is 2"),
    ("diagonal", {"mean": lambda v: v * np.nan}, r"values that are not finite"),
    ("diagonal", {"mean": lambda v: v[:, 1:]}, r"mean has shape \(\d+, 5\), expected \(\d+, 6\)"),
    ("diagonal", {"mean": lambda v: v.astype(np.float64)}, r"mean is of type float64, expected float32"),
    ("diagonal", {"count": lambda v: v + 1}, r"counts of its classes don't add up"),
    ("diagonal", {"class": lambda v: v + 7}, r"class goes from 7 to \d; expected 0 to 2"),
    ("diagonal", {"client": lambda v: v[::-1]}, r"not ordered by client and class"),
    ("diagonal", {"class": lambda v: v * 0}, r"has \d components; at most 2 were asked for"),
]


@pytest.mark.parametrize(("covariance", "changes", "text"), REFUSED)
def test_parameters_that_are_no_mixture(covariance: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(WireError, match=text):
        answered(covariance, changes)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "full"])
def test_mixtures_as_they_come_are_taken(covariance: str) -> None:
    rows = answered(covariance, {})
    assert rows["count"].min() >= 1
    assert sorted(set(rows["client"].tolist())) == [0, 1, 2, 3, 4, 5]
