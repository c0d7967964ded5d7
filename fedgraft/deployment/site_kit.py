"""Writing one site's kit."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from fedgraft.deployment.certificates import read_file
from fedgraft.deployment.readme import site_readme
from fedgraft.deployment.secret_files import write_private, write_public
from fedgraft.deployment.settings import Endpoint, FederationSettings, FederationSite, SiteSettings
from fedgraft.deployment.site_keys import fingerprint
from fedgraft.deployment.units import site_compose, site_unit
from fedgraft.deployment.versions import own_versions
from fedgraft.models.settings import BackboneSettings
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
        weights: the file of the backbone's weights, for a kit that has it; None if they come with a package.
    """

    public_key: bytes
    private_key: bytes | None
    authority: bytes
    authority_ends: datetime.datetime
    policy: str
    weights: Path | None = None


def site_settings(federation: FederationSettings, site: FederationSite, backbone_digest: str | None) -> SiteSettings:
    """Return the settings of a site's kit."""
    server, backbone = federation.server, federation.backbone if site.backbone_in_kit else None
    if backbone is not None and (source := weights_file(backbone)) is not None:
        backbone = backbone.model_copy(update={"weights": f"backbone{source.suffix.lower()}"})
    return SiteSettings(
        name=site.name,
        federation=federation.name,
        server=Endpoint(host=server.host, port=server.port),
        data=site.data,
        labels=federation.labels,
        backbone=backbone,
        backbone_digest=backbone_digest,
        versions=own_versions(),
        state_dir="state",
        cache_dir="cache",
        socket=f"/run/fedgraft-{site.name}/host.sock" if site.user else "run/host.sock",
        user=site.user,
    )


def weights_file(backbone: BackboneSettings) -> Path | None:
    """Return the file of a backbone's weights; None if they come with a package, or are random."""
    return None if backbone.weights in ("pretrained", "random") else Path(backbone.weights)


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
    if settings.backbone is not None and parts.weights is not None:
        write_public(folder / settings.backbone.weights, read_file(parts.weights))
    write_public(folder / "ca.crt", parts.authority)
