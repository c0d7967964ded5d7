"""Who the site is: its key, and the backbone that it has by itself."""

from __future__ import annotations

from collections.abc import Iterator

from clients.site.check.findings import Finding, fault, ok
from fedgraft.deployment.certificates import CertificateError, read_file
from fedgraft.deployment.kits import SiteFolder
from fedgraft.deployment.site_keys import HOW_TO_MAKE, KeyFileError, fingerprint, public_part
from fedgraft.errors import FedGraftError


def key(folder: SiteFolder) -> Iterator[Finding]:
    """Look whether the private key can be used, and is the one that the server knows."""
    name = folder.settings.name
    if not folder.key.exists():
        advice = f"put the key here that you made with {HOW_TO_MAKE.format(name=name)}"
        yield fault("key", f"there is no {folder.key}", advice)
        return
    try:
        public = public_part(read_file(folder.key), name)
        sent = read_file(folder.public_key)
    except (KeyFileError, CertificateError) as error:
        yield fault("key", str(error), "put the key back from your backup, or ask for a new kit")
        return
    if sent.split()[:2] != public.split()[:2]:
        text = "`key` and `key.pub` do not belong together, so that the server would not know this site"
        yield fault(
            "key", text, "put the key back that key.pub was made from, or send the server's owner its new key.pub"
        )
        return
    yield ok("key", f"{fingerprint(public)}; compare it with the server's owner once")


def backbone(folder: SiteFolder) -> Iterator[Finding]:
    """Look whether the backbone that the site has by itself is the federation's."""
    settings, wanted = folder.settings.backbone, folder.settings.backbone_digest
    if settings is None:
        yield ok("backbone", "comes from the server, and is kept here")
        return
    from fedgraft.models.registry import describe

    try:
        digest = describe(settings).weights_digest
    except FedGraftError as error:
        yield fault("backbone", str(error), "put the file in place, or set backbone: null to have it sent")
        return
    if wanted is not None and digest != wanted:
        text = f"{settings.name} has weights {digest[:12]} here, the federation's are {wanted[:12]}"
        yield fault(
            "backbone", text, "take the weights from the server's owner, or set backbone: null to have them sent"
        )
    else:
        yield ok("backbone", f"{settings.name}, weights {digest[:12] or 'none'}")
