"""Masking of secrets and URLs in texts of vendors, before a person or a file gets them."""

import base64
import re
import unicodedata
from functools import lru_cache
from typing import Any

MAX_TEXT = 300  # characters of a vendor's text that reach a person
# Also without its scheme or host: what signs it stands in the query.
_URL_IN_TEXT = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://\S*|[^\s?]*\?[^\s=]+=\S*|\b[\w-]*[Ss]ig(?:nature)?=\S+"
)


def clean(value: Any, secrets: tuple[str, ...] = (), limit: int = MAX_TEXT) -> str:
    """Return one short line without control or format characters, URLs and `secrets`.

    A value that is no text becomes its type's name. Cut texts end in an ellipsis.
    """
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    text = hide(value[: 20 * limit], secrets)
    # Cc, Cf, Cs, Co, Cn and line separators: from escapes to the marks that turn text around.
    printable = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    line = _URL_IN_TEXT.sub("<url>", " ".join(printable.split()))
    line = hide(line, secrets)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """Return `text` without `secrets`: plain, percent-encoded, JSON-escaped or in base64."""
    for secret in secrets:
        text = text.replace(secret, "***")
        text = _disguised(secret).sub("***", text)
    return text


@lru_cache(maxsize=32)
def _disguised(secret: str) -> re.Pattern[str]:
    """Return a pattern of a secret with encoded characters, or of base64 that begins with it."""
    data = secret.encode()
    coded = base64.b64encode(data[: len(data) // 3 * 3]).decode()  # what follows changes none of it
    forms = ["".join(map(_character, secret))]
    if len(coded) >= 8:  # fewer may be a word
        # Its last bytes, and padding: one more group, each digit of it perhaps encoded.
        digits = r"(?:[A-Za-z0-9+/=_-]|%(?:25)*(?i:2b|2f|3d)|\\+/|\\+u00(?i:2b|2f|3d)){0,4}"
        forms.append("".join(map(_character, coded)) + digits)
    return re.compile("|".join(forms))


def _character(one: str) -> str:
    """Return a pattern of one character: plain, URL-safe base64, percent- or JSON-escaped.

    Encoders leave letters and digits unchanged.
    """
    if one.isalnum():
        return one
    plain = {"+": r"[+-]", "/": r"\\*[/_]"}.get(one, re.escape(one))
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in one.encode())
    return rf"(?:{plain}|(?i:{percent}|\\+u{ord(one):04x}))"
