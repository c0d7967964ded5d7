"""What a `Grid` of our own must do itself that a SuperLink does otherwise: identities and message ids.

Flower keeps the identity of the running task and a message's id in private places. Everything that touches
them is here, for the one version that is pinned; a test fails loudly when they move.
"""

from __future__ import annotations

import uuid

from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1


def claim_identity(run_id: int) -> None:
    """Make this process the server's task of a run; `Message(...)` can't be built before."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE
    TaskIdentity.task_id = SERVER_NODE


def stamp(message: Message, identifier: str | None = None) -> str:
    """Give a message its id, by default a new one, and return it."""
    identifier = identifier or uuid.uuid4().hex
    message.metadata.__dict__["_message_id"] = identifier
    return identifier
