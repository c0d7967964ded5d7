"""The way from a site to its server: address, port, certificate, clock, what is closed, which software."""

from __future__ import annotations

import datetime
import email.utils
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from clients.site.check.findings import Finding, fault, ok, warning
from fedgraft.deployment.certificates import CertificateError, facts_of, read_file
from fedgraft.deployment.kits import SiteFolder
from fedgraft.deployment.nginx import VERSIONS_PATH
from fedgraft.deployment.settings import Versions
from fedgraft.deployment.versions import own_versions

SECONDS = 8.0
"""How long the server may take to answer."""

LARGEST_ANSWER = 100_000
"""Bytes that are read of an answer."""

LARGEST_SKEW, NOTED_SKEW = 300.0, 30.0
"""Seconds between two clocks: Flower refuses more than the first."""

WARN_DAYS = 60
"""Before a certificate's end."""

CLOSED_PATHS = ("/v1/control/", "/v1/runtime/")
"""Over them code is run at every site; nobody but the server itself may reach them."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status, headers in lower case, body, and when it came (seconds since 1970)."""

    status: int
    headers: dict[str, str]
    body: bytes
    came: float


def network(folder: SiteFolder) -> Iterator[Finding]:
    """Look at the way to the server, as far as it goes."""
    server = folder.settings.server
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield fault("address", f"{server.host} is not known here: {error}", "ask your DNS, or use an address instead")
        return
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield ok("address", f"{server.host} is {', '.join(addresses)}")
    try:
        socket.create_connection((server.host, server.port), timeout=SECONDS).close()
    except OSError as error:
        text = f"{server.host} does not answer at port {server.port}: {error}"
        yield fault(
            "port", text, f"let TCP out to port {server.port} in your firewall, and ask whether the server runs"
        )
        return
    yield ok("port", f"{server.host} answers at port {server.port}")
    yield from _tls(folder)


def _tls(folder: SiteFolder) -> Iterator[Finding]:
    try:
        authority = facts_of(read_file(folder.authority))
        context = trusting(folder)
    except (CertificateError, ssl.SSLError) as error:
        yield fault("certificate", f"{folder.authority}: {error}", "take ca.crt from the kit again")
        return
    server = folder.settings.server
    try:
        answer, ends = _ask(server.host, server.port, context, VERSIONS_PATH)
    except ssl.SSLCertVerificationError as error:
        yield fault("certificate", f"the server's is refused: {error.verify_message}", _advice(error))
        return
    except (OSError, ValueError) as error:
        text = f"no TLS with {server.host}:{server.port}: {error}"
        yield fault("certificate", text, "is there a proxy between? it must not open TLS; ask the server's owner")
        return
    yield _ending("certificate", "the server's certificate is genuine", ends, "tell the server's owner to renew it")
    yield _ending("authority", "ca.crt is read", authority.ends, "ask the server's owner for a new ca.crt")
    yield _clock(answer)
    yield from _closed(folder, context)
    yield _versions(folder, answer)


def trusting(folder: SiteFolder) -> ssl.SSLContext:
    """Return a TLS context that trusts the federation's authority and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(folder.authority)
    return context


def _ask(host: str, port: int, context: ssl.SSLContext, path: str) -> tuple[Answer, datetime.datetime]:
    """Ask for one path; return the answer, and when the server's certificate ends."""
    plain = socket.create_connection((host, port), timeout=SECONDS)
    with plain, context.wrap_socket(plain, server_hostname=host) as line:
        line.settimeout(SECONDS)
        certificate = ssl.DER_cert_to_PEM_cert(line.getpeercert(binary_form=True) or b"").encode()
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while len(data) < LARGEST_ANSWER and (part := line.recv(65536)):
            data += part
    came = time.time()
    head, _, body = data.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    words = status.split()
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        raise ValueError("what answers there speaks no HTTP")
    pairs = (field.partition(":") for field in fields)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Answer(int(words[1]), headers, body, came), facts_of(certificate).ends


def _advice(error: ssl.SSLCertVerificationError) -> str:
    text = error.verify_message
    if "mismatch" in text:
        return "use a name or address of the certificate in site.yaml, or have the server's owner add this one"
    if "expired" in text or "not yet valid" in text:
        return "look at this machine's clock, then ask the server's owner to renew the certificate"
    return "this is not your federation's server, or ca.crt is of another one; do not start, ask the server's owner"


def _ending(what: str, text: str, ends: datetime.datetime, advice: str) -> Finding:
    days = (ends - datetime.datetime.now(datetime.UTC)).days
    text = f"{text}; ends {ends:%Y-%m-%d}, in {days} days"
    return ok(what, text) if days >= WARN_DAYS else warning(what, text, advice)


def _clock(answer: Answer) -> Finding:
    try:
        theirs = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return warning("clock", "the server does not say what time it is", "keep the clock right by NTP")
    skew = answer.came - theirs
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    if abs(skew) > LARGEST_SKEW:
        return fault("clock", text, f"set it by NTP; the server refuses more than {LARGEST_SKEW:.0f} s")
    if abs(skew) > NOTED_SKEW:
        return warning("clock", text, "keep it right by NTP")
    return ok("clock", text if abs(skew) >= 2 else "as the server's")


def _closed(folder: SiteFolder, context: ssl.SSLContext) -> Iterator[Finding]:
    """Look whether the server keeps closed what nobody may reach."""
    server = folder.settings.server
    for path in CLOSED_PATHS:
        try:
            answer, _ = _ask(server.host, server.port, context, path)
        except (OSError, ValueError):
            continue
        if answer.status != 403:
            text = f"the server answers at {path} ({answer.status}): whoever reaches it can run code at every site"
            if _is_loopback(server.host):
                yield warning("closed paths", text, "well enough on one machine for a rehearsal, and nowhere else")
            else:
                yield fault("closed paths", text, "do not start; tell the server's owner to put nginx in front")
            return
    yield ok("closed paths", "the server's control and runtime paths are refused")


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _versions(folder: SiteFolder, answer: Answer) -> Finding:
    try:
        theirs = Versions.model_validate_json(answer.body) if answer.status == 200 else None
    except ValidationError:
        theirs = None
    told = "the server has" if theirs is not None else "the server had, when the kit was made,"
    theirs, ours = theirs or folder.settings.versions, own_versions()
    if theirs is None:
        return warning("versions", f"FedGraft {ours.fedgraft}, Flower {ours.flwr}; the server's are not known", "ask")
    different = [
        f"{name} {mine} here, {told} {other}"
        for name, mine, other in (
            ("FedGraft", ours.fedgraft, theirs.fedgraft),
            ("Flower", ours.flwr, theirs.flwr),
            ("protocol", ours.protocol, theirs.protocol),
        )
        if mine != other
    ]
    if different:
        return fault("versions", "; ".join(different), "install the server's release here")
    return ok("versions", f"FedGraft {ours.fedgraft}, Flower {ours.flwr}, as at the server")
