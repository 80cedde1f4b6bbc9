"""Top-level boxes of an mp4, read before any demuxer opens the file.

A demuxer reads a cut file without an error, so every top-level box must end inside the file. A file
that is no video is named by its first bytes.
"""

import io
import re
from dataclasses import dataclass
from typing import BinaryIO

from afd.errors import InputError

# User type of the uuid box that carries a C2PA manifest (C2PA 2.1, A.5 "Embedding into BMFF").
C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
MAX_BOXES = 20_000  # fragments of 10 minutes at 16 fps; more is somebody's joke
# Deliveries that are no mp4: first bytes -> message.
IMPOSTORS: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "a GIF; convert it to mp4"),
    (
        b"\x1a\x45\xdf\xa3",
        "webm or matroska; `ffmpeg -i IN -crf 12 OUT.mp4` makes an mp4",
    ),
    (b"#EXTM3U", "an HLS playlist (#EXTM3U), never followed; download the video itself"),
    (b"<", "HTML or XML; the server answered with a page"),
    (b"{", "JSON; the server answered with a message"),
    (b"[", "JSON; the server answered with a message"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"RIFF", "AVI, WAV or WebP; convert it to mp4"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip; a compressed answer was saved as it came"),
)


# Marks of a format; the text behind them is never printed.
_MARKS = re.compile(
    rb"<!DOCTYPE html>|<[!?/]?[A-Za-z]{1,10}|[{\[]|#EXTM3U|GIF8[79]a|RIFF|PK\x03\x04|\x1f\x8b|"
    rb"\x89PNG|\xff\xd8\xff|\x1a\x45\xdf\xa3"
)
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")  # UTF-8 or an older page's letters


class ClipError(InputError):
    """The bytes are no valid clip; the message is the reason."""


@dataclass(frozen=True)
class Outline:
    """Properties of the top-level boxes."""

    num_bytes: int
    has_c2pa: bool  # a provenance manifest; detected, never removed from the original
    is_fragmented: bool


def beginning(head: bytes) -> str:
    """Return the first bytes of a delivery in a form that is safe to print and to store.

    A vendor's page or message may hold the key or a signed URL. So of a delivery that is no video
    only its format's mark is returned, else four bytes, and of text none.
    """
    mark = _MARKS.match(head.lstrip())
    if mark:
        return repr(mark[0])
    return "text" if head and _TEXT.fullmatch(head) else repr(head[:4])


def outline(file: BinaryIO, max_bytes: int) -> Outline:
    """Return the outline of a whole mp4 or mov; raise ClipError for other, large or cut files."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(32)
    if not size:
        raise ClipError("empty: 0 bytes")
    if size > max_bytes:
        raise ClipError(f"{size} bytes, at most {max_bytes}")
    if head[4:8] != b"ftyp":
        raise ClipError(f"not an mp4: it begins with {beginning(head)}{_impostor(head)}")
    names: list[bytes] = []
    place, has_c2pa = 0, False
    while place < size:
        file.seek(place)
        head = file.read(32)
        length, header = int.from_bytes(head[:4], "big"), 8
        if length == 1:  # a 64-bit length follows the name
            length, header = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:  # up to the end
            length = size - place
        if length < header or place + length > size:
            raise ClipError(
                f"damaged: box {head[4:8]!r} at byte {place} claims {length} bytes, the file has "
                f"{size - place} left; cut short?"
            )
        names.append(head[4:8])
        has_c2pa |= head[4:8] == b"uuid" and head[header : header + 16] == C2PA
        if len(names) > MAX_BOXES:
            raise ClipError(f"more than {MAX_BOXES} boxes")
        place += length
    file.seek(0)
    if b"moov" not in names:
        raise ClipError("damaged: no moov box (the index); cut short?")
    return Outline(size, has_c2pa, b"moof" in names)


def _impostor(head: bytes) -> str:
    start = head.lstrip()
    return next((f": {what}" for magic, what in IMPOSTORS if start.startswith(magic)), "")
