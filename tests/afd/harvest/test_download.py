"""Downloads over real sockets: whole or not at all, and nowhere but where they may go."""

import asyncio
import hashlib
import logging
import os
import pickle
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from afd.harvest.addresses import Allowed, UnsafeUrlError, check_url, fit
from afd.harvest.download import (
    BrokenDownloadError,
    Downloaded,
    DownloadError,
    ExpiredUrlError,
    Policy,
    UnsafeDownloadError,
    fetch,
)
from afd.harvest.http import client, download_client
from tests.harvest_server import Rule, Script, Server
from tests.harvest_server.clients import CANARY, alone, order, teacher

ALLOWED = Allowed(("127.0.0.1",), loopback=True)
KEY = {"x-api-key": CANARY}


@pytest.fixture(scope="module")
def vendor() -> Iterator[Server]:
    """One vendor with one finished job, whose script each test writes anew."""
    with Server("ark", Script(job_s=0)) as server:
        adapter = teacher(server)

        async def make(http: httpx.AsyncClient) -> str:
            task = await adapter.create(http, order("ark"))
            video = (await adapter.poll(http, task)).videos[0]
            return video.url.get_secret_value()

        server.video = alone(make)  # type: ignore[attr-defined]
        yield server


def take(
    server: Server,
    folder: Path,
    *rules: Rule,
    url: str | None = None,
    headers: dict[str, str] | None = None,
    **policy: Any,
) -> Downloaded:
    """One download while the vendor follows `rules`."""
    server.rewrite(Script(job_s=0, rules=rules))
    policy = {"allowed": ALLOWED, "max_s": 5.0} | policy

    async def run() -> Downloaded:
        async with download_client() as http:
            secret = SecretStr(url or server.video)  # type: ignore[attr-defined]
            return await fetch(http, secret, folder, "row-1", Policy(**policy), headers)

    return asyncio.run(run())


def whole(server: Server, folder: Path) -> bytes:
    """The vendor's video, as a good download brings it."""
    return take(server, folder / "good").path.read_bytes()


@pytest.mark.parametrize(
    ("act", "num_requests", "resumed"),
    [
        ("chunked", 1, False),
        ("unframed", 1, False),
        ("compressed", 1, False),
        ("half_compressed", 2, False),
        ("reset_before", 2, False),
        ("reset_after", 2, False),
        ("half", 2, True),
        ("half_chunked", 2, True),
    ],
)
def test_a_body_that_comes_badly_still_comes_whole(
    vendor: Server, tmp_path: Path, act: Any, num_requests: int, resumed: bool
) -> None:
    clip = whole(vendor, tmp_path)
    before = len(vendor.book.requests)
    got = take(vendor, tmp_path, Rule("download", act))
    assert got.path.read_bytes() == clip
    assert got.sha256 == hashlib.sha256(clip).hexdigest()
    assert got.num_bytes == len(clip)
    assert got.path == tmp_path / f"row-1.{got.sha256[:16]}.mp4"
    asked = vendor.book.requests[before:]
    assert len(asked) == num_requests
    assert ("range" in asked[-1]["headers"]) == resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", got.path.name]


def test_a_resume_of_a_file_that_has_changed_begins_anew(vendor: Server, tmp_path: Path) -> None:
    old = whole(vendor, tmp_path)
    got = take(vendor, tmp_path, Rule("download", "half"), Rule("download", "changed"))
    clip = got.path.read_bytes()
    assert clip != old
    assert got.sha256 == hashlib.sha256(clip).hexdigest()
    assert clip[4:8] == b"ftyp"


def test_a_part_that_ends_before_the_whole_does_is_gone_on_with(
    vendor: Server, tmp_path: Path
) -> None:
    clip = whole(vendor, tmp_path)
    before = len(vendor.book.requests)
    got = take(vendor, tmp_path, Rule("download", "half"), Rule("download", "short"))
    assert got.path.read_bytes() == clip
    starts = [len(clip) // 2, len(clip) // 2 + (len(clip) - len(clip) // 2) // 2]
    asked = [request["headers"].get("range") for request in vendor.book.requests[before:]]
    assert asked == [None, *(f"bytes={start}-" for start in starts)]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Range": "bytes 0-3/4"}, "junk"),
        ({"Content-Range": "bytes */9"}, "junk"),
        ({}, "junk"),
    ],
)
def test_another_part_than_was_asked_for_is_not_glued_on(
    vendor: Server, tmp_path: Path, headers: dict[str, str], body: str
) -> None:
    clip = whole(vendor, tmp_path)
    wrong = Rule("download", status=206, headers=headers, body=body)
    got = take(vendor, tmp_path, Rule("download", "half"), wrong)
    assert got.path.read_bytes() == clip


