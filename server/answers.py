"""The answers to one exchange: of all hosts in a simulation, of enough sites between institutions."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message

from fedgraft.errors import WireError
from fedgraft.progress import report
from server.adapter import PackedStrategy
from server.course import Course
from server.exchange import exchange
from server.sites import ask_sites
from server.sizes import check_norms


def answers(
    course: Course, messages: Sequence[Message], adapter: PackedStrategy, round_number: int
) -> list[Message] | None:
    """Return the replies of one exchange; None: a site dropped out, and the round begins again without it.

    Raises:
        HostError: somebody failed in a simulation; too few sites answered otherwise.
    """
    server, sites, phase = course.part.server, course.sites, adapter.phase
    if sites is None:
        return exchange(course.grid, messages, course.counters, phase, server.timeout_seconds, server.retries)
    found = ask_sites(course.grid, sites, messages, course.counters, phase)
    faults = {}
    for place, reply in list(found.items()):
        fault = adapter.fault_of(round_number, place, reply) or _oversize(reply, phase, server.largest_update_norm)
        if fault is not None:
            node = messages[place].metadata.dst_node_id
            report("note", text=f"the answer of {sites.named([node])} to '{phase}' is refused: {fault}")
            faults[node] = fault
            del found[place]
    sites.check_quorum({messages[place].metadata.dst_node_id for place in found}, phase, faults)
    places = sorted(found)
    return [found[place] for place in places] if adapter.keep_only(places) else None


def _oversize(reply: Message, phase: str, largest: float | None) -> str | None:
    """Return what is too large in an answer to `train`; None: nothing."""
    if phase != "train":
        return None
    try:
        check_norms(reply, largest)
    except WireError as error:
        return str(error)
    return None
