"""Personal ridge: each client blends its own sums with those of all, and chooses how much its own count.

The global head is `strategies/ridge.py`'s (Fani, Camoriano, Caputo and Ciccone, "Accelerating heterogeneous federated
learning with closed-form classifiers", ICML 2024, arXiv:2406.01116). A client's own head minimises

    (1 - a) sum_i |y_i - W x_i|^2 + a n / n_k sum_{i of k} |y_i - W x_i|^2 + lambda |W|^2

over the n samples of all clients and its own n_k: the interpolation of local and global objectives of Mansour, Mohri,
Ro and Suresh, "Three approaches for personalization with applications to federated learning", 2020, arXiv:2002.10619,
section 5 ("data interpolation"), in closed form. Each client tries some shares `a` from 0 (the global head) to 1 (its
own) and takes the one with the least squared error on its validation part.

Differs from the paper: there the share is chosen with a theory of generalisation and models are trained; here heads are
solved exactly from sums, so that nothing depends on order, rounds or other hosts. A score on the very samples that
chose would flatter, so what is reported crosses over: each half of the validation part is judged by the head that the
other half chooses.
Client half: blended_ridge, for evaluation. Replies: statistics with the shared second moment, and cross-validation
where a penalty is chosen; then the sums of all clients go back to each host, once.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedgraft.closed_form import regression_moments
from strategies.base import Arrays, Half, Outcome, Replies, Request
from strategies.ridge import Ridge


class PersonalRidge(Ridge):
    """Ridge heads of each client's own sums blended with those of all, in one round."""

    name: Literal["personal-ridge"] = "personal-ridge"  # type: ignore[assignment]  # a subclass to share the fields
    """The ridge head of all clients, and for each its own samples blended in, as much as its validation part likes."""

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the ridge head of all clients, and keep its sums for their own."""
        outcome = super().aggregate(state, head, replies)
        sums = replies[0]
        moments = {f"moments.{name}": value for name, value in regression_moments(sums.statistics, sums.task).items()}
        chosen = {"penalty": np.array(outcome.metrics["penalty"])}
        return Outcome(outcome.head, {**moments, **chosen}, outcome.metrics)

    def personal(self, state: Arrays) -> Request:
        """Return the half that makes each client's head, with the sums of all clients."""
        moments = {name: value for name, value in state.items() if name.startswith("moments.")}
        penalty = float(state["penalty"]) if "penalty" in state else 1.0  # before the sums are there nobody asks
        return Request(Half("blended_ridge", {"penalty": penalty, "temperature": self.temperature}), arrays=moments)
