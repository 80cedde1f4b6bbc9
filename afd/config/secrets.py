"""Secrets pasted into params: their recognition, so that no message repeats one."""

import re
from typing import Any, cast

# Forms of keys that people paste in place of the name of an environment variable.
_SECRET = re.compile(
    r"(\bsk-[\w-]{16,}|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|\bgh[pousr]_\w{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|\bhf_\w{20,}|\br8_\w{20,}|\bxox[abprs]-[\w-]{10,}|\bpn[ub]_\w{20,}"
    r"|\bkey_[0-9a-f]{32,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:[0-9a-f]{32}"
    r"|eyJ[\w-]{20,}\.|Bearer \S+|://[^/\s:@]+:[^/\s@]+@|BEGIN [A-Z ]*PRIVATE KEY)"
)
# A field of such a name holds the NAME of a variable, or nothing.
_SECRET_FIELD = re.compile(r"(api_?key|access_?key|secret|token|password|passwd)$", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
HIDDEN = "a value that is not shown"
MAX_LETTERS = 200  # of a repeated value


def is_secret(field: str, value: str) -> bool:
    """Return True for a text in the form of a key, or for any key in a field named after one."""
    if _SECRET.search(value):
        return True
    return bool(_SECRET_FIELD.search(field) and value and not _VARIABLE.fullmatch(value))


def printable(value: Any) -> str:
    """Return a refused value as YAML has it, without a pasted key and of bounded length."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            text = f"[{', '.join(map(printable, cast('list[Any]', value)))}]"
        case _:
            text = repr(value)
    if _SECRET.search(text):
        return HIDDEN
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..."
