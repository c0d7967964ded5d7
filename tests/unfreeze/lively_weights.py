"""Random weights in which no branch of a model is silent and no statistic is trivial."""

from __future__ import annotations

import torch
from torch import nn


def enliven(model: nn.Module, seed: int) -> None:
    """Change a model's weights and statistics, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif value.is_floating_point():
                spread = 0.3 if value.ndim == 1 else value[0].numel() ** -0.5
                value.add_(spread * torch.randn(value.shape, generator=generator))
