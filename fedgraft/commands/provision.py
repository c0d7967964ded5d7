"""`fedgraft provision`: the folders that the machines of a federation need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgraft.commands.terminal import JsonOption, err, escaped, out, shown, table

if TYPE_CHECKING:
    from fedgraft.deployment.plan import Done

NameOption = list[str]


def provision(
    federation: Annotated[Path, typer.Argument(help="The file that says who takes part.", metavar="federation.yaml")],
    folder: Annotated[Path, typer.Option("--out", metavar="KITS", help="Folder of the kits.")] = Path("kits"),
    public_keys: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Sites made their own keys: a folder of their public parts, SITE.pub each."),
    ] = None,
    authority: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of ca.key, brought back from where it is kept.")
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Make a new certificate for the server.")] = False,
    revoke: Annotated[
        NameOption, typer.Option("--revoke", metavar="SITE", help="A site that may join no more. May be repeated.")
    ] = [],  # noqa: B006 - typer reads it, nobody changes it
    replace_key: Annotated[
        NameOption, typer.Option("--replace-key", metavar="SITE", help="A site that gets a new key and a new kit.")
    ] = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Make a folder (kit) for the server and one for each site: settings, certificates, keys, units, a README.

    Run again after a change of the file, it adds the new sites and leaves all others as they are.

    Example: [bold]fedgraft provision federation.yaml --out kits[/]
    """
    from clients.site.settings import PolicySettings
    from fedgraft.deployment.kits import read_federation
    from fedgraft.deployment.plan import Plan
    from fedgraft.deployment.provision import provision as make_kits
    from fedgraft.settings_files.write import commented

    settings = read_federation(federation)
    digest = None
    if settings.backbone is not None:
        from fedgraft.models.registry import describe

        digest = describe(settings.backbone).weights_digest or None
    done = make_kits(
        Plan(
            settings,
            folder,
            commented(PolicySettings(), "What this site answers, whatever the server asks."),
            public_keys=public_keys,
            authority=authority,
            renew=renew,
            revoke=tuple(revoke),
            replace_keys=tuple(replace_key),
            backbone_digest=digest,
        )
    )
    if as_json:
        print(json.dumps(_as_json(done)))
    else:
        _show(done, folder)


def _as_json(done: Done) -> dict[str, object]:
    certificates = {
        name: {"names": facts.names, "ends": facts.ends.isoformat(), "days_left": facts.days_left()}
        for name, facts in done.certificates.items()
    }
    return {**vars(done), "certificates": certificates}


def _show(done: Done, folder: Path) -> None:
    for word, names in (("made", done.made), ("left as they are", done.kept), ("revoked", done.revoked)):
        if names:
            out.print(f"{word}: {escaped(', '.join(names))}", soft_wrap=True)
    out.print(table([{"site": name, "key": text} for name, text in done.fingerprints.items()] or [{"site": "none"}]))
    rows = [
        {
            "certificate": name,
            "for": ", ".join(facts.names) or "signing",
            "ends": f"{facts.ends:%Y-%m-%d}",
            "days left": facts.days_left(),
        }
        for name, facts in done.certificates.items()
    ]
    out.print(table(rows))
    for note in done.notes:
        err.print(f"[yellow]note:[/] {escaped(note)}", soft_wrap=True)
    out.print(f"kits: {escaped(shown(folder))}", soft_wrap=True)
