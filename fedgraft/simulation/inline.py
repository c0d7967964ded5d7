"""The inline runtime: server and hosts in this process, behind Flower's `Grid`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedgraft.errors import FedGraftError
from fedgraft.simulation.flower_identity import claim_identity, stamp

RUN = 1
FIRST_HOST = 2
CLIENT_APP_RAISED = 2
"""Flower's `ErrorCode.CLIENT_APP_RAISED_EXCEPTION`."""


class InlineGrid(Grid):
    """Hands each message to the ClientApp at once; replies wait until they are pulled.

    Args:
        app: the ClientApp.
        contexts: one context a host, by node id.
    """

    def __init__(self, app: ClientApp, contexts: Mapping[int, Context]) -> None:
        self._app = app
        self._contexts = contexts
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """There is no record of Flower's about this run."""
        raise FedGraftError("the inline runtime has no Flower run record")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the hosts' ids."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have each message answered now, in order; return their ids."""
        identifiers = []
        for message in messages:
            identifiers.append(stamp(message))
            reply = self._answer(message)
            stamp(reply)
            self._replies[reply.metadata.reply_to_message_id] = reply
        return identifiers

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except FedGraftError as error:  # anything else is a bug of ours: let its traceback be seen
            return Message(Error(CLIENT_APP_RAISED, str(error)), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to the given messages."""
        return [self._replies.pop(identifier) for identifier in list(message_ids) if identifier in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull."""
        return self.pull_messages(self.push_messages(messages))


def run_inline(server_app: ServerApp, client_app: ClientApp, run_config: Mapping[str, str]) -> None:
    """Run both Flower apps in this process, with one host that speaks for all clients."""
    claim_identity(RUN)
    config = dict(run_config)
    node_config = {"partition-id": 0, "num-partitions": 1}
    host = Context(RUN, FIRST_HOST, node_config, RecordDict(), config)  # type: ignore[arg-type]
    server = Context(RUN, 1, {}, RecordDict(), config)  # type: ignore[arg-type]
    server_app(InlineGrid(client_app, {FIRST_HOST: host}), server)
