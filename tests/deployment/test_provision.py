"""Kits: what openssl, ssh-keygen, nginx and systemd say of them, and what later calls may and may not touch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from required_tools import required_tool
from typer.testing import CliRunner

from fedgraft.cli import app
from fedgraft.deployment.kits import read_federation, read_server, read_site
from fedgraft.errors import FedGraftError, SettingsError

FEDERATION = """\
name: skin
server: {host: fl.example.org, addresses: [10.77.1.1], port: 8443}
labels: [benign, malignant]
certificates: {server_days: 400}
sites:
- name: clinic-1
- {name: clinic-2, user: fedgraft-guest}
"""


def said(*command: object) -> str:
    program, *words = map(str, command)
    done = subprocess.run([required_tool(program), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def provision(folder: Path, *options: str, federation: str = FEDERATION) -> str:
    (folder / "federation.yaml").write_text(federation)
    arguments = ["provision", str(folder / "federation.yaml"), "--out", str(folder / "kits"), *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    return done.output


def refused(folder: Path, *options: str, federation: str = FEDERATION) -> str:
    with pytest.raises(FedGraftError) as caught:
        provision(folder, *options, federation=federation)
    return str(caught.value)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation")
    provision(folder)
    return folder / "kits"


def test_openssl_trusts_the_server_by_every_name_of_the_file_and_by_no_other(made: Path) -> None:
    verify = ("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", made / "clinic-1" / "ca.crt")
    certificate = made / "server" / "server.pem"
    for option, name in (
        ("-verify_hostname", "fl.example.org"),
        ("-verify_hostname", "localhost"),
        ("-verify_ip", "10.77.1.1"),
        ("-verify_ip", "127.0.0.1"),
    ):
        assert said(*verify, option, name, certificate).strip() == f"{certificate}: OK"
    other = subprocess.run(
        [required_tool("openssl"), *map(str, verify[1:]), "-verify_hostname", "evil.example.org", str(certificate)]
    )
    assert other.returncode == 2


def test_the_certificate_and_its_key_belong_together(made: Path) -> None:
    of_certificate = said("openssl", "x509", "-in", made / "server" / "server.pem", "-noout", "-pubkey")
    assert said("openssl", "pkey", "-in", made / "server" / "server.key", "-pubout") == of_certificate
    text = said("openssl", "x509", "-in", made / "authority" / "ca.crt", "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text


def test_a_server_can_certify_nobody(made: Path) -> None:
    text = said("openssl", "x509", "-in", made / "server" / "server.pem", "-noout", "-text")
    assert "CA:FALSE" in text
    assert "TLS Web Server Authentication" in text


def test_ssh_keygen_knows_the_keys(made: Path) -> None:
    shown = provision(made.parent)
    for site in ("clinic-1", "clinic-2"):
        line = said("ssh-keygen", "-l", "-f", made / site / "key.pub").split()
        assert (line[0], line[2], line[3]) == ("384", site, "(ECDSA)")
        assert line[1] in shown
        assert line[1] in (made / site / "README.md").read_text()
        public = (made / site / "key.pub").read_text()
        assert said("ssh-keygen", "-y", "-f", made / site / "key").split()[:2] == public.split()[:2]
        assert (made / "server" / "sites" / f"{site}.pub").read_text() == public


def test_every_secret_is_in_one_file_that_only_its_owner_reads(made: Path) -> None:
    secrets = [made / "authority" / "ca.key", made / "server" / "server.key", made / "server" / "superexec.secret"]
    secrets += [made / site / "key" for site in ("clinic-1", "clinic-2")]
    files = [path for path in made.rglob("*") if path.is_file()]
    for secret in secrets:
        assert secret.stat().st_mode & 0o777 == 0o600
        text = b"".join(line for line in secret.read_bytes().splitlines() if not line.startswith(b"-----"))
        # where the secret number stands: at the end of OpenSSH's format, before the public key in PKCS 8
        telling = text[-70:-20] if b"OPENSSH" in secret.read_bytes() else text[52:88] if len(text) > 64 else text
        holders = [path for path in files if telling in path.read_bytes().replace(b"\n", b"")]
        assert holders == [secret]
    assert {path for path in files if b"PRIVATE KEY" in path.read_bytes()} == {*secrets[:2], *secrets[3:]}
    assert made.stat().st_mode & 0o777 == 0o700


def test_kits_are_read_again(made: Path) -> None:
    site, server = read_site(made / "clinic-2").settings, read_server(made / "server").settings
    assert (site.name, site.federation, site.user) == ("clinic-2", "skin", "fedgraft-guest")
    assert (site.server.host, site.server.port) == ("fl.example.org", 8443)
    assert site.state_dir == str(made / "clinic-2" / "state")
    assert site.labels == ("benign", "malignant")
    assert [(entry.name, entry.public_key) for entry in server.sites] == [
        (name, str(made / "server" / "sites" / f"{name}.pub")) for name in ("clinic-1", "clinic-2")
    ]


def test_systemd_takes_the_units(made: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    for unit in (made / "server" / "fedgraft-server.service", made / "clinic-1" / "fedgraft-clinic-1.service"):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/fedgraft/bin/fedgraft", sys.executable))
        done = subprocess.run([program, "verify", str(copy)], capture_output=True, text=True)
        ours = [line for line in done.stderr.splitlines() if unit.name in line]
        assert ours == []


def test_compose_files_are_yaml(made: Path) -> None:
    services = yaml.safe_load((made / "clinic-2" / "compose.yaml").read_text())["services"]
    assert services["clinic-2"]["command"] == ["fedgraft", "site", "start", "/kit"]
    assert "useradd --system --shell /usr/sbin/nologin fedgraft-guest" in str(services["clinic-2"]["build"])
    services = yaml.safe_load((made / "server" / "compose.yaml").read_text())["services"]
    assert services["server"]["ports"] == ["8443:8443"]


def test_a_site_added_later_touches_no_other(tmp_path: Path) -> None:
    provision(tmp_path)
    kits = tmp_path / "kits"
    (kits / "clinic-1" / "site.yaml").write_text("# edited at the site\n")
    before = {site: contents(kits / site) for site in ("clinic-1", "clinic-2", "authority")}
    (tmp_path / "away").mkdir()
    shutil.move(kits / "authority", tmp_path / "away")  # adding a site needs no authority
    output = provision(tmp_path, federation=FEDERATION + "- name: clinic-3\n")
    assert "made: clinic-3" in output
    assert "left as they are: clinic-1, clinic-2" in output
    shutil.move(tmp_path / "away" / "authority", kits)
    assert {site: contents(kits / site) for site in before} == before
    server = read_server(kits / "server").settings
    assert [site.name for site in server.sites] == ["clinic-1", "clinic-2", "clinic-3"]
    assert read_site(kits / "clinic-3").settings.name == "clinic-3"


def test_a_revoked_site_is_out_and_the_others_notice_nothing(tmp_path: Path) -> None:
    provision(tmp_path)
    kits = tmp_path / "kits"
    before = contents(kits / "clinic-1")
    assert "federation.yaml still has this site" in refused(tmp_path, "--revoke", "clinic-2")
    without = FEDERATION.rpartition("- {name: clinic-2")[0]
    assert "clinic-2 may join and is not in federation.yaml" in provision(tmp_path, federation=without)
    assert "revoked: clinic-2" in provision(tmp_path, "--revoke", "clinic-2", federation=without)
    assert [site.name for site in read_server(kits / "server").settings.sites] == ["clinic-1"]
    assert not (kits / "server" / "sites" / "clinic-2.pub").exists()
    assert len(list((kits / "server" / "sites" / "revoked").glob("clinic-2-*.pub"))) == 1
    assert contents(kits / "clinic-1") == before
    text = refused(tmp_path, "--revoke", "clinic-11", federation=without)
    assert text == "--revoke clinic-11: no such site may join; those are clinic-1; did you mean 'clinic-1'?"


def test_a_lost_key_is_replaced(tmp_path: Path) -> None:
    provision(tmp_path)
    kits = tmp_path / "kits"
    old = (kits / "clinic-2" / "key.pub").read_bytes()
    output = provision(tmp_path, "--replace-key", "clinic-2")
    assert "revoked: clinic-2 (its old key)" in output
    new = (kits / "clinic-2" / "key.pub").read_bytes()
    assert new != old
    assert (kits / "server" / "sites" / "clinic-2.pub").read_bytes() == new


def test_the_certificate_is_renewed_and_no_site_notices(tmp_path: Path) -> None:
    soon = FEDERATION.replace("server_days: 400", "server_days: 30")
    assert "note: the server's certificate ends in 29 days; make a new one with --renew" in provision(
        tmp_path, federation=soon
    )
    kits = tmp_path / "kits"
    old = {folder: contents(kits / folder) for folder in ("clinic-1", "authority", "server")}
    moved = FEDERATION.replace("10.77.1.1", "10.77.1.9")
    assert "certificate is not for 10.77.1.9" in provision(tmp_path, federation=moved)
    assert "10.77.1.9, localhost" in provision(tmp_path, "--renew", federation=moved)
    certificate = kits / "server" / "server.pem"
    assert certificate.read_bytes() != old["server"]["server.pem"][0]
    authority = kits / "clinic-1" / "ca.crt"
    assert "OK" in said("openssl", "verify", "-CAfile", authority, "-verify_ip", "10.77.1.9", certificate)
    assert {folder: contents(kits / folder) for folder in ("clinic-1", "authority")} == {
        folder: old[folder] for folder in ("clinic-1", "authority")
    }
    shutil.move(kits / "authority", tmp_path / "safe")
    assert "name the folder of ca.key and ca.crt with --authority" in refused(tmp_path, "--renew")
    provision(tmp_path, "--renew", "--authority", str(tmp_path / "safe"))


def key(folder: Path, name: str, kind: str = "ecdsa", bits: str = "384") -> None:
    folder.mkdir(exist_ok=True)
    said("ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "root@pacs-7", "-f", folder / name)


def test_sites_that_made_their_own_keys_send_the_public_part_only(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key(keys, "clinic-1")
    key(keys, "clinic-2", bits="256")
    provision(tmp_path, "--public-keys", str(keys))
    kits = tmp_path / "kits"
    for site in ("clinic-1", "clinic-2"):
        assert not (kits / site / "key").exists()
        sent = (keys / f"{site}.pub").read_text().split()
        assert (kits / site / "key.pub").read_text().split() == [*sent[:2], site]
        assert "not in this kit" in (kits / site / "README.md").read_text()
    assert "root@pacs-7" not in "".join(path.read_text() for path in kits.rglob("*") if path.is_file()), (
        "who made a key, and where, is none of the others' business"
    )


def test_every_public_key_that_will_not_do_is_named(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    names = ("ed", "rsa", "private", "twin", "clinic-1", "text")
    key(keys, "ed", "ed25519")
    key(keys, "rsa", "rsa", "2048")
    key(keys, "clinic-1")
    shutil.copy(keys / "clinic-1.pub", keys / "twin.pub")
    shutil.copy(keys / "clinic-1", keys / "private.pub")
    (keys / "text.pub").write_text("hello")
    sites = "".join(f"- name: {name}\n" for name in ("clinic-1", *names[:4], "text", "gone"))
    text = refused(
        tmp_path, "--public-keys", str(keys), federation=f"name: skin\nserver: {{host: 10.0.0.1}}\nsites:\n{sites}"
    )
    assert text.startswith(f"{keys}: 6 faults")
    assert "ed.pub: the key of ed is of a kind that Flower refuses (ssh-ed25519); ssh-keygen -t ecdsa" in text
    assert "rsa.pub: the key of rsa is of a kind that Flower refuses (ssh-rsa)" in text
    assert "private.pub: the file for private holds a private key, which must never leave its site" in text
    assert "twin.pub: is the key of clinic-1; each site makes a new key of its own" in text
    assert "text.pub: the file for text is no public key" in text
    assert "gone.pub: can't read" in text
    assert not (tmp_path / "kits").exists()


def test_a_revoked_key_does_not_come_back(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key(keys, "clinic-1")
    key(keys, "clinic-2")
    provision(tmp_path, "--public-keys", str(keys))
    text = refused(tmp_path, "--public-keys", str(keys), "--replace-key", "clinic-2")
    assert "clinic-2.pub: is the key of clinic-2" in text


def test_nothing_is_left_of_kits_that_could_not_be_written(tmp_path: Path) -> None:
    """No file may hold more than 300 bytes, as on a disk that is filling up."""
    (tmp_path / "federation.yaml").write_text(FEDERATION)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); sys.argv[0] = 'fedgraft'\n"
        "from fedgraft.cli import main; main()"
    )
    command = [sys.executable, "-B", "-c", code, "provision", str(tmp_path / "federation.yaml"), "--out"]
    done = subprocess.run([*command, str(tmp_path / "kits")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "can't write" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["federation.yaml"]


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kits").mkdir()
    (tmp_path / "kits" / "thesis.txt").write_text("all of it")
    assert "holds other things than kits" in refused(tmp_path)
    assert "there are none in" in refused(tmp_path, "--renew")


def test_kits_of_another_federation_are_left_alone(tmp_path: Path) -> None:
    provision(tmp_path)
    text = refused(tmp_path, federation=FEDERATION.replace("name: skin", "name: lung", 1))
    assert "are of the federation 'skin', not of 'lung'" in text


def test_all_faults_of_a_federation_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(
        "name: Skin Lesions\nserver: {host: 'https://fl.example.org', prot: 8443}\n"
        "certificates: {server_days: 4000}\nsites:\n- {nmae: a}\n"
    )
    with pytest.raises(SettingsError) as caught:
        read_federation(path)
    text = str(caught.value)
    for part in (
        "line 1: name: came 'Skin Lesions' (text); expected text that matches",
        "line 2: server.host: came 'https://fl.example.org'; expected the name or address of a machine",
        "line 2: server.prot: unknown key; known here: host, port",
        "did you mean 'port'?",
        "line 3: certificates.server_days: came 4000; expected a whole number from 1 to 825",
        "line 5: sites[0].nmae: unknown key",
        "sites[0].name: missing",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("sites", "part"),
    [
        ("- name: a\n- name: a\n", "sites[1].name: came 'a', the name of an earlier site too"),
        ("- name: server\n", "sites[0].name: came 'server', the name of a folder of the kits"),
        ("- {name: a, backbone_in_kit: true}\n", "the federation names no backbone; add `backbone:`"),
        ("- {name: a, backbone_in_kit: true}\nbackbone: timm:resnet18\n", "a site downloads nothing; name the weights"),
    ],
)
def test_sites_that_cannot_be(tmp_path: Path, sites: str, part: str) -> None:
    assert part in refused(tmp_path, federation=f"name: skin\nserver: {{host: 10.0.0.1}}\nsites:\n{sites}")


def test_a_site_with_a_thin_line_has_the_backbone_in_its_kit(tmp_path: Path) -> None:
    """The weights are random numbers written by torchvision itself; the site's digest is that of the federation."""
    import torch
    import torchvision

    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "squeeze.pth")
    backbone = "backbone: {name: torchvision:squeezenet1_1, weights: squeeze.pth}\n"
    federation = FEDERATION.replace("- name: clinic-1", "- {name: clinic-1, backbone_in_kit: true}")
    provision(tmp_path, federation=federation + backbone)
    kit = tmp_path / "kits" / "clinic-1"
    assert (kit / "backbone.pth").read_bytes() == (tmp_path / "squeeze.pth").read_bytes()
    settings = read_site(kit).settings
    assert settings.backbone is not None
    assert settings.backbone.weights == str(kit / "backbone.pth")
    from clients.site.check.identity import backbone as check_backbone

    assert "| `backbone.pth` | the model's fixed part" in (kit / "README.md").read_text()
    (finding,) = check_backbone(read_site(kit))
    assert finding.level == "ok"
    other = read_site(tmp_path / "kits" / "clinic-2").settings
    assert (other.backbone, other.backbone_digest) == (None, settings.backbone_digest)
    assert not list((tmp_path / "kits" / "clinic-2").glob("backbone*"))


def test_a_folder_that_is_no_kit_says_what_it_is(made: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape("expected a folder with site.yaml, and it has server.yaml")):
        read_site(made / "server")
