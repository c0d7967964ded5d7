"""The resident host's process: `python -m clients.site.main KIT`, started and watched over by `fedgraft site start`."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from clients.site.desk import Desk
from clients.site.host import SiteHost
from clients.site.ledger import Ledger
from clients.site.policy import Policy, read_policy
from fedgraft.deployment.kits import read_site
from fedgraft.deployment.logs import log_to_stderr


def main(kit: Path) -> None:
    """Answer until the process is ended."""
    folder = read_site(kit)
    settings = folder.settings
    log_to_stderr(settings.log)
    os.environ["XDG_CACHE_HOME"] = settings.cache_dir
    import torch  # noqa: F401 - seconds, now, so that the first request does not wait for them

    host = SiteHost(
        settings,
        Policy(settings.name, read_policy(folder.policy), Path(settings.state_dir) / "policy"),
        Ledger(folder.ledger),
    )
    host.remove_old_state()
    second = None if settings.user is None else pwd.getpwnam(settings.user)
    users = {os.getuid()} if second is None else {os.getuid(), second.pw_uid}
    desk = Desk(Path(settings.socket), users, None if second is None else second.pw_gid)
    desk.serve(host.answer, host.note_refusal)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
