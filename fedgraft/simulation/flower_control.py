"""What FedGraft asks of a SuperLink over HTTP: the one place that knows flwr 1.41's internal Python API.

`flwr run`, `flwr list` and `flwr stop` cost a second of imports each; the calls that they make cost milliseconds.
The package pins flwr below 1.42, and the launcher's tests fail loudly should these calls change.

Flower's own SuperExec would start whatever is submitted to the SuperLink's port, by any user of the machine. Here
the launcher takes its place: it alone holds the secret for it, and it starts the one task of its own run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import httpx
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.proto.federation_config_pb2 import SimulationConfig
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime import RuntimeHttpClient

from fedgraft.errors import LaunchError
from fedgraft.simulation.flower_machine import Actors, unproxied

Client = TypeVar("Client", bound=ProtobufClient)


class SuperLink:
    """A client of one SuperLink on this machine."""

    def __init__(self, address: str, secret: bytes) -> None:
        """Prepare the clients; nothing is sent.

        Args:
            address: `host:port` of the SuperLink.
            secret: what entitles us to take tasks from it.
        """
        self._address = address
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        signature = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
        )
        with loopback_unproxied():
            self._plain = httpx.Client(timeout=5.0)
            self._control = ControlHttpClient.from_server_address(address, True, None, [version])
            self._runtime = RuntimeHttpClient.from_server_address(address, True, None, [version, signature])

    def healthy(self) -> bool:
        """Tell whether the SuperLink answers."""
        try:
            return self._plain.get(f"http://{self._address}/health").is_success
        except httpx.HTTPError:
            return False

    def submit(self, app: Path, run_config: Mapping[str, str], actors: Actors) -> int:
        """Submit a run of the app folder and return its id.

        The run configuration goes as a map of strings, so quotes, newlines and length need no care.

        Raises:
            LaunchError: the app folder or the run configuration is refused.
        """
        content = bundle(app)
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})),
            override_config=user_config_to_proto(dict(run_config)),
            override_federation_config=SimulationConfig(
                num_supernodes=actors.num_hosts,
                client_resources_num_cpus=1,
                client_resources_num_gpus=actors.gpus_per_actor,
                init_args_num_cpus=actors.num_actors,
            ),
        )
        with refusals("the run"):
            response = self._control.StartRun(request)
        if not response.HasField("run_id"):
            raise LaunchError(f"Flower's SuperLink refused the run: {len(content):,} bytes of code are too many")
        return int(response.run_id)

    def acquire(self, run_id: int) -> str | None:
        """Take the run's task, and return the token for the process that is to carry it out; None: not yet.

        Raises:
            LaunchError: a task of another run was handed out; nobody else should know this SuperLink.
        """
        with refusals("the task"):
            response = self._runtime.AcquireTask(AcquireTaskRequest(supported_task_types={TaskType.SIMULATION}))
        if not (response.HasField("task") and response.token):
            return None
        if response.task.run_id != run_id:
            raise LaunchError(
                f"somebody else submitted run {response.task.run_id} to the SuperLink of run {run_id}; start again"
            )
        return str(response.token)

    def status(self, run_id: int) -> tuple[str, str]:
        """Return the run's real status, such as `running` or `finished:failed`, and Flower's details."""
        with refusals("the question for the run's status"):
            run = self._control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]
        return f"{run.status.status}:{run.status.sub_status}".removesuffix(":"), run.status.details

    def close(self) -> None:
        """Close the connections."""
        for client in (self._plain, self._control, self._runtime):
            client.close()


def bundle(app: Path) -> bytes:
    """Return an app folder as a Flower app bundle.

    Raises:
        LaunchError: the folder is no Flower app, with Flower's reasons.
    """
    try:
        load_and_validate(app / "pyproject.toml")
        return build_fab_from_disk(app)
    except ValueError as error:
        raise LaunchError(f"{app} is no Flower app: {error}") from error


@contextlib.contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn an error of the SuperLink into one line."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        known = FlowerError.from_json(error.response.text)
        reason = f"{known.message} {known.public_details or ''}".strip() if known else error.response.text
        raise LaunchError(f"Flower's SuperLink refused {what}: {reason}") from error
    except httpx.HTTPError as error:
        raise LaunchError(f"Flower's SuperLink did not answer {what}: {error}") from error


@contextlib.contextmanager
def loopback_unproxied() -> Iterator[None]:
    """Let the HTTP clients made inside know that 127.0.0.1 is not reached through the site's proxy."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    os.environ.update(unproxied(os.environ))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
