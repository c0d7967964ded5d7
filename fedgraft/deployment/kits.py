"""The folders that `fedgraft provision` makes: where what lies in them, and reading their settings.

Every site has a folder of its own, the server has one, and the authority's key lies in a third that is kept
off-line. A kit holds all that its machine needs besides the software and the site's own data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedgraft.deployment.settings import FederationSettings, ServerKit, SiteSettings
from fedgraft.errors import Fault, SettingsError
from fedgraft.settings import Settings
from fedgraft.settings_files.load import FileKind, load_settings

FEDERATION = FileKind("federation", "name, server and sites", "name: my-federation")
SITE = FileKind("site's kit", "name, federation and server", "name: clinic-1")
SERVER = FileKind("server's kit", "name and host", "name: my-federation")

_S = TypeVar("_S", bound=Settings)


@dataclass(frozen=True)
class SiteFolder:
    """A site's kit.

    Attributes:
        folder: where it lies.
        settings: its `site.yaml`, paths absolute.
    """

    folder: Path
    settings: SiteSettings

    @property
    def authority(self) -> Path:
        """The certificate by which the site knows the server."""
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        """The site's private key; it never leaves the site."""
        return self.folder / "key"

    @property
    def public_key(self) -> Path:
        """The public part of the key, by which the server knows the site."""
        return self.folder / "key.pub"

    @property
    def policy(self) -> Path:
        """What the site answers, whatever the server asks."""
        return self.folder / "policy.yaml"

    @property
    def ledger(self) -> Path:
        """The list of everything that left the site."""
        return Path(self.settings.state_dir) / "ledger.jsonl"


@dataclass(frozen=True)
class ServerFolder:
    """The server's kit.

    Attributes:
        folder: where it lies.
        settings: its `server.yaml`, paths absolute.
    """

    folder: Path
    settings: ServerKit

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate, for nginx and for the SuperLink behind it."""
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        """The private key of that certificate."""
        return self.folder / "server.key"

    @property
    def superexec_secret(self) -> Path:
        """What the server's SuperExec shows to the SuperLink."""
        return self.folder / "superexec.secret"

    @property
    def nginx(self) -> Path:
        """Nginx's settings: it passes the sites' path and nothing else."""
        return self.folder / "nginx.conf"


def read_federation(path: Path) -> FederationSettings:
    """Read `federation.yaml`.

    Raises:
        SettingsError: with every fault of the file.
    """
    return load_settings(path, FederationSettings, FEDERATION)


def read_site(kit: Path) -> SiteFolder:
    """Read a site's kit.

    Raises:
        SettingsError: it is none, or its `site.yaml` has faults; all are named.
    """
    return SiteFolder(kit.absolute(), _read(kit, "site.yaml", SiteSettings, SITE))


def read_server(kit: Path) -> ServerFolder:
    """Read the server's kit.

    Raises:
        SettingsError: it is none, or its `server.yaml` has faults; all are named.
    """
    return ServerFolder(kit.absolute(), _read(kit, "server.yaml", ServerKit, SERVER))


def _read(kit: Path, name: str, model: type[_S], kind: FileKind) -> _S:
    path = kit / name
    if not path.is_file():
        others = {"site.yaml", "server.yaml", "federation.yaml"} - {name}
        found = [other for other in sorted(others) if (kit / other).is_file()]
        came = f"it has {found[0]}" if found else "a folder without it" if kit.is_dir() else "there is no such folder"
        text = f"no {kind.word}: expected a folder with {name}, and {came}; `fedgraft provision` makes kits"
        raise SettingsError(str(kit), [Fault("", text)])
    return load_settings(path, model, kind)
