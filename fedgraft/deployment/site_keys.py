"""The keys by which the server knows its sites: ECDSA on a NIST curve, in OpenSSH's format, as Flower wants them."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedgraft.errors import FedGraftError

HOW_TO_MAKE = 'ssh-keygen -t ecdsa -b 384 -N "" -C {name} -f key'
"""What a site runs that makes its own key."""


class KeyFileError(FedGraftError):
    """A key that can't be used."""


@dataclass(frozen=True)
class KeyPair:
    """A site's key, as it stands in files."""

    private: bytes
    public: bytes


def make_key(site: str) -> KeyPair:
    """Make a key pair on the curve P-384."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private, public + f" {site}\n".encode())


def checked_public_key(data: bytes, site: str) -> bytes:
    """Return a public key as one line, `type key site`; whatever comment it came with is left out.

    Raises:
        KeyFileError: it is a private key, no key, or of a kind that Flower refuses.
    """
    if b"PRIVATE KEY" in data:
        raise KeyFileError(
            f"the file for {site} holds a private key, which must never leave its site: throw this copy away, have "
            "the site make a new pair, and take the file that ends with .pub"
        )
    how = HOW_TO_MAKE.format(name=site)
    try:
        key = serialization.load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"the file for {site} is no public key in OpenSSH's format; the site makes one by {how}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyFileError(f"the key of {site} is of a kind that Flower refuses ({data.split()[0].decode()}); {how}")
    public = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public + f" {site}\n".encode()


def public_part(private: bytes, site: str) -> bytes:
    """Return the public key of a private one.

    Raises:
        KeyFileError: it can't be read, or is of a kind that Flower refuses.
    """
    how = HOW_TO_MAKE.format(name=site)
    try:
        key = serialization.load_ssh_private_key(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"no private key in OpenSSH's format without a passphrase; make one by {how}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"a key of a kind that Flower refuses; make one by {how}")
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public + f" {site}\n".encode()


def fingerprint(public: bytes) -> str:
    """Return a public key's fingerprint as `ssh-keygen -l` shows it, to be read out over the telephone.

    Raises:
        KeyFileError: it is no public key.
    """
    import base64

    try:
        key = serialization.load_ssh_public_key(public)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(base64.b64decode(public.split()[1]))
    except (ValueError, IndexError, UnsupportedAlgorithm) as error:
        raise KeyFileError("no public key in OpenSSH's format") from error
    del key
    return "SHA256:" + base64.b64encode(digest.finalize()).decode().rstrip("=")
