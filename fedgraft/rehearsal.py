"""A rehearsal: the server and all sites of a federation as processes of this machine, with real TLS and keys.

Kits are made anew in a folder of its own, so no key of the real federation is touched, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedgraft.data.settings import ArraysSettings
from fedgraft.deployed_runs import submit
from fedgraft.deployment.kits import ServerFolder, SiteFolder, read_server, read_site
from fedgraft.deployment.logs import start_log
from fedgraft.deployment.plan import Plan
from fedgraft.deployment.processes import known_bundle
from fedgraft.deployment.provision import provision
from fedgraft.deployment.settings import (
    FederationServer,
    FederationSettings,
    FederationSite,
    LogSettings,
    SiteData,
)
from fedgraft.deployment.supervision import Program, Supervisor
from fedgraft.errors import listed
from fedgraft.progress import Event, listening, report
from fedgraft.runs import Run
from fedgraft.simulation.flower_machine import reserved_port

if TYPE_CHECKING:
    from clients.site.ledger_lines import Recorded
    from scenarios.schema import Scenario

OWN_SCENARIO = {
    "name": "rehearsal",
    "data": {"source": "sites", "partition": "natural"},
    "backbone": "identity",
    "server": {"rounds": 3},
}
"""What is run where nobody names a scenario: a head on the digits' raw pixels."""

THREE = FederationSettings(
    name="rehearsal",
    server=FederationServer(host="127.0.0.1"),
    sites=tuple(FederationSite(name=f"clinic-{number}") for number in (1, 2, 3)),
)
"""The federation of a rehearsal that is given none."""

LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Rehearsal:
    """What came of a rehearsal.

    Attributes:
        run: the finished run.
        ledgers: what left each site, by its name.
        behind_nginx: whether the sites reached the server through nginx, as they would in earnest.
    """

    run: Run
    ledgers: dict[str, tuple[Recorded, ...]]
    behind_nginx: bool


