"""What FedAdagrad, FedAdam and FedYogi share: an adaptive step of the server along the mean update.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, "Adaptive federated optimization", ICLR 2021,
arXiv:2003.00295, algorithm 2, with the mean update `u`, all element by element:

    m <- beta_1 m + (1 - beta_1) u
    v <- the strategy's own rule of v and u^2
    w <- w + learning_rate m / (sqrt(v) + tau)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from strategies.base import Arrays, Outcome, moved

Decay = Annotated[float, Field(ge=0, lt=1)]
"""How much of a running mean stays in the next one."""

Rule = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""The next second moment, of the last one and the squared update."""


def at_rest(head: Arrays, tau: float) -> dict[str, NDArray[np.float64]]:
    """Return the moments before the first round: 0, and `tau^2`, the least that the paper allows."""
    first = {f"first_moment.{name}": np.zeros(value.shape) for name, value in head.items()}
    return first | {f"second_moment.{name}": np.full(value.shape, tau**2) for name, value in head.items()}


def adaptive_step(
    state: Arrays, head: Arrays, update: Arrays, second_moment: Rule, beta_1: float, learning_rate: float, tau: float
) -> Outcome:
    """Return the head after one step, and the moments after it.

    Args:
        state: the moments, as `at_rest` names them.
        head: the global head.
        update: the mean update.
        second_moment: the strategy's own rule.
        beta_1: decay of the first moment.
        learning_rate: the server's.
        tau: added to the root of the second moment.
    """
    moments: dict[str, NDArray[np.float64]] = {}
    step: dict[str, NDArray[np.float64]] = {}
    for name in head:
        first = beta_1 * state[f"first_moment.{name}"] + (1 - beta_1) * update[name]
        second = second_moment(state[f"second_moment.{name}"], np.square(update[name]))
        step[name] = learning_rate * first / (np.sqrt(second) + tau)
        moments |= {f"first_moment.{name}": first, f"second_moment.{name}": second}
    norm = float(np.sqrt(sum(np.square(value).sum() for value in step.values())))
    return Outcome(head=moved(head, step), state=moments, metrics={"step_norm": norm})
