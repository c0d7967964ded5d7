"""A Ray cluster of several "machines", which Ray's own `Cluster` makes of this one.

Each has a scheduler and a store of its own, as real as those of many machines.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from process_watch import Watch


@contextlib.contextmanager
def two_machines() -> Iterator[Any]:
    """Yield a cluster of a head that has no CPUs, and two machines with one each; all gone afterwards.

    Whoever joins it in the block has to have left it at its end, and to have left it running.
    """
    import ray
    from ray.cluster_utils import Cluster

    watch = Watch(os.getpid())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
        assert not ray.is_initialized()
        assert cluster.remaining_processes_alive()
    finally:
        watch.look()
        cluster.shutdown()
    watch.assert_all_ended(within_seconds=15)
