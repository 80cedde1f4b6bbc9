"""Checks of all values from a vendor before their use.

A reply may hold any type where a text is expected, numbers that no column holds, ids that climb out
of a path, control characters that rewrite a terminal, and the caller's own key.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from afd.masking import MAX_TEXT, clean, hide

__all__ = ["MAX_TEXT", "clean", "hide"]  # beside the checks below
MAX_URL = 8192
MAX_PAUSE_S = 366 * 86400.0  # longer requested pauses are no times
# Also ids of gateways, which pack provider and deployment into base64: 300 characters with `=`.
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._:@=+~-]{0,1023}")
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,9})?")


def parse(body: bytes, secrets: tuple[str, ...] = ()) -> Any:
    """Return a vendor's JSON without `secrets` in any escaping.

    Errors: ValueError for invalid JSON, NaN, and too deep nesting.
    """
    try:
        return _hidden(json.loads(body, parse_constant=_refuse_constant), secrets)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dig(value: Any, *path: str | int) -> Any:
    """Return value[path[0]][path[1]]..., or None if a step is missing or of another type."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = cast("dict[str, Any]", value).get(step)
        elif isinstance(value, list) and isinstance(step, int):
            items = cast("list[Any]", value)
            value = items[step] if 0 <= step < len(items) else None
        else:
            return None
    return value


def items(value: Any) -> list[Any]:
    """Return a list unchanged, and [] for any other value."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def text(value: Any) -> str | None:
    """Return a text, or None."""
    return value if isinstance(value, str) else None


def identifier(value: Any) -> str | None:
    """Return an id that is safe in a path, a file name and a log line, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        value = str(value)
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def is_task_id(value: str) -> bool:
    """Return True for an id, or a name of ids with slashes, as a vendor's console shows it."""
    return all(identifier(part) is not None for part in value.split("/"))


def holds_url(value: Any) -> bool:
    """Return True if a text anywhere inside a value is an http(s) URL."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            left.extend(cast("dict[str, Any]", found).values())
        elif isinstance(found, list):
            left.extend(cast("list[Any]", found))
        elif url(found) is not None:
            return True
    return False


def amount(value: Any, at_most: float = 1e9) -> float | None:
    """Return a finite number in [0, at_most], also from a decimal text, or None."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before any conversion: a whole number of 4000 digits is no float.
    return float(value) if 0 <= value <= at_most and math.isfinite(value) else None


def count(value: Any) -> int | None:
    """Return a whole number in [0, 10^15], or None."""
    found = amount(value, at_most=1e15)
    return int(found) if found is not None and found == int(found) else None


def whole_if_whole(value: float) -> float | int:
    """Return 5.0 as 5: some vendors require an integer."""
    return int(value) if value == int(value) else value


def seed(value: Any) -> int | None:
    """Return a seed that fits 64 bits, or None."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -(2**63) <= value < 2**63 else None


def moment(value: Any) -> float | None:
    """Return seconds since 1970 from seconds, milliseconds or ISO 8601 text, or None."""
    if isinstance(value, str) and len(value) < 40:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    number = amount(value, at_most=1e14)
    return None if number is None else number / 1000 if number > 1e11 else number


def url(value: Any) -> SecretStr | None:
    """Return an http(s) URL, or None; a download applies its own rules besides."""
    if not isinstance(value, str) or len(value) > MAX_URL or not value.isascii():
        return None
    if not value.isprintable() or " " in value:
        return None
    try:
        parts = urlsplit(value)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return SecretStr(value) if parts.scheme in ("https", "http") and has_host else None


def same_origin(one: str, other: str) -> bool:
    """Return True if two URLs share scheme, host and port: then a key may be sent."""
    ports = {"https": 443, "http": 80}

    def origin(address: str) -> tuple[str, str | None, int | None]:
        parts = urlsplit(address)
        return parts.scheme, parts.hostname, parts.port or ports.get(parts.scheme)

    try:
        return origin(one) == origin(other)
    except ValueError:
        return False


def pause_s(headers: Mapping[str, str]) -> float | None:
    """Return Retry-After in seconds, from a number or a date, at most a year; None if absent."""
    value = headers.get("retry-after", "").strip()
    seconds = amount(value, at_most=1e15)
    if seconds is None:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_PAUSE_S)


def _hidden(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return hide(value, secrets)
    if isinstance(value, list):
        return [_hidden(item, secrets) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {hide(key, secrets): _hidden(item, secrets) for key, item in fields.items()}
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
