"""FedRoD: a generic head trained by balanced softmax for all, and on the same adapter what each client adds to it.

Chen and Chao, "On bridging generic and personalized federated learning for image classification", ICLR 2022,
arXiv:2107.00778, section 4: the generic head and the extractor minimise the balanced risk (balanced softmax, Ren et
al., 2020, arXiv:2007.10740: logits plus the logarithm of the client's class counts) and are averaged; the personal head
minimises the plain risk of the sum of both heads' logits, without moving the extractor or the generic head.

Differs from the paper: the extractor is a linear adapter on frozen features (`head: adapter`); in a round the personal
head is trained after the generic one, over the same batches, not step by step beside it; the personal head is the
paper's linear one, not its hypernetwork. Weight decay draws the sum of both layers to zero, not what the client adds.
Client half: added_layer, with client state. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, Task, mean_update, moved


class FedRod(Strategy):
    """A generic head by balanced softmax, and what each client adds to it (Chen and Chao, 2022)."""

    heads: ClassVar[tuple[str, ...]] = ("adapter",)
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["fedrod"] = "fedrod"
    """A generic head trained by balanced softmax for all, and a layer of each client's own that is added to it."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training of the generic head, then of each client's own layer."""
        return (self.personal(state),)

    def personal(self, state: Arrays) -> Request:
        """Return the half whose layers are the clients' own."""
        return Request(Half("added_layer"), keeps_state=True)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
