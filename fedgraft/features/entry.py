"""What the store says about one entry: the sidecar `entry.json` beside the arrays."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
"""Number of the format of an entry; it rises when an older FedGraft could misread what a newer one wrote."""


class DamagedEntryError(Exception):
    """An entry that can't be trusted; the text says why, in a few words."""


class UnknownSchemaError(DamagedEntryError):
    """An entry of another version of FedGraft."""


@dataclass(frozen=True)
class Origin:
    """Where features come from: everything about an entry that is known before it is computed.

    `backbone_key` decides, with the input, the value of a row: entries with equal keys may share rows.
    """

    backbone_key: str
    backbone: str
    cut: str
    weights_digest: str
    preprocessing: str
    source: str
    """What the samples are, in words, for a person who lists the store."""


@dataclass(frozen=True)
class Entry:
    """The sidecar of one entry."""

    schema: int
    key: str
    origin: Origin
    dtype: str
    shape: tuple[int, int]
    checksum: str
    """SHA-256 of the whole file of features."""
    digests_file: str
    digests_checksum: str
    created: str
    """UTC, ISO 8601."""

    def to_json(self) -> str:
        """Return the sidecar's text, which carries its own checksum."""
        content = asdict(self)
        return json.dumps({**content, "sidecar_checksum": _checksum(content)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Entry:
        """Read a sidecar.

        Raises:
            UnknownSchemaError: another version of FedGraft wrote it.
            DamagedEntryError: it is no sidecar, or not as it was written.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DamagedEntryError("its sidecar is no JSON") from error
        if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
            raise DamagedEntryError("its sidecar has no schema number")
        if content["schema"] != SCHEMA:
            raise UnknownSchemaError(f"it has schema {content['schema']}, this FedGraft reads {SCHEMA}")
        if content.pop("sidecar_checksum", None) != _checksum(content):
            raise DamagedEntryError("its sidecar does not match its checksum")
        try:
            origin, shape = Origin(**content.pop("origin")), tuple(content.pop("shape"))
            return cls(origin=origin, shape=shape, **content)
        except (TypeError, KeyError) as error:
            raise DamagedEntryError("its sidecar lacks fields") from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def entry_key(backbone_key: str, dtype: str, sample_digests: NDArray[np.uint8]) -> str:
    """Return the name of the entry that holds these samples' features, row by row in this order.

    Args:
        backbone_key: digest of everything but the input that decides a row's value.
        dtype: `float32` or `float16`.
        sample_digests: `(num_samples, 16)` digests of the inputs.
    """
    digest = hashlib.sha256(f"features {SCHEMA}\n{backbone_key}\n{dtype}\n{len(sample_digests)}\n".encode())
    digest.update(np.ascontiguousarray(sample_digests).data)
    return digest.hexdigest()
