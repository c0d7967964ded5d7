"""A federation that is started as its owners would: by the command line, each machine by itself.

Where this machine lets us make network namespaces, each of them has an address and a loopback of its own; else all
share this machine's loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from interrupts import listen_to_interrupts
from local_fleet import descendants, is_alive
from required_tools import required_tool

import fedgraft
from fedgraft.models.settings import BackboneSettings
from fedgraft.runs import Run
from scenarios.schema import Scenario

SERVER = "server"
LABELS = np.array([str(digit) for digit in range(10)])
SERVER_ADDRESS = "10.77.0.1"
"""In namespaces: an address of the server's own, to which every site has a line."""


@dataclass(frozen=True)
class Namespaces:
    """Network namespaces of this test: `<prefix>-server`, and `<prefix>-<number>` for each site."""

    prefix: str
    names: tuple[str, ...]

    def of(self, machine: str) -> str:
        """Return the namespace of a machine."""
        return f"{self.prefix}-{'s' if machine == SERVER else self.names.index(machine) + 1}"

    def address(self, machine: str) -> str:
        """Return a machine's own address."""
        return SERVER_ADDRESS if machine == SERVER else f"10.77.{self.names.index(machine) + 1}.2"

    def line(self, machine: str, state: str) -> None:
        """Cut (`down`) or mend (`up`) a site's line, at the server's end of it."""
        end = f"{self.prefix}s{self.names.index(machine) + 1}"
        ip("-n", self.of(SERVER), "link", "set", end, state)
        if state == "down":
            return
        ip("-n", self.of(machine), "route", "replace", SERVER_ADDRESS, "via", self.address(machine)[:-1] + "1")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `ip`; raise if it fails."""
    return subprocess.run([required_tool("ip"), *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def namespaces(names: Sequence[str]) -> Iterator[Namespaces | None]:
    """Yield namespaces for a server and some sites, or None where this machine does not let us make them."""
    if os.getuid() != 0 or shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        yield None
        return
    spaces = Namespaces(f"fg{os.getpid() % 100_000}", tuple(names))
    made: list[str] = []
    try:
        try:
            for machine in (SERVER, *names):
                ip("netns", "add", spaces.of(machine))
                made.append(spaces.of(machine))
                ip("-n", spaces.of(machine), "link", "set", "lo", "up")
            ip("-n", spaces.of(SERVER), "addr", "add", f"{SERVER_ADDRESS}/32", "dev", "lo")
            for number, machine in enumerate(names, start=1):
                _connect(spaces, machine, number)
        except subprocess.CalledProcessError as error:
            print(f"no network namespaces: {error.stderr}", file=sys.stderr)
            yield None
            return
        yield spaces
    finally:
        for space in made:
            ip("netns", "del", space)


def _connect(spaces: Namespaces, machine: str, number: int) -> None:
    """Lay a line between a site and the server; sites have no way to each other but by it."""
    server, site = spaces.of(SERVER), spaces.of(machine)
    ends = (f"{spaces.prefix}s{number}", f"{spaces.prefix}c{number}")
    ip("link", "add", ends[0], "netns", server, "type", "veth", "peer", "name", ends[1], "netns", site)
    for space, end, last in ((server, ends[0], 1), (site, ends[1], 2)):
        ip("-n", space, "addr", "add", f"10.77.{number}.{last}/30", "dev", end)
        ip("-n", space, "link", "set", end, "up")
    ip("-n", site, "route", "add", SERVER_ADDRESS, "via", f"10.77.{number}.1")


@dataclass
class Submitted:
    """A `fedgraft submit` in progress.

    Attributes:
        process: its process.
        out: where the results are fetched to.
        before: the run directories that the server had then.
        runs: the folder of the server's run directories.
    """

    process: subprocess.Popen[str]
    out: Path
    before: frozenset[Path]
    runs: Path

    @property
    def directory(self) -> Path | None:
        """The run directory at the server, once there is one."""
        new = set(self.runs.glob("*/run.json")) - self.before
        return min(new).parent if new else None

    def events(self) -> list[dict[str, Any]]:
        """Return the run's events so far."""
        path = None if self.directory is None else self.directory / "events.jsonl"
        if path is None or not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def notes(self) -> list[str]:
        """Return what the server has said of the run."""
        return [event["text"] for event in self.events() if event["kind"] == "note"]

    def wait_for_round(self, number: int, seconds: float = 120.0) -> None:
        """Wait until a round has ended."""
        wait(lambda: any(event.get("number", 0) >= number for event in self.events()), seconds, self.process)

    def finish(self, seconds: float = 300.0) -> tuple[Run, str]:
        """Return the finished run and what was printed for the user."""
        printed, said = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, said
        json.loads(printed)
        return fedgraft.load(self.out), said


