"""`fedgraft provision`: kits for the server and for every site, and what changes later.

Everything is made in a folder beside and put in its place when it is whole. What exists is not touched: a second call
adds the sites that are new in `federation.yaml`, and nothing else unless it is asked for.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedgraft.deployment import server_kit
from fedgraft.deployment.certificates import (
    CertificateError,
    Issued,
    facts_of,
    make_authority,
    make_server_certificate,
    read_file,
)
from fedgraft.deployment.kits import ServerFolder, read_server
from fedgraft.deployment.plan import AUTHORITY, SERVER, Done, Plan, ProvisionError, check_changes, check_new
from fedgraft.deployment.readme import authority_readme
from fedgraft.deployment.secret_files import private_folder, write_private, write_public
from fedgraft.deployment.settings import FederationSite
from fedgraft.deployment.site_keys import KeyFileError, KeyPair, checked_public_key, fingerprint, make_key
from fedgraft.deployment.site_kit import SiteParts, site_settings, weights_file, write_site_kit
from fedgraft.errors import Fault, SettingsError, StoreError, listed


def provision(plan: Plan) -> Done:
    """Make or change kits.

    Raises:
        FedGraftError: what was asked for can't be done; then nothing was changed.
    """
    done = Done()
    new = not (plan.out / SERVER / "server.yaml").exists()
    if new:
        check_new(plan)
        keys = _keys_for(plan, plan.federation.sites)
        with _in_place(plan.out) as folder:
            _make_all(plan, folder, keys, done)
    else:
        server = read_server(plan.out / SERVER)
        check_changes(plan, server)
        _change(plan, server, done)
    _look_at(plan, read_server(plan.out / SERVER), done)
    return done


def _make_all(plan: Plan, folder: Path, keys: Mapping[str, KeyPair | bytes], done: Done) -> None:
    """Make the authority, the server's kit and every site's, in a new folder."""
    federation = plan.federation
    authority = _read_authority(plan.authority) if plan.authority else None
    if authority is None:
        authority = make_authority(federation.name, federation.certificates.authority_days)
        place = private_folder(folder / AUTHORITY)
        write_private(place / "ca.key", authority.key)
        write_public(place / "ca.crt", authority.certificate)
        readme = authority_readme(federation.name, facts_of(authority.certificate).ends)
        write_public(place / "README.md", readme.encode())
        done.notes.append(
            f"keep {plan.out / AUTHORITY} off-line: its key can make a machine that sites take for the server"
        )
    certificate = make_server_certificate(authority, _names(plan), federation.certificates.server_days)
    place = private_folder(folder / SERVER)
    server_kit.write_server_kit(place, federation, authority.certificate, certificate)
    server = read_server(place)
    for site in federation.sites:
        _write_site(plan, folder / site.name, site, keys[site.name], authority.certificate)
        server = server_kit.admit(server, site.name, _public(keys[site.name]))
    done.made += [SERVER, *(site.name for site in federation.sites)]


def _change(plan: Plan, server: ServerFolder, done: Done) -> None:
    """Add sites, revoke some, replace keys, renew the certificate; what can fail comes first."""
    known = {site.name for site in server.settings.sites}
    added = [site for site in plan.federation.sites if site.name not in known or site.name in plan.replace_keys]
    keys = _keys_for(plan, added, server)
    renewed = None
    if plan.renew:
        authority = _read_authority(plan.authority_folder)
        renewed = make_server_certificate(authority, _names(plan), plan.federation.certificates.server_days)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    authority_certificate = read_file(server.authority)
    for name in (*plan.revoke, *plan.replace_keys):
        server = server_kit.revoke(server, name, now)
        _set_aside(plan.out / name)
    done.revoked += [*plan.revoke, *(f"{name} (its old key)" for name in plan.replace_keys)]
    for site in added:
        target = plan.out / site.name
        if target.exists():
            raise ProvisionError(f"{target} exists, but its site may not join; move it away")
        with _in_place(target) as folder:
            _write_site(plan, folder, site, keys[site.name], authority_certificate)
        server = server_kit.admit(server, site.name, _public(keys[site.name]))
    done.made += [site.name for site in added]
    done.kept += [site.name for site in plan.federation.sites if site not in added]
    if renewed is not None:
        server_kit.write_certificate(server.folder, renewed)
        server_kit.write_texts(server.folder, server.settings)
        done.made.append("server.pem, server.key")
    if renewed:
        done.notes.append("restart the server for this to count: `systemctl restart fedgraft-server`; runs go on")
    elif added or plan.revoke:
        done.notes.append("at the server, for this to count while it runs: `fedgraft server sites KIT`, or restart it")


def _write_site(plan: Plan, folder: Path, site: FederationSite, key: KeyPair | bytes, authority: bytes) -> None:
    backbone = plan.federation.backbone if site.backbone_in_kit else None
    parts = SiteParts(
        _public(key),
        None if isinstance(key, bytes) else key.private,
        authority,
        facts_of(authority).ends,
        plan.policy,
        None if backbone is None else weights_file(backbone),
    )
    write_site_kit(private_folder(folder), site_settings(plan.federation, site, plan.backbone_digest), parts)


def _keys_for(
    plan: Plan, sites: tuple[FederationSite, ...] | list[FederationSite], server: ServerFolder | None = None
) -> dict[str, KeyPair | bytes]:
    """Return each site's key pair, or the public key that it sent.

    Raises:
        SettingsError: public keys are missing or can't be used; all are named.
    """
    if plan.public_keys is None:
        return {site.name: make_key(site.name) for site in sites}
    found: dict[str, KeyPair | bytes] = {}
    owners = _owners(server) if server is not None else {}
    faults = []
    for site in sites:
        path = plan.public_keys / f"{site.name}.pub"
        try:
            key = checked_public_key(read_file(path), site.name)
        except (CertificateError, KeyFileError) as error:
            faults.append(Fault(path.name, str(error)))
            continue
        material = key.split()[1]
        if material in owners:
            faults.append(Fault(path.name, f"is {owners[material]}; each site makes a new key of its own"))
        owners[material] = f"the key of {site.name}"
        found[site.name] = key
    if faults:
        raise SettingsError(str(plan.public_keys), faults)
    return found


def _owners(server: ServerFolder) -> dict[bytes, str]:
    """Return whose each key is or was."""
    folder = server.folder / server_kit.SITES
    revoked = {
        path: f"a key of {path.stem[: -len('-20260101-120000')]} that was revoked"
        for path in folder.glob("revoked/*.pub")
    }
    known = {path: f"the key of {path.stem}" for path in folder.glob("*.pub")}
    return {read_file(path).split()[1]: owner for path, owner in {**revoked, **known}.items()}


def _look_at(plan: Plan, server: ServerFolder, done: Done) -> None:
    """Say what is there now: fingerprints, certificates, and what ought to be done."""
    for site in server.settings.sites:
        done.fingerprints[site.name] = fingerprint(read_file(Path(site.public_key)))
    done.certificates = {
        "authority": facts_of(read_file(server.authority)),
        "server": facts_of(read_file(server.certificate)),
    }
    for name, facts in done.certificates.items():
        if facts.days_left() < plan.federation.certificates.warn_days:
            advice = "make a new one with --renew" if name == "server" else "make new kits in time"
            done.notes.append(f"the {name}'s certificate ends in {facts.days_left()} days; {advice}")
    missing = sorted(set(_names(plan)) - set(done.certificates["server"].names))
    if missing:
        done.notes.append(f"the server's certificate is not for {listed(missing)}; make a new one with --renew")
    planned = {site.name for site in plan.federation.sites}
    for site in server.settings.sites:
        if site.name not in planned:
            text = f"{site.name} may join and is not in federation.yaml; shut it out with --revoke {site.name}"
            done.notes.append(text)
    if plan.public_keys is None and any(name not in (SERVER, "server.pem, server.key") for name in done.made):
        done.notes.append(
            "each site's kit holds its secret key: hand it over on a medium or a channel that nobody else reads, then "
            "delete it here; or let sites make their own keys (--public-keys)"
        )


def _names(plan: Plan) -> list[str]:
    return [plan.federation.server.host, *plan.federation.server.addresses]


def _public(key: KeyPair | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.public


def _read_authority(folder: Path) -> Issued:
    """Return the authority's certificate and key.

    Raises:
        ProvisionError: the folder does not have them.
    """
    try:
        return Issued(read_file(folder / "ca.crt"), read_file(folder / "ca.key"))
    except CertificateError as error:
        raise ProvisionError(f"{error}; name the folder of ca.key and ca.crt with --authority") from error


def _set_aside(kit: Path) -> None:
    """Remove the kit of a revoked site, which holds a key that opens nothing any more."""
    if kit.is_dir():
        shutil.rmtree(kit)


@contextlib.contextmanager
def _in_place(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `target` when the block ends without an error, and vanishes otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise StoreError(f"can't make {target}: {error.strerror or error}") from error
    try:
        yield folder
        if target.is_dir():
            target.rmdir()  # empty, as was checked before
        folder.replace(target)
    except OSError as error:
        raise StoreError(f"can't make {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
