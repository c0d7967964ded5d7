"""FedAvgM: FedAvg with momentum on the server.

Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual
classification", 2019, arXiv:1909.06335, section 4.3: `v <- beta v + u`, `w <- w + v`, where `u` is the mean
update.

Differs from the paper: the paper's update is global minus local, ours is local minus global, so the signs are
turned; a learning rate multiplies `v` (the paper's is 1, which is our default).
Client half: plain. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from strategies.base import Arrays, Outcome, Replies, Strategy, mean_update, moved


class FedAvgM(Strategy):
    """FedAvg with momentum on the server (Hsu et al., 2019)."""

    name: Literal["fedavgm"] = "fedavgm"
    """FedAvg with momentum on the server."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How much of the last step stays in the next one; 0 is FedAvg."""
    learning_rate: PositiveFloat = 1.0
    """What the step is multiplied by."""

    def init(self, head: Arrays) -> Arrays:
        """Return the velocity at rest, one float64 array for each of the head's."""
        return {name: np.zeros(value.shape) for name, value in head.items()}

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + learning_rate * v` with the new velocity `v = momentum * v + mean update`."""
        update = mean_update(replies[0])
        velocity = {name: self.momentum * state[name] + update[name] for name in head}
        step = {name: self.learning_rate * value for name, value in velocity.items()}
        norm = float(np.sqrt(sum(np.square(value).sum() for value in velocity.values())))
        return Outcome(head=moved(head, step), state=velocity, metrics={"velocity_norm": norm})
