"""FedGraft: federated transfer learning over shared, frozen, pretrained backbones.

`fedgraft.run("scenario.yaml")` runs a scenario, `fedgraft.compare(...)` one that compares, `fedgraft.rank(...)` ranks
backbones for it, `fedgraft.cluster(...)` finds clusters without labels, `fedgraft.load(directory)` opens a run. They
are imported when they are first used, so that `import fedgraft` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedgraft.api import cluster, compare, load, rank, run
    from fedgraft.runs import Run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "cluster", "compare", "load", "rank", "run"]


def __getattr__(name: str) -> Any:
    if name in ("run", "compare", "rank", "cluster", "load"):
        from fedgraft import api

        return getattr(api, name)
    if name == "Run":
        from fedgraft.runs import Run

        return Run
    raise AttributeError(f"module 'fedgraft' has no attribute {name!r}")
