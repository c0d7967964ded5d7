"""The preflight: each fault of a site is found, with its own words and what to do; nothing else is called a fault."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from required_tools import required_tool
from typer.testing import CliRunner

from clients.site.check.data import data
from clients.site.check.findings import Finding
from clients.site.check.identity import backbone, key
from clients.site.check.machine import access, disk, memory, policy, software
from clients.site.check.network import network
from fedgraft.cli import app
from fedgraft.deployment.kits import SiteFolder, read_site
from fedgraft.deployment.settings import SiteSettings
from fedgraft.deployment.versions import own_versions

FEDERATION = """\
name: skin
server: {host: 127.0.0.1, port: 8443}
labels: [benign, malignant]
sites: [{name: clinic-1}]
"""


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation")
    (folder / "federation.yaml").write_text(FEDERATION)
    arguments = ["provision", str(folder / "federation.yaml"), "--out", str(folder / "kits")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder / "kits"


@pytest.fixture
def kit(kits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kits / "clinic-1", tmp_path / "clinic-1"))


def site(kit: Path, **changes: Any) -> SiteFolder:
    """Return a kit with other settings."""
    folder = read_site(kit)
    plain = {**json.loads(folder.settings.model_dump_json()), **changes}
    return SiteFolder(folder.folder, SiteSettings.model_validate_json(json.dumps(plain)))


def levels(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.what: finding.level for finding in findings}


def found(findings: Iterator[Finding], what: str, level: str) -> str:
    """Return the text and advice of the finding of this name and level."""
    found = list(findings)
    chosen = [one for one in found if (one.what, one.level) == (what, level)]
    assert chosen, found
    assert chosen[0].advice or level == "ok"
    return f"{chosen[0].text} -> {chosen[0].advice}"


# --- the way to the server -----------------------------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """What a site meets; `clock` seconds are added to the time, `versions` are told, `control` answers its path."""

    clock = 0.0
    control = 403
    versions: dict[str, Any] | None = None

    def do_GET(self) -> None:
        """Answer."""
        told = self.path == "/fedgraft/versions" and self.versions is not None
        body = json.dumps(self.versions).encode() if told else b"no"
        self.send_response_only(200 if told else self.control)
        self.send_header("Date", formatdate(time.time() + self.clock, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Quiet(http.server.ThreadingHTTPServer):
    """Does not print what a client that hangs up has done."""

    def handle_error(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving(kit: Path, **facts: Any) -> Iterator[int]:
    handler = type("Changed", (Server,), {"versions": own_versions().model_dump(), **facts})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit / "server.pem", kit / "server.key")
    with Quiet(("0.0.0.0", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def at(port: int, host: str = "127.0.0.1") -> dict[str, Any]:
    return {"server": {"host": host, "port": port}}


def test_a_server_as_it_should_be(kits: Path, kit: Path) -> None:
    with serving(kits / "server") as port:
        assert levels(network(site(kit, **at(port)))) == dict.fromkeys(
            ("address", "port", "certificate", "authority", "clock", "closed paths", "versions"), "ok"
        )


def test_a_name_that_the_certificate_is_not_for(kits: Path, kit: Path) -> None:
    with serving(kits / "server") as port:
        text = found(network(site(kit, **at(port, "127.0.0.2"))), "certificate", "fault")
    assert "IP address mismatch" in text
    assert "use a name or address of the certificate in site.yaml" in text


def test_somebody_who_passes_for_the_server(kits: Path, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "federation.yaml").write_text(FEDERATION)
    arguments = ["provision", str(tmp_path / "federation.yaml"), "--out", str(tmp_path / "others")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    with serving(tmp_path / "others" / "server") as port:
        text = found(network(site(kit, **at(port))), "certificate", "fault")
    assert "this is not your federation's server" in text


def test_a_certificate_near_its_end(kits: Path, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "federation.yaml").write_text(FEDERATION + "certificates: {server_days: 20}\n")
    arguments = ["provision", str(tmp_path / "federation.yaml"), "--out", str(tmp_path / "soon")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    shutil.copy(tmp_path / "soon" / "clinic-1" / "ca.crt", kit)
    with serving(tmp_path / "soon" / "server") as port:
        text = found(network(site(kit, **at(port))), "certificate", "warning")
    assert "in 19 days -> tell the server's owner to renew it" in text


def test_no_tls_at_all(kit: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = found(network(site(kit, **at(server.server_address[1]))), "certificate", "fault")
        server.shutdown()
    assert "no TLS with 127.0.0.1" in text


@pytest.mark.parametrize(("seconds", "level"), [(-600, "fault"), (600, "fault"), (-60, "warning"), (5, "ok")])
def test_clocks_that_differ(kits: Path, kit: Path, seconds: int, level: str) -> None:
    """Flower refuses a SuperNode whose clock is more than 300 s off."""
    with serving(kits / "server", clock=seconds) as port:
        text = found(network(site(kit, **at(port))), "clock", level)
    assert ("behind" if seconds > 0 else "ahead of") in text


def test_a_server_whose_control_path_is_open(kits: Path, kit: Path) -> None:
    """On loopback a rehearsal without nginx has it; at any other address nobody must start."""
    with serving(kits / "server", control=200) as port:
        text = found(network(site(kit, **at(port))), "closed paths", "warning")
    assert "whoever reaches it can run code at every site" in text


def test_another_release(kits: Path, kit: Path) -> None:
    versions = {**own_versions().model_dump(), "flwr": "1.40.0"}
    with serving(kits / "server", versions=versions) as port:
        text = found(network(site(kit, **at(port))), "versions", "fault")
    assert f"Flower {own_versions().flwr} here, the server has 1.40.0 -> install the server's release here" in text
    with serving(kits / "server", versions=None) as port:
        older = {**own_versions().model_dump(), "fedgraft": "0.0.1"}
        text = found(network(site(kit, versions=older, **at(port))), "versions", "fault")
    assert "here, the server had, when the kit was made, 0.0.1" in text


def test_nobody_at_the_port_and_no_such_name(kit: Path) -> None:
    text = found(network(site(kit, **at(1))), "port", "fault")
    assert "let TCP out to port 1 in your firewall" in text
    text = found(network(site(kit, **at(8443, "no-such-server.invalid"))), "address", "fault")
    assert "no-such-server.invalid is not known here" in text


# --- the machine ---------------------------------------------------------------------------------------------------


def test_this_machine_can_do_it(kit: Path) -> None:
    folder = read_site(kit)
    assert set(levels(software()).values()) == {"ok"}
    assert levels(disk(folder)).keys() == {"disk, state", "disk, cache"}
    assert "fault" not in levels(disk(folder)).values()
    assert "memory" in levels(memory())


def test_a_state_folder_that_cannot_be_written(kit: Path) -> None:
    text = found(disk(site(kit, state_dir="/proc/fedgraft")), "disk, state", "fault")
    assert "change state_dir in site.yaml" in text


def test_a_full_disk_of_its_own(kit: Path, tmp_path: Path) -> None:
    """A file system of 1 MB: too little for a ledger's years."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems can't be mounted here")
    try:
        assert "free space" in found(disk(site(kit, cache_dir=str(place))), "disk, cache", "fault")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_kit_that_others_read(kit: Path) -> None:
    assert found(access(read_site(kit)), "access", "ok")
    kit.chmod(0o755)
    assert "can be listed by every user" in found(access(read_site(kit)), "access", "warning")
    kit.chmod(0o777)
    assert "can be written by others" in found(access(read_site(kit)), "access", "fault")
    (kit / "key").chmod(0o644)
    assert "chmod 600" in found(access(read_site(kit)), "access", "fault")


