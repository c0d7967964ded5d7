"""Settings of a federation of separate machines: of the whole, of one site's kit, of the server's kit.

`federation.yaml` is written by whoever sets the federation up; `site.yaml` and `server.yaml` are made from it by
`fedgraft provision` and may be edited where they lie. Paths in them are relative to their own file.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from fedgraft.compute_settings import Device
from fedgraft.data.settings import SourceSettings
from fedgraft.models.settings import BackboneSettings
from fedgraft.settings import LocalPath, Settings, named, setting_fault

RESERVED = ("server", "authority")
"""Names of folders that `fedgraft provision` makes beside those of the sites."""

Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9-]*$")]
"""A name that is a folder, a unit of systemd and a label of a certificate as well."""

Port = Annotated[int, Field(ge=1, le=65535)]

_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I)


def _host(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        if _HOST_NAME.fullmatch(value) and not value.replace(".", "").isdigit():
            return value.lower()
    raise ValueError(
        f"came '{value}'; expected the name or address of a machine, such as federation.example.org or 10.77.1.1, "
        "without https:// and without a port"
    )


Host = Annotated[str, AfterValidator(_host)]
"""A machine's DNS name or IP address."""


class LogSettings(Settings):
    """What processes say, and where; logs hold names, times, counts and sizes, never values of data."""

    format: Literal["text", "json"] = "text"
    """One line of text, or one JSON object a line for a collector of logs."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious of what is said."""
    file: LocalPath | None = None
    """File that is written besides the terminal (which systemd keeps in its journal); null: none."""
    largest_bytes: Annotated[int, Field(ge=10_000)] = 10_000_000
    """Bytes after which a new file is begun."""
    kept_files: PositiveInt = 5
    """Older files that are kept; the rest is removed."""


class Endpoint(Settings):
    """Where the sites reach the server: nginx's port, which passes nothing but the sites' own path."""

    host: Host
    """The server's DNS name or address; it must stand in the server's certificate."""
    port: Port = 8443
    """The port that nginx listens on; the only one that a site's firewall must let out."""


class SiteData(Settings):
    """A site's own data: what it trains on, and nothing that the server could change."""

    source: Annotated[SourceSettings, BeforeValidator(named)]
    """Where the samples come from, as in a scenario's `data.source`."""
    clients: Literal["one", "natural"] = "one"
    """`one`: all samples are one client, named as the site. `natural`: the owners that the data name, for a group of
    institutions behind one node."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Part of each client's samples that is kept for validation."""
    max_samples_per_client: PositiveInt | None = None
    """Cap on a client's samples (train and validation together); the rest is left out."""


class Versions(Settings):
    """Which software made a kit; a site's must fit the server's."""

    fedgraft: str
    """Release of FedGraft; both sides must have the same."""
    flwr: str
    """Release of Flower; both sides must have the same."""
    protocol: PositiveInt
    """Number of FedGraft's requests and replies."""


class SiteSettings(Settings):
    """`site.yaml`: one site of a federation, as its own machine sees it."""

    name: Name
    """The site's name; the server knows it by its key."""
    federation: Name
    """Name of the federation."""
    server: Endpoint
    """Where the server is reached."""
    data: SiteData | None = None
    """The site's own data; null: still to be filled in, nothing starts before."""
    labels: tuple[str, ...] | None = None
    """The federation's label names in the order of the head's outputs; null: not agreed upon, so not checked."""
    backbone: BackboneSettings | None = None
    """A backbone that the site has by itself, so that the server need not send it; null: the server sends it."""
    backbone_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The digest that the backbone's weights must have; null: whatever the run names."""
    versions: Versions | None = None
    """What the server ran when the kit was made; null: not checked."""
    state_dir: LocalPath
    """Folder of the ledger, the policy's memory and the clients' state; it must survive restarts, and be backed up."""
    cache_dir: LocalPath
    """Folder of features and backbones; it can be made again at any time."""
    socket: LocalPath
    """The Unix socket between Flower's processes and the resident host; at most 100 bytes."""
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}\$?$")] | None = None
    """Second Unix user, who can read neither data nor key: what the server sends is unpacked as this user and handed
    on over the socket; null: as the site's own user."""
    threads: PositiveInt = 1
    """Threads that train side by side, each a group of clients; numbers do not depend on it."""
    device: Device = "auto"
    """Where heads are trained; `auto`: on CUDA if this machine has it."""
    client_state_days: PositiveInt | None = 90
    """Days after which a run's client state that has not changed is removed: a method's own numbers for this site
    between rounds, by which an unfinished run goes on; null: never."""
    log: LogSettings = LogSettings()
    """What is logged, and where."""


