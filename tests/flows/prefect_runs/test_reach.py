"""The user's own Prefect server: found and asked as Prefect itself finds and asks it."""

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flows.paths import CampaignPaths
from flows.prefect_runs import reach
from flows.prefect_runs.services import OwnPrefect, others_api


class Gateway:
    """A server that answers as Prefect's does, behind a header that it asks for."""

    def __init__(self, wanted: dict[str, str], certificate: Path | None = None) -> None:
        self.heard: list[str | None] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gateway.heard.append(self.headers.get("Authorization"))
                is_let_in = all(self.headers.get(name) == wanted[name] for name in wanted)
                body = json.dumps(version("prefect")).encode()
                self.send_response(200 if is_let_in else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("0.0.0.0", 0), Handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def api(self, host: str = "127.0.0.2") -> str:
        return f"{self._scheme}://{host}:{self._server.server_port}/api"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def certificate_of(host: str, file: Path) -> Path:
    """A key and a certificate that nobody but its holder knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=400))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder and a home of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "")  # restored afterwards, whatever sets it here
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    yield


def test_a_key_goes_to_the_server_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway({})
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    for configured in (f"{gateway.api()}/", "http://another:4200/api"):
        monkeypatch.setenv("PREFECT_API_URL", configured)
        assert reach.trouble(gateway.api()) is None
    gateway.close()
    assert gateway.heard == ["Bearer secret"] * 2 + [None] * 2


def test_a_gateways_header_goes_to_the_configured_server_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = Gateway({"CF-Access": "token"})
    monkeypatch.setenv("PREFECT_API_URL", gateway.api())
    told = reach.trouble(gateway.api())
    assert told is not None and "refuses us (HTTP 403)" in told
    assert "PREFECT_CLIENT_CUSTOM_HEADERS for a gateway" in told
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"CF-Access": "token"}')
    assert reach.trouble(gateway.api()) is None
    monkeypatch.setenv("PREFECT_API_URL", "http://another:4200/api")
    assert reach.trouble(gateway.api()) == told
    gateway.close()


@pytest.mark.parametrize("place", ["prefect.toml", "pyproject.toml", ".env", "profiles.toml"])
def test_settings_are_found_wherever_prefect_finds_them(tmp_path: Path, place: str) -> None:
    gateway = Gateway({"CF-Access": "token"})
    url = gateway.api()
    headers = '{"CF-Access": "token"}'
    files = {
        "prefect.toml": f"[api]\nurl = \"{url}\"\n[client]\ncustom_headers = '{headers}'\n",
        "pyproject.toml": f'[tool.prefect.api]\nurl = "{url}"\n[tool.prefect.client]\n'
        f"custom_headers = '{headers}'\n",
        ".env": f"PREFECT_API_URL={url}\nPREFECT_CLIENT_CUSTOM_HEADERS='{headers}'\n",
        "profiles.toml": f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{url}"\n'
        f"PREFECT_CLIENT_CUSTOM_HEADERS = '{headers}'\n",
    }
    assert reach.configured_api() is None
    (tmp_path / "home").mkdir()
    folder = tmp_path / "home" if place == "profiles.toml" else tmp_path
    (folder / place).write_text(files[place])
    assert reach.configured_api() == url
    assert reach.trouble(url) is None
    gateway.close()
    told = reach.trouble(url)
    assert told is not None and "change PREFECT_API_URL where `prefect config view`" in told


def test_a_ca_of_ones_own_is_told_and_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = certificate_of("localhost", tmp_path / "own.pem")
    gateway = Gateway({}, file)
    url = gateway.api("localhost")
    monkeypatch.setenv("PREFECT_API_URL", url)
    told = reach.trouble(url)
    assert told is not None and "PREFECT_API_SSL_CERT_FILE" in told
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(file))
    assert reach.trouble(url) is None
    gateway.close()


def test_what_afd_up_wrote_is_no_server_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "prefect.toml"
    content = '[api]\nurl = "http://127.0.0.1:4999/api"\n'
    file.write_text(reach.MARK + content)
    assert reach.configured_api() is None
    file.write_text(content)
    assert reach.configured_api() == "http://127.0.0.1:4999/api"


def test_prefect_in_this_process_follows_to_our_own_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile without a server has Prefect imported before ours is known: without a look at the
    new address it would start one in this process, on the database of the shell."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, get_current_settings

    for name in ("PREFECT_API_KEY", "PREFECT_PROFILE"):
        monkeypatch.setenv(name, "theirs")
    (tmp_path / "home").mkdir()
    profile = 'active = "theirs"\n[profiles.theirs]\nPREFECT_LOGGING_LEVEL = "INFO"\n'
    (tmp_path / "home" / "profiles.toml").write_text(profile)
    paths = CampaignPaths(tmp_path / "runs", tmp_path / "store")
    refresh_global_settings_context()
    try:
        assert others_api(paths) is None and PREFECT_API_URL.value() is None
        own = OwnPrefect(paths)
        own.configure()
        assert own.api == PREFECT_API_URL.value()
        assert get_current_settings().api.key is None
    finally:
        monkeypatch.undo()
        refresh_global_settings_context()
