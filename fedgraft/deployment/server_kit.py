"""Writing the server's kit, and changing who may join."""

from __future__ import annotations

import secrets
from pathlib import Path

from fedgraft.deployment.certificates import Issued, facts_of
from fedgraft.deployment.kits import ServerFolder
from fedgraft.deployment.nginx import server_block
from fedgraft.deployment.readme import server_readme
from fedgraft.deployment.secret_files import private_folder, write_private, write_public
from fedgraft.deployment.settings import FederationSettings, ServerKit, ServerSite
from fedgraft.deployment.units import KITS, server_compose, server_unit
from fedgraft.deployment.versions import own_versions
from fedgraft.settings_files.write import commented

_HEADING = "The server of the federation {federation}. Relative paths are relative to this file."
_NGINX_HEADING = "# For an nginx of your own, into /etc/nginx/conf.d/; `fedgraft server start` runs one without it.\n"
SITES = "sites"
"""Folder of the public keys of the sites that may join; those of revoked ones are in `revoked` below it."""


def write_server_kit(folder: Path, federation: FederationSettings, authority: bytes, certificate: Issued) -> None:
    """Write the server's kit, without any site, into a new folder.

    Raises:
        StoreError: it can't be written.
    """
    settings = ServerKit(
        name=federation.name,
        host=federation.server.host,
        port=federation.server.port,
        superlink_port=federation.server.superlink_port,
        database="state/superlink.db",
        runs="runs",
    )
    private_folder(folder / SITES)
    write_public(folder / "ca.crt", authority)
    write_certificate(folder, certificate)
    write_private(folder / "superexec.secret", secrets.token_hex(32).encode())
    write_settings(folder, settings)
    write_texts(folder, settings)


def write_certificate(folder: Path, certificate: Issued) -> None:
    """Write the server's certificate and its key; the key first, so that a reader who finds neither can tell.

    Raises:
        StoreError: it can't be written.
    """
    write_private(folder / "server.key", certificate.key)
    write_public(folder / "server.pem", certificate.certificate)


def write_settings(folder: Path, settings: ServerKit) -> None:
    """Write `server.yaml`.

    Raises:
        StoreError: it can't be written.
    """
    heading = _HEADING.format(federation=settings.name)
    write_public(folder / "server.yaml", commented(settings, heading).encode())


def write_texts(folder: Path, settings: ServerKit) -> None:
    """Write what follows from the settings: README, units, nginx's block.

    Raises:
        StoreError: it can't be written.
    """
    versions, placed = own_versions(), Path(KITS) / "server"
    block = server_block(
        str(settings.port),
        settings.superlink_port,
        placed / "server.pem",
        placed / "server.key",
        placed / "ca.crt",
        versions,
    )
    ends = facts_of((folder / "server.pem").read_bytes()).ends
    for file, text in {
        "README.md": server_readme(settings, ends, versions.fedgraft),
        "fedgraft-server.service": server_unit(settings.name, settings.port),
        "compose.yaml": server_compose(settings.port),
        "nginx.conf": f"{_NGINX_HEADING}{block}",
    }.items():
        write_public(folder / file, text.encode())


def admit(server: ServerFolder, site: str, public_key: bytes) -> ServerFolder:
    """Let a site join, with this key and no other.

    Raises:
        StoreError: it can't be written.
    """
    write_public(server.folder / SITES / f"{site}.pub", public_key)
    others = tuple(other for other in _relative(server) if other.name != site)
    return _with_sites(server, (*others, ServerSite(name=site, public_key=f"{SITES}/{site}.pub")))


def revoke(server: ServerFolder, site: str, when: str) -> ServerFolder:
    """Let a site join no more; its public key is kept beside, for the record.

    Raises:
        StoreError: it can't be written.
    """
    key = server.folder / SITES / f"{site}.pub"
    data = key.read_bytes() if key.exists() else b""
    changed = _with_sites(server, tuple(other for other in _relative(server) if other.name != site))
    if data:
        write_public(private_folder(server.folder / SITES / "revoked") / f"{site}-{when}.pub", data)
        key.unlink()
    return changed


def _relative(server: ServerFolder) -> tuple[ServerSite, ...]:
    """Return the sites as the file names them: the kit may be moved."""
    return tuple(
        ServerSite(name=site.name, public_key=_below(server.folder, site.public_key)) for site in server.settings.sites
    )


def _with_sites(server: ServerFolder, sites: tuple[ServerSite, ...]) -> ServerFolder:
    settings, folder = server.settings, server.folder
    relative = settings.model_copy(
        update={
            "sites": sites,
            "database": _below(folder, settings.database),
            "runs": _below(folder, settings.runs),
            "log": settings.log.model_copy(
                update={"file": None if settings.log.file is None else _below(folder, settings.log.file)}
            ),
        }
    )
    write_settings(folder, relative)
    absolute = tuple(ServerSite(name=site.name, public_key=str(folder / site.public_key)) for site in sites)
    return ServerFolder(folder, settings.model_copy(update={"sites": absolute}))


def _below(folder: Path, path: str) -> str:
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path
