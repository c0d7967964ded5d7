"""A federation as its owners start it, each machine by the command line, in network namespaces where there are any.

What only whole machines show: the server's end and return, cut lines, closed doors, sites that can't take part, a
second Unix user, logs.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from local_fleet import descendants, greatest_difference, head_of, inline, is_alive
from machines import LABELS, SERVER, SERVER_ADDRESS, Machines, federation, wait

from clients.site.ledger_check import verify
from fedgraft.deployment.certificates import make_authority
from fedgraft.deployment.site_keys import make_key
from fedgraft.runs import Run
from fedgraft.simulation.app_folder import app_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GOOD = ("clinic-1", "clinic-2", "clinic-3")
LABELLED, OTHER_BACKBONE, WRONG_KEY, WRONG_CERTIFICATE, OTHER_RELEASE, REVOKED = (
    f"clinic-{number}" for number in range(4, 10)
)
WRONG = (LABELLED, OTHER_BACKBONE, WRONG_KEY, WRONG_CERTIFICATE, OTHER_RELEASE, REVOKED)
ROUNDS = 4
SETTINGS = {"rounds": ROUNDS, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def guest() -> Iterator[pwd.struct_passwd | None]:
    """Yield a Unix user of this test's own; None where none can be made, or could run this Python."""
    name = f"fgguest{os.getpid() % 100_000}"
    if os.getuid() != 0 or shutil.which("useradd") is None:
        yield None
        return
    subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name], check=True)
    try:
        user = pwd.getpwnam(name)
        yield user if runs_python(user) else None
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


def runs_python(user: pwd.struct_passwd) -> bool:
    """Tell whether a user can run this Python and FedGraft; one below somebody's home can't be."""
    try:
        return as_user(user, sys.executable, "-c", "import clients.site.messenger").returncode == 0
    except PermissionError:
        return False


def as_user(user: pwd.struct_passwd, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.fixture(scope="module")
def machines(cache_of_the_session: None, guest: pwd.struct_passwd | None) -> Iterator[Machines]:
    with contextlib.ExitStack() as stack:
        folder, windows = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fg-", dir="/tmp"))) for _ in range(2)
        )
        found = stack.enter_context(federation(folder, [*GOOD, *WRONG], server=SETTINGS))
        found.provision(GOOD)
        for name in GOOD:
            found.change(name, log={"format": "json", "file": "log/site.log"})
        if guest is not None:  # who must reach the socket, and may look at all else that the kit's own modes allow
            for path in (folder, windows, found.kits):
                path.chmod(0o755)
            found.change("clinic-2", user=guest.pw_name, socket=str(windows / "clinic-2" / "host.sock"))
            (folder / "data").chmod(0o700)
        found.start(SERVER)
        found.start(*GOOD)
        yield found


