"""The machine of a site: Python, disk, memory, GPU, and who may read the kit."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clients.site.check.findings import Finding, fault, ok, warning
from fedgraft.deployment.kits import SiteFolder
from fedgraft.errors import FedGraftError

LEAST_FREE_BYTES, ENOUGH_FREE_BYTES = 200_000_000, 5_000_000_000
"""Of a disk: a ledger must always find room, and features of a few 100,000 images take some GB."""

LEAST_MEMORY_BYTES, ENOUGH_MEMORY_BYTES = 1_000_000_000, 4_000_000_000
"""Resident host, SuperNode, messenger and the light ClientApp take about 1 GB with a small backbone."""

LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path; Linux takes 107."""


def software() -> Iterator[Finding]:
    """Look at Python and the operating system."""
    version = platform.python_version()
    if sys.platform != "linux":
        yield fault("system", f"{platform.system()}; the site's processes need Linux", "use a Linux machine")
    else:
        yield ok("system", f"{platform.system()} {platform.release()}, Python {version}")


def disk(folder: SiteFolder) -> Iterator[Finding]:
    """Look whether state and cache can be written, and how much room there is."""
    for name, path in (("state", folder.settings.state_dir), ("cache", folder.settings.cache_dir)):
        what, place = f"disk, {name}", Path(path)
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"0" * 4096)
                file.flush()
                os.fsync(file.fileno())
            free = shutil.disk_usage(place).free
        except OSError as error:
            yield fault(what, f"{place} can't be written: {error.strerror or error}", f"change {name}_dir in site.yaml")
            continue
        text = f"{free / 1e9:,.1f} GB free at {place}"
        if free < LEAST_FREE_BYTES:
            yield fault(what, text, "free space: with a full disk the ledger can't be written, so nothing is answered")
        elif free < ENOUGH_FREE_BYTES:
            yield warning(what, text, f"{ENOUGH_FREE_BYTES / 1e9:.0f} GB are enough for most data")
        else:
            yield ok(what, text)


def memory() -> Iterator[Finding]:
    """Look how much memory is free."""
    free = available_bytes()
    if free is None:
        yield warning("memory", "can't be found out", f"have {ENOUGH_MEMORY_BYTES / 1e9:.0f} GB free")
        return
    text = f"{free / 1e9:,.1f} GB available"
    if free < LEAST_MEMORY_BYTES:
        yield fault("memory", text, f"at least {LEAST_MEMORY_BYTES / 1e9:.0f} GB are needed")
    elif free < ENOUGH_MEMORY_BYTES:
        yield warning("memory", text, "enough for small backbones; larger ones need more")
    else:
        yield ok("memory", text)


def available_bytes() -> int | None:
    """Return the memory that this process may still take, as the machine or its container limits it."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max")
        if limit.exists() and (text := limit.read_text().strip()).isdecimal():
            found.append(int(text) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError, IndexError):
        pass
    return max(0, min(found)) if found else None


def gpu() -> Iterator[Finding]:
    """Look for a GPU that torch can use."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield ok("GPU", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free; features and heads use it")
    else:
        yield ok("GPU", f"none that torch {torch.__version__} can use; the processor does the work")


def access(folder: SiteFolder) -> Iterator[Finding]:
    """Look who may read the kit, and whether the second user is what it should be."""
    mode = folder.folder.stat().st_mode
    others = folder.key.exists() and folder.key.stat().st_mode & 0o077
    if others:
        yield fault("access", f"{folder.key} can be read by others than its owner", f"chmod 600 {folder.key}")
    elif mode & 0o022:
        yield fault("access", f"{folder.folder} can be written by others: rules and ledger with it", "chmod go-w it")
    elif mode & stat.S_IROTH:
        yield warning("access", f"{folder.folder} can be listed by every user here", f"chmod go= {folder.folder}")
    else:
        yield ok("access", "the kit is its owner's alone")
    if len(os.fsencode(folder.settings.socket)) > LONGEST_SOCKET:
        yield fault("socket", f"{folder.settings.socket} has more than {LONGEST_SOCKET} bytes", "name a shorter one")
    yield _second_user(folder)


def _second_user(folder: SiteFolder) -> Finding:
    name = folder.settings.user
    if name is None:
        text = "none: what the server sends is unpacked by the user who can read the data"
        return warning("second user", text, "name one as `user:` in site.yaml, who can read neither data nor key")
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        advice = f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}"
        return fault("second user", f"this machine has no user {name}", advice)
    if found.pw_uid == 0 or found.pw_uid == folder.folder.stat().st_uid:
        return fault("second user", f"{name} owns the kit or is root", "name another, who owns nothing")
    if os.getuid() != 0:
        return fault("second user", "only root can start processes as another user", "check and start as root")
    return ok("second user", f"{name}, who unpacks what the server sends")


def policy(folder: SiteFolder) -> Iterator[Finding]:
    """Look whether the site's own rules can be read."""
    from clients.site.policy import read_policy

    try:
        rules = read_policy(folder.policy)
    except (FedGraftError, OSError) as error:
        yield fault("policy", str(error), "mend policy.yaml")
        return
    yield ok("policy", f"answers {', '.join(rules.requests) or 'nothing'}; {rules.most_rounds} rounds of a run")


def ledger(folder: SiteFolder) -> Iterator[Finding]:
    """Look whether the ledger is whole."""
    from clients.site.ledger_check import verify
    from clients.site.ledger_lines import LedgerError

    try:
        found = verify(folder.ledger)
    except LedgerError as error:
        yield fault("ledger", str(error), "give it back to the user that runs the site")
        return
    if found.faults:
        yield fault("ledger", f"was changed: {found.faults[0]}", "find out who did; nothing is answered before")
    else:
        yield ok("ledger", f"{found.head.number} entries, the chain is whole" if found.lines else "nothing left yet")


def user_name(number: int) -> str:
    """Return a Unix user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
