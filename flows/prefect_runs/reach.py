"""Address, health and version of the Prefect server that is in use.

A server of the user's own is asked through Prefect's client, with Prefect's settings: environment,
.env, prefect.toml, pyproject.toml and profiles, with key, gateway headers and CA.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows.library_env import LOOPBACK

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PATIENCE_S = 5.0
UNAUTHORISED = (401, 403)
PROJECT_SETTINGS = Path("prefect.toml")
MARK = "# Written by `afd up`, removed by `afd down`: plain `prefect` commands find the server.\n"


def configured_api() -> str | None:
    """Return the Prefect server that the user has configured, by environment, file or profile."""
    if api := os.environ.get("PREFECT_API_URL"):
        return api
    if not _may_be_configured():
        return None  # spares importing Prefect
    from prefect.settings import Settings

    api = Settings().api.url
    return None if api is None or f'url = "{api}"\n' in _own_settings() else api


def may_have_key(api: str) -> bool:
    """Return whether the configured key may go to the server at `api`.

    It goes to the configured server and to this host's own, not to one configured earlier.
    """
    return is_of_its_host(api) or api.rstrip("/") == (configured_api() or "").rstrip("/")


def is_of_its_host(api: str) -> bool:
    """Return whether the server at `api` is reachable from its own host alone."""
    return urlsplit(api).hostname in LOOPBACK


def own_answers(api: str) -> bool:
    """Return whether the server of our own at `api` is healthy; imports nothing of Prefect."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"{api.rstrip('/')}/health", timeout=PATIENCE_S).close()
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return True


@contextmanager
def client_of(api: str, *, is_probe: bool = False) -> Iterator["SyncPrefectClient"]:
    """Yield Prefect's client of the server at `api`; keys and headers go to those they are for.

    `is_probe`: one question, PATIENCE_S, no second try.
    """
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings import (
        PREFECT_CLIENT_CUSTOM_HEADERS,
        PREFECT_CLIENT_MAX_RETRIES,
        Settings,
    )

    settings, has_key = Settings(), may_have_key(api)  # as they are now, not at Prefect's import
    key, words = settings.api.key, settings.api.auth_string
    settings = settings.copy_with_update(
        updates={PREFECT_CLIENT_MAX_RETRIES: 0} if is_probe else None,
        restore_defaults=() if has_key else (PREFECT_CLIENT_CUSTOM_HEADERS,),
    )
    with SettingsContext(profile=get_settings_context().profile, settings=settings):
        client = SyncPrefectClient(
            api,
            auth_string=words.get_secret_value() if words and has_key else None,
            api_key=key.get_secret_value() if key and has_key else None,
            httpx_settings={"timeout": PATIENCE_S} if is_probe else None,
        )
        with client:
            yield client


def trouble(api: str) -> str | None:
    """Return the fault of the server at `api` and its cure; None for a usable one."""
    from prefect.client.base import ServerType

    try:
        with client_of(api, is_probe=True) as client:
            if (error := client.api_healthcheck()) is not None:
                return _fault(error)
            if client.server_type is ServerType.CLOUD:
                client.read_flows(limit=1)  # a key is needed here
                return None
            return _clash(client.api_version())
    except Exception as error:  # noqa: BLE001  of its client, its transport, the user's settings
        return _fault(error)


def _fault(error: Exception) -> str:
    """Return what a question to a server failed with, and the cure."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        if code in UNAUTHORISED:
            return (
                f"refuses us (HTTP {code}): set PREFECT_API_KEY or PREFECT_API_AUTH_STRING to what "
                "its admin gave you, or PREFECT_CLIENT_CUSTOM_HEADERS for a gateway before it"
            )
        return f"answers HTTP {code} {error.response.reason_phrase}: look into its log"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            "has a certificate of a CA that is not known here: PREFECT_API_SSL_CERT_FILE names it"
        )
    if isinstance(error, ValueError):
        return f"is no Prefect server: {_away_from_it()}"
    reason = str(error) or type(error).__name__
    return f"does not answer ({reason}): start it, or {_away_from_it()}"


def _away_from_it() -> str:
    if os.environ.get("PREFECT_API_URL"):
        return "unset PREFECT_API_URL"
    return "change PREFECT_API_URL where `prefect config view` finds it"


def _clash(theirs: object) -> str | None:
    """Return how a server's version does not fit the client's; None where it fits.

    Prefect's rule: the same major version, and a server no older than its client.
    """
    try:
        major, minor = (int(part) for part in str(theirs).split(".")[:2])
    except ValueError:
        return f"is no Prefect server: {_away_from_it()}"
    ours = version("prefect")
    if [major, minor] < [int(part) for part in ours.split(".")[:2]]:
        return f"is Prefect {theirs}, older than the {ours} here: upgrade the server"
    if major != int(ours.split(".")[0]):
        return f"is Prefect {theirs}, and {ours} here does not fit: install Prefect {major} here"
    return None


def _may_be_configured() -> bool:
    """Return whether there is a file that Prefect reads settings from."""
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    files = (home / "profiles.toml", PROJECT_SETTINGS, Path(".env"))
    if "PREFECT_PROFILES_PATH" in os.environ or any(file.exists() for file in files):
        return True
    with suppress(OSError):
        return b"[tool.prefect" in Path("pyproject.toml").read_bytes()
    return False


def _own_settings() -> str:
    """Return the content of the prefect.toml that `afd up` wrote, empty where it is the user's."""
    with suppress(OSError, UnicodeDecodeError):
        text = PROJECT_SETTINGS.read_text()
        return text if text.startswith(MARK) else ""
    return ""


def is_away(error: BaseException) -> bool:
    """Return whether an error means that Prefect's server is gone, slow or broken."""
    import httpx

    if isinstance(error, httpx.TransportError | httpx.HTTPStatusError):
        return True
    return isinstance(error, RuntimeError) and "Failed to reach API" in str(error)
