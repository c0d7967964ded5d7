"""Which software this machine has; both sides of a federation need the same."""

from __future__ import annotations

import importlib.metadata

from fedgraft import __version__
from fedgraft.deployment.settings import Versions
from fedgraft.wire.protocol import PROTOCOL


def own_versions() -> Versions:
    """Return the releases of FedGraft and Flower here, and the number of their requests."""
    return Versions(fedgraft=__version__, flwr=importlib.metadata.version("flwr"), protocol=PROTOCOL)
