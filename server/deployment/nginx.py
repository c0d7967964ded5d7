"""Nginx in front of the SuperLink: the sites' path passes, over TLS, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedgraft.deployment.kits import ServerFolder
from fedgraft.deployment.nginx import server_block
from fedgraft.deployment.versions import own_versions

_CONFIGURATION = """\
daemon off;
pid {prefix}/nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {prefix}/body;
  proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi;
  scgi_temp_path {prefix}/scgi;
{server}}}
"""


def nginx_program() -> str | None:
    """Return the path of nginx; None where it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin")


def write_configuration(folder: ServerFolder, prefix: Path, listen: str) -> Path:
    """Write a configuration by which nginx needs no more than a folder of its own.

    Args:
        folder: the server's kit.
        prefix: that folder.
        listen: address and port, such as `8443` or `10.77.1.1:8443`.
    """
    prefix.mkdir(parents=True, exist_ok=True)
    path = prefix / "nginx.conf"
    path.write_text(
        _CONFIGURATION.format(
            prefix=prefix,
            server=server_block(
                listen,
                folder.settings.superlink_port,
                folder.certificate,
                folder.key,
                folder.authority,
                own_versions(),
            ),
        ),
        encoding="utf-8",
    )
    return path
