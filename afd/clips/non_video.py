"""Detection of deliveries that are text in place of a video: a page, a message, a playlist.

Text may repeat the API key or hold a signed URL, so it is not stored. Anything that could be a clip
is stored: a delivery is text only if all its bytes are text (8 or 16 bits, also compressed), or if
it begins as a page does and has no signature of a video. A video inside text is extracted: behind
the headers of a part, or in base64 inside a message.
"""

import base64
import binascii
import codecs
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

_BLOCK = 1 << 20
_DEEPEST = 3  # bodies inside bodies that are looked into; what lies deeper is kept as it came
_MOST_UNPACKED = 64 << 20  # of a compressed body; what is larger is kept as it came
_OVERLAP = 16
_TEXT = bytes({9, 10, 12, 13, 27, *range(0x20, 0x7F), *range(0x80, 0x100)})  # UTF-8 and older
_SPACES: dict[int, int | str | None] = dict.fromkeys((9, 10, 12, 13, 0xFEFF))
_PAGES = (b"<", b"{", b"[", b"#")
_FILM = re.compile(
    rb"....(?:ftyp|moov|mdat|moof)|\x1aE\xdf\xa3|RIFF....(?:AVI |WEBP)|OggS\0|\0\0\x01[\x67\xb3\xba"
    rb"\xe0]|FLV\x01|GIF8[79]a|DKIF",
    re.DOTALL,
)
# `....ftyp` and matroska's first bytes, as base64 begins with them; PHP writes / as \/.
_IN_BASE64 = re.compile(rb"(?:AAAA[A-Za-z0-9+/_-][GWm2]Z0eX[A-D]|GkXfo)[A-Za-z0-9+/_\\\r\n-]{200,}")

Blocks = Callable[[], Iterator[bytes]]


def file_blocks(file: Path) -> Blocks:
    """Return a function that reads the file's blocks anew at each call."""

    def blocks() -> Iterator[bytes]:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                yield block

    return blocks


def is_text_only(blocks: Blocks, secrets: tuple[str, ...] = (), depth: int = 0) -> bool:
    """Return True if a delivery is text; also if it holds a secret and no video.

    `depth` counts the compressed bodies around it.
    """
    head = next(blocks(), b"")
    if not head:
        return False
    if _is_text(blocks) or _is_wide_text(blocks):
        return True
    unpacked = _unpacked(blocks) if head[:2] == b"\x1f\x8b" or head[:1] == b"\x78" else None
    if unpacked is not None:
        return depth < _DEEPEST and is_text_only(lambda: iter([unpacked]), secrets, depth + 1)
    encoded = [form for secret in secrets for form in (secret.encode(), secret.encode("utf-16-le"))]
    if head.lstrip().startswith(_PAGES) or any(_found(blocks, re.escape(w)) for w in encoded):
        return not _found(blocks, _FILM)
    return False


def video_in_base64(file: Path) -> bytes | None:
    """Return the video that a text holds in base64, or None."""
    with file.open("rb") as stream:
        packed = _IN_BASE64.search(stream.read(2 * _MOST_UNPACKED))
    if packed is None:
        return None
    digits = re.sub(rb"[\\\r\n]", b"", packed[0]).translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4))
    except binascii.Error:
        return None


def video_offset(file: Path) -> int | None:
    """Return the offset of a video behind the headers of its part or answer, or None."""
    with file.open("rb") as stream:
        head = stream.read(_BLOCK)
    found = _FILM.search(head)
    headers = head[: found.start()] if found else b""
    is_headers = headers.endswith((b"\n\r\n", b"\n\n")) and not headers.translate(None, _TEXT)
    return len(headers) if is_headers else None


def _is_text(blocks: Blocks) -> bool:
    return not any(block.translate(None, _TEXT) for block in blocks())


def _is_wide_text(blocks: Blocks) -> bool:
    return any(_decodes(blocks, encoding) for encoding in ("utf-16-le", "utf-16-be"))


def _decodes(blocks: Blocks, encoding: str) -> bool:
    """Return True if all blocks are printable in `encoding`."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in blocks():
            if not decoder.decode(block).translate(_SPACES).isprintable():
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _unpacked(blocks: Blocks) -> bytes | None:
    """Return the decompressed body of gzip or zlib data, or None if it is above 64 MB."""
    unpacker, out = zlib.decompressobj(47), bytearray()  # 32 + 15: whichever it is
    try:
        for block in blocks():
            out += unpacker.decompress(block, _MOST_UNPACKED - len(out) + 1)
            if len(out) > _MOST_UNPACKED or unpacker.unconsumed_tail:
                return None
            if unpacker.unused_data:  # something else follows: not only a compressed body
                return None
    except zlib.error:
        return bytes(out) if out else None
    return bytes(out)


def _found(blocks: Blocks, pattern: bytes | re.Pattern[bytes]) -> bool:
    compiled, tail = re.compile(pattern), b""
    for block in blocks():
        if compiled.search(tail + block):
            return True
        tail = block[-max(_OVERLAP, len(compiled.pattern)) :]
    return False
