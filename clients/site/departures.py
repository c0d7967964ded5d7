"""What the ledger says of a record that is about to leave: names, shapes, bytes and a digest; no values."""

from __future__ import annotations

import hashlib
import json

from flwr.app import RecordDict

from clients.outbound import Departure
from clients.site.ledger_lines import LedgerArray, LedgerEntry


def entry_of(departure: Departure, run: str, scenario: str, round_number: int | None = None) -> LedgerEntry:
    """Return the ledger's entry of an answer."""
    arrays = [
        LedgerArray(
            name=f"{group}.{name}",
            shape=tuple(int(length) for length in array.shape),
            dtype=str(array.dtype),
            bytes=len(array.data),
        )
        for group, values in departure.record.array_records.items()
        for name, array in values.items()
    ]
    facts = (str(name) for config in departure.record.config_records.values() for name in _facts(config.get("json")))
    return LedgerEntry(
        run=run,
        scenario=scenario,
        request=departure.request,
        round=round_number,
        facts=tuple(facts),
        arrays=tuple(arrays),
        bytes=departure.num_bytes,
        digest=record_digest(departure.record),
    )


def refusal_entry(
    text: str, request: str, run: str = "", scenario: str = "", round_number: int | None = None
) -> LedgerEntry:
    """Return the ledger's entry of a text that leaves instead of an answer."""
    data = text.encode()
    return LedgerEntry(
        run=run,
        scenario=scenario,
        request=request,
        round=round_number,
        outcome="refusal",
        text=text,
        bytes=len(data),
        digest=hashlib.sha256(data).hexdigest(),
    )


def record_digest(record: RecordDict) -> str:
    """Return sha256 over a record's names, types, shapes and bytes, and its texts, sorted by name."""
    digest = hashlib.sha256()
    for group, values in sorted(record.array_records.items()):
        for name, array in sorted(values.items()):
            digest.update(json.dumps([group, name, str(array.dtype), list(array.shape), len(array.data)]).encode())
            digest.update(array.data)
    for group, config in sorted(record.config_records.items()):
        digest.update(json.dumps([group, sorted((key, str(value)) for key, value in config.items())]).encode())
    return digest.hexdigest()


def _facts(body: object) -> list[str]:
    """Return the names of a reply's body."""
    try:
        fields = json.loads(body) if isinstance(body, str) else {}
    except ValueError:
        return []
    return list(fields) if isinstance(fields, dict) else []
