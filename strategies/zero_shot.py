"""Zero-shot: the head from which training would start, evaluated. What learning adds to is known then.

Not an algorithm: the baseline of no training. The head is that of the start: zeros or small random numbers, whose
accuracy is that of guessing, or the closed form that `init` names, from one round of sums. (A head made of class names,
as in Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021,
arXiv:2103.00020, would need a backbone that knows text.)

Client half: none. Replies: none.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from strategies.base import Arrays, Outcome, Replies, Strategy


class ZeroShot(Strategy):
    """The head from which training would start, evaluated: the baseline of no training."""

    most_rounds: ClassVar[int | None] = 0

    name: Literal["zero-shot"] = "zero-shot"
    """The head from which training would start, or that `init` makes, evaluated without any round of training."""

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head as it is."""
        return Outcome(head=head, state=state)