def wait(what: Callable[[], bool], seconds: float, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until something has happened, as long as a process lives."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.1)


@dataclass
class Machines:
    """A federation of machines.

    Attributes:
        folder: all its files.
        spaces: the machines' namespaces; None: they share this machine's loopback.
        data: each site's file of data.
        scenario: what is run.
        processes: what runs, by machine.
    """

    folder: Path
    spaces: Namespaces | None
    data: Mapping[str, Path]
    scenario: Scenario
    port: int
    superlink_port: int
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def kits(self) -> Path:
        """The folder of the kits."""
        return self.folder / "kits"

    def on(self, machine: str, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine."""
        return subprocess.run(self._there(machine, command), capture_output=True, text=True, cwd="/", **options)

    def fedgraft(self, machine: str, *words: str) -> str:
        """Run a command of FedGraft on a machine and return what it prints; it has to succeed."""
        done = self.on(machine, sys.executable, "-m", "fedgraft", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *machines: str, up: Mapping[str, str] = {}, **variables: str) -> None:
        """Start `fedgraft ... start` on some machines and wait until each has logged a text.

        Args:
            machines: their names.
            up: the text, by machine; default: that it is up.
            variables: of their environment, beside this process's own.
        """
        begins = {machine: self._launch(machine, variables) for machine in machines}
        deadline = time.monotonic() + 180
        for machine, begin in begins.items():
            text = up.get(machine, " is up")
            while text not in self.log(machine)[begin:]:
                assert time.monotonic() < deadline, self.log(machine)[begin:]
                assert machine in up or self.processes[machine].poll() is None, self.log(machine)[begin:]
                time.sleep(0.1)

    def _launch(self, machine: str, variables: Mapping[str, str]) -> int:
        """Start a machine and return where its log is continued."""
        what = "server" if machine == SERVER else "site"
        command = [sys.executable, "-m", "fedgraft", what, "start", str(self.kits / machine)]
        begin = len(self.log(machine))
        with (self.folder / f"{machine}.log").open("a") as file:
            self.processes[machine] = subprocess.Popen(
                self._there(machine, command),
                stdout=file,
                stderr=file,
                text=True,
                cwd="/",
                env={**os.environ, **variables},
            )
        return begin

    def log(self, machine: str) -> str:
        """Return what a machine has said so far."""
        path = self.folder / f"{machine}.log"
        return path.read_text() if path.exists() else ""

    def stop(self, machine: str) -> None:
        """Stop a machine as systemd would; nothing of it is left."""
        process = self.processes.pop(machine)
        below = descendants(process.pid)
        process.terminate()
        process.wait(timeout=60)
        deadline = time.monotonic() + 5
        while (left := {pid for pid in below if is_alive(pid)}) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left}

    def submit(self, out: Path, *words: str, **changes: Any) -> Submitted:
        """Submit the scenario, with other values of some keys, by the command line."""
        path = self.folder / f"{out.name}.yaml"
        path.write_text(yaml.safe_dump({**json.loads(self.scenario.model_dump_json()), **changes}))
        return self.command("submit", str(path), *words, out=out)

    def command(self, *words: str, out: Path) -> Submitted:
        """Start `fedgraft submit ...` on the server's machine."""
        runs = self.kits / SERVER / "runs"
        command = [sys.executable, "-m", "fedgraft", *words, "--kit", str(self.kits / SERVER)]
        process = subprocess.Popen(
            self._there(SERVER, [*command, "--out", str(out), "--json"]),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            preexec_fn=listen_to_interrupts,
        )
        return Submitted(process, out, frozenset(runs.glob("*/run.json")), runs)

    def provision(self, names: Sequence[str], *words: str, **of_sites: Mapping[str, Any]) -> None:
        """Make kits for sites, or more of them, by the command line."""
        host = "127.0.0.1" if self.spaces is None else SERVER_ADDRESS
        federation = {
            "name": "machines",
            "server": {"host": host, "port": self.port, "superlink_port": self.superlink_port},
            "labels": LABELS.tolist(),
            "sites": [
                {
                    "name": name,
                    "data": {"source": {"name": "arrays", "path": str(self.data[name])}},
                    **of_sites.get(name.replace("-", "_"), {}),
                }
                for name in names
            ],
        }
        path = self.folder / "federation.yaml"
        path.write_text(yaml.safe_dump(federation))
        self.fedgraft(SERVER, "provision", str(path), "--out", str(self.kits), *words)

    def change(self, machine: str, **values: Any) -> None:
        """Change keys of a kit's settings."""
        path = self.kits / machine / ("server.yaml" if machine == SERVER else "site.yaml")
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))

    def _there(self, machine: str, command: Sequence[str]) -> list[str]:
        if self.spaces is None:
            return list(command)
        return [required_tool("ip"), "netns", "exec", self.spaces.of(machine), *command]


