"""Fine-tune-after: FedAvg, and at the end each client trains a copy of the global head on its own samples.

Wang, Mathews, Kiddon, Eichner, Beaufays and Ramage, "Federated evaluation of on-device personalization", 2019,
arXiv:1910.10252, section 3: the global model is trained on each device's training part and judged on the rest. Cheng,
Chadha and Duchi, "Fine-tuning is fine in federated learning", 2021, arXiv:2108.07313, show that it is hard to beat.

Differs from the paper: the baseline that each client's own head is set beside is the global head on the same samples,
as in the paper, but no client falls back on it where its own is worse; the rows of each client say where that is so.
Client half: plain; fine_tune for evaluation. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class FineTuneAfter(Strategy):
    """FedAvg, then each client trains a copy of the head on its own samples (Wang et al., 2019)."""

    name: Literal["fine-tune-after"] = "fine-tune-after"
    """FedAvg; at the end each client trains a copy of the global head on its own samples."""
    epochs: PositiveInt = 5
    """Passes over the client's training part in fine-tuning, at the optimiser's whole learning rate."""

    def personal(self, state: Arrays) -> Request:
        """Return the half that trains a copy of the head for evaluation."""
        return Request(Half("fine_tune", {"epochs": float(self.epochs)}))

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
