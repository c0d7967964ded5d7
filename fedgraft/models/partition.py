"""Shared and personal, trainable and frozen: splitting named values and putting them together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fedgraft.errors import ModelError, listed

T = TypeVar("T")


def partition(
    state: Mapping[str, T], trainable: Callable[[str], bool] | Iterable[str]
) -> tuple[dict[str, T], dict[str, T]]:
    """Return `(trainable, frozen)`, both in the order of `state`; `combine` is the inverse.

    Args:
        state: Values under full parameter names, such as `blocks.6.0.conv_pw.weight`.
        trainable: A test of the full name, or prefixes that end at a dot or at the end: `layer1` takes
            `layer1.0.weight` and not `layer10.weight`.

    Raises:
        ModelError: a prefix that fits no name.
    """
    if not callable(trainable):
        trainable = _by_prefix(list(state), trainable)
    chosen = {name: trainable(name) for name in state}
    return (
        {name: value for name, value in state.items() if chosen[name]},
        {name: value for name, value in state.items() if not chosen[name]},
    )


def combine(first: Mapping[str, T], second: Mapping[str, T]) -> dict[str, T]:
    """Return the union of two parts.

    Raises:
        ModelError: a name stands in both.
    """
    both = [name for name in first if name in second]
    if both:
        raise ModelError(f"{len(both)} names stand in both parts ({listed(both, 5)}); a name belongs to one part")
    return {**first, **second}


def _by_prefix(names: list[str], prefixes: Iterable[str]) -> Callable[[str], bool]:
    prefixes = [prefixes] if isinstance(prefixes, str) else list(prefixes)

    def within(name: str, prefix: str) -> bool:
        return not prefix or name == prefix or name.startswith(prefix.removesuffix(".") + ".")

    idle = [prefix for prefix in prefixes if not any(within(name, prefix) for name in names)]
    if idle:
        raise ModelError(f"no parameter is called {listed(idle)} or stands below; the first are {listed(names, 5)}")
    return lambda name: any(within(name, prefix) for prefix in prefixes)
