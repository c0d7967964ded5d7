"""Settings of attacks: clients of a simulation that lie, to see what a strategy makes of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedgraft.settings import Settings, named


class Liars(Settings):
    """What all attacks share: who lies, and from when on."""

    fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of the clients with training samples that lie (rounded, at least one); which of them, the seed draws."""
    from_round: PositiveInt = 1
    """The first round in which they lie."""


class SignFlip(Liars):
    """Liars send their update turned round: `-scale u`."""

    name: Literal["sign-flip"] = "sign-flip"
    """Liars send their update turned round, times `scale`."""
    scale: PositiveFloat = 1.0
    """What the turned update is multiplied by."""


class ScaledUpdate(Liars):
    """Liars send `scale u`, so that their own optimum replaces the federation's (Bagdasaryan et al., 1807.00459)."""

    name: Literal["scaled-update"] = "scaled-update"
    """Liars send their update times `scale`."""
    scale: PositiveFloat = 10.0
    """What the update is multiplied by."""


class GaussianNoise(Liars):
    """Liars send noise in place of their update (Blanchard et al., 2017, arXiv:1703.02757, section 5.1)."""

    name: Literal["gaussian-noise"] = "gaussian-noise"
    """Liars send Gaussian noise in place of their update."""
    standard_deviation: PositiveFloat = 1.0
    """Of each parameter's noise, which is drawn anew for each client and round."""


class LabelFlip(Liars):
    """Liars train honestly on wrong labels (Fang et al., 2020, arXiv:1911.11815, section 4.1)."""

    name: Literal["label-flip"] = "label-flip"
    """Liars train on wrong labels: class `C - 1 - y` for y, the opposite of labels, the negative of real targets."""


class ALittleIsEnough(Liars):
    """Liars agree on an update that hides in the spread of the others' (Baruch et al., 2019, arXiv:1902.06635)."""

    name: Literal["a-little-is-enough"] = "a-little-is-enough"
    """Liars all send the honest updates' mean minus `deviations` times their standard deviation, by parameter."""
    deviations: NonNegativeFloat | None = None
    """How many standard deviations, the paper's z; null: the largest that hides among so many, by the paper's rule."""


AttackSettings = Annotated[
    SignFlip | ScaledUpdate | GaussianNoise | LabelFlip | ALittleIsEnough,
    Field(discriminator="name"),
    BeforeValidator(named),
]
