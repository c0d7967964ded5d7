"""SplitMix64 and the order of batches in plain Python integers, written from the paper and from our docs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def scramble(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def outputs(seed: int) -> Iterator[int]:
    """Yield the sequence of Java's `SplittableRandom.nextLong`, as Vigna's `splitmix64.c` does."""
    state = seed & MASK
    while True:
        state = (state + GOLDEN) & MASK
        yield scramble(state)


def stream_key(seed: int, purpose: str, round_number: int, client_key: int, epoch: int) -> int:
    """Absorb one part after another: each adds itself and the golden gamma, then scrambles."""
    hashed = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    state = seed & MASK
    for part in (hashed, round_number, client_key, epoch):
        state = scramble((state + GOLDEN + part) & MASK)
    return state


def permutation(key: int, length: int) -> list[int]:
    """Sort positions by the draws of the key's stream."""
    stream = outputs(key)
    draws = [next(stream) for _ in range(length)]
    return sorted(range(length), key=lambda position: draws[position])
