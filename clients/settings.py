"""Settings of local training, owned by the client side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from fedgraft.alignment.settings import AlignSettings
from fedgraft.attack_settings import AttackSettings
from fedgraft.compute_settings import Precision
from fedgraft.data.settings import DataSettings
from fedgraft.errors import Fault, ScenarioError
from fedgraft.features.settings import FeatureSettings
from fedgraft.models.head_settings import HeadSettings
from fedgraft.models.loss_settings import LossSettings
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.settings import Settings, named, setting_fault
from fedgraft.simulation.settings import ResolvedShards
from fedgraft.stages import last_rounds

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Sgd(Settings):
    """Stochastic gradient descent, as `torch.optim.SGD`."""

    name: Literal["sgd"] = "sgd"
    """Stochastic gradient descent, with the update rule of `torch.optim.SGD`."""
    learning_rate: PositiveFloat = 0.1
    """Step size; the schedule multiplies it."""
    momentum: Fraction = 0.0
    """Momentum within one client's local training; it starts from zero in every round."""
    nesterov: bool = False
    """Nesterov's momentum; needs `momentum` above 0."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty, added to the gradient."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0:
            raise setting_fault("nesterov", "is true but momentum is 0; set momentum above 0 or nesterov to false")
        return self


class Adam(Settings):
    """Adam, as `torch.optim.Adam`; its moments start from zero in every round."""

    name: Literal["adam"] = "adam"
    """Adam, with the update rule of `torch.optim.Adam` (weight decay added to the gradient)."""
    learning_rate: PositiveFloat = 0.001
    """Step size; the schedule multiplies it."""
    beta_1: Fraction = 0.9
    """Decay of the first moment."""
    beta_2: Fraction = 0.999
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty, added to the gradient."""


class AdamW(Adam):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]  # a subclass only to share the fields
    """Adam with decoupled weight decay, with the update rule of `torch.optim.AdamW`."""


class Constant(Settings):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"
    """The learning rate stays as it is."""
    warmup_rounds: NonNegativeInt = 0
    """Rounds over which the rate rises linearly to its full value."""

    def factor(self, round_number: int, num_rounds: int) -> float:
        """Return what the learning rate is multiplied by in a round (from 1)."""
        return warmup(round_number, self.warmup_rounds)


class Step(Settings):
    """The learning rate is multiplied by `factor_per_step` every `every` rounds."""

    name: Literal["step"] = "step"
    """The learning rate falls in steps."""
    every: PositiveInt = 10
    """Rounds between two steps."""
    factor_per_step: Annotated[float, Field(gt=0, le=1)] = 0.5
    """What each step multiplies the rate by."""
    warmup_rounds: NonNegativeInt = 0
    """Rounds over which the rate rises linearly to its full value."""

    def factor(self, round_number: int, num_rounds: int) -> float:
        """Return what the learning rate is multiplied by in a round (from 1)."""
        steps = (round_number - 1) // self.every
        return float(warmup(round_number, self.warmup_rounds) * self.factor_per_step**steps)


class Cosine(Settings):
    """The learning rate falls along half a cosine (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, eq. 5)."""

    name: Literal["cosine"] = "cosine"
    """The learning rate falls along half a cosine over all rounds."""
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The factor that the cosine would reach one round after the last."""
    warmup_rounds: NonNegativeInt = 0
    """Rounds over which the rate rises linearly to its full value."""

    def factor(self, round_number: int, num_rounds: int) -> float:
        """Return what the learning rate is multiplied by in a round (from 1)."""
        from math import cos, pi

        fall = 0.5 * (1 + cos(pi * (round_number - 1) / num_rounds))
        return warmup(round_number, self.warmup_rounds) * (self.final_factor + (1 - self.final_factor) * fall)


def warmup(round_number: int, warmup_rounds: int) -> float:
    """Return the linear warm-up's factor: `round_number / (warmup_rounds + 1)`, at most 1."""
    return min(1.0, round_number / (warmup_rounds + 1))


OptimizerSettings = Annotated[Sgd | Adam | AdamW, Field(discriminator="name"), BeforeValidator(named)]
ScheduleSettings = Annotated[Constant | Step | Cosine, Field(discriminator="name"), BeforeValidator(named)]


