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


class AdaBn(Settings):
    """Batch norm of the frozen backbone takes each client's own statistics (Li et al., 2016, arXiv:1603.04779)."""

    name: Literal["adabn"] = "adabn"
    """Estimated from the client's training images, without labels, before features are computed; nothing leaves."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images at once in the estimation; a client of more gets the mean of its batches' statistics."""
    prior_samples: NonNegativeFloat = 0.0
    """As how many images the pretrained statistics count beside the client's own, so that clients of few images move
    less (Schneider et al., 2020, arXiv:2006.16971); the paper takes 0."""


WITHOUT_NORM = ("identity", "pixels")
"""Backbones that are known beforehand to have no batch norm; of others a run finds out before its first round."""

MapSettings = Standardise | Coral
"""Alignments that map the features that the backbone gives; the other one changes the backbone."""

AlignSettings = Annotated[Standardise | Coral | AdaBn, Discriminator("name"), BeforeValidator(named)]
