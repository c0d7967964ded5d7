"""Distribution of the backbone: the manifest goes to every host, the weights only where they are lacking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedgraft.models.info import BackboneInfo
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import BackboneReply, BackboneRequest
from server.checkpoint import Counters
from server.exchange import HostError, exchange
from server.roster import Roster
from server.sites import Sites, ask_sites


def distribute(
    grid: Grid,
    roster: Roster,
    settings: BackboneSettings,
    info: BackboneInfo,
    run_id: str,
    counters: Counters,
    timeout_seconds: float,
    sites: Sites | None = None,
) -> int:
    """See to it that every host has the run's backbone; return to how many the weights were sent.

    A host that already has weights of this digest is told nothing but the digest.

    Raises:
        HostError: a host does not have the weights although they were sent to it.
    """
    if not info.weights_digest:  # identity: the source gives features
        return 0
    manifest = BackboneRequest(run_id=run_id, weights_digest=info.weights_digest, feature_dim=info.feature_dim)
    lacking = _ask(grid, sorted(roster.descriptions), manifest, {}, counters, timeout_seconds, sites)
    if not lacking:
        return 0
    weights = load(settings).state_arrays()
    carrying = manifest.model_copy(update={"carries_weights": True})
    still = _ask(grid, lacking, carrying, weights, counters, timeout_seconds, sites)
    if still:
        who = sites.named(still) if sites else f"hosts {still}"
        raise HostError(f"{who} did not keep the backbone's weights; look into their logs and disks")
    return len(lacking)


def _ask(
    grid: Grid,
    nodes: list[int],
    request: BackboneRequest,
    weights: Mapping[str, NDArray[Any]],
    counters: Counters,
    timeout_seconds: float,
    sites: Sites | None,
) -> list[int]:
    """Return the nodes that don't have the weights after the request; sites that failed are not among them."""
    groups = {"weights": weights} if weights else {}
    messages = [Message(pack(request, groups), dst_node_id=node, message_type="query.backbone") for node in nodes]
    if sites is None:
        found = dict(enumerate(exchange(grid, messages, counters, "backbone", timeout_seconds)))
    else:
        found = ask_sites(grid, sites, messages, counters, "backbone")
    bodies = {place: unpack(found[place].content, BackboneReply, "reply to query.backbone")[0] for place in found}
    return [nodes[place] for place, body in bodies.items() if not body.has_weights]
