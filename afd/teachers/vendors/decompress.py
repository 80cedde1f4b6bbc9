"""Decompression of unrequested gzip and deflate bodies in bounded pieces.

httpx would decompress a whole chunk at once, and 64 kB of zeros in gzip are 64 MB.
"""

import zlib
from collections.abc import Iterator

from afd.errors import InputError

PIECE = 1 << 20  # bytes


class UnpackError(InputError):
    """The body is not in the encoding of its header, or the encoding is not supported."""


class CutShortError(UnpackError):
    """The connection ended before the compressed body did."""


class Unpacker:
    """Received bytes -> bytes of the body, in pieces of at most 1 MB."""

    def __init__(self, encoding: str) -> None:
        """Take the Content-Encoding header. Errors: UnpackError unless gzip, deflate, identity."""
        self.is_identity = encoding.strip().lower() in ("", "identity")
        if not self.is_identity and encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
            raise UnpackError("the body is compressed in a way that was not asked for")
        self._zlib = zlib.decompressobj(47)  # 32 + 15: gzip or zlib, whichever it is

    def unpack(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the bytes of `chunk`. Errors: UnpackError for damage and trailing data."""
        if self.is_identity:
            yield chunk
            return
        try:
            while chunk:
                yield self._zlib.decompress(chunk, PIECE)
                chunk = self._zlib.unconsumed_tail
        except zlib.error:
            raise UnpackError("the body is not compressed as its header says") from None
        if self._zlib.unused_data:  # zlib would keep all of it, and no cap would see it
            raise UnpackError("the body goes on behind the end of what is compressed")

    def finish(self) -> None:
        """Raise CutShortError if the compressed stream is incomplete."""
        if not self.is_identity and not self._zlib.eof:
            raise CutShortError("the compressed body was cut short")
