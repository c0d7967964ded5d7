"""How fast blocks of the backbone are trained beside the head, and what holds them to their pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clients.settings import warmup
from fedgraft.models.heads import as_tensors
from fedgraft.models.unfreeze_settings import UnfreezeSettings

if TYPE_CHECKING:
    import torch

    from fedgraft.models.blocks import Blocks


@dataclass(frozen=True)
class Tuning:
    """What a local step does otherwise for blocks than for the head.

    Attributes:
        factors: what the learning rate is multiplied by, by the name of the array; others have the full rate.
        pull: of L2-SP (Li et al., ICML 2018, arXiv:1802.01483, eq. 1); 0: none.
        pretrained: what blocks are pulled to, where they are.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    pull: float = 0.0
    pretrained: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def groups(
        self, parameters: Mapping[str, torch.Tensor], learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Return the optimiser's groups of parameters, in the order of their names."""
        found: dict[tuple[float, float], list[torch.Tensor]] = {}
        for name, value in parameters.items():
            decay = 0.0 if name in self.pretrained else weight_decay
            found.setdefault((learning_rate * self.factors.get(name, 1.0), decay), []).append(value)
        return [{"params": values, "lr": rate, "weight_decay": decay} for (rate, decay), values in found.items()]

    def add_pull(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Add the gradient of `pull / 2 |w - w_pretrained|^2`."""
        for name, value in self.pretrained.items():
            gradient = parameters[name].grad
            if gradient is not None:
                gradient.add_(parameters[name].detach() - value, alpha=self.pull)


def tuning_of(settings: UnfreezeSettings, blocks: Blocks, round_number: int) -> Tuning:
    """Return how blocks are trained in a round."""
    factors = {
        name: settings.block_rate
        * settings.decay ** blocks.distance(name)
        * _warmed(settings, blocks, name, round_number)
        for name in blocks.trained
    }
    return Tuning(factors, settings.pull, as_tensors(blocks.pretrained) if settings.pull else {})


def _warmed(settings: UnfreezeSettings, blocks: Blocks, name: str, round_number: int) -> float:
    """Return how far a block's rate has risen since the round that unfroze it."""
    start = next(step.round for step in settings.steps if blocks.lies_past(name, step.cut))
    return warmup(round_number - start + 1, settings.warmup_rounds)
