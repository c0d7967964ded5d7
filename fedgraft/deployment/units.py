"""systemd units and Docker compose files of the kits."""

from __future__ import annotations

from fedgraft import __version__

PROGRAM = "/opt/fedgraft/bin/fedgraft"
"""Where the units expect the program; the kits' READMEs install it there."""

KITS = "/srv/fedgraft"
"""Where the units expect kits, and the home of the user `fedgraft`."""

FIRST_FREE_PORT = 1024
"""Below it a port needs a capability."""

_UNIT = """\
# {file}: copy it to /etc/systemd/system/, then: systemctl enable --now {unit}
[Unit]
Description=FedGraft: {what}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
{user}ExecStart={program} {command} {kits}/{folder}
Restart=always
RestartSec=15
TimeoutStopSec=60
{rights}NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={kits}{runtime}
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
UMask=0077

[Install]
WantedBy=multi-user.target
"""

_COMPOSE = """\
# Instead of systemd: put FedGraft's wheel into software/, then: docker compose up -d
services:
  {service}:
    image: fedgraft:{version}
    build:
      context: ./software
      dockerfile_inline: |
        FROM python:3.12-slim
        {packages}COPY *.whl /software/
        RUN pip install --no-cache-dir /software/*.whl && rm -r /software{user}
    command: [fedgraft, {command}, start, /kit]
    # The owner of this folder: its files can be read by nobody else.
    user: "{runs_as}"
    environment:
      HOME: /kit
    volumes:
      - .:/kit
{volumes}    restart: always
    stop_grace_period: 60s
    cap_drop: [ALL]{capabilities}
    security_opt: ["no-new-privileges:true"]
{network}"""


def site_unit(site: str, federation: str, second_user: str | None) -> str:
    """Return a site's systemd unit; only root can start processes as a second user."""
    unit = f"fedgraft-{site}"
    return _UNIT.format(
        file=f"{unit}.service",
        unit=unit,
        what=f"the site {site} of the federation {federation}",
        user="" if second_user else "User=fedgraft\n",
        program=PROGRAM,
        command="site start",
        kits=KITS,
        folder=site,
        rights=f"RuntimeDirectory={unit}\n" if second_user else "",
        runtime=f" /run/{unit}" if second_user else "",
    )


def server_unit(federation: str, port: int) -> str:
    """Return the server's systemd unit."""
    low = "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" if port < FIRST_FREE_PORT else ""
    return _UNIT.format(
        file="fedgraft-server.service",
        unit="fedgraft-server",
        what=f"the server of the federation {federation}",
        user="User=fedgraft\n",
        program=PROGRAM,
        command="server start",
        kits=KITS,
        folder="server",
        rights=low,
        runtime="",
    )


def site_compose(site: str, second_user: str | None) -> str:
    """Return a site's compose file."""
    data = (
        "      # Your data, read-only; in site.yaml name the path inside, /data.\n      # - /path/to/yours:/data:ro\n"
    )
    return _COMPOSE.format(
        service=site,
        version=__version__,
        packages="",
        user=f" && useradd --system --shell /usr/sbin/nologin {second_user}" if second_user else "",
        command="site",
        runs_as="0:0" if second_user else "1000:1000",
        volumes=data,
        capabilities="\n    cap_add: [SETUID, SETGID, CHOWN, FOWNER, DAC_OVERRIDE]" if second_user else "",
        network="",
    )


def server_compose(port: int) -> str:
    """Return the server's compose file; nginx runs beside the SuperLink, which stays on the container's loopback."""
    return _COMPOSE.format(
        service="server",
        version=__version__,
        packages="RUN apt-get update && apt-get install -y --no-install-recommends nginx-light\n        ",
        user="",
        command="server",
        runs_as="1000:1000",
        volumes="",
        capabilities="\n    cap_add: [NET_BIND_SERVICE]" if port < FIRST_FREE_PORT else "",
        network=f'    ports:\n      - "{port}:{port}"\n',
    )
