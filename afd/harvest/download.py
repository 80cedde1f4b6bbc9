"""Download of one video to a file: complete and hashed, or an error and no file.

Every hop is checked (afd/harvest/addresses.py), a key goes to the first host only, bytes and time
are capped, a cut body is resumed where the server can prove that it is still the same one, and the
file gets its name (the ledger's, and the hash of its bytes) when everything is on the disk.
afd/video/inspection.py then checks that it is a sound video.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin

import httpx
from pydantic import SecretStr

from afd.harvest.addresses import Allowed, LookupFailedError, UnsafeUrlError, check_url, resolve
from afd.store import disk_errors, sync_folder
from afd.teachers.vendors.decompress import CutShortError, Unpacker, UnpackError
from afd.teachers.vendors.sanitise import MAX_URL, pause_s

REDIRECTS = (301, 302, 303, 307, 308)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})")


@dataclass(frozen=True)
class Policy:
    """Limits of a download."""

    allowed: Allowed
    max_bytes: int = 1 << 30  # a minute of 4K is about 300 MB
    max_s: float = 900.0  # in total, redirects and resumes included
    max_redirects: int = 5
    num_attempts: int = 3  # connections for one body: the first, and resumes


@dataclass(frozen=True)
class Downloaded:
    """A complete, synced file with its sha256 in its name."""

    path: Path
    sha256: str
    num_bytes: int


class DownloadError(Exception):
    """A failed download, which left no file. Texts hold no URL and no server's text."""


class BrokenDownloadError(DownloadError):
    """Cut, reset, slow or a server error: the same URL may work later."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class ExpiredUrlError(DownloadError):
    """Status 400, 401, 403, 404 or 410: the URL has expired; a poll may give a new one."""


class UnsafeDownloadError(DownloadError):
    """The URL, a redirect or the body breaks a rule of the policy; a retry cannot help."""


class ForbiddenUrlError(UnsafeDownloadError):
    """The URL's host is not in params; with it the clip can be fetched."""


@dataclass
class _Body:
    """Received part of a body, and the validator for a resume."""

    file: BinaryIO
    digest: Any = field(default_factory=hashlib.sha256)
    num_bytes: int = 0
    validator: str | None = None  # a strong ETag, of a server that serves ranges

    def restart(self) -> None:
        """Discard all received bytes."""
        self.file.seek(0)
        self.file.truncate()
        self.digest, self.num_bytes, self.validator = hashlib.sha256(), 0, None

    def add(self, piece: bytes, max_bytes: int) -> None:
        """Append bytes. Errors: UnsafeDownloadError above the cap, OSError for a full disk."""
        self.num_bytes += len(piece)
        if self.num_bytes > max_bytes:
            raise UnsafeDownloadError(f"more than {max_bytes} bytes; the cap is the policy's")
        self.file.write(piece)
        self.digest.update(piece)


