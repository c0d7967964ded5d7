"""The kinds of inputs that sources give and backbones take."""

from __future__ import annotations

from typing import Literal

from fedgraft.errors import DataError

Kind = Literal["images", "features", "texts", "sounds"]

WORDS: dict[Kind, str] = {"images": "images", "features": "ready features", "texts": "texts", "sounds": "sounds"}
"""How messages call inputs of a kind."""

USUAL: dict[Kind, str] = {
    "images": "bundled:efficientnet_lite0",
    "features": "identity",
    "texts": "bundled:minilm-l6-v2",
    "sounds": "log-mel",
}
"""A backbone of each kind that nothing has to be downloaded for; of kinds that have one."""


def check_kind(backbone: str, takes: Kind, gives: Kind) -> None:
    """Check that a backbone takes what a source gives.

    Args:
        backbone: its name.
        takes: the kind of its inputs.
        gives: the kind of the source's.

    Raises:
        DataError: it takes another kind; both are named.
    """
    if takes == gives:
        return
    usual = f"`backbone: {USUAL[gives]}`" if gives in USUAL else f"a backbone of {WORDS[gives]}"
    raise DataError(
        f"the backbone {backbone} needs {WORDS[takes]}, this source gives {WORDS[gives]}; "
        f"set {usual} or choose a source of {WORDS[takes]}"
    )