FAILURES: list[tuple[Rule, type[DownloadError]]] = [
    (Rule("download", "half", times=None), BrokenDownloadError),
    (Rule("download", "half_compressed", times=None), BrokenDownloadError),
    (Rule("download", "hang", times=None), BrokenDownloadError),
    (Rule("download", "slow", bytes_per_s=200, times=None), BrokenDownloadError),
    (Rule("download", status=500, times=None), BrokenDownloadError),
    (Rule("download", status=204, times=None), BrokenDownloadError),
    (Rule("download", status=403, times=None), ExpiredUrlError),
    (Rule("download", status=404, times=None), ExpiredUrlError),
    (Rule("download", status=410, times=None), ExpiredUrlError),
    (Rule("download", status=400, times=None), ExpiredUrlError),
    (Rule("download", "endless", times=None), UnsafeDownloadError),
    (Rule("download", "more_than_compressed", times=None), UnsafeDownloadError),
    (
        Rule("download", body="x", headers={"Content-Length": "99999999999"}, times=None),
        UnsafeDownloadError,
    ),
    (
        Rule("download", body="x", headers={"Content-Encoding": "br"}, times=None),
        UnsafeDownloadError,
    ),
    (
        Rule("download", body="words", headers={"Content-Encoding": "gzip"}, times=None),
        UnsafeDownloadError,
    ),
]


@pytest.mark.parametrize(("rule", "kind"), FAILURES)
def test_what_cannot_come_whole_leaves_nothing(
    vendor: Server, tmp_path: Path, rule: Rule, kind: type[DownloadError]
) -> None:
    with pytest.raises(kind) as caught:
        take(vendor, tmp_path, rule, max_bytes=1_000_000, max_s=1.5)
    assert type(caught.value) is kind
    assert not list(tmp_path.iterdir())


def test_a_busy_server_says_when(vendor: Server, tmp_path: Path) -> None:
    busy = Rule("download", status=429, headers={"Retry-After": "9"}, times=None)
    with pytest.raises(BrokenDownloadError) as caught:
        take(vendor, tmp_path, busy)
    assert caught.value.retry_after_s == 9


def test_a_bomb_of_zeros_stops_at_the_cap_in_bounded_memory(vendor: Server, tmp_path: Path) -> None:
    import gzip

    bomb = gzip.compress(bytes(300 << 20))  # 300 kB
    headers = {"Content-Encoding": "gzip"}
    rule = Rule("download", body=bomb.decode("latin-1"), headers=headers, times=None)
    script = Script(job_s=0, rules=(rule,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((UnsafeDownloadError, BrokenDownloadError)):
        take(vendor, tmp_path, *script.rules, max_bytes=20 << 20)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100 << 10  # kB


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/x",  # http, and this machine, where that is not meant
        "https://127.0.0.1:{port}/x",
        "https://localhost/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.1.2.3/x",
        "https://192.168.0.1/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[64:ff9b::7f00:1]/x",
        "https://[fe80::1]/x",
        "https://0.0.0.0/x",
        "https://2130706433/x",  # 127.0.0.1 as one number
        "https://0x7f.1/x",
        "https://017700000001/x",
        "file:///etc/passwd",
        "ftp://video.vendor.test/x",
        "https://user:password@video.vendor.test/x",
        "https://video.vendor.test:22/x",
        "https://evil.test/x",
        "https://video.vendor.test.evil.test/x",
        "https://evilvendor.test/x",
        "https:///x",
        "//x",
        "https://video.vendor.test\\@evil.test/x",
    ],
)
def test_where_no_download_goes(vendor: Server, tmp_path: Path, url: str) -> None:
    """Even though every host that is an address is on the allow-list."""
    url = url.format(port=vendor.port)
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL:
        host = ""
    hosts = ("video.vendor.test", "*.vendor.test", *([host] if host[:1].isdigit() else []), "::1")
    before = len(vendor.book.requests)
    with pytest.raises((UnsafeDownloadError, BrokenDownloadError)):
        take(vendor, tmp_path, url=url, allowed=Allowed(hosts), num_attempts=1)
    assert len(vendor.book.requests) == before
    assert not list(tmp_path.iterdir())


