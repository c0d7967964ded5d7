"""Bottleneck adapters: a narrow two-layer network on top of a module, added to what it gives.

Neil Houlsby, Andrei Giurgiu, Stanislaw Jastrzebski, Bruna Morrone, Quentin de Laroussilhe, Andrea Gesmundo, Mona
Attariyan and Sylvain Gelly, "Parameter-efficient transfer learning for NLP", ICML 2019, arXiv:1902.00751, figure 2:
after attention and after the MLP of each block, before the residual connection, `x + up(f(down(x)))`.

Differs from the paper: `f` is ReLU; the up-projection starts at exactly zero, so that the model is the pretrained one
at the start; layer norms stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "adapter"
"""The name of an adapter in the module that it sits on."""


class Bottleneck(nn.Module):
    """`x + up(relu(down(x)))` over the last dimension; all zeros as it is made."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the draws of an initialiser leave the global generator as it was
            self.down, self.up = nn.Linear(dim, width), nn.Linear(width, dim)
        for value in self.parameters():
            nn.init.zeros_(value)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` and what the bottleneck makes of it, of the same shape."""
        added: Tensor = self.up(torch.relu(self.down(x)))
        return x + added


def attach(module: nn.Module, dim: int, width: int) -> list[str]:
    """Put an adapter on a module that gives tokens `(N, T, dim)`, alone or first in a tuple.

    Names of the module's own parameters stay as they are; those of the adapter's are returned.
    """
    adapter = Bottleneck(dim, width)
    module.add_module(NAME, adapter)
    if not isinstance(module, nn.Sequential):  # which runs what is added to it by itself
        module.register_forward_hook(_through)
    return [f"{NAME}.{name}" for name, _ in adapter.named_parameters()]


def _through(module: nn.Module, _: Any, output: Any) -> Any:
    """Send what a module gives through its adapter."""
    adapter = module.get_submodule(NAME)
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)
