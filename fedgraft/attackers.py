"""Which clients of a simulation lie: both sides know it, the clients to lie and the server to say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedgraft.attack_settings import AttackSettings
from fedgraft.randomness import GAMMA, key, mix, name_keys


def attackers(
    settings: AttackSettings | None, seed: int, names: Sequence[str], num_train: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return `(num_clients,)` who lies: those of the smallest draws, a pure function of seed and client name.

    Args:
        settings: the attack; None: nobody lies.
        seed: the scenario's.
        names: all clients' of the federation, in any order.
        num_train: `(num_clients,)` their training samples; who has none can't lie.
    """
    lies = np.zeros(len(names), dtype=np.bool_)
    able = np.flatnonzero(num_train > 0)
    if settings is None or not len(able):
        return lies
    with np.errstate(over="ignore"):
        draws = mix(key(seed, "attackers", 0, name_keys(names)) + GAMMA)
    count = max(1, round(settings.fraction * len(able)))
    lies[able[np.argsort(draws[able], kind="stable")[:count]]] = True
    return lies
