"""Writing one site's kit."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from fedgraft.deployment.readme import site_readme
from fedgraft.deployment.secret_files import write_private, write_public
from fedgraft.deployment.settings import Endpoint, FederationSettings, FederationSite, SiteSettings
from fedgraft.deployment.site_keys import KeyPair, fingerprint
from fedgraft.deployment.units import site_compose, site_unit
from fedgraft.deployment.versions import own_versions
from fedgraft.settings_files.write import commented

_HEADING = "The site {name} of the federation {federation}. Fill in `data:`; relative paths are relative to this file."


@dataclass(frozen=True)
class SiteParts:
    """What a site's kit is made of, beside what the federation says.

    Attributes:
        public_key: one line in OpenSSH's format.
        private_key: None if the site made its own.
        authority: the authority's certificate (PEM).
        authority_ends: when that ends.
        policy: the text of `policy.yaml`.
        backbone_digest: of the federation's backbone; None if it names none.
    """

    public_key: bytes
    private_key: bytes | None
    authority: bytes
    authority_ends: datetime.datetime
    policy: str
    backbone_digest: str | None = None

    @classmethod
    def of(
        cls, pair: KeyPair | bytes, authority: bytes, ends: datetime.datetime, policy: str, digest: str | None
    ) -> SiteParts:
        """Return the parts for a key pair, or for a public key alone."""
        public, private = (pair, None) if isinstance(pair, bytes) else (pair.public, pair.private)
        return cls(public, private, authority, ends, policy, digest)


def site_settings(federation: FederationSettings, site: FederationSite, backbone_digest: str | None) -> SiteSettings:
    """Return the settings of a site's kit."""
    server = federation.server
    return SiteSettings(
        name=site.name,
        federation=federation.name,
        server=Endpoint(host=server.host, port=server.port),
        data=site.data,
        labels=federation.labels,
        backbone=federation.backbone if site.backbone_in_kit else None,
        backbone_digest=backbone_digest,
        versions=own_versions(),
        state_dir="state",
        cache_dir="cache",
        socket=f"/run/fedgraft-{site.name}/host.sock" if site.user else "run/host.sock",
        user=site.user,
    )


def write_site_kit(folder: Path, settings: SiteSettings, parts: SiteParts) -> None:
    """Write a site's kit into a new folder.

    Raises:
        StoreError: it can't be written.
    """
    name = settings.name
    heading = _HEADING.format(name=name, federation=settings.federation)
    readme = site_readme(settings, fingerprint(parts.public_key), parts.authority_ends, parts.private_key is not None)
    if parts.private_key is not None:
        write_private(folder / "key", parts.private_key)
    for file, text in {
        "site.yaml": commented(settings, heading),
        "policy.yaml": parts.policy,
        "README.md": readme,
        f"fedgraft-{name}.service": site_unit(name, settings.federation, settings.user),
        "compose.yaml": site_compose(name, settings.user),
    }.items():
        write_public(folder / file, text.encode())
    write_public(folder / "key.pub", parts.public_key)
    write_public(folder / "ca.crt", parts.authority)
