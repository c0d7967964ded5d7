"""The steps of the dual form: moves clients' outputs on their own samples, and adds up the gradients that do.

Outputs stand as `(C, num_clients, n)`, those of a batch as `(C, num_clients, batch)`: `residuals` says why. A step is a
dozen calls, whatever the number of clients; each writes to room that the step before has used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clients.engine.linear_rule import LinearRule
from clients.engine.residuals import into_gradients
from clients.engine.visits import Visits
from clients.training import ASCENT_EPSILON, LocalTask
from fedgraft.devices import numpy_is_faster

if TYPE_CHECKING:
    import torch

CLIP_EPSILON = 1e-6
"""What `torch.nn.utils.clip_grad_norm_` adds to the norm."""


class Walk:
    """Walks the steps of clients that train at once.

    Args:
        gram: `(num_clients, n, n)`, zero in rows and columns past a client's size.
        start: `(num_clients, n, C)` outputs of the heads that training starts from.
        visits: what the steps look at.
        task: the round's loss, clipping and ascent.
        rule: how gradients move outputs and heads.
        constant: `(num_clients, n, C)` what is added to the gradient by the outputs in every step; None: nothing.
        keeps_gradients: whether their sums are asked for.
    """

    def __init__(
        self,
        gram: torch.Tensor,
        start: torch.Tensor,
        visits: Visits,
        task: LocalTask,
        rule: LinearRule,
        constant: torch.Tensor | None,
        keeps_gradients: bool,
    ) -> None:
        import torch

        self._visits, self._task, self._rule = visits, task, rule
        self._rows = gram.flatten(0, 1)  # whole rows are taken, which is much faster than `gather`
        self._outputs = start.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        self._flat_outputs = self._outputs.flatten(1)
        self._constant = None if constant is None else constant.permute(2, 0, 1).contiguous()
        self._velocity = torch.zeros_like(self._outputs) if rule.optimizer.momentum else None
        self._summed = torch.zeros_like(self._flat_outputs) if rule.is_plain or keeps_gradients else None
        self._answered = None if rule.is_plain else torch.zeros_like(self._flat_outputs)
        self._losses = start.new_zeros(visits.index.shape)
        self._losses_by_step = visits.by_step(self._losses)

    def go(self, lengths: NDArray[np.int64]) -> None:
        """Walk all steps.

        Args:
            lengths: `(num_clients,)` steps of each client.
        """
        visits, answers, room = self._visits, self._rule.answers(lengths), None
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges is found and named when its steps are done
            for step, active in enumerate(visits.num_active):
                if room is None or room.active != active:
                    room = _Room(self._outputs, active, visits.width)
                self._gradients(step, room)
                self._note(visits.places[step], room, answers[step, :active])
                self._move(room)

    @property
    def coefficients(self) -> torch.Tensor:
        """What the steps have added to the heads, `(num_clients, n, C)` coefficients of the clients' features."""
        if self._answered is None:
            return self.gradients.mul_(-self._rule.learning_rate)
        return self._by_client(self._answered)

    @property
    def gradients(self) -> torch.Tensor:
        """The sums of the clipped gradients of the loss, likewise.

        Raises:
            ValueError: they were not kept.
        """
        if self._summed is None:
            raise ValueError("the sums of the gradients were not kept")
        return self._by_client(self._summed)

    def _by_client(self, values: torch.Tensor) -> torch.Tensor:
        """Return a copy of `(C, num_clients * n)` as `(num_clients, n, C)`."""
        import torch

        return values.view_as(self._outputs).permute(1, 2, 0).clone(memory_format=torch.contiguous_format)

    @property
    def loss_sums(self) -> torch.Tensor:
        """Losses summed over the samples of all steps, each before its step, `(num_clients,)`."""
        return self._visits.loss_sums(self._losses)

    def _gradients(self, step: int, room: _Room) -> None:
        """Compute the gradients of a step's mean losses by its outputs, clipped, and write the losses."""
        import torch

        visits, clip_norm, ascent = self._visits, self._task.train.clip_norm, self._task.ascent
        torch.index_select(self._rows, 0, visits.places[step], out=room.flat_rows)
        torch.index_select(self._flat_outputs, 1, visits.places[step], out=room.flat_gradients)
        outputs = room.gradients.clone() if ascent else None
        self._descend(step, room, self._losses_by_step[step])
        if clip_norm is None and outputs is None:
            return
        batch = visits.index[step, : room.active]
        inner = room.rows.gather(2, batch[:, None, :].expand(-1, visits.width, -1))
        if outputs is not None:
            climb = ascent / (_norms(room.gradients, inner) + ASCENT_EPSILON)
            above = (room.gradients.transpose(0, 1) @ inner).transpose(0, 1) * climb[:, None]
            torch.add(outputs, above, out=room.gradients)
            self._descend(step, room, torch.empty_like(self._losses_by_step[step]))
        if clip_norm is not None:
            room.gradients.mul_((clip_norm / (_norms(room.gradients, inner) + CLIP_EPSILON)).clamp(max=1)[:, None])

    def _descend(self, step: int, room: _Room, losses: torch.Tensor) -> None:
        """Turn a step's outputs into the gradients of its mean losses, and write each sample's loss."""
        loss = self._task.objective.loss
        into_gradients(room.flat_gradients, self._visits.targets[step], loss, room.flat_spare, losses)
        room.gradients.mul_(self._visits.share(step))  # padding becomes zeros, which move nothing

    def _note(self, places: torch.Tensor, room: _Room, answers: NDArray[np.float64]) -> None:
        """Add a step's gradients to the sums that heads are made of.

        Args:
            places: of the step's samples.
            room: with the gradients.
            answers: `(active,)` what the rule answers to them.
        """
        import torch

        index = places.expand_as(room.flat_gradients)
        if self._summed is not None:
            self._summed.scatter_add_(1, index, room.flat_gradients)
        if self._answered is not None:
            torch.mul(room.gradients, room.gradients.new_tensor(answers)[:, None], out=room.spare)
            self._answered.scatter_add_(1, index, room.flat_spare)

    def _move(self, room: _Room) -> None:
        """Move the outputs of the first clients by a step's gradients."""
        rule, active = self._rule, room.active
        moves = room.moves_of_gradients()
        if self._constant is not None:
            moves += self._constant[:, :active]
        if rule.decay:
            moves.add_(room.outputs, alpha=rule.decay)
        if self._velocity is not None:
            velocity = self._velocity[:, :active].mul_(rule.optimizer.momentum).add_(moves)
            moves = moves.add_(velocity, alpha=rule.optimizer.momentum) if rule.optimizer.nesterov else velocity
        room.outputs.sub_(moves, alpha=rule.learning_rate)


