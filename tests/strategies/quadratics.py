"""Quadratics as clients: `f_k(w) = a_k / 2 (w - o_k)^2`, whose optimum under each strategy is known from theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.base import Arrays, Replies, Request, Strategy

LEARNING_RATE = 0.05


@dataclass(frozen=True)
class Quadratic:
    """One client: curvature, optimum, and the number of its samples."""

    curvature: float
    optimum: float
    weight: float = 1.0

    def loss(self, w: float) -> float:
        return self.curvature / 2 * (w - self.optimum) ** 2

    def trained(
        self, start: float, num_steps: int, mu: float, drift: float = 0.0, rho: float = 0.0
    ) -> tuple[float, float]:
        """Return the parameter after descent by the gradient plus `drift`, and the mean loss before each step."""
        w, losses = start, []
        for _ in range(num_steps):
            losses.append(self.loss(w))
            above = w + rho * np.sign(w - self.optimum)
            w -= LEARNING_RATE * (self.curvature * (above - self.optimum) + drift + mu * (w - start))
        return w, float(np.mean(losses))


UNLIKE = (Quadratic(1, -3), Quadratic(4, 2))
"""Curvatures 1 and 4, optima -3 and 2: their sum is least at (1 * -3 + 4 * 2) / 5 = 1."""


def together(clients: Sequence[Quadratic]) -> Quadratic:
    """Return the client that has the samples of all; its loss lacks a constant."""
    weights = np.array([client.weight for client in clients])
    curvatures = np.array([client.curvature for client in clients])
    pulls = weights * curvatures
    optimum = float(pulls @ [client.optimum for client in clients] / pulls.sum())
    return Quadratic(float(pulls.sum() / weights.sum()), optimum, float(weights.sum()))


def answer(
    request: Request,
    strategy: Strategy,
    head: Arrays,
    clients: Sequence[Quadratic],
    steps: int,
    variates: np.ndarray | None = None,
) -> Replies:
    """Return what the clients reply to a request, combined as the server combines it; `variates` are changed."""
    half = request.half
    if half.name not in ("plain", "proximal", "sharpness", "control_variate", "dynamic", "alone", "ditto"):
        raise NotImplementedError(f"the quadratics don't know the client half {half.name}")
    mu = half.parameters["mu"] if half.name in ("proximal", "dynamic") else 0.0
    start = float(head["w"][0])
    own = np.zeros(len(clients)) if variates is None else variates
    controlled = half.name == "control_variate"
    shared = float(request.arrays["control.w"][0]) if controlled else 0.0
    drifts = shared - own  # without a half that keeps them both are zero
    rho = half.parameters.get("rho", 0.0)
    results = [client.trained(start, steps, mu, drift, rho) for client, drift in zip(clients, drifts, strict=True)]
    updates = np.array([[w - start] for w, _ in results])
    weights = np.array([client.weight for client in clients])
    following = -drifts - updates[:, 0] / (steps * LEARNING_RATE) if controlled else own  # the paper's option II
    if half.name == "dynamic":
        following = own - mu * updates[:, 0]
    changes, own[:] = following - own, following
    before = np.array([client.loss(start) for client in clients])
    near = weights
    if "near_weight" in request.scalars:
        near = weights / np.maximum(request.smoothing, np.abs(updates[:, 0] - request.arrays["point.w"][0]))
    powers, squares = weights * before**request.loss_power, np.square(updates[:, 0])
    # With gradients of 1 every step moves by lr, and the proximal term takes lr mu of the way back each time.
    path = (1 - (1 - LEARNING_RATE * mu) ** steps) / (LEARNING_RATE * mu) if mu else float(steps)
    known_sums = {
        "update": (weights[:, None] * updates).sum(axis=0),
        "control": np.array([(weights * changes).sum()]),
        "normalised_update": (weights[:, None] * updates).sum(axis=0) / path,
        "fair_update": (powers[:, None] * updates).sum(axis=0),
        "near_update": (near[:, None] * updates).sum(axis=0),
    }
    known_scalars = {
        "weight": float(weights.sum()),
        "steps": float(steps * len(clients)),
        "clients": float(len(clients)),
        "path_length": float(weights.sum() * path),
        "square_norm": float(weights @ squares),
        "fair_weight": float(powers.sum()),
        "fair_curvature": float((powers / before) @ squares) / LEARNING_RATE,
        "near_weight": float(near.sum()),
    }
    if strategy.reply == "stack":
        losses = np.array([loss for _, loss in results])
        return Replies({}, {}, len(clients), {"w": updates}, weights, losses)
    sums = {name: {"w": known_sums[name]} for name in request.sums}
    scalars = {name: known_scalars[name] for name in request.scalars}
    facts = {"federation_clients": len(clients), "federation_weight": float(weights.sum())}
    return Replies(sums, scalars, len(clients), **facts)


def course(
    strategy: Strategy, clients: Sequence[Quadratic], num_steps: int, num_rounds: int, start: float = 0.0
) -> list[float]:
    """Return the parameter after each round."""
    head: Arrays = {"w": np.array([start])}
    if strategy.pools:
        clients = [together(clients)]
    state, values, variates = strategy.init(head), [], np.zeros(len(clients))
    for round_number in range(1, num_rounds + 1):
        plan = strategy.plan(state, round_number)
        replies: tuple[Replies, ...] = ()
        for planned in plan:
            request = strategy.completed(planned, head, replies)
            replies = (*replies, answer(request, strategy, head, clients, num_steps, variates))
        outcome = strategy.aggregate(state, head, replies)
        head, state = outcome.head, outcome.state
        values.append(float(head["w"][0]))
    return values
