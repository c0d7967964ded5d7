"""The Flower ClientApp: has each message answered, by this process in a simulation, by the resident host at a site.

At a site Flower starts a new process for a message, or one that must not see the site's data: it hands the message
over a Unix socket and imports neither torch nor anything else that is heavy.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.answers import REQUESTS, answer, read_request
from clients.outbound import pass_on, send
from fedgraft.submission import read_submission
from fedgraft.wire.frames import opened, sealed

SOCKET = "site-socket"
"""The key of a SuperNode's own settings that names the resident host's socket; a simulation has none."""

app = ClientApp()


def reply(message: Message, context: Context) -> Message:
    """Have a message answered."""
    socket = context.node_config.get(SOCKET)
    return _answered_at_site(message, context, Path(str(socket))) if socket else _answered_here(message, context)


def _answered_at_site(message: Message, context: Context, socket: Path) -> Message:
    from clients.site.window import hand_over

    kind, scenario = message.metadata.message_type, str(context.run_config.get("scenario", ""))
    return pass_on(message, sealed(hand_over(socket, kind, scenario, opened(message.content))))


def _answered_here(message: Message, context: Context) -> Message:
    from clients.host import resident_host
    from clients.state.files import state_folder

    kind = message.metadata.message_type
    request, groups = read_request(kind, message.content)
    submission = read_submission(context.run_config)
    node = context.node_config
    host = resident_host(
        submission.scenario_json,
        int(node.get("partition-id", 0)),
        int(node.get("num-partitions", 1)),
        submission.run.threads,
        "partition-id" in node,
        submission.run.feature_dim,
        submission.run.device,
    )
    return send(message, *answer(host, kind, request, groups, state_folder(submission.run)))


for _kind in REQUESTS:
    _action, _, _name = _kind.partition(".")
    getattr(app, _action)(_name or "default")(reply)
