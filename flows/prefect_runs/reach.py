"""Which Prefect server to talk to, and what stands between us and it."""

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
    """The Prefect server that the user has configured, by environment or profile."""
    if api := os.environ.get("PREFECT_API_URL"):
        return api
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    if not (home / "profiles.toml").exists():
        return None  # nothing to ask: spares importing Prefect
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


def may_have_key(api: str) -> bool:
    """Whether the configured key goes to the server at `api`: the one it was configured with, and
    this host's own, but not one that was configured earlier."""
    return is_of_its_host(api) or api.rstrip("/") == (configured_api() or "").rstrip("/")


def is_of_its_host(api: str) -> bool:
    """Whether the server at `api` answers on its own host alone."""
    return urlsplit(api).hostname in LOOPBACK


def answers(api: str) -> bool:
    """Whether a Prefect API is healthy there."""
    try:
        _get(api, "health")
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return True


def trouble(api: str) -> str | None:
    """Why the server at `api` is of no use, and what to change; None when it is."""
    try:
        _get(api, "health")
        told = _get(api, "admin/version")
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
    return _clash(told)


def _clash(told: bytes) -> str | None:
    """Prefect's own rule: the same major version, and a server no older than its client."""
    try:
        theirs = str(json.loads(told))
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
    """The answer to a GET; past any proxy, since servers stand in the same network."""
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
    """Whether an error says that Prefect's server is gone, slow or broken, and nothing else."""
    import httpx

    if isinstance(error, httpx.TransportError | httpx.HTTPStatusError):
        return True
    return isinstance(error, RuntimeError) and "Failed to reach API" in str(error)