class ServerSite(Settings):
    """A site that may join."""

    name: Name
    """The site's name."""
    public_key: LocalPath
    """Its public key, in OpenSSH's format."""


class ServerKit(Settings):
    """`server.yaml`: the server of a federation, as its own machine sees it."""

    name: Name
    """Name of the federation."""
    host: Host
    """DNS name or address by which sites reach the server."""
    port: Port = 8443
    """The public port; nginx listens there."""
    superlink_port: Port = 8000
    """Flower's own port; loopback only, since whoever reaches it can run code at every site."""
    sites: tuple[ServerSite, ...] = ()
    """The sites that may join. Who is registered and not listed here is unregistered when the server starts."""
    database: LocalPath
    """File of the SuperLink's state; it must survive restarts."""
    runs: LocalPath
    """Folder of the run directories."""
    log: LogSettings = LogSettings()
    """What is logged, and where."""

    @model_validator(mode="after")
    def _two_ports(self) -> ServerKit:
        if self.port == self.superlink_port:
            raise setting_fault("superlink_port", f"came {self.port}, which is the public port; choose another")
        return self


class FederationServer(Endpoint):
    """Where the server will stand."""

    addresses: tuple[Host, ...] = ()
    """Further names and addresses that sites may use; they stand in the certificate too."""
    superlink_port: Port = 8000
    """Flower's own port on the server's loopback."""


class FederationSite(Settings):
    """One site, as the federation plans it."""

    name: Name
    """The site's name; lower-case letters, digits and hyphens."""
    data: SiteData | None = None
    """Its data, if their place is known already; null: the site fills it in."""
    backbone_in_kit: bool = False
    """The site has the backbone by itself (thin lines): its kit names it, and the server need not send it."""
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}\$?$")] | None = None
    """Second Unix user at that site, who unpacks what the server sends; null: the site's own user does."""


class CertificateSettings(Settings):
    """How long certificates are valid, and from when on their end is warned of."""

    authority_days: Annotated[int, Field(ge=1, le=7300)] = 3650
    """Days of the authority's certificate, which every site holds."""
    server_days: Annotated[int, Field(ge=1, le=825)] = 825
    """Days of the server's certificate; `--renew` makes a new one, sites notice nothing."""
    warn_days: Annotated[int, Field(ge=1, le=825)] = 60
    """Days before its end from which on a certificate is warned of."""


class FederationSettings(Settings):
    """`federation.yaml`: who takes part in a federation of separate machines."""

    name: Name
    """Name of the federation; lower-case letters, digits and hyphens."""
    server: FederationServer
    """Where the server will stand."""
    sites: Annotated[tuple[FederationSite, ...], Field(min_length=1)]
    """Who takes part."""
    scenario: LocalPath | None = None
    """The scenario that `fedgraft rehearse` runs; null: the rehearsal's own."""
    labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Label names in the order of the head's outputs; each site's data are checked against them."""
    backbone: BackboneSettings | None = None
    """The backbone, for sites that have it by themselves; null: whatever a scenario names, sent by the server."""
    certificates: CertificateSettings = CertificateSettings()
    """How long certificates are valid."""

    @model_validator(mode="after")
    def _names_of_their_own(self) -> FederationSettings:
        seen: set[str] = set()
        for number, site in enumerate(self.sites):
            if site.name in RESERVED:
                raise setting_fault(f"sites.{number}.name", f"came '{site.name}', the name of a folder of the kits")
            if site.name in seen:
                raise setting_fault(f"sites.{number}.name", f"came '{site.name}', the name of an earlier site too")
            seen.add(site.name)
            if site.backbone_in_kit and (reason := self._no_backbone_for_kits()):
                raise setting_fault(f"sites.{number}.backbone_in_kit", f"came true at '{site.name}', but {reason}")
        return self

    def _no_backbone_for_kits(self) -> str:
        """Return why no kit can have the backbone; empty if one can."""
        if self.backbone is None:
            return "the federation names no backbone; add `backbone:`"
        installed = self.backbone.name == "identity" or self.backbone.name.startswith("bundled:")
        if self.backbone.weights == "pretrained" and not installed:
            return "a site downloads nothing; name the weights' file as backbone.weights, or a bundled: backbone"
        return ""
