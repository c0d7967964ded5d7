"""Local-only: every client trains a head of its own, and nothing is shared. The floor of every comparison.

The baseline that federated learning must beat to be worth its while; as in Li, Hu, Beirami and Smith, "Ditto: fair and
robust federated learning through personalization", ICML 2021, arXiv:2012.04221, table 1 ("local"): `v_k <- v_k - eta
grad F_k(v_k)`, which ends at each client's own optimum.

Differs from the paper: clients train in the rounds for which they are drawn, as under any other strategy, so that they
take as many steps; the global head stays as it was at the start, and with it every reply that would carry it.
Client half: alone, with client state. Replies: `sum`, with the weight only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from strategies.base import Answer, Arrays, Half, Outcome, Replies, Request, Strategy

HALF = Half("alone")


class LocalOnly(Strategy):
    """Every client trains a head of its own and shares nothing: the floor of every comparison."""

    answer: ClassVar[Answer] = "own"

    name: Literal["local-only"] = "local-only"
    """Every client trains a head of its own and shares nothing: the floor of every comparison."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training of each client's own head."""
        return (Request(half=HALF, sums=(), keeps_state=True),)

    def personal(self, state: Arrays) -> Request:
        """Return the half whose heads are the clients' own."""
        return Request(HALF)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the global head as it is."""
        return Outcome(head=head, state=state)
