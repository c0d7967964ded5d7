"""SGD of what moves linearly: two scalars and one answer to a gradient say where any head goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.settings import Sgd


@dataclass(frozen=True)
class LinearRule:
    """`torch.optim.SGD` of a value whose gradient is `decay * value` plus what comes from outside.

    Attributes:
        optimizer: its momentum.
        learning_rate: the round's.
        decay: weight decay, and the weight of a proximal term.
    """

    optimizer: Sgd
    learning_rate: float
    decay: float

    @property
    def is_plain(self) -> bool:
        """Whether a gradient moves a value in its own step only, and the value itself does not."""
        return self.optimizer.momentum == 0 and self.decay == 0

    def course(
        self, num_steps: int, start: float = 0.0, constant: float = 0.0, impulse: float = 0.0
    ) -> NDArray[np.float64]:
        """Return a value before the first and after each step, `(num_steps + 1,)`.

        Args:
            num_steps: how many.
            start: the value before the first.
            constant: what is added to the gradient of every step.
            impulse: what is added to the gradient of the first.
        """
        values, velocity, momentum = [start], 0.0, self.optimizer.momentum
        for step in range(num_steps):
            gradient = self.decay * values[-1] + constant + (0.0 if step else impulse)
            velocity = momentum * velocity + gradient
            direction = gradient + momentum * velocity if self.optimizer.nesterov else velocity
            values.append(values[-1] - self.learning_rate * direction)
        return np.array(values)

    def answers(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what a gradient of 1 in each step has moved a value by after a client's last, `(steps, num_clients)`.

        Args:
            lengths: `(num_clients,)` steps of each client; past its last the answer is 0.
        """
        longest = int(lengths.max(initial=0))
        left = lengths - np.arange(longest)[:, None]
        return np.asarray(self.course(longest, impulse=1.0)[left.clip(0)])
