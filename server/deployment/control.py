"""What the server's own machine asks of its SuperLink over loopback: sites, runs, their status and their end.

Besides the launcher of Flower's simulation the one place that knows flwr 1.41's internal control interface.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedgraft.deployment.kits import ServerFolder
from fedgraft.errors import LaunchError, SettingsError
from fedgraft.simulation.app_folder import app_folder
from fedgraft.simulation.flower_control import bundle, loopback_unproxied, refusals

GONE = "unregistered"


@dataclass(frozen=True)
class Node:
    """A site as the SuperLink knows it.

    Attributes:
        node_id: Flower's id.
        name: the site's name.
        online: whether its SuperNode has spoken of late.
        public_key: as the SuperLink keeps it.
        last_seen: when it came or went last, as text; empty: never.
    """

    node_id: int
    name: str
    online: bool
    public_key: bytes
    last_seen: str


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink knows it.

    Attributes:
        run_id: Flower's id.
        status: such as `running` or `finished:completed`.
        details: why it ended so.
        submission: the run key `scenario`.
        bytes_to_sites: what the SuperLink has sent for it.
        bytes_from_sites: what it has received.
    """

    run_id: int
    status: str
    details: str
    submission: str
    bytes_to_sites: int
    bytes_from_sites: int

    @property
    def finished(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.status.startswith("finished")


class Control:
    """The control interface of the SuperLink of a kit; a context manager."""

    def __init__(self, folder: ServerFolder) -> None:
        address = f"127.0.0.1:{folder.settings.superlink_port}"
        self._folder = folder
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        with loopback_unproxied():
            self._client = ControlHttpClient.from_server_address(
                address, False, folder.authority.read_bytes(), [version]
            )

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def healthy(self) -> bool:
        """Tell whether the SuperLink answers."""
        with contextlib.suppress(LaunchError):
            self.nodes()
            return True
        return False

    def nodes(self) -> list[Node]:
        """Return the sites that are registered, by name."""
        with refusals("the question for its sites"):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        nodes = [
            Node(
                int(node.node_id),
                node.name,
                node.status == "online",
                bytes(node.public_key),
                node.last_activated_at if node.status == "online" else node.last_deactivated_at,
            )
            for node in found
            if node.status != GONE
        ]
        return sorted(nodes, key=lambda node: node.name)

    def register_sites(self) -> tuple[list[str], list[str]]:
        """Let exactly the sites of `server.yaml` join, each by its own key; return who was added and who removed.

        Raises:
            SettingsError: a public key can't be read.
        """
        wanted = {site.name: _public_key(Path(site.public_key)) for site in self._folder.settings.sites}
        there: set[str] = set()
        removed, added = [], []
        for node in self.nodes():
            if wanted.get(node.name) == node.public_key:
                there.add(node.name)
                continue
            with refusals(f"the removal of the site {node.name}"):
                self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
            removed.append(node.name or str(node.node_id))
        for name, key in wanted.items():
            if name not in there:
                with refusals(f"the site {name}"):
                    self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
                added.append(name)
        return added, removed

    def submit(self, run_config: Mapping[str, str]) -> int:
        """Start a run of FedGraft's own apps and return Flower's id of it."""
        with tempfile.TemporaryDirectory(prefix="fedgraft-bundle-") as folder:
            content = bundle(app_folder(Path(folder)))
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})),
            override_config=user_config_to_proto(dict(run_config)),
        )
        with refusals("the run"):
            response = self._client.StartRun(request)
        if not response.HasField("run_id"):
            raise LaunchError(f"the SuperLink refused the run: {len(content):,} bytes of code are too many")
        return int(response.run_id)

    def runs(self) -> list[FlowerRun]:
        """Return all runs, the newest first."""
        with refusals("the question for its runs"):
            found = self._client.ListRuns(ListRunsRequest()).run_dict
        runs = sorted(found.values(), key=lambda run: run.pending_at, reverse=True)
        return [
            FlowerRun(
                int(run.run_id),
                f"{run.status.status}:{run.status.sub_status}".removesuffix(":"),
                run.status.details,
                run.override_config["scenario"].string if "scenario" in run.override_config else "",
                int(run.bytes_sent),
                int(run.bytes_recv),
            )
            for run in runs
        ]

    def run(self, run_id: int) -> FlowerRun:
        """Return one run.

        Raises:
            LaunchError: the SuperLink does not know it.
        """
        for found in self.runs():
            if found.run_id == run_id:
                return found
        raise LaunchError(f"the SuperLink knows no run {run_id}; `fedgraft status --kit KIT` lists them")

    def stop(self, run_id: int) -> None:
        """End a run."""
        with refusals("the end of the run"):
            self._client.StopRun(StopRunRequest(run_id=run_id))


def _public_key(path: Path) -> bytes:
    """Return a site's public key as the SuperLink keeps it.

    Raises:
        SettingsError: the file is none.
    """
    from fedgraft.errors import Fault

    try:
        key = load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(str(path), [Fault("", f"no public key in OpenSSH's format: {error}")]) from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise SettingsError(str(path), [Fault("", "expected an ECDSA key: ssh-keygen -t ecdsa -b 384")])
    return bytes(public_key_to_bytes(key))