def test_the_second_user(kit: Path) -> None:
    assert "name one as `user:`" in found(access(read_site(kit)), "second user", "warning")
    assert "useradd --system" in found(access(site(kit, user="no-such-user")), "second user", "fault")
    assert "owns the kit or is root" in found(access(site(kit, user="root")), "second user", "fault")
    if os.geteuid() == 0:
        assert "nobody, who unpacks" in found(access(site(kit, user="nobody")), "second user", "ok")


def test_a_socket_whose_path_is_too_long(kit: Path) -> None:
    assert "100 bytes" in found(access(site(kit, socket="/" + "x" * 100)), "socket", "fault")


def test_a_policy_with_faults(kit: Path) -> None:
    (kit / "policy.yaml").write_text("most_rounds: -1\n")
    assert "most_rounds: came -1" in found(policy(read_site(kit)), "policy", "fault")


# --- key and backbone ----------------------------------------------------------------------------------------------


def test_the_key(kit: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        [required_tool("ssh-keygen"), "-l", "-f", str(kit / "key.pub")], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[1] in found(key(read_site(kit)), "key", "ok")
    subprocess.run(
        [required_tool("ssh-keygen"), "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(tmp_path / "other")],
        check=True,
    )
    shutil.copy(tmp_path / "other", kit / "key")
    assert "do not belong together" in found(key(read_site(kit)), "key", "fault")
    (kit / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n")
    assert "put the key back from your backup" in found(key(read_site(kit)), "key", "fault")
    (kit / "key").unlink()
    assert "put the key here that you made with ssh-keygen -t ecdsa" in found(key(read_site(kit)), "key", "fault")


def test_another_backbone(kit: Path) -> None:
    assert "comes from the server" in found(backbone(read_site(kit)), "backbone", "ok")
    own = {"name": "identity"}
    text = found(backbone(site(kit, backbone=own, backbone_digest="ab" * 32)), "backbone", "fault")
    assert "the federation's are abababababab -> take the weights from the server's owner" in text


# --- data ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of 30 images, 40 by 48 pixels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    for label in ("benign", "malignant"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number:02d}.png")
    return tmp_path / "images"


def of(kit: Path, path: Path, **source: Any) -> SiteFolder:
    return site(kit, data={"source": {"name": "folder", "path": str(path), **source}})


def test_data_as_they_should_be(kit: Path, images: Path) -> None:
    findings = list(data(of(kit, images)))
    assert {finding.level for finding in findings} == {"ok"}
    texts = {finding.what: finding.text for finding in findings}
    assert texts["counts"] == "benign 30, malignant 30"
    assert texts["image sizes"] == "40 x 48 px (height x width), 60 looked at"
    assert texts["duplicates"] == "none"
    assert texts["data"].startswith("60 images in ")


def test_no_data_yet(kit: Path, tmp_path: Path) -> None:
    assert "fill in `data:`" in found(data(read_site(kit)), "data", "fault")
    assert "nowhere does not exist" in found(data(of(kit, tmp_path / "nowhere")), "data", "fault")


def test_other_labels(kit: Path, images: Path) -> None:
    (images / "malignant").rename(images / "Malignant")
    text = found(data(of(kit, images)), "labels", "fault")
    assert "not the federation's (benign, malignant): missing malignant; unknown Malignant" in text
    (images / "Malignant").rename(images / "malignant")
    text = found(data(of(kit, images, labels=["malignant", "benign"])), "labels", "fault")
    assert "the same, in another order; here malignant, benign" in text


def test_empty_and_rare_classes_and_few_samples(kit: Path, images: Path) -> None:
    for path in sorted((images / "malignant").iterdir())[3:]:
        path.unlink()
    text = found(data(of(kit, images)), "rare classes", "warning")
    assert "fewer than 5 samples of malignant" in text
    assert "33 samples in all, fewer than 50" in found(data(of(kit, images)), "few samples", "warning")
    shutil.rmtree(images / "malignant")
    text = found(data(of(kit, images, labels=["benign", "malignant"])), "empty classes", "warning")
    assert "no samples of malignant" in text


def test_duplicates_and_contradictions(kit: Path, images: Path) -> None:
    """Three copies: two of the same class, and one that says malignant of a benign image."""
    for target in ("benign/a.png", "benign/b.png", "malignant/c.png"):
        shutil.copy(images / "benign" / "00.png", images / target)
    text = found(data(of(kit, images)), "duplicates", "warning")
    assert "3 of 63 samples (4.8%) stand there more than once" in text
    assert "1 copies have another label" in found(data(of(kit, images)), "contradictions", "warning")


def test_damaged_files_and_thumbnails(kit: Path, images: Path) -> None:
    (images / "benign" / "00.png").write_bytes(b"no picture")
    Image.new("RGB", (16, 20)).save(images / "benign" / "01.png")
    findings = list(data(of(kit, images)))
    assert any("00.png" in finding.text for finding in findings if finding.level == "warning")
    assert "from 20 x 16 to 40 x 48" in found(iter(findings), "image sizes", "warning")


# --- the commands --------------------------------------------------------------------------------------------------


def test_the_command_says_all_and_ends_with_2_on_a_fault(kits: Path, kit: Path, images: Path) -> None:
    with serving(kits / "server") as port:
        text = (kit / "site.yaml").read_text().replace("port: 8443", f"port: {port}")
        (kit / "site.yaml").write_text(text)
        done = CliRunner().invoke(app, ["site", "check", str(kit)])
        assert done.exit_code == 2
        assert "fault   data: site.yaml does not say where they are" in done.output
        assert done.output.splitlines()[-1].startswith("clinic-1 can't start: 1 fault,")
        text = text.replace("data: null", f"data: {{source: {{name: folder, path: {images}}}}}")
        (kit / "site.yaml").write_text(text)
        done = CliRunner().invoke(app, ["site", "check", str(kit), "--json"])
    answer = json.loads(done.output)
    assert (done.exit_code, answer["fault"]) == (0, 0)
    assert {"GPU", "memory", "closed paths", "duplicates", "ledger"} <= {one["what"] for one in answer["findings"]}


def test_the_ledger_is_shown_and_judged(kit: Path) -> None:
    from test_ledger import entry

    from clients.site.ledger import Ledger

    book = Ledger(read_site(kit).ledger)
    book.append(entry(1))
    noted = str(book.append(entry(2)))
    done = CliRunner().invoke(app, ["site", "ledger", str(kit)])
    assert done.exit_code == 0
    assert "update.weight float32[10, 64]" in done.output
    assert "2 answers, 5,403 bytes" in done.output
    done = CliRunner().invoke(app, ["site", "ledger", "verify", str(kit), "--head", noted])
    assert (done.exit_code, noted in done.output) == (0, True)
    path = read_site(kit).ledger
    path.write_bytes(path.read_bytes().replace(b"2702", b"2703"))
    done = CliRunner().invoke(app, ["site", "ledger", "verify", str(kit)])
    assert (done.exit_code, "line 2: was changed" in done.output) == (2, True)
    assert json.loads(CliRunner().invoke(app, ["site", "ledger", str(kit), "--json"]).output)["faults"]
