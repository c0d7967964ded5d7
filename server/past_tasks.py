"""Sums of features of earlier tasks: closed forms absorb new classes without seeing old samples again.

A closed form is a function of sums over samples, so the sums of all tasks so far give the head that all their samples
at once would give, to rounding: nothing is forgotten. Zhuang, Weng, Wei, Xie, Toh and Lin, "ACIL: analytic
class-incremental learning with absolute memorization and privacy protection", NeurIPS 2022, arXiv:2205.14922, update
the inverse of the regularised second moment task by task; here the sums themselves are kept, which is the same head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.wire.records import Arrays
from strategies.base import ClassSums, CrossValidate, Exchange, Mixtures, Replies, Statistics


def with_past(past: Arrays, place: int, exchange: Exchange, replies: Replies) -> Replies:
    """Return what the clients said in one exchange of a round, together with what they said of earlier tasks.

    Sums are added. Rows by client and class are put together, by client, then class. Of cross-validation the scores of
    each penalty are added, relative to the mean eigenvalue: those of each task come from heads of the tasks until then.

    Args:
        past: as `past_of` returned it; empty during the first task.
        place: of the exchange in the round's plan.
        exchange: what was asked.
        replies: what came.
    """
    own = {name.partition(".")[2]: value for name, value in past.items() if name.startswith(f"{place}.")}
    if not own:
        return replies
    num_samples = replies.num_samples + int(own.pop("num_samples"))
    if isinstance(exchange, Statistics):
        summed = {name: np.asarray(value) + own[name] for name, value in replies.statistics.items()}
        return replace(replies, statistics=summed, num_samples=num_samples)
    if isinstance(exchange, ClassSums | Mixtures):
        rows = {name: np.concatenate((own[name], value)) for name, value in replies.statistics.items()}
        order = np.lexsort((rows["class"], rows["client"]))  # stable: components of a class keep their order
        ordered = {name: value[order] for name, value in rows.items()}
        return replace(replies, statistics=ordered, num_samples=num_samples)
    return replace(replies, scores=replies.scores + own["scores"], num_samples=num_samples)


def past_of(plan: Sequence[Exchange], gathered: Sequence[Replies]) -> dict[str, NDArray[Any]]:
    """Return what is kept of a task's last round, as flat named arrays: what all its exchanges about sums gave."""
    past: dict[str, NDArray[Any]] = {}
    for place, (exchange, replies) in enumerate(zip(plan, gathered, strict=True)):
        kept: dict[str, Any] = {}
        if isinstance(exchange, Statistics | ClassSums | Mixtures):
            kept = {**replies.statistics, "num_samples": np.array(replies.num_samples)}
        elif isinstance(exchange, CrossValidate):
            kept = {"scores": np.asarray(replies.scores), "num_samples": np.array(replies.num_samples)}
        past |= {f"{place}.{name}": np.asarray(value) for name, value in kept.items()}
    return past
