"""Ridge regression on all clients' features at once, from one round of sums.

Fani, Camoriano, Caputo and Ciccone, "Accelerating heterogeneous federated learning with closed-form classifiers"
(Fed3R), ICML 2024, arXiv:2406.01116, eq. 4 to 6: clients send `A_k = X_k^T X_k` and `b_k = X_k^T Y_k`, and the head is
`(sum_k A_k + lambda I)^-1 sum_k b_k`. He et al., "AFL: a single-round analytic approach for federated learning with
pre-trained models", CVPR 2025, arXiv:2405.16240, reaches the same head by merging the clients' own solutions. It is the
head that all samples in one place would give, to rounding, however they are spread.

Differs from the paper: the bias is fitted too and not penalised; the penalty is chosen without validation data by
leaving each client out in turn (`fedgraft.closed_form`); outputs of classes and labels are divided by a temperature, as
Fed3R does before it trains on, since least squares keeps them within about -1 and 1, where a softmax is nearly flat.
Client half: none. Replies: statistics with the shared second moment, and cross-validation where a penalty is chosen.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from fedgraft.closed_form import best_lambda
from fedgraft.recipes import Recipe
from strategies.base import Arrays, CrossValidate, Exchange, Outcome, Replies, Statistics, Strategy, solved

DECADES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Ridge(Strategy):
    """Ridge regression from sums of features, in one round (Fed3R: Fani et al., 2024; AFL: He et al., 2025)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    leaves_out: ClassVar[Literal["no", "hosts", "server"]] = "hosts"
    heads: ClassVar[tuple[str, ...]] = ("linear",)

    name: Literal["ridge"] = "ridge"
    """The ridge head of all clients' samples together, in closed form from one round of sums."""
    penalty: PositiveFloat | None = None
    """Lambda, on sums of squares; null: chosen by leaving each client out in turn."""
    relative_penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1, max_length=100)] = DECADES
    """What to choose from, as multiples of the mean eigenvalue of the features' second moment."""
    temperature: PositiveFloat = 0.1
    """What outputs of classes and labels are divided by, so that they make probabilities; no answer changes."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the sums, and cross-validation if the penalty is to be chosen."""
        sums = Statistics("shared")
        return (sums,) if self.penalty is not None else (sums, CrossValidate(self.relative_penalties))

    def recipe(self, head: Arrays, replies: tuple[Replies, ...]) -> Recipe:
        """Return how the head is made of the sums, with the penalty that was set or is best."""
        penalty = self.penalty
        if penalty is None:
            penalty = best_lambda(tuple(replies[1].penalties.tolist()), replies[1].scores)
        temperature = 1.0 if replies[0].task == "real" else self.temperature
        return Recipe("ridge", {"penalty": penalty, "bias": float("bias" in head)}, temperature)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the ridge head."""
        recipe = self.recipe(head, replies)
        metrics = {"penalty": recipe.parameters["penalty"]}
        if self.penalty is None:
            metrics["left_out_score"] = float(replies[1].scores.max()) / max(replies[1].num_samples, 1)
        return Outcome(solved(head, recipe.head(replies[0].statistics, replies[0].task)), state, metrics)