def rehearse(
    federation: FederationSettings = THREE,
    scenario: Scenario | None = None,
    *,
    policy: str = "",
    out: Path | None = None,
    log_file: Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Rehearsal:
    """Run a federation on this machine, from making its kits to its ledgers.

    Args:
        federation: who takes part; addresses, ports and second users are this machine's own for the rehearsal.
        scenario: what is run; None: the federation's, or a small one. Where data of a site are not on this machine,
            handwritten digits stand in for them at every site.
        policy: the text of the sites' `policy.yaml`; empty: the defaults.
        out: where the run's results are put; default: a new folder below `runs/`.
        log_file: what the processes print; None: it is lost with them.
        on_event: called with each progress event.

    Raises:
        FedGraftError: anything that the user can mend; the text says what to do.
    """
    from clients.site.ledger_check import verify

    with contextlib.ExitStack() as stack:
        if on_event is not None:
            stack.enter_context(listening(on_event))
        # A short path, since sockets lie in it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fg-", dir="/tmp")))
        running = stack.enter_context(fleet(folder, federation, scenario, policy, log_file))
        run = submit(running.scenario, running.server, out=out, on_poll=running.turn)
        ledgers = {site.settings.name: verify(site.ledger).lines for site in running.sites}
        return Rehearsal(run, ledgers, running.behind_nginx)


@dataclass(frozen=True)
class Fleet:
    """A federation that runs on this machine.

    Attributes:
        server: the server's kit.
        sites: the sites' kits.
        scenario: what is to be run.
        supervisor: of all its processes.
        behind_nginx: whether nginx stands in front of the SuperLink.
    """

    server: ServerFolder
    sites: tuple[SiteFolder, ...]
    scenario: Scenario
    supervisor: Supervisor
    behind_nginx: bool

    def turn(self) -> None:
        """Look after the processes.

        Raises:
            KeyboardInterrupt: somebody has asked for the end.
        """
        self.supervisor.turn()
        if self.supervisor.stopping:
            raise KeyboardInterrupt


@contextlib.contextmanager
def fleet(
    folder: Path, federation: FederationSettings, scenario: Scenario | None, policy: str, log_file: Path | None
) -> Iterator[Fleet]:
    """Make kits in a folder, start everything, and end it all on leaving; for the arguments see `rehearse`."""
    from clients.site.start import programs as site_programs
    from server.deployment.control import Control
    from server.deployment.nginx import nginx_program
    from server.deployment.start import programs as server_programs
    from server.deployment.start import register

    log = _log(log_file)
    nginx = nginx_program()
    if nginx is None:
        report("note", text="nginx was not found; the sites reach the SuperLink's TLS on loopback directly")
    with contextlib.ExitStack() as stack:
        for handler in log.handlers:
            stack.callback(handler.close)
        public, private = (stack.enter_context(reserved_port()) for _ in range(2))
        ports = (public.getsockname()[1], private.getsockname()[1])
        report("phase", name="kits")
        local, chosen = _on_this_machine(federation, scenario, folder, ports)
        provision(Plan(local, folder / "kits", policy))
        server = read_server(folder / "kits" / "server")
        sites = tuple(read_site(folder / "kits" / site.name) for site in local.sites)
        supervisor = stack.enter_context(Supervisor(log))
        report("phase", name="processes")
        bundle = known_bundle()
        port_of_sites = ports[0] if nginx else ports[1]
        groups = [
            site_programs(_reaching(site, port_of_sites), stack.enter_context(reserved_port()), bundle)
            for site in sites
        ]
        named = [[_named(program, site) for program in group] for group, site in zip(groups, sites, strict=True)]
        superlink, superexec, *proxy = server_programs(server, nginx)
        supervisor.start_together([superlink, *proxy, *(host for host, _, _ in named)])
        with Control(server) as control:
            register(control, log)
        supervisor.start_together([superexec, *(program for _, *others in named for program in others)])
        yield Fleet(server, sites, chosen, supervisor, nginx is not None)


def _named(program: Program, site: SiteFolder) -> Program:
    return dataclasses.replace(program, name=f"{site.settings.name} {program.name}")


def _reaching(site: SiteFolder, port: int) -> SiteFolder:
    """Return a site's kit with another port of the server."""
    server = site.settings.server.model_copy(update={"port": port})
    return SiteFolder(site.folder, site.settings.model_copy(update={"server": server}))


def _on_this_machine(
    federation: FederationSettings, scenario: Scenario | None, folder: Path, ports: tuple[int, int]
) -> tuple[FederationSettings, Scenario]:
    """Return the federation as it is rehearsed, and what it runs.

    Where data of a site are not on this machine, a part of scikit-learn's handwritten digits stands in for them at
    every site. Without a scenario of the user's, a small one is run on these.
    """
    chosen = scenario or _scenario_of(federation)
    lacking = [site.name for site in federation.sites if not _has_data(site)]
    sites: Sequence[FederationSite] = federation.sites
    labels = federation.labels
    if lacking or chosen is None:
        why = f"the data of {listed(lacking)} are not on this machine" if lacking else "no scenario is named"
        run = "; a small scenario is run" if chosen is None else ""
        report("note", text=f"{why}: handwritten digits stand in for all sites' data{run}")
        chosen = chosen or _own_scenario()
        paths = digits_for([site.name for site in sites], folder / "data", images=chosen.backbone.name != "identity")
        sites = [
            site.model_copy(update={"data": SiteData(source=ArraysSettings(path=str(paths[site.name])))})
            for site in sites
        ]
        labels = None
    own = {
        "server": FederationServer(host=LOCAL, port=ports[0], superlink_port=ports[1]),
        "sites": tuple(site.model_copy(update={"user": None}) for site in sites),
        "labels": labels,
    }
    return federation.model_copy(update=own), chosen


def _scenario_of(federation: FederationSettings) -> Scenario | None:
    if federation.scenario is None:
        return None
    from scenarios.loader import load_scenario

    return load_scenario(federation.scenario)


def _own_scenario() -> Scenario:
    from scenarios.schema import Scenario

    return Scenario.model_validate_json(json.dumps(OWN_SCENARIO))


def _has_data(site: FederationSite) -> bool:
    if site.data is None:
        return False
    path = getattr(site.data.source, "path", None)
    return path is None or Path(path).expanduser().exists()


def digits_for(names: Sequence[str], folder: Path, *, images: bool = False) -> dict[str, Path]:
    """Write a part of scikit-learn's handwritten digits for each site, and return the files.

    Args:
        names: of the sites.
        folder: where the files are written; it is made.
        images: as images of 8 x 8 for a backbone; otherwise as features, the 64 pixels between 0 and 1.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    if images:
        samples = {"images": np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)}
    else:
        samples = {"features": (pixels / 16).astype(np.float32)}
    order = np.random.default_rng(1).permutation(len(labels))
    folder.mkdir(parents=True)
    paths = {}
    for name, rows in zip(names, np.array_split(order, len(names)), strict=True):
        paths[name] = folder / f"{name}.npz"
        names_of_labels = np.array([str(digit) for digit in range(10)])
        own = {key: values[rows] for key, values in samples.items()}
        np.savez(paths[name], **own, labels=labels[rows].astype(np.int64), label_names=names_of_labels)
    return paths


def _log(path: Path | None) -> logging.Logger:
    """Return the log of the processes; warnings of all go to nobody's terminal."""
    log = start_log(LogSettings(file=None if path is None else str(path)))
    log.handlers[:] = log.handlers[1:] or [logging.NullHandler()]
    return log
