"""Runs in which each client trains alone, beside the contenders, for the transfer report (`compare.transfer`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence

from fedgraft.errors import Fault
from fedgraft.settings_files.located import Located
from scenarios.comparison.names import contender_names
from scenarios.comparison.transfer import HOW_HEADS_COMBINE, OWN
from scenarios.merging import parse_key
from scenarios.sweep.combinations import REFUSED, Combination
from scenarios.sweep.labels import dotted

NO_TRAINING = (
    "data",
    "backbone",
    "features",
    "attack",
    "availability",
    "server",
    "evaluation",
    "runtime",
    "shards",
    "privacy",
)
"""Blocks that say nothing of how a client trains: with another budget or other data nothing would be compared."""

NAME = "alone"
"""What such runs are called, where a contender has its strategy's name."""


def clients_alone(combinations: Sequence[Combination], block: Located) -> list[Combination]:
    """Return, for each way in which contenders' clients train, the same with clients by themselves.

    Args:
        combinations: of the contenders.
        block: `compare`; without `transfer` there are none.
    """
    transfer = block.child("transfer")
    if transfer is None or not transfer.value:
        return []
    values = transfer.value if isinstance(transfer.value, dict) else {}
    axes = {key: value.value for key, value in values.items() if isinstance(value.value, list)}
    found: dict[str, Combination] = {}
    for one in combinations:
        training = {key: value for key, value in one.settings.items() if key.split(".")[0] not in HOW_HEADS_COMBINE}
        plain = json.dumps({key: value.plain() for key, value in training.items()}, sort_keys=True)
        for chosen in itertools.product(*axes.values()):
            tuned = dict(zip(axes, chosen, strict=True))
            text = plain + json.dumps([value.plain() for value in chosen])
            settings = {**training, "strategy": Located(OWN, transfer.place)}
            settings["server.patience"] = Located(None, transfer.place)  # each client chooses its own best round
            settings["stages"] = Located(None, transfer.place)
            found.setdefault(text, Combination(settings, "compare.transfer", "alone", tuned))
    return list(found.values())


def transfer_faults(block: Located) -> Iterator[Fault]:
    """Yield a fault for each key of `transfer` that can't say how a client trains alone."""
    transfer = block.child("transfer")
    for key, value in transfer.value.items() if transfer is not None and isinstance(transfer.value, dict) else ():
        path = parse_key(key)
        if path is None or path[0] in (*REFUSED, *HOW_HEADS_COMBINE, *NO_TRAINING):
            text = f"came the key '{key}'; expected one that says how a client trains, in full: train.batch_size"
            yield Fault("compare.transfer", text, value.place.line, value.place.source)


def alone_names(alone: Sequence[Combination], condition_keys: Sequence[str]) -> list[str]:
    """Return the name of each: `alone`, with what tells it apart from the others."""
    own = [
        {
            key: value
            for key, value in dotted({**one.settings, **one.tuned}, without=condition_keys).items()
            if key.split(".")[0] not in HOW_HEADS_COMBINE
        }
        for one in alone
    ]
    names = contender_names(own) if own else []
    return [NAME if len(set(names)) == 1 else f"{NAME} {name.removeprefix('all').strip()}".strip() for name in names]