def test_redirects_are_followed_five_times_and_the_key_stays_at_home(
    vendor: Server, tmp_path: Path
) -> None:
    both = Allowed(("127.0.0.1", "localhost"), loopback=True)
    clip = whole(vendor, tmp_path)
    home: str = vendor.video  # type: ignore[attr-defined]
    there = home.replace("127.0.0.1", "localhost")

    before = len(vendor.book.requests)
    relative = home.removeprefix(vendor.url)
    hops = [relative, home, there, home, relative]
    rules = [Rule("download", status=302, headers={"Location": to}) for to in hops]
    got = take(vendor, tmp_path, *rules, allowed=both, headers=KEY)
    assert got.path.read_bytes() == clip
    asked = [request["headers"] for request in vendor.book.requests[before:]]
    assert ["x-api-key" in headers for headers in asked] == [True, True, True, False, False, False]
    assert [headers["host"].split(":")[0] for headers in asked] == [
        "127.0.0.1", "127.0.0.1", "127.0.0.1", "localhost", "127.0.0.1", "127.0.0.1",
    ]  # fmt: skip
    with pytest.raises(UnsafeDownloadError, match="5 redirects"):
        take(vendor, tmp_path, Rule("download", status=302, headers={"Location": home}, times=None))


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/",
        "https://10.0.0.1/x",
        "http://localhost:{port}/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "//evil.test/x",
        "",
        "https://a b/",
        "x" * 20_000,
    ],
)
def test_a_redirect_is_judged_like_a_first_address(
    vendor: Server, tmp_path: Path, location: str
) -> None:
    location = location.format(port=vendor.port)
    before = len(vendor.book.requests)
    rule = Rule("download", status=302, headers={"Location": location})
    with pytest.raises(DownloadError):
        take(vendor, tmp_path, rule, num_attempts=1)
    assert len(vendor.book.requests) == before + 1


