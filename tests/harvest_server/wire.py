"""HTTP/1.1 by hand, since a good library would refuse to answer as badly as vendors do."""

import asyncio
import contextlib
import gzip
import socket
import struct
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.harvest_server.script import Act

CLOSING: tuple[Act, ...] = ("reset_before", "reset_after", "half", "half_chunked", "unframed")


@dataclass(frozen=True)
class Request:
    """One request, read whole."""

    method: str
    path: str  # unquoted, without query
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Reply:
    """What to answer, and how badly."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    act: Act = "answer"
    bytes_per_s: int = 1000


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection, None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, unquote(parts.path), query, headers, body)


async def write_reply(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Answer; True when the connection can be used again."""
    whole, length = reply.body, {"Content-Length": str(len(reply.body))}
    half = whole[: len(whole) // 2]
    match reply.act:
        case "reset_before" | "reset_after":
            reset(writer)
        case "hang":
            await asyncio.sleep(3600)
        case "endless":
            await _endless(writer, reply)
        case "half" | "short":
            framed = length if reply.act == "half" else {"Content-Length": str(len(half))}
            writer.write(_head(reply, framed) + half)
        case "unframed":
            writer.write(_head(reply, {"Connection": "close"}) + whole)
        case "chunked" | "half_chunked":
            is_whole = reply.act == "chunked"
            writer.write(_head(reply, {"Transfer-Encoding": "chunked"}))
            writer.write(_chunks(whole if is_whole else half) + (b"0\r\n\r\n" if is_whole else b""))
        case "slow":
            await _slowly(writer, reply, length)
        case "compressed" | "half_compressed" | "more_than_compressed":
            packed = gzip.compress(whole)
            if reply.act == "half_compressed":
                packed = packed[: len(packed) // 2]
            elif reply.act == "more_than_compressed":
                packed += bytes(1 << 16)
            length = {"Content-Length": str(len(packed)), "Content-Encoding": "gzip"}
            writer.write(_head(reply, length) + packed)
        case _:
            writer.write(_head(reply, length) + whole)
    if not writer.transport.is_closing():
        await writer.drain()
    return reply.act not in CLOSING


async def _endless(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(_head(reply, {"Transfer-Encoding": "chunked"}))
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def _slowly(writer: asyncio.StreamWriter, reply: Reply, length: dict[str, str]) -> None:
    writer.write(_head(reply, length))
    piece = max(1, reply.bytes_per_s // 20)
    for start in range(0, len(reply.body), piece):
        writer.write(reply.body[start : start + piece])
        await writer.drain()
        await asyncio.sleep(piece / reply.bytes_per_s)


def _chunks(body: bytes) -> bytes:
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: what a crashed proxy does to its clients."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _head(reply: Reply, framing: dict[str, str]) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Odd"
    lines = [f"HTTP/1.1 {reply.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in {**framing, **reply.headers}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
