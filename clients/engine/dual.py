"""The dual form: linear heads under the SGD family, trained in the span of each client's features.

A step of SGD adds to the head a combination of the batch's features, so a head that starts at `W0` stays in
`W = s W0 + A^T X`: `X` `(n, D)` are the client's features, `A` `(n, C)` its coefficients and `s` a scalar that
moves only under weight decay or a proximal term. With the Gram matrix `K = X X^T`, computed once, a step costs
`batch x n x C` instead of `batch x D x C`, and the iterates are the same. The bias is the weight of a constant
feature, so `K` has 1 added.

All that a step needs of a head are its outputs `F` on the client's own samples. The residuals `R` of a batch `b` are
the gradient `X_b^T R` by the head and `K_b^T R` by `F`, and since SGD is linear in the gradients, it moves `F` by the
one as it moves the head by the other, with momentum and decay. So `F` goes from step to step, and the head follows when
all are done: the residuals of a step add to `A` what `LinearRule` answers to a gradient of that step, and `s` has a
course of its own.

A control variate adds the same `d = c - B^T X` to every gradient: `c` is the federation's, `B` `(n, C)` the
coefficients of the client's own. So `W = s W0 + t d + A^T X` with one scalar more, and the outputs of `d` are computed
once. A proximal term towards another head `W1` than the start moves `t` too, with `d = W1`.

The client's next control variate is the mean of its clipped gradients, which lie in the span: `n C` numbers.
Clipping needs the gradient's norm, whose square is `trace(R^T K_bb R)`. A step that climbs before it takes its
gradient stays in the span too: up there the batch's outputs are more by `rho K_bb R / |g|`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.engine.batches import Steps
from clients.engine.linear_rule import LinearRule
from clients.engine.output_space import Walk
from clients.engine.visits import visits
from clients.settings import Sgd
from clients.training import LocalTask

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DualControl:
    """The control variates of a bucket, for clients in its order.

    Attributes:
        outputs: `(num_clients, n, C)` of the federation's, bias included.
        own: `(num_clients, n, C)`, the `B` above; zero in rows past a client's size.
    """

    outputs: torch.Tensor
    own: torch.Tensor


@dataclass(frozen=True)
class DualResult:
    """What the training of a bucket gave, for clients in its order: heads `scale W0 + shift d + coefficients^T X`.

    `d` is the federation's control variate `c`, or the head that the proximal term pulls to.

    Attributes:
        scale: `(num_clients,)`, the `s` above.
        coefficients: `(num_clients, n, C)`, `A - t B` above; zero in rows past a client's size.
        loss_sums: `(num_clients,)` losses summed over the samples of all steps, each before its step.
        seen: `(num_clients,)` samples of all steps.
        shift: `(num_clients,)`, the `t` above; None without control variates and without such a pull.
        gradients: `(num_clients, n, C)` coefficients of the mean over the steps of the clipped gradients of the loss,
            the next `B`; None without control variates.
    """

    scale: torch.Tensor
    coefficients: torch.Tensor
    loss_sums: torch.Tensor
    seen: torch.Tensor
    shift: torch.Tensor | None = None
    gradients: torch.Tensor | None = None


def train_dual(
    gram: torch.Tensor,
    start: torch.Tensor,
    targets: torch.Tensor,
    steps: Steps,
    task: LocalTask,
    mu: float = 0.0,
    control: DualControl | None = None,
    centre: torch.Tensor | None = None,
) -> DualResult:
    """Train the linear heads of a bucket of clients.

    Args:
        gram: `(num_clients, n, n)`, zero in rows and columns past a client's size.
        start: `(num_clients, n, C)` outputs of the heads that training starts from, bias included.
        targets: `(num_clients, n)` int64 classes for softmax, else `(num_clients, n, C)`.
        steps: the clients' steps; clients in falling order of their number of steps.
        task: the round's loss, optimiser, learning rate, clipping and ascent.
        mu: weight of the proximal term `mu / 2 |W - W0|^2`.
        control: control variates; not together with a centre.
        centre: `(num_clients, n, C)` outputs of the head `W1` that the proximal term pulls to in place of `W0`.

    Raises:
        TypeError: the optimiser is not linear in the gradients.
    """
    optimizer = task.train.optimizer
    if not isinstance(optimizer, Sgd):
        raise TypeError(f"the dual form trains under SGD only, not under {optimizer.name}")
    rule = LinearRule(optimizer, task.learning_rate, mu + optimizer.weight_decay)
    to_start, to_drift = (-mu, 1.0) if centre is None else (0.0, -mu)
    drift = centre if control is None else control.outputs - gram @ control.own
    constant = to_start * start if to_start else None
    if drift is not None:
        constant = to_drift * drift if constant is None else constant + to_drift * drift
    seen = visits(steps, targets, task.objective.loss, start.dtype)
    walk = Walk(gram, start, seen, task, rule, constant, control is not None)
    walk.go(steps.lengths)

    def course(first: float, constant: float) -> torch.Tensor:
        return start.new_tensor(rule.course(len(seen.num_active), first, constant)[steps.lengths])

    scale, shift = course(1.0, to_start), None if drift is None else course(0.0, to_drift)
    if control is None or shift is None:
        return DualResult(scale, walk.coefficients, walk.loss_sums, seen.seen, shift)
    lengths = start.new_tensor(steps.lengths)[:, None, None]
    coefficients = walk.coefficients - shift[:, None, None] * control.own
    return DualResult(scale, coefficients, walk.loss_sums, seen.seen, shift, walk.gradients / lengths)


def head_update(
    result: DualResult,
    features: torch.Tensor,
    head: Mapping[str, torch.Tensor],
    shared: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Return every client's update, `(num_clients, *shape)`, from padded features `(num_clients, n, D)`.

    Args:
        result: what training gave.
        features: the clients'.
        head: the head that was received, or the heads that the clients started from, `(num_clients, *shape)`.
        shared: the federation's control variate, or the head that the proximal term pulled to, if there was one.
    """
    moved = (result.scale - 1).to(features.dtype)
    update = {"weight": moved[:, None, None] * head["weight"] + result.coefficients.mT @ features}
    if "bias" in head:
        update["bias"] = moved[:, None] * head["bias"] + result.coefficients.sum(1)
    if shared is not None and result.shift is not None:
        for name, value in update.items():
            value += result.shift.view(-1, *[1] * shared[name].dim()) * shared[name]
    return update
