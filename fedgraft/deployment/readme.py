"""The READMEs of the kits, in plain words, for the people who get them."""

from __future__ import annotations

import datetime

from fedgraft.deployment.settings import ServerKit, SiteSettings
from fedgraft.deployment.site_keys import HOW_TO_MAKE
from fedgraft.deployment.units import KITS

_SITE = """\
# {name}: a site of the federation {federation}

This folder lets one machine at your institution take part in a federation. Your data stay on that machine. The
server sends a model, your machine trains its last layer on your data, and sends numbers back: how that layer changed,
or sums over many samples. Every such answer is written down here before it is sent, and your own rules (`policy.yaml`)
say what is answered at all.

## What is in it
| file | what it is |
| --- | --- |
| `site.yaml` | your settings; fill in `data:`, where your data are |
| `policy.yaml` | your rules: what your machine answers, whatever the server asks |
| `ca.crt` | by which your machine knows the server; no secret |
| {key_row} |
| `key.pub` | the public part of the key, which the server has; no secret |
{backbone_row}| `fedgraft-{name}.service` | to run the site under systemd |
| `compose.yaml` | or in a container |

Fingerprint of your key: `{fingerprint}`.
Compare it with the server's owner over the telephone.

## Setting up, in ten minutes
1. Your machine needs Linux, Python 3.11 or newer, and **one way out**: TCP to `{host}`, port {port}. Nothing comes in.
2. Install FedGraft {release} ({source}):

   ```bash
   useradd --system --home-dir {kits} --create-home --shell /usr/sbin/nologin fedgraft
{second_user}   python3 -m venv /opt/fedgraft
   /opt/fedgraft/bin/pip install fedgraft-{release}-py3-none-any.whl
   ```
3. Put this folder at `{kits}/{name}`, for its user alone:

   ```bash
   chown -R {owner} {kits}/{name} && chmod -R go= {kits}/{name}
   ```
{own_key}4. Say in `site.yaml` where your data are, for instance

   ```yaml
   data:
     source: {{name: folder, path: /data/images}}
   ```
{labels}5. Look through `policy.yaml`. As it stands it answers the requests that most training needs, and no statistics
   of fewer than 50 samples, or of two sets that differ by fewer than 20.
6. Check. Each line is ok, a warning or a fault, with what to do:

   ```bash
   {run}/opt/fedgraft/bin/fedgraft site check {kits}/{name}
   ```
7. Start, now and after every restart of the machine:

   ```bash
   cp fedgraft-{name}.service /etc/systemd/system/ && systemctl enable --now fedgraft-{name}
   ```

## Afterwards
- `fedgraft site ledger {kits}/{name}` shows everything that ever left: when, for which run, which arrays, how large.
  `fedgraft site ledger verify {kits}/{name}` tells whether somebody changed that list.
- `journalctl -u fedgraft-{name}` shows what the machine does.
- Stop any time: `systemctl stop fedgraft-{name}`. The federation goes on without you if enough others remain.
- Back up `site.yaml`, `policy.yaml`, `key` and `state/`. `cache/` can be made again.
- If somebody may have copied `key`, tell the server's owner, who revokes it and gives you a new kit.
- The authority in `ca.crt` ends on {authority_ends}; you need a new `ca.crt` before that day.
"""

_SERVER = """\
# The server of the federation {federation}

It never sees data: it sends models out, adds up what sites send back, and keeps runs and results.

| file | what it is |
| --- | --- |
| `server.yaml` | your settings, and the sites that may join |
| `ca.crt` | the federation's authority; every site has it |
| `server.pem`, `server.key` | the server's certificate (until {ends}) and its **secret** key |
| `superexec.secret` | a **secret** between two processes of this machine |
| `sites/` | the sites' public keys |
| `nginx.conf` | for an nginx of your own; `fedgraft server start` runs one by itself |
| `fedgraft-server.service`, `compose.yaml` | to run the server under systemd, or in a container |

The SuperLink (Flower's server) listens on loopback, port {superlink_port}, and must stay there: its control interface
has no login, and who reaches it can run code at every site. nginx listens on port {port} and passes the sites' own path
to it, nothing else. Let nobody log in to this machine who may not run code at the sites.

```bash
apt-get install nginx-light
useradd --system --home-dir {kits} --create-home --shell /usr/sbin/nologin fedgraft
python3 -m venv /opt/fedgraft
/opt/fedgraft/bin/pip install fedgraft-{release}-py3-none-any.whl
chown -R fedgraft: {kits}/server && chmod -R go= {kits}/server
cp fedgraft-server.service /etc/systemd/system/ && systemctl enable --now fedgraft-server
```

Then run a scenario, as the same user: `fedgraft submit SCENARIO --kit {kits}/server`. `fedgraft status --kit
{kits}/server` shows who is there.

After a change of `sites/` and `server.yaml` (a site was added or revoked): `fedgraft server sites {kits}/server`; it
counts at once, without a restart. After other changes restart the server: runs go on from their last checkpoint.
Back up this folder, `server.key` and `superexec.secret` as secrets.
"""

_AUTHORITY = """\
The authority of the federation {federation}. `ca.key` can make a machine that every site takes for the server: keep
this folder off-line, on a medium in a safe, and bring it back only to renew the server's certificate
(fedgraft provision federation.yaml --out KITS --authority THIS-FOLDER --renew). `ca.crt` is no secret.
The certificate ends on {ends}.
"""


def site_readme(settings: SiteSettings, fingerprint: str, authority_ends: datetime.datetime, has_key: bool) -> str:
    """Return the README of a site's kit."""
    second = settings.user
    own_key = (
        ""
        if has_key
        else (
            f"   Put the private key that you made into it as `key` (it was made by\n   "
            f"`{HOW_TO_MAKE.format(name=settings.name)}`, and never left your machine): "
            f"`chmod 600 {KITS}/{settings.name}/key`.\n"
        )
    )
    names = ", ".join(settings.labels) if settings.labels else ""
    return _SITE.format(
        name=settings.name,
        federation=settings.federation,
        backbone_row=_backbone_row(settings),
        key_row="`key` | **secret**: by which the server knows you. It never leaves this machine"
        if has_key
        else "`key` | not in this kit: the **secret** that you made yourself goes here, and never leaves this machine",
        fingerprint=fingerprint,
        host=settings.server.host,
        port=settings.server.port,
        release=settings.versions.fedgraft if settings.versions else "",
        source="the server's owner has the same",
        kits=KITS,
        owner="root:" if second else "fedgraft:",
        second_user=f"   useradd --system --no-create-home --shell /usr/sbin/nologin {second}\n" if second else "",
        own_key=own_key,
        labels=f"   The federation's labels, in this order: {names}.\n" if names else "",
        run="" if second else "runuser -u fedgraft -- ",
        authority_ends=f"{authority_ends:%Y-%m-%d}",
    )


def _backbone_row(settings: SiteSettings) -> str:
    if settings.backbone is None or settings.backbone.weights in ("pretrained", "random"):
        return ""
    return f"| `{settings.backbone.weights}` | the model's fixed part, so that the server need not send it |\n"


def server_readme(settings: ServerKit, ends: datetime.datetime, release: str) -> str:
    """Return the README of the server's kit."""
    return _SERVER.format(
        federation=settings.name,
        ends=f"{ends:%Y-%m-%d}",
        superlink_port=settings.superlink_port,
        port=settings.port,
        kits=KITS,
        release=release,
    )


def authority_readme(federation: str, ends: datetime.datetime) -> str:
    """Return the README of the authority's folder."""
    return _AUTHORITY.format(federation=federation, ends=f"{ends:%Y-%m-%d}")