def test_a_name_is_looked_up_once_and_that_address_is_used(
    vendor: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public at the first question, this machine at the second."""
    public = "93.184.215.14"
    told = [public, "127.0.0.1", "127.0.0.1"]
    asked: list[str] = []

    def lookup(host: Any, port: Any, *_: Any, **__: Any) -> Any:
        asked.append(str(host))
        address = host if host[:1].isdigit() else told.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    target = {"url": "https://video.vendor.test/x", "allowed": Allowed(("video.vendor.test",))}
    # The guard of these tests refuses the connection and names where it was to go.
    with pytest.warns(UserWarning, match=public), pytest.raises(BaseException) as caught:
        take(vendor, tmp_path, **target)
    assert public in "".join(traceback.format_exception(caught.value))
    assert asked.count("video.vendor.test") == 1
    told[:] = ["10.0.0.7"]
    with pytest.raises(UnsafeDownloadError, match="private"):
        take(vendor, tmp_path, **target)


def test_the_certificate_must_be_the_hosts_though_an_address_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, bundle = certificate(tmp_path, "localhost")
    with TlsServer(context) as port:
        for host, kind in (("localhost", None), ("127.0.0.1", BrokenDownloadError)):
            trusting = ssl.create_default_context(cafile=bundle)
            policy = Policy(Allowed((host,), loopback=True), num_attempts=1)

            async def run() -> Downloaded:
                async with httpx.AsyncClient(verify=trusting, trust_env=False) as http:  # noqa: B023
                    url = SecretStr(f"https://{host}:{port}/x")  # noqa: B023
                    return await fetch(http, url, tmp_path / "out", "row-1", policy)  # noqa: B023

            if kind is None:
                assert asyncio.run(run()).path.read_bytes() == b"video"
            else:
                with pytest.raises(kind):
                    asyncio.run(run())


def certificate(folder: Path, host: str) -> tuple[ssl.SSLContext, str]:
    """A server's context with a certificate for `host` alone, and the file to trust it by."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-keyout", str(key), "-out", str(cert)]
    command += ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, str(cert)


class TlsServer:
    """Says one word to whoever gets through the handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def __enter__(self) -> int:
        import threading

        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return self.listening.getsockname()[1]

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listening.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as sock:
                    sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nvideo")
            except OSError:
                plain.close()

    def __exit__(self, *_: object) -> None:
        self.listening.close()


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),  # 6to4 of 10.0.0.1
        ("not an address", False),
    ],
)
def test_which_addresses_are_public(address: str, fits: bool) -> None:
    assert fit(address) == fits


def test_wildcards_cover_what_is_below_and_nothing_else() -> None:
    allowed = Allowed(("*.Vendor.test", "cdn.other.test"))
    for host in ("a.vendor.test", "A.B.VENDOR.TEST.", "cdn.other.test"):
        check_url(httpx.URL(f"https://{host}/x"), allowed)
    for host in ("vendor.test", "xvendor.test", "a.vendor.test.evil.test", "a.cdn.other.test"):
        with pytest.raises(UnsafeUrlError, match="video_hosts"):
            check_url(httpx.URL(f"https://{host}/x"), allowed)


def test_a_signed_url_and_a_key_reach_no_log_no_error_and_no_pickle(
    vendor: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.basicConfig(level=logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    vendor.rewrite(Script(job_s=0))
    assert "CANARYSIGNATURE" in vendor.video  # type: ignore[attr-defined]
    redirect = Rule("download", status=302, headers={"Location": "http://evil.test/?s=CANARY"})
    rules = [rule for rule, _ in FAILURES if rule.do not in ("hang", "slow")]
    for rule in (*rules, redirect):
        with pytest.raises(DownloadError) as caught:
            take(vendor, tmp_path, rule, headers=KEY, max_bytes=1_000_000, num_attempts=1)
        told.extend(traceback.format_exception(caught.value))
        told.append(pickle.dumps(caught.value).decode("latin-1"))
    take(vendor, tmp_path, headers=KEY)
    text = "".join(told) + caplog.text
    assert "Traceback" in text
    assert "CANARY" not in text


def test_a_full_disk_stops_cleanly_and_leaves_no_half_file(vendor: Server, tmp_path: Path) -> None:
    """A real write that fails: the kernel's limit of file sizes, in a process of its own."""
    program = f"""
import asyncio, resource, signal, sys
from pathlib import Path
from pydantic import SecretStr
from afd.harvest.addresses import Allowed
from afd.harvest.download import Policy, fetch
from afd.harvest.http import download_client
import errno, afd.store
afd.store.DISK_REASONS[errno.EFBIG] = afd.store.DISK_REASONS[errno.ENOSPC]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
async def run():
    async with download_client() as http:
        policy = Policy(Allowed(("127.0.0.1",), loopback=True))
        await fetch(http, SecretStr({vendor.video!r}), Path({str(tmp_path)!r}), "row-1", policy)
try:
    asyncio.run(run())
except afd.store.StoreError as error:
    print(error)
"""
    vendor.rewrite(Script(job_s=0))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "the disk is full" in done.stdout
    assert "CANARY" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_a_killed_download_leaves_no_video_and_the_next_one_is_whole(
    vendor: Server, tmp_path: Path
) -> None:
    clip = whole(vendor, tmp_path)
    vendor.rewrite(Script(job_s=0, rules=(Rule("download", "slow", bytes_per_s=5000),)))
    program = f"""
import asyncio
from pathlib import Path
from pydantic import SecretStr
from afd.harvest.addresses import Allowed
from afd.harvest.download import Policy, fetch
from afd.harvest.http import download_client
async def run():
    async with download_client() as http:
        policy = Policy(Allowed(("127.0.0.1",), loopback=True))
        await fetch(http, SecretStr({vendor.video!r}), Path({str(tmp_path)!r}), "row-1", policy)
asyncio.run(run())
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".row-1.*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".row-1.*.part"))
    assert not list(tmp_path.glob("*.mp4"))
    got = take(vendor, tmp_path)
    assert got.path.read_bytes() == clip
    assert not list(tmp_path.glob(".row-1.*"))


def test_clients_take_nothing_from_the_environment_and_keep_no_cookies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    cookie = Rule("poll", body="{}", headers={"Set-Cookie": "a=b; Path=/"}, times=None)
    with Server("ark", Script(job_s=0)) as server:
        adapter = teacher(server)

        async def life() -> None:
            async with client() as http:
                task = await adapter.create(http, order("ark"))
                server.rewrite(Script(rules=(cookie,)))
                for _ in range(2):
                    await adapter.poll(http, task)

        asyncio.run(life())
        assert not any("cookie" in request["headers"] for request in server.book.requests)


def test_a_name_for_a_file_is_never_the_servers(vendor: Server, tmp_path: Path) -> None:
    named = Rule(
        "download", body="x", headers={"Content-Disposition": 'attachment; filename="../../a.sh"'}
    )
    got = take(vendor, tmp_path, named)
    assert got.path.parent == tmp_path
    assert got.path.name.startswith("row-1.")
    for name in ("../a", "a/b", "", ".hidden", "a\n"):
        with pytest.raises(ValueError, match="no name"):
            asyncio.run(fetch(httpx.AsyncClient(), SecretStr("x"), tmp_path, name, Policy(ALLOWED)))


def test_a_server_of_ones_own_may_stand_on_a_private_network_and_only_there(
    vendor: Server, tmp_path: Path
) -> None:
    """Neither loopback nor the host is allowed here, but the very server that params name is."""
    only = Allowed((), own=f"{vendor.url}/v1")
    assert take(vendor, tmp_path, allowed=only).num_bytes > 1000
    with Server("ark") as other, pytest.raises(UnsafeDownloadError):
        take(vendor, tmp_path, url=other.url + "/media/x/0.mp4", allowed=only)
    elsewhere = Rule("download", status=302, headers={"Location": "https://10.0.0.8/x"})
    with pytest.raises(UnsafeDownloadError):
        take(vendor, tmp_path, elsewhere, allowed=only)
