"""Features that a source has read whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.cache import AnyArray


@dataclass(frozen=True, eq=False)
class ReadyFeatures:
    """Inputs: features that are in memory, `(N, D)`."""

    values: AnyArray
    content: NDArray[np.uint8]
    kind: Literal["features"] = "features"

    def features(self) -> AnyArray:
        """Return all of them."""
        return self.values

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each row."""
        return self.content
