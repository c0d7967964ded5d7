"""Settings of pseudo-labels: what a head that there is says of training samples without labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from fedgraft.settings import Settings


class PseudoLabelSettings(Settings):
    """Labels that clients give to their own training samples without labels, by the head that a round begins with.

    Lee: Pseudo-Label, the simple and efficient semi-supervised learning method for deep neural networks, ICML 2013
    workshop; the threshold as in FixMatch (Sohn et al., NeurIPS 2020, arXiv:2001.07685, eq. 4), the labels fixed for a
    round of local training as in SemiFL (Diao et al., NeurIPS 2022, arXiv:2106.01432). Differs from both: inputs are
    features, which are not augmented, and a pseudo-labelled sample counts as any other.
    """

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Smallest probability of a sample's most probable class at which it is trained on, with that class; the others
    are left out of the round."""
    most_per_class: PositiveInt | None = None
    """Cap on a client's pseudo-labelled samples of each class, the most probable first, so that no class crowds out the
    others; null: none."""
