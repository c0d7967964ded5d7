"""The kit's nginx settings, in a real nginx: what passes, what does not, in whatever way the path is written."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from required_tools import required_tool
from typer.testing import CliRunner

from fedgraft.cli import app
from fedgraft.deployment.nginx import server_block
from fedgraft.deployment.versions import own_versions


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Backend(http.server.BaseHTTPRequestHandler):
    """Stands where the SuperLink would, and takes down what reaches it."""

    reached: list[str]

    def do_GET(self) -> None:
        """Answer."""
        self.reached.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@dataclass
class Proxy:
    """A running nginx before a backend."""

    kit: Path
    port: int
    reached: list[str]

    def get(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Send one request, its path as it is, and return status, body and headers."""
        context = ssl.create_default_context(cafile=str(self.kit / "ca.crt"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: fl.example.org\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while part := line.recv(65536):
                data += part
        head, _, body = data.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        return int(status.split()[1]), body, headers


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "federation.yaml").write_text("name: skin\nserver: {host: 127.0.0.1}\nsites: [{name: clinic-1}]\n")
    arguments = ["provision", str(folder / "federation.yaml"), "--out", str(folder / "kits")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    kit = folder / "kits" / "server"
    handler = type("Recording", (Backend,), {"reached": []})
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit / "server.pem", kit / "server.key")
    backend.socket = context.wrap_socket(backend.socket, server_side=True)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    port = free_port()
    block = server_block(
        f"127.0.0.1:{port}",
        backend.server_address[1],
        kit / "server.pem",
        kit / "server.key",
        kit / "ca.crt",
        own_versions(),
    )
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    text = f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
    text += f"http {{ access_log off; client_body_temp_path {folder}/body; {paths}\n{block} }}"
    (folder / "nginx.conf").write_text(text)
    command = [required_tool("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    with subprocess.Popen(command) as nginx:
        try:
            for _ in range(100):
                with socket.socket() as tried:
                    if tried.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield Proxy(kit, port, handler.reached)
        finally:
            nginx.terminate()
            backend.shutdown()
            backend.server_close()


def test_the_sites_path_passes(proxy: Proxy) -> None:
    assert proxy.get("/v1/fleet/pull-messages")[0] == 200
    assert proxy.reached[-1] == "/v1/fleet/pull-messages"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/push",
        "/health",
        "/docs",
        "/openapi.json",
        "/",
        "/v1/fleet",
        "/V1/FLEET/x",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/%2E%2E%2Fcontrol/start-run",
        "/v1/fleet/./../control/start-run",
        "/v1//control/start-run",
        "//v1/control/start-run",
        "/v1/fleet/../../v1/control/start-run",
    ],
)
def test_nothing_else_passes(proxy: Proxy, path: str) -> None:
    before = list(proxy.reached)
    assert proxy.get(path)[0] in (301, 400, 403)  # 301 of /v1/fleet is to /v1/fleet/
    assert proxy.reached == before


def test_the_versions_are_told(proxy: Proxy) -> None:
    status, body, headers = proxy.get("/fedgraft/versions")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == own_versions().model_dump()
    assert headers["server"] == "nginx"  # and not which
    assert "date" in headers


def test_the_kits_own_settings_are_nginx_settings(proxy: Proxy, tmp_path: Path) -> None:
    block = (proxy.kit / "nginx.conf").read_text().replace("/srv/fedgraft/server", str(proxy.kit))
    path = tmp_path / "nginx.conf"
    path.write_text(f"pid {tmp_path}/pid; events {{}} http {{ {block} }}")
    done = subprocess.run(
        [required_tool("nginx"), "-t", "-p", str(tmp_path), "-c", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
