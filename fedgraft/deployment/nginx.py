"""nginx's settings for a server: over TLS, the sites' own path passes to the SuperLink, and nothing else does.

The SuperLink's control interface has no login, and whoever reaches it can run code at every site; so the SuperLink
listens on loopback, and this is the only way in.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedgraft.deployment.settings import Versions

VERSIONS_PATH = "/fedgraft/versions"
"""Where a site's check asks for the server's software; nginx answers by itself."""

_BLOCK = """\
server {{
  listen {listen} ssl;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  ssl_protocols TLSv1.2 TLSv1.3;
  server_tokens off;
  client_max_body_size 64m;
  client_body_buffer_size 8m;
  proxy_read_timeout 120s;
  # What sites and server say to each other.
  location /v1/fleet/ {{
    proxy_pass https://127.0.0.1:{superlink_port};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffers 64 64k;
    proxy_buffer_size 64k;
    proxy_ssl_trusted_certificate {authority};
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
  }}
  # Which software runs here, for `fedgraft site check`.
  location = {versions_path} {{ default_type application/json; return 200 '{versions}'; }}
  # Everything else: above all /v1/control/ and /v1/runtime/, by which code is run at every site.
  location / {{ return 403; }}
}}
"""


def server_block(
    listen: str, superlink_port: int, certificate: Path, key: Path, authority: Path, versions: Versions
) -> str:
    """Return the `server` block.

    Args:
        listen: address and port, such as `8443` or `10.77.1.1:8443`.
        superlink_port: the SuperLink's port on loopback.
        certificate: the server's certificate.
        key: its private key.
        authority: by which nginx knows the SuperLink.
        versions: what software runs at the server.
    """
    return _BLOCK.format(
        listen=listen,
        superlink_port=superlink_port,
        certificate=certificate,
        key=key,
        authority=authority,
        versions_path=VERSIONS_PATH,
        versions=json.dumps(versions.model_dump()),
    )
