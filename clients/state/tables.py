"""Client state in memory: all clients of a host in two arrays a name, and no Python object a client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.models.heads import ADAPTER

Kind = Literal["span", "head", "layers", "number", "norm"]
"""What a state is of: `span`, in the span of the client's features, as any gradient of a linear head; `head`, of the
head's shapes; `layers`, those of the head's arrays that are no adapter's; one `number`; or `norm`, of the shapes of the
batch norm in trained blocks."""

Stacked = dict[str, NDArray[Any]]
"""Arrays of the head's names, `(num_clients, *shape)`."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What the clients of a host are; their state stands in their order.

    Attributes:
        sizes: `(num_clients,)` training samples.
        dual: `(num_clients,)` whether a client trains in the dual form.
        num_outputs: of the head, C.
        shapes: the head's, by name.
        norm_shapes: those of batch norm that is each client's own, by name.
    """

    sizes: NDArray[np.int64]
    dual: NDArray[np.bool_]
    num_outputs: int
    shapes: Mapping[str, tuple[int, ...]]
    norm_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class StateTable:
    """One named state of all clients of a host, from zeros.

    A state of kind `span` of a client that trains in the dual form is `B^T X`, with `X` `(n, D)` its features; it is
    kept as its coefficients `B` `(n, C)`, with the bias through the constant feature: n C numbers in place of D C.
    Any other is kept as it is, P numbers. Threads may read and write at once where their clients are others.

    Args:
        layout: the clients.
        kind: of the state.
        dtype: of the numbers that are kept.
    """

    def __init__(self, layout: Layout, kind: Kind, dtype: type[np.floating[Any]] = np.float32) -> None:
        self.layout = layout
        shapes = {"number": ()} if kind == "number" else layout.norm_shapes if kind == "norm" else layout.shapes
        if kind == "layers":
            shapes = {name: shape for name, shape in shapes.items() if not name.startswith(ADAPTER)}
        self._shapes = sorted(shapes.items())  # whatever the order in which a head's arrays come
        in_span = layout.dual & (kind == "span")
        counts = np.where(in_span, layout.sizes, np.where(layout.sizes > 0, 1, 0))
        self._in_span = in_span
        self._starts = np.where(in_span, _starts(counts * in_span), _starts(counts * ~in_span))
        # zeros cost no memory before they are written over
        self.span = np.zeros((int(counts[in_span].sum()), layout.num_outputs), dtype=dtype)
        width = sum(math.prod(shape) for shape in shapes.values())
        self.head = np.zeros((int(counts[~in_span].sum()), width), dtype=dtype)
        self._counts = counts

    def coefficients(self, clients: NDArray[np.int64], longest: int) -> NDArray[Any]:
        """Return the coefficients of some clients of the dual form, `(num, longest, C)`, padded with zeros."""
        rows, real = self._rows(clients, longest)
        values = np.zeros((*real.shape, self.span.shape[1]), dtype=self.span.dtype)
        values[real] = self.span[rows]
        return values

    def keep_coefficients(self, clients: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write what `coefficients` returned."""
        rows, real = self._rows(clients, values.shape[1])
        self.span[rows] = values[real]

    def heads(self, clients: NDArray[np.int64]) -> Stacked:
        """Return the arrays of some other clients, `(num, *shape)` each."""
        flat, found, first = self.head[self._starts[clients]], {}, 0
        for name, shape in self._shapes:
            last = first + math.prod(shape)
            found[name] = flat[:, first:last].reshape(len(clients), *shape)
            first = last
        return found

    def keep_heads(self, clients: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        """Write what `heads` returned."""
        parts = [values[name].reshape(len(clients), -1) for name, _ in self._shapes]
        self.head[self._starts[clients]] = np.concatenate(parts, axis=1)

    def numbers(self, clients: NDArray[np.int64]) -> NDArray[Any]:
        """Return the number of some clients with samples, `(num,)`."""
        values: NDArray[Any] = self.head[self._starts[clients], 0]
        return values

    def keep_numbers(self, clients: NDArray[np.int64], values: NDArray[Any] | float) -> None:
        """Write what `numbers` returned."""
        self.head[self._starts[clients], 0] = values

    def part(self, first: int, last: int) -> dict[Kind, NDArray[Any]]:
        """Return views of the rows of the clients from `first` up to but without `last`."""
        chosen, some = self._in_span[first:last], self._counts[first:last]
        before = (self._counts * self._in_span)[:first].sum(), (self._counts * ~self._in_span)[:first].sum()
        return {
            "span": self.span[before[0] : before[0] + some[chosen].sum()],
            "head": self.head[before[1] : before[1] + some[~chosen].sum()],
        }

    def _rows(self, clients: NDArray[np.int64], longest: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the rows of the clients one after another, and where they stand in `(num, longest)`."""
        within = np.arange(longest)
        real = within < self._counts[clients][:, None]
        return (self._starts[clients][:, None] + within)[real], real


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts) - counts
