"""Settings of training past a cut: which blocks of the backbone are trained with the head, from when, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from fedgraft.models.method_settings import Full, MethodSettings, WithTargets
from fedgraft.settings import Settings, setting_fault


class UnfreezeStep(Settings):
    """From a round on, what lies past a cut is trained."""

    round: PositiveInt
    """The first round in which the blocks past the cut are trained."""
    cut: str
    """Up to where the backbone stays frozen: a cut of it before `backbone.cut`, or `input` for all of it."""


class UnfreezeSettings(Settings):
    """Which blocks of the backbone are trained together with the head, and how fast."""

    cut: str | None = Field(default=None, examples=["blocks.5"])
    """Up to where the backbone stays frozen, from round 1 on: a cut of it before `backbone.cut`, or `input` for all of
    it; `backbone.cut` stays where the head sits. Instead of `schedule`."""
    schedule: tuple[UnfreezeStep, ...] = ()
    """Gradual unfreezing (Howard and Ruder, ACL 2018, arXiv:1801.06146): `[{round: 10, cut: blocks.5}, ...]`, each cut
    before the last one; until the first round of it the head alone is trained."""
    method: MethodSettings = Full()
    """What of the blocks is trained: `full`, all of it; `bitfit`, biases; or `lora`, `ia3` or `adapter`, few new
    parameters in their place, so that little travels (parameter-efficient tuning)."""
    rate: NonNegativeFloat | None = None
    """What the learning rate is multiplied by for what is trained of the blocks; the head has the full one. null: 0.1
    for pretrained parameters, 1 for new ones (`lora`, `ia3`, `adapter`)."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What the rate is multiplied by with each block further from the head; Howard and Ruder take 1 / 2.6 = 0.385."""
    warmup_rounds: NonNegativeInt = 0
    """Rounds over which a block's rate rises linearly once it is unfrozen."""
    pull: NonNegativeFloat = 0.0
    """L2-SP (Li et al., ICML 2018, arXiv:1802.01483): `pull / 2 |w - w_pretrained|^2` is added to the loss for
    pretrained blocks, in place of weight decay, which stays for the head. 0: weight decay holds for all."""
    batch_norm: Literal["frozen", "local"] = "frozen"
    """Batch norm in trained blocks: `frozen`, by the pretrained statistics, scale and shift are trained as all else;
    `local`, each client keeps its own and trains it on its batches' statistics (FedBN, Li et al., 2021)."""

    @model_validator(mode="after")
    def _one_of_cut_and_schedule(self) -> UnfreezeSettings:
        if (self.cut is None) == (not self.schedule):
            came = "came beside schedule" if self.schedule else "is missing, and so is schedule"
            raise setting_fault("cut", f"{came}; give a cut, or a schedule of {{round, cut}}")
        return self

    @model_validator(mode="after")
    def _rounds_that_rise(self) -> UnfreezeSettings:
        for number, (before, after) in enumerate(pairwise(self.schedule), start=1):
            if after.round <= before.round:
                raise setting_fault(
                    f"schedule[{number}].round", f"came {after.round} after {before.round}; expected later rounds"
                )
        return self

    @model_validator(mode="after")
    def _what_goes_with_the_method(self) -> UnfreezeSettings:
        if self.pull and self.adds:
            text = f"came {self.pull:g} with method {self.method.name}, which leaves pretrained weights as they are"
            raise setting_fault("pull", f"{text}; set it to 0, or take train.optimizer.weight_decay")
        if self.local_norm and self.method.name != "full":
            text = f"came local with method {self.method.name}, which leaves batch norm as it is"
            raise setting_fault("batch_norm", f"{text}; set it to frozen, or take method full")
        return self

    @property
    def adds(self) -> bool:
        """Whether new parameters are trained, and all pretrained ones stay as they are."""
        return isinstance(self.method, WithTargets)

    @property
    def block_rate(self) -> float:
        """What the learning rate is multiplied by for what is trained of the blocks."""
        return self.rate if self.rate is not None else 1.0 if self.adds else 0.1

    @property
    def steps(self) -> tuple[UnfreezeStep, ...]:
        """The schedule, also of a single cut."""
        return self.schedule or (UnfreezeStep(round=1, cut=str(self.cut)),)

    @property
    def local_norm(self) -> bool:
        """Whether batch norm is each client's own."""
        return self.batch_norm == "local"

    @property
    def moves(self) -> bool:
        """Whether arrays come to those that are trained while the run goes on."""
        return self.steps[-1].round > 1

    def cut_at(self, round_number: int) -> str | None:
        """Return the cut past which a round trains; None: the head alone."""
        return next((step.cut for step in reversed(self.steps) if step.round <= round_number), None)

    def fault(self, cuts: tuple[str, ...], end: str) -> tuple[str, str] | None:
        """Return the key and the text of what is wrong with the cuts; None: nothing.

        Args:
            cuts: those of the backbone, from input to output.
            end: the one where the head sits.
        """
        order = (INPUT, *cuts)
        possible = order[: order.index(end)]
        last = end
        for number, step in enumerate(self.steps):
            key = f"unfreeze.schedule[{number}].cut" if self.schedule else "unfreeze.cut"
            if step.cut not in possible:
                return (
                    key,
                    f"came '{step.cut}'; expected a cut before '{end}', where the head sits: {', '.join(possible)}",
                )
            if order.index(step.cut) >= order.index(last):
                return key, f"came '{step.cut}' after '{last}'; expected cuts nearer to the input with each step"
            last = step.cut
        return None


def fault_of_stages(
    stages: Sequence[UnfreezeSettings | None], cuts: tuple[str, ...], end: str
) -> tuple[int, str, str] | None:
    """Return the stage, the key and the text of what is wrong with the cuts of stages; None: nothing.

    Args:
        stages: one after another; what one trains is trained, or held as it is, by those after it.
        cuts: those of the backbone, from input to output.
        end: the one where the head sits.
    """
    order, deepest = (INPUT, *cuts), end
    for number, unfreeze in enumerate(stages):
        if unfreeze is None:
            continue
        fault = unfreeze.fault(cuts, end)
        if fault is not None:
            return number, *fault
        first = unfreeze.steps[0].cut
        if order.index(first) > order.index(deepest):
            key = "unfreeze.schedule[0].cut" if unfreeze.schedule else "unfreeze.cut"
            text = f"came '{first}' after '{deepest}' of a stage before; expected that, or a cut nearer to the input"
            return number, key, f"{text} (to hold blocks as they are, set unfreeze.rate to 0)"
        deepest = unfreeze.steps[-1].cut
    return None


INPUT = "input"
"""The cut before everything: past it lies the whole backbone, and its activations are the pictures."""

BLOCKS = "backbone."
"""What the names of a trained block's arrays begin with; the backbone's own full names follow."""
