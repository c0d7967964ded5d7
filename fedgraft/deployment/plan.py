"""What is asked of `fedgraft provision`, whether it can be meant, and what was done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedgraft.deployment.certificates import Facts
from fedgraft.deployment.kits import ServerFolder
from fedgraft.deployment.settings import FederationSettings
from fedgraft.errors import FedGraftError, listed, nearest

SERVER, AUTHORITY = "server", "authority"


class ProvisionError(FedGraftError):
    """Kits that can't be made or changed as asked."""


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        federation: the federation.
        out: folder of the kits.
        policy: the text of the sites' `policy.yaml`.
        public_keys: folder of `<site>.pub`, for sites that made their own keys.
        authority: folder of the authority's key; None: `authority` below `out`.
        renew: make a new certificate for the server.
        revoke: sites that may join no more.
        replace_keys: sites that get a new key and a new kit.
        backbone_digest: of the federation's backbone; None if it names none.
    """

    federation: FederationSettings
    out: Path
    policy: str
    public_keys: Path | None = None
    authority: Path | None = None
    renew: bool = False
    revoke: tuple[str, ...] = ()
    replace_keys: tuple[str, ...] = ()
    backbone_digest: str | None = None

    @property
    def authority_folder(self) -> Path:
        """Where the authority's key lies."""
        return self.authority or self.out / AUTHORITY


@dataclass
class Done:
    """What was done, for the terminal.

    Attributes:
        made: kits that are new.
        kept: kits that were there and were left as they are.
        revoked: sites that may join no more.
        fingerprints: of every site's key.
        certificates: the authority's and the server's.
        notes: what the user should know.
    """

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    certificates: dict[str, Facts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_new(plan: Plan) -> None:
    """Refuse what makes no sense before there are kits.

    Raises:
        ProvisionError: says what.
    """
    for option, given in (("--renew", plan.renew), ("--revoke", plan.revoke), ("--replace-key", plan.replace_keys)):
        if given:
            raise ProvisionError(f"{option} changes kits, and there are none in {plan.out}; give the folder with --out")
    if plan.out.exists() and (not plan.out.is_dir() or any(plan.out.iterdir())):
        raise ProvisionError(f"{plan.out} holds other things than kits; choose a new folder with --out")


def check_changes(plan: Plan, server: ServerFolder) -> None:
    """Refuse changes that can't be meant.

    Raises:
        ProvisionError: says which, and what to do.
    """
    federation, settings = plan.federation, server.settings
    if federation.name != settings.name:
        raise ProvisionError(
            f"the kits in {plan.out} are of the federation '{settings.name}', not of '{federation.name}'; "
            "choose another folder with --out"
        )
    known, planned = {site.name for site in settings.sites}, {site.name for site in federation.sites}
    for option, names in (("--revoke", plan.revoke), ("--replace-key", plan.replace_keys)):
        for name in names:
            if name not in known:
                raise ProvisionError(
                    f"{option} {name}: no such site may join; those are {listed(sorted(known)) or 'none'}"
                    f"{nearest(name, known)}"
                )
    for name in plan.revoke:
        if name in planned:
            raise ProvisionError(
                f"--revoke {name}: federation.yaml still has this site, so that the next call would let it in again; "
                f"remove it there first, or give it a new key with --replace-key {name}"
            )
    for name in plan.replace_keys:
        if name not in planned:
            raise ProvisionError(f"--replace-key {name}: federation.yaml has no such site; add it, or --revoke {name}")