class TrainSettings(Settings):
    """How a client trains its head in a round."""

    local_epochs: PositiveInt | None = None
    """Passes over the client's training part in a round. Default: 1, unless `local_steps` is given."""
    local_steps: PositiveInt | None = None
    """Optimiser steps in a round, over as many epochs as that takes; instead of `local_epochs`."""
    batch_size: PositiveInt = 10
    """Samples a step; a client with fewer takes all that it has."""
    drop_last: bool = False
    """Leave an epoch's last, smaller batch out (never the only one)."""
    optimizer: OptimizerSettings = Sgd()
    """The local optimiser; its state starts anew in every round."""
    schedule: ScheduleSettings = Constant()
    """How the learning rate changes from round to round."""
    form: Literal["auto", "dual", "primal", "loop"] = "auto"
    """How heads are trained, with the same numbers: `dual` and `primal` many clients at once, `loop` one by one."""
    compute: Precision = "float32"
    """How exact large products are. `bfloat16`: features keep 8 bits, 2 to 3 digits; faster only where the processor
    multiplies such numbers (AVX-512 or AMX, CUDA). `tf32`: CUDA multiplies 10 bits of float32; elsewhere as float32."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of a step's gradient, over all of the head's parameters; null: not clipped."""

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> TrainSettings:
        if self.local_epochs is not None and self.local_steps is not None:
            raise setting_fault(
                "local_steps",
                f"came {self.local_steps} beside local_epochs {self.local_epochs}; keep one of the two",
            )
        return self


class RoundsPart(Settings):
    """What a client reads of the server's settings."""

    model_config = ConfigDict(extra="ignore")

    rounds: PositiveInt = 20


class StrategyPart(Settings):
    """What a client reads of the strategy's settings."""

    model_config = ConfigDict(extra="ignore")

    name: str = ""
    data: Literal["own", "pooled"] = "own"

    @property
    def pools(self) -> bool:
        """Whether all clients' data stand in one place."""
        return self.data == "pooled"


class StagePart(Settings):
    """What the client side reads of a stage: all that may differ from stage to stage."""

    model_config = ConfigDict(extra="ignore")

    train: TrainSettings
    unfreeze: UnfreezeSettings | None = None
    strategy: StrategyPart = StrategyPart()
    server: RoundsPart


class ClientPart(StagePart):
    """What the client side reads of a resolved scenario; the rest is none of its business."""

    seed: int
    data: DataSettings
    backbone: BackboneSettings
    features: FeatureSettings
    head: HeadSettings
    loss: LossSettings
    align: AlignSettings | None = None
    attack: AttackSettings | None = None
    shards: ResolvedShards = 1
    stages: Annotated[tuple[StagePart, ...], Field(min_length=1)] | None = None
    rounds_before: NonNegativeInt = 0
    """The number of the last round before the stage, where this is a stage."""

    @property
    def last_round(self) -> int:
        """The number of the last round, of the stage where this is one."""
        return self.rounds_before + self.server.rounds

    def in_stages(self) -> tuple[ClientPart, ...]:
        """Return what is read of each stage; of a run of one piece itself."""
        if self.stages is None:
            return (self,)
        last = last_rounds([stage.server.rounds for stage in self.stages])
        return tuple(
            self.model_copy(
                update={
                    **{key: getattr(stage, key) for key in StagePart.model_fields},
                    **{"stages": None, "rounds_before": last[number - 1] if number else 0},
                }
            )
            for number, stage in enumerate(self.stages)
        )

    def check_for_a_site(self) -> None:
        """Refuse a scenario that asks for what only a simulation may do.

        Raises:
            ScenarioError: names the setting.
        """
        if self.attack is not None:
            text = "is for simulations only, and this node is none's: a site does not lie; set it to null"
            raise ScenarioError("the scenario that was sent", [Fault("attack", text)])
        if self.data.tasks is not None:
            text = "is for simulations only: a site's samples do not come and go with a run's tasks; set it to null"
            raise ScenarioError("the scenario that was sent", [Fault("data.tasks", text)])
        for strategy in (self.strategy, *(stage.strategy for stage in self.stages or ())):
            if not strategy.pools:
                continue
            text = f"{strategy.name} pools all clients' data, which a site does not give; take another strategy"
            raise ScenarioError("the scenario that was sent", [Fault("strategy", text)])