@pytest.fixture(scope="module")
def undisturbed(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return the head of the same run in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    paths = {name: machines.data[name] for name in GOOD}
    return head_of(inline(machines.scenario, paths, folder / "data", folder / "run"))


def num_clients(done: Run) -> list[int]:
    """Return how many sites each round counted."""
    return [row["num_clients"] for row in done.metrics if row["group"] == "train"]


def messenger(machines: Machines, site: str) -> int:
    """Return the process of a site's messenger."""
    below = descendants(machines.processes[site].pid)
    (found,) = (pid for pid in below if b"clients.site.messenger" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


def test_the_numbers_are_those_of_one_process_with_a_backbone_that_the_server_sends(
    machines: Machines, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A second run sends no weights: each site has kept them."""
    first = machines.submit(tmp_path / "first")
    done, _ = first.finish()
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6
    assert "backbone weights sent to 3 sites" in first.notes()
    assert any(note.startswith("who takes part: clinic-1 (") for note in first.notes())
    second = machines.submit(tmp_path / "second", server={"rounds": 1})
    second.finish()
    assert not any("weights sent" in note for note in second.notes())


def test_a_cut_line_is_waited_for_and_one_that_stays_cut_is_not(
    machines: Machines, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Of 20 s nobody hears anything; after two missed heartbeats the rest goes on, until the site is back."""
    if machines.spaces is None:
        pytest.skip("needs network namespaces, which this machine or user can't make")
    short = machines.submit(tmp_path / "short")
    short.wait_for_round(1)
    machines.spaces.line("clinic-3", "down")
    time.sleep(20)
    machines.spaces.line("clinic-3", "up")
    done, _ = short.finish()
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6

    long = machines.submit(tmp_path / "long", server={"rounds": 10, "absent_seconds": 12.0})
    long.wait_for_round(1)
    machines.spaces.line("clinic-3", "down")
    long.wait_for_round(2, seconds=180)
    machines.spaces.line("clinic-3", "up")
    done, _ = long.finish()
    counted = num_clients(done)
    assert counted[:2] == [3, 2]
    assert counted[-1] == 3
    assert "'train' goes on without clinic-3: it can't be reached" in long.notes()


def test_a_server_that_is_killed_goes_on_from_its_last_round_with_the_same_numbers(
    machines: Machines, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Killed as by a power failure: no process of it may tidy up; `fedgraft submit` waits for its return."""
    submitted = machines.submit(tmp_path / "run")
    submitted.wait_for_round(2)
    server = machines.processes.pop(SERVER)
    below = descendants(server.pid)
    for pid in (server.pid, *below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.wait()
    wait(lambda: not any(is_alive(pid) for pid in below), 20)
    machines.start(SERVER, up={SERVER: " goes on from its last checkpoint"})
    done, _ = submitted.finish()
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6
    resumed = [note for note in submitted.notes() if note.startswith("resumed after round ")]
    assert len(resumed) == 1
    assert int(resumed[0].split()[-1]) >= 2


def test_a_run_is_followed_again_and_a_stopped_one_goes_on(
    machines: Machines, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    submitted = machines.submit(tmp_path / "run")
    submitted.wait_for_round(1)
    submitted.process.send_signal(signal.SIGINT)
    _, said = submitted.process.communicate(timeout=60)
    assert submitted.process.returncode == 130
    assert "the run goes on at the server" in said
    assert submitted.directory is not None
    identifier = json.loads((submitted.directory / "run.json").read_text())["run_id"][:8]
    machines.fedgraft(SERVER, "stop", identifier, "--kit", str(machines.kits / SERVER))
    wait(lambda: status_of(machines, identifier).startswith("finished:stopped"), 60)
    done, _ = machines.command("submit", "--resume", identifier, out=tmp_path / "resumed").finish()
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6
    again, _ = machines.command("submit", "--resume", identifier, out=tmp_path / "again").finish()  # fetched once more
    assert greatest_difference(head_of(again), head_of(done)) == 0


def status_of(machines: Machines, identifier: str) -> str:
    """Return a run's status as `fedgraft status` shows it."""
    shown = json.loads(machines.fedgraft(SERVER, "status", "--kit", str(machines.kits / SERVER), "--json"))
    return next(str(run["status"]) for run in shown["runs"] if run["run"] == identifier)


def test_logs_are_json_lines_without_values_of_the_data(machines: Machines) -> None:
    for name in GOOD:
        lines = [json.loads(line) for line in (machines.kits / name / "log" / "site.log").read_text().splitlines()]
        assert {line["process"] for line in lines} >= {"host", "supernode", "fedgraft.processes"}
        assert all(set(line) <= {"time", "level", "process", "text", "traceback"} for line in lines)
        texts = "\n".join(line["text"] for line in lines)
        assert "bytes leave, ledger" in texts
        images = np.load(machines.data[name])["images"]
        for image in images[:20].reshape(20, -1):
            row = image[image > 0][:4]
            assert ", ".join(map(str, row)) not in texts
            assert " ".join(map(str, row)) not in texts


def test_the_second_user_reads_neither_data_nor_key_nor_state(
    machines: Machines, guest: pwd.struct_passwd | None
) -> None:
    """The messenger, which takes messages apart, runs as a user of its own, and it did its work in the runs before."""
    if guest is None:
        pytest.skip("needs root, useradd, and a Python that any user can run")
    site = machines.kits / "clinic-2"
    status = Path(f"/proc/{messenger(machines, 'clinic-2')}/status").read_text()
    assert f"Uid:\t{guest.pw_uid}\t{guest.pw_uid}\t{guest.pw_uid}\t{guest.pw_uid}\n" in status
    assert f"Groups:\t{guest.pw_gid}" in status or "Groups:\t \n" in status or "Groups:\t\n" in status
    answered = verify(site / "state" / "ledger.jsonl").lines
    assert any(line.entry.request == "train" and line.entry.outcome == "answer" for line in answered)
    others = [pid for pid in descendants(machines.processes["clinic-2"].pid) if pid != messenger(machines, "clinic-2")]
    secrets = [machines.data["clinic-2"], site / "key", site / "site.yaml", site / "policy.yaml"]
    secrets += [site / "state" / "ledger.jsonl", site / "state", site / "cache", site / "log"]
    secrets += [Path(f"/proc/{pid}/{what}") for pid in others for what in ("environ", "mem")]
    for secret in secrets:
        assert secret.exists(), secret
        look = ["ls", str(secret)] if secret.is_dir() else ["head", "-c", "1", str(secret)]
        assert "Permission denied" in as_user(guest, *look).stderr, secret
    for pid in others:
        ended = as_user(guest, sys.executable, "-c", f"import os; os.kill({pid}, 0)")
        assert "Operation not permitted" in ended.stderr


LOOK_AROUND = """
import json, socket, ssl, sys
import httpx
server, port, authority, ports = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
def open_at(host, number):
    try:
        socket.create_connection((host, number), timeout=3).close()
        return True
    except OSError:
        return False
found = {"ports": [number for number in ports if open_at(server, number)]}
found["own loopback"] = [number for number in ports if open_at("127.0.0.1", number)]
found["statuses"] = {}
with httpx.Client(verify=ssl.create_default_context(cafile=authority), trust_env=False) as client:
    for path in ("control/list-nodes", "control/start-run", "control/register-node", "runtime/acquire-task",
                 "runtime/get-nodes", "fleet/../control/list-nodes", "fleet/%2e%2e/control/list-nodes"):
        request = client.build_request("POST", f"https://{server}:{port}", content=b"")
        request.url = request.url.copy_with(raw_path=f"/v1/{path}".encode())
        found["statuses"][path] = client.send(request).status_code
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
control = ControlHttpClient.from_server_address(f"{server}:{port}", False, open(authority, "rb").read(), [version])
try:
    control.ListNodes(ListNodesRequest())
    found["control"] = "answered"
except httpx.HTTPStatusError as error:
    found["control"] = error.response.status_code
print(json.dumps(found))
"""


def listening(machines: Machines, machine: str) -> dict[int, bool]:
    """Return the ports that a machine listens at, each with whether on loopback only."""
    found: dict[int, bool] = {}
    for file, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in machines.on(machine, "cat", f"/proc/net/{file}").stdout.splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A":
                host, _, port = address.partition(":")
                found[int(port, 16)] = found.get(int(port, 16), True) and host == loopback
    return found


def test_from_a_sites_machine_only_its_path_is_open(machines: Machines) -> None:
    """From a site's own address, with its certificate authority and Flower's own client for the control interface."""
    if machines.spaces is None:
        pytest.skip("needs network namespaces, which this machine or user can't make")
    there = listening(machines, SERVER)
    assert {machines.port, machines.superlink_port} <= set(there)
    assert there[machines.superlink_port], "the SuperLink listens on loopback only"
    authority = machines.kits / "clinic-1" / "ca.crt"
    words = (SERVER_ADDRESS, str(machines.port), str(authority), json.dumps(sorted(there)))
    done = machines.on("clinic-1", sys.executable, "-c", LOOK_AROUND, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ports"] == [machines.port]
    assert found["own loopback"] == []
    assert found["control"] == 403
    assert set(found["statuses"].values()) <= {403, 404}
    for name in GOOD:  # and nothing of a site can be reached from anywhere
        assert all(listening(machines, name).values())


def test_sites_that_cannot_take_part_are_named_with_the_reason_and_the_others_go_on(
    machines: Machines, tmp_path: Path
) -> None:
    """They are let in while the server runs, without a restart."""
    machines.provision([*GOOD, *WRONG])
    kept = shutil.copytree(machines.kits / REVOKED, tmp_path / REVOKED)
    machines.provision([*GOOD, *WRONG[:-1]], "--revoke", REVOKED)
    shutil.copytree(kept, machines.kits / REVOKED)
    printed = machines.fedgraft(SERVER, "server", "sites", str(machines.kits / SERVER))
    assert printed.splitlines() == [f"{name} may join now" for name in WRONG[:-1]]

    data = dict(np.load(machines.data[LABELLED]))
    np.savez(machines.data[LABELLED], **{**data, "label_names": LABELS[::-1]})
    machines.change(OTHER_BACKBONE, backbone_digest="ab" * 32)
    (machines.kits / WRONG_KEY / "key").write_bytes(make_key(WRONG_KEY).private)
    (machines.kits / WRONG_CERTIFICATE / "ca.crt").write_bytes(make_authority("machines", 30).certificate)
    other = app_folder(tmp_path)
    source = other / "fedgraft" / "__init__.py"
    source.write_text(source.read_text() + "\n# another release\n")

    up = {WRONG_KEY: "Failed to activate", WRONG_CERTIFICATE: "CERTIFICATE_VERIFY_FAILED"}
    path = os.pathsep.join([str(other), os.environ.get("PYTHONPATH", "")])
    try:
        machines.start(LABELLED, OTHER_BACKBONE, WRONG_KEY, WRONG_CERTIFICATE, up=up)
        machines.start(OTHER_RELEASE, PYTHONPATH=path)
        machines.start(REVOKED, up={REVOKED: "Failed to activate"})
        submitted = machines.submit(tmp_path / "run", server={"rounds": 2, "quorum": 3, "absent_seconds": 5.0})
        done, _ = submitted.finish()
    finally:
        for name in WRONG:
            if name in machines.processes:
                machines.stop(name)
    assert num_clients(done) == [3, 3]
    notes = "\n".join(submitted.notes())
    for text in (
        f"the run begins without {WRONG_KEY}, {WRONG_CERTIFICATE}: not there",
        f"{LABELLED} did not answer 'describe': the data of the site {LABELLED} have the labels 9, 8, 7",
        f"{OTHER_RELEASE} did not answer 'describe': {OTHER_RELEASE} knows no bundle ",
        f"{OTHER_BACKBONE} did not answer 'backbone': the run's backbone has weights ",
        f"the site {OTHER_BACKBONE} takes {'ab' * 6} only",
    ):
        assert text in notes
    assert REVOKED not in notes


def test_a_site_is_revoked_while_the_server_runs(machines: Machines, tmp_path: Path) -> None:
    """Its SuperNode, which was there, is shut out at once; the others go on without a restart."""
    machines.provision(GOOD[:2], *(word for name in ("clinic-3", *WRONG[:-1]) for word in ("--revoke", name)))
    begin = len(machines.log("clinic-3"))
    printed = machines.fedgraft(SERVER, "server", "sites", str(machines.kits / SERVER))
    assert "clinic-3 may not join any more" in printed.splitlines()
    done, _ = machines.submit(tmp_path / "run", server={"rounds": 2}).finish()
    assert num_clients(done) == [2, 2]
    shown = json.loads(machines.fedgraft(SERVER, "status", "--kit", str(machines.kits / SERVER), "--json"))
    assert {row["site"]: row["there"] for row in shown["sites"]} == {"clinic-1": True, "clinic-2": True}
    wait(lambda: "'supernode' ended with" in machines.log("clinic-3")[begin:], 120)
