"""Settings of alignment: how features of unlike domains are brought onto common ground."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeFloat, PositiveFloat

from fedgraft.settings import Settings, named


class Standardise(Settings):
    """The mean of all clients' features is taken off and their deviation divided out, the same at every client."""

    name: Literal["standardise"] = "standardise"
    """One mean and one standard deviation a feature, over all clients' training samples, from one exchange of sums."""
    epsilon: NonNegativeFloat = 0.0
    """Added to each variance before its root is taken; a feature that never varies is only centred."""


class Coral(Settings):
    """Each client's features get the mean and covariance of a reference (Sun et al., 2016, arXiv:1511.05547)."""

    name: Literal["coral"] = "coral"
    """Whitened with the client's own moments, and coloured with those of the reference, which all clients get."""
    reference: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Clients whose training samples together are the reference, such as those with the usual scanner; null: all."""
    covariance: Literal["full", "diagonal"] = "full"
    """`diagonal`: each feature's mean and variance alone, for clients of few samples; a thousandth of the bytes."""
    regularisation: PositiveFloat = 1.0
    """What is added to the diagonal of both covariances, in mean variances of the reference; the paper takes 1."""
    prior_samples: NonNegativeFloat = 0.0
    """Samples of the reference that count into each client's own moments, so that clients of few samples move less;
    the paper takes 0."""


AlignSettings = Annotated[Standardise | Coral, Discriminator("name"), BeforeValidator(named)]
