"""The `ray` runtime: server in this process, hosts as Ray actors, behind Flower's `Grid`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedgraft.errors import FedGraftError
from fedgraft.files import append_text
from fedgraft.progress import report
from fedgraft.simulation.flower_identity import claim_identity, stamp
from fedgraft.simulation.inline import CLIENT_APP_RAISED, RUN
from fedgraft.simulation.ray_actors import WAIT_SECONDS, RayActors
from fedgraft.simulation.ray_session import RaySession
from fedgraft.simulation.settings import RayRuntime


@dataclass
class Pending:
    """A message that waits for its reply; the references keep what it needs in Ray's store until then."""

    message: Message
    names: tuple[str, ...]
    records: tuple[Any, ...]
    reference: Any


class RayGrid(Grid):
    """Hands messages to hosts that are Ray actors, all at once, and gathers replies as they come.

    A host that dies is started again and its messages are sent again: a reply is a pure function of the message
    and of what the host reads from disk, so the run's numbers stay the same.

    Args:
        app: the ClientApp, as `module:name`; only the actors load it.
        num_hosts: how many actors.
        run_config: the run's settings, with the submission.
        settings: what Ray sets aside for each.
        environment: variables for the actors, beside those of their machine.
        log: where tracebacks and Ray's own words about deaths are appended.
    """

    def __init__(
        self,
        app: str,
        num_hosts: int,
        run_config: Mapping[str, str],
        settings: RayRuntime,
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self._log = log
        self._pending: dict[str, Pending] = {}
        self._hosts = RayActors(app, num_hosts, run_config, settings, environment, log)

    def wait(self) -> None:
        """Wait until every host has loaded its app.

        Raises:
            LaunchError: some did not come, or can't load FedGraft.
        """
        self._hosts.wait()

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """There is no record of Flower's about this run."""
        raise FedGraftError("the ray runtime has no Flower run record")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the hosts' ids."""
        return list(self._hosts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each message to its host, without waiting; return their ids.

        What several messages share, such as the head, goes into Ray's store once.
        """
        messages = list(messages)
        shared = _shared(messages)
        identifiers = []
        for message in messages:
            identifier = stamp(message)
            names = tuple(message.content)
            records = tuple(shared.get(id(record), record) for record in message.content.values())
            self._pending[identifier] = Pending(message, names, records, None)
            self._send(identifier)
            identifiers.append(identifier)
        return identifiers

    def _send(self, identifier: str) -> None:
        pending = self._pending[identifier]
        metadata = pending.message.metadata
        actor = self._hosts[metadata.dst_node_id].actor
        pending.reference = actor.answer.remote(
            identifier, metadata.message_type, metadata.group_id, pending.names, *pending.records
        )

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return those replies to the given messages that have come, after waiting for a moment."""
        import ray

        wanted = {self._pending[name].reference: name for name in message_ids if name in self._pending}
        if not wanted:
            return []
        ready, _ = ray.wait(list(wanted), num_returns=len(wanted), timeout=WAIT_SECONDS)
        replies, dead = [], dict[int, Exception]()
        for reference in ready:
            identifier = wanted[reference]
            node = self._pending[identifier].message.metadata.dst_node_id
            try:
                answer = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                answer = ("bug", str(error), [])
            except ray.exceptions.RayError as error:
                dead.setdefault(node, error)
                continue
            self._hosts[node].deaths = 0
            replies.append(self._reply(identifier, *answer))
        texts = {node: self._hosts.revive(self._hosts[node], death) for node, death in dead.items()}
        for node, text in {**texts, **self._hosts.find_places()}.items():
            replies += self._ask_again(node, text)
        return replies

    def _reply(self, identifier: str, kind: str, value: Any, events: Sequence[Mapping[str, Any]]) -> Message:
        """Return the reply that an actor's answer stands for, and tell what the host said of itself."""
        message = self._pending.pop(identifier).message
        host = self._hosts[message.metadata.dst_node_id]
        for event in events:
            report(event["kind"], text=f"host {host.number}: {event['text']}")
        if kind == "reply":
            reply = Message(RecordDict(value), reply_to=message)
        elif kind == "refused":
            reply = Message(Error(CLIENT_APP_RAISED, value), reply_to=message)
        else:
            append_text(self._log, f"host {host.number}, {message.metadata.message_type}:\n{value}\n")
            last = value.strip().splitlines()[-1]
            text = f"{last} (a bug of FedGraft; the traceback stands in {self._log})"
            reply = Message(Error(CLIENT_APP_RAISED, text), reply_to=message)
        stamp(reply)
        return reply

    def _ask_again(self, node: int, refusal: str | None) -> list[Message]:
        """Send a host's messages again; where there is no host to send them to, return refusals with the reason."""
        waiting = [name for name, pending in self._pending.items() if pending.message.metadata.dst_node_id == node]
        if refusal is not None:
            return [self._reply(name, "refused", refusal, []) for name in waiting]
        for name in waiting:
            self._send(name)
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, and pull until all replies are there or the time is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            replies += self.pull_messages(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        return replies

    def close(self) -> None:
        """End the actors; on somebody's cluster nothing else would."""
        self._pending.clear()
        self._hosts.close()


def _shared(messages: Sequence[Message]) -> dict[int, Any]:
    """Put each record of arrays that several messages hold into Ray's store; return the references by identity."""
    import ray

    seen: dict[int, Any] = {}
    counts: dict[int, int] = {}
    for message in messages:
        for record in message.content.values():
            if isinstance(record, ArrayRecord):
                seen[id(record)] = record
                counts[id(record)] = counts.get(id(record), 0) + 1
    return {name: ray.put(record) for name, record in seen.items() if counts[name] > 1}


def run_on_ray(
    session: RaySession,
    server_app: ServerApp,
    client_app: str,
    num_hosts: int,
    run_config: Mapping[str, str],
    environment: Mapping[str, str],
    log: Path,
) -> None:
    """Run the ServerApp in this process and the ClientApp in Ray actors.

    Args:
        session: Ray, started; it is waited for.
        server_app: the ServerApp.
        client_app: the ClientApp, as `module:name`.
        num_hosts: how many actors speak for the clients.
        run_config: the run's settings, with the submission.
        environment: variables for the actors.
        log: where tracebacks and Ray's own words about deaths are appended.
    """
    session.wait()
    session.report_whose()
    grid = RayGrid(client_app, num_hosts, run_config, session.settings, environment, log)
    try:
        import torch  # noqa: F401 - the server needs it, and the actors load theirs meanwhile

        grid.wait()
        claim_identity(RUN)
        config: Any = dict(run_config)
        server_app(grid, Context(RUN, 1, {}, RecordDict(), config))
    finally:
        grid.close()
