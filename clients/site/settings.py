"""Settings of a site's own policy: what it answers, whatever the server asks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fedgraft.settings import Settings

Request = Literal[
    "describe",
    "backbone",
    "train",
    "evaluate",
    "moments",
    "statistics",
    "cross_validate",
    "class_sums",
    "mixtures",
    "leave_out",
]
"""What a server may ask for, in the order of the table in `fedgraft.wire.requests`."""


class PolicySettings(Settings):
    """`policy.yaml`: the site's own rules. What they do not allow is refused, and both sides are told why."""

    requests: tuple[Request, ...] = (
        "describe",
        "backbone",
        "train",
        "evaluate",
        "moments",
        "statistics",
        "cross_validate",
    )
    """What is answered. `class_sums`, `mixtures` and `leave_out` say more of single classes and clients, so a site
    allows them by name."""
    scenarios: Annotated[tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], Field(min_length=1)] | None = (
        None
    )
    """Digests of the scenarios that may run here, as `fedgraft submit` and refusals show them; null: any that the other
    rules allow."""
    smallest_cohort: PositiveInt = 50
    """Training samples that statistics must be of at least."""
    smallest_class: PositiveInt = 5
    """Training samples of each class that occurs at all, in statistics: the sum of a class of one is that sample."""
    smallest_difference: NonNegativeInt = 20
    """Training samples by which two statistics of one backbone must differ, if they differ at all: subtracting one from
    the other gives the sum of those that differ."""
    most_statistics: PositiveInt = 20
    """Different sets of samples that statistics of one backbone are given of, ever; the same samples aligned otherwise
    are another set."""
    most_rounds: PositiveInt = 1000
    """Rounds of training of one run."""
    most_rounds_in_all: PositiveInt | None = None
    """Rounds of training of all runs together; null: not limited."""
    most_exchanges: PositiveInt = 20
    """Different requests to train in one round of a run; most strategies need one."""
    largest_update_norm: PositiveFloat | None = 1000.0
    """Largest Euclidean norm of an update of the head, averaged over the clients of the answer; null: not limited."""
    individual_clients: bool = False
    """Whether each client's own update may leave where this site speaks for several; otherwise only their sum."""
    sole_reference: bool = False
    """Whether runs may align features onto clients of this site alone (`align.reference`): their mean and covariance
    then go to all other sites."""
    backbone_training: bool = False
    """Whether runs may train blocks of the backbone here (`unfreeze`, by any method); such updates say more of samples
    than a head's, and the store keeps whole activations."""
