"""Address, health and version of the Prefect server that is in use."""

import base64
import json
import os
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from flows.library_env import LOOPBACK

PATIENCE_S = 5.0
UNAUTHORISED = (401, 403)


def configured_api() -> str | None:
    """Return the Prefect server that the user has configured, by environment or profile."""
    if api := os.environ.get("PREFECT_API_URL"):
        return api
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    if not (home / "profiles.toml").exists():
        return None  # nothing to ask: spares importing Prefect
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


def may_have_key(api: str) -> bool:
    """Return whether the configured key may go to the server at `api`.

    It goes to the configured server and to this host's own, not to one configured earlier.
    """
    return is_of_its_host(api) or api.rstrip("/") == (configured_api() or "").rstrip("/")


def is_of_its_host(api: str) -> bool:
    """Return whether the server at `api` is reachable from its own host alone."""
    return urlsplit(api).hostname in LOOPBACK


def answers(api: str) -> bool:
    """Return whether the Prefect API at `api` is healthy."""
    try:
        _get(api, "health")
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return True


def trouble(api: str) -> str | None:
    """Return the fault of the server at `api` and its cure; None for a usable one."""
    try:
        _get(api, "health")
        answer = _get(api, "admin/version")
    except urllib.error.HTTPError as error:
        if error.code in UNAUTHORISED:
            return (
                f"refuses us (HTTP {error.code}): set PREFECT_API_KEY or PREFECT_API_AUTH_STRING "
                "to what its admin gave you"
            )
        return f"answers HTTP {error.code} {error.reason}: look into its log"
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"does not answer ({reason}): start it, or unset PREFECT_API_URL"
    return _clash(answer)


def _clash(answer: bytes) -> str | None:
    """Return how a server's version does not fit the client's; None where it fits.

    Prefect's rule: the same major version, and a server no older than its client.
    """
    try:
        theirs = str(json.loads(answer))
        major, minor = (int(part) for part in theirs.split(".")[:2])
    except (ValueError, UnicodeDecodeError):
        return "is no Prefect server: look at PREFECT_API_URL"
    ours = version("prefect")
    if [major, minor] < [int(part) for part in ours.split(".")[:2]]:
        return f"is Prefect {theirs}, older than the {ours} here: upgrade the server"
    if major != int(ours.split(".")[0]):
        return f"is Prefect {theirs}, and {ours} here does not fit: install Prefect {major} here"
    return None


def _get(api: str, path: str) -> bytes:
    """Return the body of a GET without a proxy: servers are in the same network."""
    request = urllib.request.Request(f"{api.rstrip('/')}/{path}")
    if (words := _authorization()) is not None and may_have_key(api):
        request.add_header("Authorization", words)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE_S) as response:
        return bytes(response.read(1 << 16))


def _authorization() -> str | None:
    if key := os.environ.get("PREFECT_API_KEY"):
        return f"Bearer {key}"
    if words := os.environ.get("PREFECT_API_AUTH_STRING"):
        return f"Basic {base64.b64encode(words.encode()).decode()}"
    return None


def is_away(error: BaseException) -> bool:
    """Return whether an error means that Prefect's server is gone, slow or broken."""
    import httpx

    if isinstance(error, httpx.TransportError | httpx.HTTPStatusError):
        return True
    return isinstance(error, RuntimeError) and "Failed to reach API" in str(error)
