"""Names and values within MLflow's rules; what changes keeps its beginning."""

import hashlib
import posixpath
import re

MAX_NAME, MAX_VALUE = 250, 6000  # characters of a name, and of a param's value


def allowed_name(name: str) -> str:
    """Return `name` where MLflow takes it, else one near it that ends in a hash of `name`."""
    near = re.sub(r"[^/\w.\- :]", "_", name)
    if posixpath.normpath(near) != near or near.startswith(("/", ".")):  # a path of its own
        near = "_" + near.lstrip("./").replace("/", "_")
    if near == name and len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{near[: MAX_NAME - 9]}-{digest}"


def allowed_value(value: str) -> str:
    """Return `value`, cut with its whole length at the end where it is too long."""
    if len(value) <= MAX_VALUE:
        return value
    mark = f"... [{len(value)} characters]"
    return value[: MAX_VALUE - len(mark)] + mark
