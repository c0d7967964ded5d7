"""The federation's own certificate authority, and the server's certificate.

Sites trust this authority and no other, so nobody else's certificate lets a machine pass for the server. All keys are
on the curve P-256; the authority's key is needed to make or renew the server's certificate and for nothing else.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedgraft.errors import FedGraftError

BACKDATED = datetime.timedelta(hours=1)
"""How far before now a certificate begins, for sites whose clock is a little slow."""

LOOPBACK = ("localhost", "127.0.0.1")
"""Names that stand in every server certificate: nginx and the SuperLink's own SuperExec use them."""


class CertificateError(FedGraftError):
    """A certificate or key that can't be read or made."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, as they stand in files (PEM)."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Facts:
    """What a certificate says.

    Attributes:
        subject: its common name.
        names: DNS names and addresses that it is for.
        begins: UTC.
        ends: UTC.
    """

    subject: str
    names: tuple[str, ...]
    begins: datetime.datetime
    ends: datetime.datetime

    def days_left(self, now: datetime.datetime | None = None) -> int:
        """Return whole days until its end; negative afterwards."""
        return (self.ends - (now or datetime.datetime.now(datetime.UTC))).days


def make_authority(federation: str, days: int) -> Issued:
    """Make an authority that may certify servers, and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} authority")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _issued(builder.sign(key, hashes.SHA256()), key)


def make_server_certificate(authority: Issued, names: Iterable[str], days: int) -> Issued:
    """Make a key and a certificate for a server.

    Args:
        authority: who signs it.
        names: DNS names and addresses by which sites reach the server; loopback is added. The first is its subject.
        days: how long it is valid; at most as long as the authority's.

    Raises:
        CertificateError: the authority's files can't be read, or its certificate has ended.
    """
    issuer, issuer_key = read_certificate(authority.certificate), _read_key(authority.key)
    days = min(days, facts_of(authority.certificate).days_left())
    if days < 1:
        raise CertificateError("the authority's certificate has ended; make new kits for the whole federation")
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = list(dict.fromkeys([*names, *LOOPBACK]))
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted[0][:64])])
    builder = (
        _builder(subject, issuer.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in wanted]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _issued(builder.sign(issuer_key, hashes.SHA256()), key)


def facts_of(certificate: bytes) -> Facts:
    """Return what a certificate says.

    Raises:
        CertificateError: it is none.
    """
    found = read_certificate(certificate)
    common = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        stated = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(name.value) for name in stated)
    except x509.ExtensionNotFound:
        names = ()
    return Facts(str(common[0].value) if common else "", names, found.not_valid_before_utc, found.not_valid_after_utc)


def read_certificate(data: bytes) -> x509.Certificate:
    """Return a certificate in PEM.

    Raises:
        CertificateError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise CertificateError(f"not a certificate in PEM: {error}") from error


def read_file(path: Path) -> bytes:
    """Return a certificate's or key's file.

    Raises:
        CertificateError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"can't read {path}: {error.strerror or error}") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _issued(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _read_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"the authority's key can't be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the authority's key is none of an elliptic curve")
    return key
