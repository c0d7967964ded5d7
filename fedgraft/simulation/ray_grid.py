"""The `ray` runtime: server in this process, hosts as Ray actors, behind Flower's `Grid`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedgraft.errors import FedGraftError, LaunchError
from fedgraft.files import append_text
from fedgraft.progress import report
from fedgraft.simulation.flower_identity import claim_identity, stamp
from fedgraft.simulation.inline import CLIENT_APP_RAISED, FIRST_HOST, RUN
from fedgraft.simulation.ray_host import host_class
from fedgraft.simulation.ray_session import RaySession, fedgraft_root, resources
from fedgraft.simulation.settings import RayRuntime
from fedgraft.wire.protocol import PACKAGES

START_SECONDS = 120.0
"""For the hosts to come; a cluster that grows on demand needs its time."""

WAIT_SECONDS = 0.2
"""How long one look for replies waits for all of them; it ends at once when all are there."""

MOST_DEATHS = 3
"""Of one host in a row without an answer; then it is no accident."""


@dataclass
class RayHost:
    """One host, whatever actor speaks for it now."""

    node: int
    number: int
    actor: Any
    ready: Any
    deaths: int = 0


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
        import ray

        self._app = app
        self._num_hosts = num_hosts
        self._settings = settings
        self._environment = dict(environment)
        self._log = log
        self._class: Any = ray.remote(host_class())
        self._run_config = ray.put(dict(run_config))
        self._pending: dict[str, Pending] = {}
        self._hosts: dict[int, RayHost] = {}
        for number in range(num_hosts):
            node = FIRST_HOST + number
            self._hosts[node] = RayHost(node, number, *self._actor(node, number, settings.cpus_per_host))

    def _actor(self, node: int, number: int, num_cpus: float) -> tuple[Any, Any]:
        """Start an actor; return it, and a reference to what it will say of itself."""
        options = {"num_cpus": num_cpus, "num_gpus": self._settings.gpus_per_host, "max_restarts": 0}
        actor = self._class.options(**options).remote()
        node_config = {"partition-id": number, "num-partitions": self._num_hosts}
        root = fedgraft_root()
        ready = actor.set_up.remote(root, PACKAGES, self._environment, self._app, node, node_config, self._run_config)
        return actor, ready

    def wait(self) -> None:
        """Wait until every host has loaded its app.

        Raises:
            LaunchError: some did not come, or can't load FedGraft.
        """
        import ray

        deadline = time.monotonic() + START_SECONDS
        waiting = [host.ready for host in self._hosts.values()]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=WAIT_SECONDS)
            for reference in ready:
                self._check_ready(reference)
            if waiting and time.monotonic() > deadline:
                raise LaunchError(
                    f"{len(waiting)} of {self._num_hosts} hosts found no place within {START_SECONDS:g} s; each wants "
                    f"{self._settings.cpus_per_host:g} CPUs and {self._settings.gpus_per_host:g} GPUs, and Ray has "
                    f"{_counted(resources())}, of these free {_counted(resources(available=True))}; "
                    "lower runtime.hosts, runtime.cpus_per_host or runtime.gpus_per_host"
                )

    def _check_ready(self, reference: Any) -> None:
        import ray

        try:
            fault = ray.get(reference)["fault"]
        except ray.exceptions.RayTaskError as error:
            raise LaunchError(f"a host could not be set up: {error.cause!s}") from error
        except ray.exceptions.RayError:
            return  # it died while it started; its first message finds out, and starts it again
        if fault:
            raise LaunchError(fault)

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
        for node, death in dead.items():
            replies += self._revive(self._hosts[node], death)
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

    def _revive(self, host: RayHost, error: Exception) -> list[Message]:
        """Start a dead host again and send its messages again; after too many deaths, return refusals instead."""
        import ray

        host.deaths += 1
        append_text(self._log, f"host {host.number} died ({host.deaths} in a row):\n{error}\n\n")
        ray.kill(host.actor, no_restart=True)
        waiting = [name for name, pending in self._pending.items() if pending.message.metadata.dst_node_id == host.node]
        if host.deaths >= MOST_DEATHS:
            text = (
                f"it died {host.deaths} times in a row without an answer; most likely it ran out of memory: lower "
                f"runtime.hosts, or give the machine more memory, then go on with --resume (Ray's words: {self._log})"
            )
            return [self._reply(name, "refused", text, []) for name in waiting]
        num_cpus = self._settings.cpus_per_host
        total = resources().get("CPU", 0.0)
        crowded = total < num_cpus * self._num_hosts
        place = f"; the cluster has only {total:g} CPUs left, so it shares them" if crowded else ""
        report("note", text=f"host {host.number} died; it is started again and asked again{place}")
        host.actor, host.ready = self._actor(host.node, host.number, 0.0 if crowded else num_cpus)
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
        import ray

        self._pending.clear()
        with contextlib.suppress(Exception):  # Ray itself may be gone, and what ended the run matters more
            for host in self._hosts.values():
                ray.kill(host.actor, no_restart=True)


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


def _counted(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


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
