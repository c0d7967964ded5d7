"""Small sounds for tests, and where the real ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE = 8000
FSDD = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd" / "fsdd.npz"


def tone(hertz: float, seconds: float = 0.3, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone of two harmonics in a little noise."""
    at = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(seed).normal(size=len(at)) * 0.01
    return (0.4 * np.sin(2 * np.pi * hertz * at) + 0.1 * np.sin(4 * np.pi * hertz * at) + noise).astype(np.float32)
