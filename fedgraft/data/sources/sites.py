"""Samples that lie at the sites of a federation: no other machine can read them."""

from __future__ import annotations

from typing import NoReturn

from fedgraft.data.settings import SitesSettings
from fedgraft.errors import DataError


def load(settings: SitesSettings, seed: int) -> NoReturn:
    """Refuse.

    Raises:
        DataError: always; says what to do.
    """
    raise DataError(
        "the source 'sites' stands for the samples that lie at the sites of a federation, and this machine has none "
        "of them: submit the scenario (fedgraft submit SCENARIO --kit KIT), or name another data.source"
    )