class _Room:
    """Where a step writes, for the first clients, that still have steps.

    Attributes:
        active: their number.
        outputs: `(C, active, n)` of theirs among all.
        rows: `(active, batch, n)` of their Gram matrices.
        gradients: `(C, active, batch)` by their outputs.
        spare: of the same shape.
    """

    def __init__(self, outputs: torch.Tensor, active: int, width: int) -> None:
        import torch

        num_outputs, _, size = outputs.shape
        self.active, self.outputs = active, outputs[:, :active]
        self.rows = outputs.new_empty((active, width, size))
        self.gradients = outputs.new_empty((num_outputs, active, width))
        self.spare = torch.empty_like(self.gradients)
        self.flat_rows, self.flat_gradients = self.rows.flatten(0, 1), self.gradients.flatten(1)
        self.flat_spare = self.spare.flatten(1)
        self._moves = outputs.new_empty((num_outputs, active, size))
        factors = self.gradients.transpose(0, 1), self.rows, self._moves.transpose(0, 1)
        self._arrays = tuple(value.numpy() for value in factors) if numpy_is_faster(outputs.device) else ()

    def moves_of_gradients(self) -> torch.Tensor:
        """Return what the gradients make of all outputs, `(C, active, n)`, in the step's room.

        Of 10 x 10 by 10 x 50, NumPy's loop of small products takes half the time of `torch.bmm`.
        """
        if self._arrays:
            gradients, rows, moves = self._arrays
            np.matmul(gradients, rows, out=moves)
        else:
            self._moves.transpose(0, 1).copy_(self.gradients.transpose(0, 1) @ self.rows)
        return self._moves


def _norms(gradients: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Return the norms of gradients `R^T X_b`, `(num_clients,)`, from `R` and the Gram matrices of the batches."""
    by_client = gradients.transpose(0, 1)
    return (by_client.mT @ by_client * inner).sum((1, 2)).clamp_min(0).sqrt()
