"""`fedgraft site start`: the SuperNode, the messenger and the resident host of one site, kept running together."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from fedgraft.deployment.kits import SiteFolder
from fedgraft.deployment.logs import start_log
from fedgraft.deployment.processes import answers, environment, flower, known_bundle, python
from fedgraft.deployment.supervision import Program, Supervisor
from fedgraft.errors import LaunchError
from fedgraft.simulation.flower_machine import reserved_port

ANY_USER_READS = 0o077


def start_site(folder: SiteFolder) -> None:
    """Run a site's processes until SIGTERM or SIGINT.

    Raises:
        LaunchError: something is missing, or the first start of a process fails.
    """
    log = start_log(folder.settings.log)
    with _alone(folder), reserved_port() as port, Supervisor(log) as supervisor:
        for program in programs(folder, port, known_bundle()):
            supervisor.start(program)
        server = folder.settings.server
        log.info("the site %s is up; it asks %s:%d for work", folder.settings.name, server.host, server.port)
        supervisor.run()


def programs(folder: SiteFolder, port: socket.socket, bundle: str) -> list[Program]:
    """Return what is to run at a site, in the order of starting.

    Args:
        folder: the site's kit.
        port: a loopback port that is the SuperNode's own interface.
        bundle: sha256 of the bundle that this site knows.
    """
    settings = folder.settings
    state, window = Path(settings.state_dir), Path(settings.socket)
    second = _second_user(folder)
    _make_folders(folder, second)
    secret = window.with_name("messenger.secret")
    _write_secret(secret, second)
    number = port.getsockname()[1]
    address = f"127.0.0.1:{number}"
    superlink = f"{settings.server.host}:{settings.server.port}"
    node = flower(
        *("flwr.supernode.cli", "flower_supernode"),
        *("--superlink", superlink, "--root-certificates", str(folder.authority)),
        *("--auth-supernode-private-key", str(folder.key), "--isolation", "process"),
        *("--host", "127.0.0.1", "--port", str(number), "--superexec-auth-secret-file", str(secret)),
        *("--node-config", f'site-socket="{window}"'),
    )
    messenger = python("-m", "clients.site.messenger", "--address", address, "--secret-file", str(secret))
    messenger += ["--bundle", bundle, "--site", settings.name, "--log", settings.log.model_dump_json()]
    light = environment(window.with_name("flower"), {"PYTHONDONTWRITEBYTECODE": "1"})
    return [
        Program(
            "host",
            python("-m", "clients.site.main", str(folder.folder)),
            environment(state / "flower", {"XDG_CACHE_HOME": settings.cache_dir}),
            ready=window.exists,
        ),
        Program("supernode", node, environment(state / "flower"), ready=lambda: answers("127.0.0.1", number)),
        Program("messenger", messenger, light, user=None if second is None else (second.pw_uid, second.pw_gid)),
    ]


def _second_user(folder: SiteFolder) -> pwd.struct_passwd | None:
    """Return the Unix user that what the server sent is read by.

    Raises:
        LaunchError: there is no such user, or this process may not become it.
    """
    name = folder.settings.user
    if name is None:
        return None
    if os.getuid() != 0:
        raise LaunchError(f"site.yaml names the second user '{name}', which only root can start processes as")
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise LaunchError(
            f"site.yaml names the second user '{name}', and this machine has none: "
            f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}"
        ) from None
    if found.pw_uid == os.getuid():
        raise LaunchError(f"site.yaml names the second user '{name}', which is the site's own; name another")
    return found


def _make_folders(folder: SiteFolder, second: pwd.struct_passwd | None) -> None:
    """Make the site's folders, for its own user alone but for the one of the socket."""
    settings = folder.settings
    try:
        for path in (Path(settings.state_dir), Path(settings.cache_dir)):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        window = Path(settings.socket).parent
        window.mkdir(parents=True, exist_ok=True, mode=0o750)
        if second is not None:
            os.chown(window, -1, second.pw_gid)
            window.chmod(0o750)
        Path(settings.socket).unlink(missing_ok=True)
    except OSError as error:
        raise LaunchError(f"can't make the site's folders: {error}") from error
    if second is not None and folder.key.stat().st_mode & ANY_USER_READS:
        raise LaunchError(f"{folder.key} can be read by others than its owner: chmod 600 {folder.key}")


def _write_secret(path: Path, second: pwd.struct_passwd | None) -> None:
    """Write what entitles the messenger to the SuperNode's messages, anew at each start."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
        if second is not None:
            os.fchown(handle, -1, second.pw_gid)
            os.fchmod(handle, 0o640)


@contextlib.contextmanager
def _alone(folder: SiteFolder) -> Iterator[None]:
    """Refuse to run a site twice at once.

    Raises:
        LaunchError: another process runs this kit.
    """
    import fcntl

    path = Path(folder.settings.state_dir)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (path / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LaunchError(f"the site {folder.settings.name} is running already, from {path}") from None
        yield
