"""A round of three sites with next to nothing to do, between real processes: FedGraft, and a plain torch ClientApp.

    python benchmarks/deployment.py [--rounds 8] [--repeats 2] [--json FILE]

`fedgraft`: a rehearsal's server and sites, with TLS, registered keys and nginx (where it is installed), and a head of
640 numbers that trains on 600 samples of 64 features at each site. `flower`: Flower's SuperLink and three SuperNodes as
they come, without TLS and keys, and a ClientApp that imports torch and sends the head back as it came. Both fleets are
on this machine's loopback, one after the other, in turns. Each figure is the median over all rounds but the first of a
run, which pays for loading the data.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from goals import Goal
from machine import machine

SITES = 3
MOST_SECONDS = 6.0
"""A round of FedGraft."""

CLIENT = """\
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    head = message.content["arrays"].to_torch_state_dict()
    metrics = MetricRecord({"num-examples": 600})
    return Message(RecordDict({"arrays": ArrayRecord(head), "metrics": metrics}), reply_to=message)
"""

SERVER = """\
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        self.begun.append(time.perf_counter())
        return super().configure_train(server_round, arrays, config, grid)


@app.main()
def main(grid, context):
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes={sites}, min_available_nodes={sites})
    strategy.begun = []
    head = ArrayRecord({{"weight": Array(np.zeros((10, 64), np.float32)), "bias": Array(np.zeros(10, np.float32))}})
    strategy.start(grid=grid, initial_arrays=head, num_rounds={rounds})
    ends = [*strategy.begun[1:], time.perf_counter()]
    with open({path!r}, "w") as file:
        json.dump([end - begin for begin, end in zip(strategy.begun, ends)], file)
"""

PYPROJECT = """\
[project]
name = "idle"
version = "1.0.0"
description = "three sites that have nothing to do"
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "fedgraft"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"
"""


def fedgraft_rounds(rounds: int, folder: Path) -> list[float]:
    """Return the seconds of each round of FedGraft."""
    from fedgraft.data.settings import ArraysSettings
    from fedgraft.deployment.settings import SiteData
    from fedgraft.rehearsal import OWN_SCENARIO, THREE, digits_for, rehearse
    from scenarios.schema import Scenario

    values = {**OWN_SCENARIO, "server": {"rounds": rounds, "checkpoint_every": rounds}}
    scenario = Scenario.model_validate_json(json.dumps(values))
    paths = digits_for([site.name for site in THREE.sites], folder / "data")
    sites = [  # with data of their own, or the rehearsal would run its own scenario on data that stand in
        site.model_copy(update={"data": SiteData(source=ArraysSettings(path=str(paths[site.name])))})
        for site in THREE.sites
    ]
    federation = THREE.model_copy(update={"sites": tuple(sites)})
    done = rehearse(federation, scenario, out=folder / "run")
    return [row["seconds"] for row in done.run.metrics if row["group"] == "train"]


def flower_rounds(rounds: int, folder: Path) -> list[float]:
    """Return the seconds of each round of stock Flower."""
    app = folder / "idle"
    app.mkdir()
    report = folder / "rounds.json"
    (app / "pyproject.toml").write_text(PYPROJECT)
    (app / "client_app.py").write_text(CLIENT)
    (app / "server_app.py").write_text(SERVER.format(sites=SITES, rounds=rounds, path=str(report)))
    with stock_fleet(folder) as (control, turn):
        run_id = start(control, app)
        while not report.exists():
            turn()
            status = control_status(control, run_id)
            if status.startswith("finished") and not report.exists():
                raise SystemExit(f"Flower's run ended without a report: {status}")
            time.sleep(0.5)
        time.sleep(0.5)
    found: list[float] = json.loads(report.read_text())
    return found


@contextlib.contextmanager
def stock_fleet(folder: Path) -> Iterator[Any]:
    """Yield a client of the control interface of a running SuperLink with three SuperNodes, and what tends them."""
    import logging

    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    from fedgraft.deployment.processes import answers, environment, flower
    from fedgraft.deployment.supervision import Program, Supervisor
    from fedgraft.simulation.flower_control import loopback_unproxied

    ports = free_ports(SITES + 1)
    log = logging.getLogger("benchmark")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    address = f"127.0.0.1:{ports[0]}"
    link = flower("flwr.superlink.cli", "flower_superlink", "--insecure", "--port", str(ports[0]))

    def listens(port: int) -> Any:
        return lambda: answers("127.0.0.1", port)

    with Supervisor(log) as supervisor:
        supervisor.start(Program("superlink", link, environment(folder / "link"), ready=listens(ports[0])))
        nodes = []
        for number, port in enumerate(ports[1:]):
            words = ("--insecure", "--superlink", address, "--port", str(port))
            command = flower("flwr.supernode.cli", "flower_supernode", *words)
            variables = environment(folder / f"node-{number}")
            nodes.append(Program(f"supernode-{number}", command, variables, ready=listens(port)))
        supervisor.start_together(nodes)
        with loopback_unproxied():
            version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
            control = ControlHttpClient.from_server_address(address, True, None, [version])
        try:
            yield control, supervisor.turn
        finally:
            control.close()


def start(control: Any, app: Path) -> int:
    """Start a run of an app and return Flower's id of it."""
    from flwr.common.serde import fab_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    from fedgraft.simulation.flower_control import bundle

    content = bundle(app)
    request = StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})))
    return int(control.StartRun(request).run_id)


def control_status(control: Any, run_id: int) -> str:
    """Return the status of a run, with Flower's details."""
    from flwr.proto.control_pb2 import ListRunsRequest

    status = control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id].status
    return f"{status.status}:{status.sub_status} {status.details}"


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(found.getsockname()[1]) for found in sockets]


ENGINES = {"flower": flower_rounds, "fedgraft": fedgraft_rounds}


def measure(rounds: int, repeats: int) -> dict[str, list[list[float]]]:
    """Return each run's seconds by round, of both fleets in turns."""
    found: dict[str, list[list[float]]] = {name: [] for name in ENGINES}
    for _ in range(repeats):
        for name, run in ENGINES.items():
            with tempfile.TemporaryDirectory(prefix="fg-", dir="/tmp") as folder:
                found[name].append(run(rounds, Path(folder)))
    return found


def summary(seconds: Mapping[str, list[list[float]]]) -> dict[str, float]:
    """Return the median over the rounds of all runs but their first."""
    return {name: statistics.median(value for run in runs for value in run[1:]) for name, runs in seconds.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    seconds = measure(max(2, arguments.rounds), arguments.repeats)
    medians = summary(seconds)
    for name, value in medians.items():
        spread = [value for run in seconds[name] for value in run[1:]]
        print(f"{name:9} {value:6.2f} s a round ({min(spread):.2f} to {max(spread):.2f}; {len(spread)} rounds)")
    goal = Goal("fedgraft: a round of three idle sites", medians["fedgraft"], MOST_SECONDS, unit=" s")
    print(goal.line())
    print(f"load of the machine: {load:.1f} before, {os.getloadavg()[0]:.1f} after, on {os.cpu_count()} cores")
    if arguments.json:
        facts = {"seconds": seconds, "median": medians, "goal": goal.facts(), "machine": machine(), "load_before": load}
        arguments.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
