"""All checks of a site, one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from clients.site.check.data import data
from clients.site.check.findings import Finding, fault
from clients.site.check.identity import backbone, key
from clients.site.check.machine import access, disk, gpu, ledger, memory, policy, software, user_name
from clients.site.check.network import network
from fedgraft.deployment.kits import SiteFolder


def preflight(folder: SiteFolder) -> Iterator[Finding]:
    """Look at everything that a site needs, the quick things first; no fault of one keeps the others from being seen.

    Args:
        folder: the site's kit.
    """
    yield from software()
    yield from memory()
    checks: tuple[Callable[[SiteFolder], Iterator[Finding]], ...] = (access, policy, key, ledger, network)
    owner = folder.folder.stat().st_uid
    if owner == os.getuid():
        checks += (disk, data, backbone)  # these write into the site's cache
    else:
        text = f"the kit belongs to {user_name(owner)}, and this is {user_name(os.getuid())}"
        yield fault("user", text, f"check as its owner does: runuser -u {user_name(owner)} -- fedgraft site check ...")
    for check in checks:
        try:
            yield from check(folder)
        except Exception as error:
            text = f"the check itself failed: {type(error).__name__}: {error}"
            yield fault(check.__name__, text, "that is a fault of FedGraft; report it, without your data")
    yield from gpu()
