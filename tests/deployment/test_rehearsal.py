"""Three sites and a server as real processes: the numbers of one process, a true ledger, and closed doors."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from local_fleet import (
    descendants,
    greatest_difference,
    head_of,
    in_one_process,
    ledgers,
    run,
    running_fleet,
)

from fedgraft.deployment.processes import SILENT
from fedgraft.rehearsal import Fleet
from server.deployment.nginx import nginx_program

pytestmark = pytest.mark.timeout(900)  # a minute on a quiet machine


@pytest.fixture(scope="module")
def running(cache_of_the_session: None) -> Iterator[Fleet]:
    with running_fleet() as found:
        yield found


def test_the_numbers_are_those_of_one_process_and_the_ledger_holds_every_byte(running: Fleet, tmp_path: Path) -> None:
    done, notes = run(running, tmp_path / "deployed")
    expected = in_one_process(running, tmp_path / "data", tmp_path / "inline")
    assert greatest_difference(head_of(done), head_of(expected)) <= 1e-6
    assert done.summary["validation"]["accuracy"] == pytest.approx(expected.summary["validation"]["accuracy"], abs=1e-9)
    assert any("who takes part: clinic-1" in note for note in notes)

    lines = ledgers(running)
    assert set(lines) == {"clinic-1", "clinic-2", "clinic-3"}
    rounds = {row["round"]: row for row in done.metrics if row["group"] == "train"}
    for number in (1, 2, 3):
        entries = {
            name: [line.entry for line in found if line.entry.request == "train" and line.entry.round == number]
            for name, found in lines.items()
        }
        assert all(entries.values())  # a slow machine may have been asked twice
        assert sum(found[0].bytes for found in entries.values()) == rounds[number]["bytes_up"]
    assert not any(line.entry.outcome == "refusal" for found in lines.values() for line in found)


def test_nothing_phones_home_from_any_process(running: Fleet) -> None:
    processes = descendants(os.getpid())
    started = running.supervisor.process_ids()
    assert set(started.values()) <= processes
    for name, pid in started.items():
        if name == "nginx":  # it is no Python, and has overwritten its environment with its title
            continue
        variables = dict(
            part.split("=", 1) for part in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in part
        )
        assert variables.items() >= SILENT.items(), name


def test_only_the_sites_path_is_open(running: Fleet) -> None:
    """From a site's machine, with all that a site has: nothing of the control and runtime parts."""
    if nginx_program() is None:
        pytest.skip("needs nginx (apt-get install nginx-light)")
    settings, site = running.server.settings, running.sites[0]
    with httpx.Client(verify=ssl.create_default_context(cafile=site.authority), trust_env=False) as client:
        base = f"https://127.0.0.1:{settings.port}"
        for path in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/health"):
            assert client.post(base + path, content=b"").status_code == 403, path
        for path in (
            "/v1/fleet/../control/list-nodes",
            "/v1/fleet/%2e%2e/control/list-nodes",
            "//v1/control/list-nodes",
        ):
            request = client.build_request("POST", base, content=b"")
            request.url = request.url.copy_with(raw_path=path.encode())
            assert client.send(request).status_code in (403, 404), path
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    control = ControlHttpClient.from_server_address(
        f"127.0.0.1:{settings.port}", False, site.authority.read_bytes(), [version]
    )
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        control.ListNodes(ListNodesRequest())
    control.close()


def test_the_superlink_itself_listens_on_loopback_only(running: Fleet) -> None:
    name = socket.gethostname()
    addresses = {found[4][0] for found in socket.getaddrinfo(name, None, socket.AF_INET)} - {"127.0.0.1", "127.0.1.1"}
    if not addresses:
        pytest.skip("this machine has no address but loopback")
    for address in addresses:
        with pytest.raises(OSError):  # noqa: PT011 - refused or unreachable, as the system says it
            socket.create_connection((str(address), running.server.settings.superlink_port), timeout=3)