async def fetch(
    http: httpx.AsyncClient,
    url: SecretStr,
    folder: Path,
    name: str,
    policy: Policy,
    headers: Mapping[str, str] | None = None,
) -> Downloaded:
    """Download to `folder/{name}.{sha256[:16]}.mp4`; `http` is a download_client().

    `name` is the caller's (an order key), never the server's; an older download of the same name
    that still runs loses its file. `headers` (a key) go to the URL's own scheme, host
    and port only. Errors: DownloadError's kinds; StoreError when the disk is full: no file is left.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a file")
    part = folder / f".{name}.{os.getpid()}.part"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".{name}.*.part"):
            left.unlink(missing_ok=True)
        try:
            with part.open("w+b") as file:
                body = _Body(file)
                await _receive_whole(http, url, body, policy, headers or {})
                await asyncio.to_thread(_sync, file)
            final = folder / f"{name}.{body.digest.hexdigest()[:16]}.mp4"
            await asyncio.to_thread(_publish, part, final)
        finally:
            part.unlink(missing_ok=True)
    return Downloaded(final, body.digest.hexdigest(), body.num_bytes)


async def _receive_whole(
    http: httpx.AsyncClient, url: SecretStr, body: _Body, policy: Policy, headers: Mapping[str, str]
) -> None:
    """Try until the body is complete; each attempt resumes the last one or begins anew."""
    problem = ""
    try:
        async with asyncio.timeout(policy.max_s):
            for attempt in range(policy.num_attempts):
                try:
                    await _receive(http, url, body, policy, headers, attempt)
                    return
                except UnsafeUrlError as error:
                    raise ForbiddenUrlError(str(error)) from None
                except UnpackError as error:
                    if not isinstance(error, CutShortError):
                        raise UnsafeDownloadError(str(error)) from None
                    problem = str(error)
                except (httpx.HTTPError, httpx.InvalidURL, LookupFailedError) as error:
                    problem = type(error).__name__  # its text may quote the URL
                await asyncio.sleep(0.2 * 2**attempt)
    except TimeoutError:
        raise BrokenDownloadError(f"not whole after {policy.max_s:g} s") from None
    raise BrokenDownloadError(
        f"broken off {policy.num_attempts} times, the last after {body.num_bytes} bytes: {problem}"
    )


async def _receive(
    http: httpx.AsyncClient,
    url: SecretStr,
    body: _Body,
    policy: Policy,
    headers: Mapping[str, str],
    attempt: int,
) -> None:
    """Make one attempt: follow the redirects, then receive the body."""
    hop = httpx.URL(url.get_secret_value())
    own = dict(headers)
    for _ in range(policy.max_redirects + 1):
        check_url(hop, policy.allowed)
        addresses = await resolve(hop, policy.allowed)
        request_headers = {"Host": hop.netloc.decode("ascii"), **own}
        if body.validator is not None:
            request_headers |= {"Range": f"bytes={body.num_bytes}-", "If-Range": body.validator}
        request = http.build_request(
            "GET",
            hop.copy_with(host=addresses[attempt % len(addresses)]),
            headers=request_headers,
            extensions={"sni_hostname": hop.raw_host.decode("ascii")},
        )
        reply = await http.send(request, stream=True, follow_redirects=False)
        try:
            if reply.status_code not in REDIRECTS:
                await _take(reply, body, policy)
                return
            following = _following(hop, reply)
        finally:
            await reply.aclose()
        if (following.scheme, following.netloc) != (hop.scheme, hop.netloc):
            own = {}  # once off the first host a key is never sent again
        hop = following
    raise UnsafeUrlError(f"more than {policy.max_redirects} redirects")


def _following(hop: httpx.URL, reply: httpx.Response) -> httpx.URL:
    location = reply.headers.get("location", "")
    if not location or len(location) > MAX_URL or not location.isascii():
        raise UnsafeUrlError("a redirect to nowhere")
    try:
        return httpx.URL(urljoin(str(hop), location))
    except (httpx.InvalidURL, ValueError):
        raise UnsafeUrlError("a redirect to something that is no URL") from None


async def _take(reply: httpx.Response, body: _Body, policy: Policy) -> None:
    """Receive the body of a 2xx answer, from its beginning or from the last cut."""
    _check_status(reply)
    total: int | None = None
    if reply.status_code == 206:
        range_header = RANGE.fullmatch(reply.headers.get("content-range", ""))
        if not range_header or int(range_header[1]) != body.num_bytes:
            body.restart()
            raise httpx.RemoteProtocolError("another part than was asked for")
        total = int(range_header[2])
    else:
        body.restart()
    unpacker = Unpacker(reply.headers.get("content-encoding", ""))
    declared = reply.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:18]) > policy.max_bytes:
        raise UnsafeDownloadError(f"{declared[:18]} bytes announced, at most {policy.max_bytes}")
    tag = reply.headers.get("etag", "")
    if unpacker.is_identity and tag.startswith('"') and len(tag) < 200:
        serves_ranges = reply.status_code == 206 or reply.headers.get("accept-ranges") == "bytes"
        body.validator = tag if serves_ranges else None
    async for chunk in reply.aiter_raw():  # checks length and chunks: a cut body raises
        for piece in unpacker.unpack(chunk):
            body.add(piece, policy.max_bytes)
    unpacker.finish()
    if total is not None and body.num_bytes != total:
        if body.num_bytes > total:
            body.restart()
        raise httpx.RemoteProtocolError("a part that ends before the whole does")


def _check_status(reply: httpx.Response) -> None:
    status = reply.status_code
    if status in (200, 206):
        return
    if status == 429 or status >= 500:
        raise BrokenDownloadError(f"the server answered {status}", pause_s(reply.headers))
    if status == 416:  # the body has shrunk under the resume
        raise BrokenDownloadError("the server's file has changed")
    if 400 <= status < 500:
        raise ExpiredUrlError(f"the server answered {status}")
    raise BrokenDownloadError(f"the server answered {status}")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(part: Path, final: Path) -> None:
    part.replace(final)
    sync_folder(final.parent)
