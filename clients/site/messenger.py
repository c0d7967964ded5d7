"""The messenger: takes each message from the SuperNode to the resident host, and the answer back.

It stands in for Flower's SuperExec and its `flwr-clientapp`, which would unpack the bundle that came from the server
and run it, in a new process for each message. The messenger takes the bundle's digest itself, from its content, and
answers no message of a run whose bundle this site does not know. What it runs is the ClientApp that the site has
installed, so no code from the server runs here at all. It holds no data and no key, and as a second Unix user it can
read neither; it parses what the server sent, so that nobody else has to.

This file is the one place at a site that knows flwr 1.41's internal Python API.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import time
from collections.abc import Collection
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from clients.app import SOCKET, app
from clients.outbound import refuse
from clients.site.window import HostAwayError, SiteError, note_refusal
from fedgraft.deployment.logs import log_to_stderr
from fedgraft.deployment.settings import LogSettings
from fedgraft.errors import FedGraftError

POLL_SECONDS = 0.1
RAISED, UNKNOWN_BUNDLE, AWAY = 2, 7, 8
"""Flower's `ErrorCode.CLIENT_APP_RAISED_EXCEPTION`, `INVALID_FAB` and `CLIENT_APP_CRASHED`."""

log = logging.getLogger("fedgraft.site.messenger")


class Messenger:
    """Carries messages between one SuperNode and one resident host.

    Args:
        address: `host:port` of the SuperNode's own interface, on loopback.
        secret: what entitles to its messages.
        bundles: sha256 of the contents of the bundles that this site knows.
        site: the site's name, for texts.
    """

    def __init__(self, address: str, secret: bytes, bundles: Collection[str], site: str) -> None:
        self._address, self._bundles, self._site = address, frozenset(bundles), site
        signature = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
        )
        version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
        self._tasks = RuntimeHttpClient.from_server_address(address, True, None, [version, signature])

    def serve(self) -> None:
        """Carry messages until the process is ended; a SuperNode that is not there is waited for."""
        asked = AcquireTaskRequest(supported_task_types={TaskType.CLIENT_APP})
        while True:
            try:
                found = self._tasks.AcquireTask(asked)
                if found.HasField("task") and found.token:
                    self._carry(found.token)
                    continue
            except httpx.HTTPError as error:
                log.debug("the SuperNode does not answer: %s", error)
            time.sleep(POLL_SECONDS)

    def _carry(self, token: str) -> None:
        version = RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")
        client = RuntimeHttpClient.from_server_address(
            self._address, True, None, [version, RuntimeTokenHttpInterceptor(token)]
        )
        beats = HeartbeatSender(make_task_heartbeat_fn_http(client))
        outcome, details, context = "failed", "the message was not read", None
        try:
            beats.start()
            message, context, _, bundle = pull_task_input(client)
            reply = self._reply(message, context, bundle.content)
            details = reply.error.reason or "" if reply.has_error() else ""
            outcome = "failed" if reply.has_error() else "completed"
            push_message(client, reply, context)
        except (httpx.HTTPError, RuntimeError, KeyboardInterrupt) as error:  # a heartbeat's refusal interrupts
            outcome, details = "failed", str(error)
            log.warning("a message could not be carried: %s", error or type(error).__name__)
        finally:
            push_task_output(client, context, outcome, details)
            with contextlib.suppress(RuntimeError):
                beats.stop()
            client.close()

    def _reply(self, message: Message, context: Context, bundle: bytes) -> Message:
        """Return the site's answer, or an error message with a text for the server's user."""
        digest = hashlib.sha256(bundle).hexdigest()  # of the content: what a run says of its bundle proves nothing
        if digest not in self._bundles:
            text = (
                f"{self._site} knows no bundle {digest[:12]} ({len(bundle):,} bytes) and answers none of its messages; "
                f"it knows {', '.join(sorted(known[:12] for known in self._bundles))}: install the same release of "
                "FedGraft at the server and at the site"
            )
            return self._refused(message, context, UNKNOWN_BUNDLE, text)
        try:
            return app(message, context)
        except HostAwayError as error:
            return refuse(message, AWAY, str(error))
        except SiteError as error:  # the resident host has written it down
            return refuse(message, RAISED, str(error))
        except FedGraftError as error:
            return self._refused(message, context, RAISED, f"{self._site}: {error}")
        except Exception as error:  # a message that Flower's own code can't take must not end the messenger
            log.exception("'%s' failed", message.metadata.message_type)
            text = f"{type(error).__name__} at the messenger of {self._site}"
            return self._refused(message, context, RAISED, text)

    def _refused(self, message: Message, context: Context, code: int, text: str) -> Message:
        """Return the reply that says why a message is not answered, once the site's ledger has the text."""
        kind = message.metadata.message_type
        log.warning("refused '%s': %s", kind, text)
        try:
            socket, scenario = Path(str(context.node_config[SOCKET])), context.run_config.get("scenario", "")
            note_refusal(socket, kind, str(scenario), text)
        except HostAwayError as error:
            return refuse(message, AWAY, str(error))
        except SiteError:  # the resident host has said why
            return refuse(message, RAISED, f"{self._site} can't write its ledger, so it says nothing")
        return refuse(message, code, text)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Carry messages between a SuperNode and a site's resident host.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--bundle", action="append", required=True)
    parser.add_argument("--site", required=True)
    parser.add_argument("--log", default="{}")
    given = parser.parse_args()
    log_to_stderr(LogSettings.model_validate_json(given.log))
    Messenger(given.address, given.secret_file.read_bytes(), given.bundle, given.site).serve()


if __name__ == "__main__":
    main()
