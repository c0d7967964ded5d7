"""`fedgraft server start`: SuperLink, SuperExec and nginx, kept running together.

Whoever reaches the SuperLink's control interface can run code at every site, and it asks for no login. So it listens
on loopback, and nginx passes the sites' own path to it and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from fedgraft.deployment.kits import ServerFolder
from fedgraft.deployment.logs import start_log
from fedgraft.deployment.processes import answers, environment, flower
from fedgraft.deployment.supervision import Program, Supervisor
from fedgraft.errors import LaunchError
from server.deployment.control import Control
from server.deployment.nginx import nginx_program, write_configuration
from server.deployment.unfinished import resubmit_unfinished


def start_server(folder: ServerFolder, behind_own_proxy: bool = False) -> None:
    """Run a server's processes until SIGTERM or SIGINT.

    Args:
        folder: the server's kit.
        behind_own_proxy: nginx is run by somebody else, or not at all: start the loopback part only.

    Raises:
        LaunchError: something is missing, or the first start of a process fails.
    """
    log = start_log(folder.settings.log)
    nginx = None if behind_own_proxy else nginx_program()
    if nginx is None and not behind_own_proxy:
        raise LaunchError(
            "nginx was not found, and without it no site can reach the server: the SuperLink listens on loopback only; "
            "install it (apt-get install nginx-light), or run your own with the kit's nginx.conf and give --no-nginx"
        )
    with Supervisor(log) as supervisor:
        superlink, *others = programs(folder, nginx)
        supervisor.start(superlink)
        with Control(folder) as control:
            register(control, log)
            resubmit_unfinished(control, log)  # before a SuperExec could start what is submitted
        supervisor.start_together(others)
        where = f"{folder.settings.host}:{folder.settings.port}" if nginx else "loopback only"
        log.info("the server of %s is up, for sites at %s", folder.settings.name, where)
        supervisor.run()


def programs(folder: ServerFolder, nginx: str | None) -> list[Program]:
    """Return what is to run at the server, in the order of starting.

    Args:
        folder: the server's kit.
        nginx: its path; None: it is not run.
    """
    settings = folder.settings
    state = Path(settings.database).parent
    for path in (state, Path(settings.runs)):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    variables = environment(state / "flower")
    port, secret = settings.superlink_port, str(folder.superexec_secret)
    superlink = flower(
        *("flwr.superlink.cli", "flower_superlink"),
        *("--host", "127.0.0.1", "--port", str(port), "--isolation", "process", "--enable-supernode-auth"),
        *("--ssl-ca-certfile", str(folder.authority), "--ssl-certfile", str(folder.certificate)),
        *("--ssl-keyfile", str(folder.key), "--database", settings.database, "--superexec-auth-secret-file", secret),
    )
    superexec = flower(
        *("flwr.supercore.cli.flower_superexec", "flower_superexec"),
        *("--runtime-api-address", f"127.0.0.1:{port}", "--root-certificates", str(folder.authority)),
        *("--superexec-auth-secret-file", secret),
    )
    found = [
        Program("superlink", superlink, variables, ready=ready(folder)),
        Program("superexec", superexec, variables),
    ]
    if nginx is not None:
        configuration = write_configuration(folder, state / "nginx", str(settings.port))
        command = [nginx, "-c", str(configuration), "-p", str(state / "nginx")]
        found.append(Program("nginx", command, variables, ready=lambda: answers("127.0.0.1", folder.settings.port)))
    return found


def ready(folder: ServerFolder) -> Callable[[], bool]:
    """Return what tells whether the SuperLink answers."""

    def is_ready() -> bool:
        if not answers("127.0.0.1", folder.settings.superlink_port):
            return False
        with Control(folder) as control:
            return control.healthy()

    return is_ready


def register(control: Control, log: logging.Logger) -> None:
    """Let the sites of `server.yaml` join, and nobody else."""
    added, removed = control.register_sites()
    for name in added:
        log.info("the site %s may join", name)
    for name in removed:
        log.warning("the site %s may not join any more", name)
