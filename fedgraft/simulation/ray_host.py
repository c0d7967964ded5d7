"""The Ray actor that speaks for the clients of one host."""

from __future__ import annotations

from typing import Any

from fedgraft.simulation.ray_code import finder


def host_class() -> type:
    """Return the actor's class.

    A class made inside a function travels to a worker as code, not by its module's name. So a worker runs it
    before it has found FedGraft, and can say what is missing.
    """
    find = finder()

    class Host:
        """One host: the ClientApp and what it keeps between messages."""

        def __init__(self) -> None:
            self.fault = "the host was never set up"

        def is_there(self) -> bool:
            """Answer as soon as the actor has a place."""
            return True

        def set_up(
            self,
            root: str,
            packages: tuple[str, ...],
            environment: dict[str, str],
            app: str,
            node: int,
            node_config: dict[str, int],
            run_config: dict[str, str],
        ) -> dict[str, Any]:
            """Load the ClientApp by its name, and say where this host runs, or why it can't.

            Args:
                root: the folder from which the driver imports FedGraft.
                packages: FedGraft's packages.
                environment: variables to set before anything else is imported.
                app: the ClientApp, as `module:name`.
                node: the host's id.
                node_config: what Flower gives a simulated node: `partition-id` and `num-partitions`.
                run_config: the run's settings, with the submission.
            """
            import importlib
            import os
            import socket

            find(root, packages, environment)
            place = {"pid": os.getpid(), "machine": socket.gethostname()}
            try:
                module, _, name = app.partition(":")
                import torch  # noqa: F401 - some seconds, which would else be booked on the first round
                from flwr.app import Context, RecordDict

                self.app = getattr(importlib.import_module(module), name)
                from fedgraft.simulation.flower_identity import claim_identity
            except ImportError as error:
                self.fault = (
                    f"FedGraft can't be loaded on {place['machine']} ({error}); install the same release of FedGraft "
                    "for the Python of every machine of the cluster"
                )
                return {**place, "fault": self.fault}
            claim_identity(1)
            self.node = node
            self.context = Context(1, node, node_config, RecordDict(), run_config)  # type: ignore[arg-type]
            self.fault = ""
            return {**place, "fault": ""}

        def answer(
            self, identifier: str, message_type: str, group_id: str, names: tuple[str, ...], *records: Any
        ) -> tuple[str, Any, list[dict[str, Any]]]:
            """Have the ClientApp answer a message.

            Returns:
                `reply` and the content's records by name, `refused` and a text for the user, or `bug` and a
                traceback; and what the host said of itself meanwhile.
            """
            if self.fault:
                return "refused", self.fault, []
            import traceback

            from flwr.app import Message, RecordDict

            from fedgraft.errors import FedGraftError
            from fedgraft.progress import listening
            from fedgraft.simulation.flower_identity import stamp

            events: list[dict[str, Any]] = []

            def keep(event: Any) -> None:
                if event["kind"] in ("explain", "note"):
                    events.append(dict(event))

            content = RecordDict(dict(zip(names, records, strict=True)))
            message = Message(content, dst_node_id=self.node, message_type=message_type, group_id=group_id)
            stamp(message, identifier)
            try:
                with listening(keep):
                    reply = self.app(message, self.context)
            except FedGraftError as error:
                return "refused", str(error), events
            except Exception:  # a bug of ours: the driver writes it down
                return "bug", traceback.format_exc(), events
            return "reply", dict(reply.content), events

    return Host
