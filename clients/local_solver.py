"""How far a client's local steps take it: the weights of its gradients in its update."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.settings import OptimizerSettings, Sgd
from fedgraft.errors import TrainingError


@dataclass(frozen=True)
class LocalSolver:
    """How clients train in one round.

    Attributes:
        optimizer: its settings.
        learning_rate: the round's.
        mu: weight of the proximal term.
    """

    optimizer: OptimizerSettings
    learning_rate: float
    mu: float = 0.0

    def path_lengths(self, num_steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return `|a|_1` of clients that took so many steps.

        SGD's update is `-learning_rate sum_i a_i g_i` of the gradients `g_i` of the loss (with weight decay, which is
        a part of what is minimised), so with gradients of 1 it moves by `-learning_rate sum_i a_i`: that is what is
        computed here. Without momentum and proximal term it is the number of steps. (Wang et al., NeurIPS 2020,
        arXiv:2007.07481, section 4.1, give the closed forms of both.)

        Raises:
            TrainingError: the optimiser is not linear in its gradients.
        """
        if not isinstance(self.optimizer, Sgd):
            raise TrainingError(
                f"the strategy needs the weights of a client's gradients, which {self.optimizer.name} does not have; "
                "set train.optimizer to sgd"
            )
        momentum, nesterov = self.optimizer.momentum, self.optimizer.nesterov
        length, velocity, lengths = 0.0, 0.0, [0.0]
        for _ in range(int(num_steps.max(initial=0))):
            gradient = 1 - self.mu * self.learning_rate * length
            velocity = momentum * velocity + gradient
            length += gradient + momentum * velocity if nesterov else velocity
            lengths.append(length)
        return np.array(lengths)[num_steps]