BACKBONE = {"name": "timm:test_resnet", "input_size": 32}
"""Small and quick; its weights are in a file of the server's, so that it has to send them."""


def random_weights(path: Path) -> Path:
    """Write a file of random weights."""
    from safetensors.numpy import save_file

    from fedgraft.models.registry import load

    settings = BackboneSettings.model_validate({**BACKBONE, "weights": "random", "random_seed": 5})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(load(settings).state_arrays(), path)
    return path


def scenario_of(weights: Path) -> dict[str, Any]:
    """Return a scenario whose backbone the server has and the sites have not."""
    data = {"source": "sites", "partition": "natural"}
    return {"name": "machines", "data": data, "backbone": {**BACKBONE, "weights": str(weights)}}


def images_for(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write some of scikit-learn's handwritten digits for each site, as small images, and return the files."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    order = np.random.default_rng(1).permutation(len(labels))
    folder.mkdir(parents=True)
    paths = {}
    for name, rows in zip(names, np.array_split(order, len(names)), strict=True):
        paths[name] = folder / f"{name}.npz"
        np.savez(paths[name], images=images[rows], labels=labels[rows], label_names=LABELS)
    return paths


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def federation(folder: Path, names: Sequence[str], **scenario: Any) -> Iterator[Machines]:
    """Yield machines for a server and sites, each with its data and nothing else; what runs at the end is stopped.

    Args:
        folder: a short path, since sockets lie in it.
        names: of all sites that may ever be.
        scenario: keys of the scenario.
    """
    required_tool("nginx")
    with namespaces(names) as spaces:
        weights = random_weights(folder / "weights.safetensors")
        chosen = Scenario.model_validate_json(json.dumps({**scenario_of(weights), **scenario}))
        ports = (8443, 8000) if spaces else (free_port(), free_port())
        machines = Machines(folder, spaces, images_for(names, folder / "data"), chosen, *ports)
        try:
            yield machines
        finally:
            for machine in [name for name in machines.processes if name != SERVER] + [SERVER]:
                if machine in machines.processes:
                    machines.stop(machine)
