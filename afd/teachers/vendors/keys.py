"""API keys: params hold the NAME of an environment variable, and only a request holds the key.

Where keys expire (OAuth), the variable `{NAME}_COMMAND` may hold a command that prints a fresh one,
for example `gcloud auth application-default print-access-token`; it is run again when its output
is two minutes old.
"""

import base64
import hashlib
import hmac
import json
import os
import shlex
import subprocess
import time
from typing import Any

from afd.teachers.vendors.protocol import UnauthorisedError

TOKEN_LIVES_S = 1800  # Kling refuses longer ones
TOKEN_USED_S = 600.0  # by requests: few tokens count at a time, and all of them can be hidden
COMMAND_S = 30
FRESH_S = 120.0
_minted: dict[str, tuple[float, str]] = {}  # command -> when, and what it printed
_signed: dict[str, tuple[float, str]] = {}  # both keys -> when, and the token


def read_key(variable: str) -> str:
    """Return the key of the environment variable. Errors: UnauthorisedError with its name.

    A stray newline would make the HTTP library quote the whole header, so it is refused here.
    """
    command = os.environ.get(f"{variable}_COMMAND", "").strip()
    key = _printed(variable, command) if command else os.environ.get(variable, "").strip()
    if not key:
        raise UnauthorisedError(
            f"access.key_variable: the environment variable {variable} is not set; "
            f"`export {variable}=...` and run the same command again"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UnauthorisedError(
            f"access.key_variable: {variable} holds characters that no API key has (spaces, "
            "control characters or letters beyond ASCII); export it again without them"
        )
    return key


def _printed(variable: str, command: str) -> str:
    """Return the command's output, at most FRESH_S old. Errors: UnauthorisedError."""
    at, key = _minted.get(command, (-FRESH_S, ""))
    if time.monotonic() - at < FRESH_S:
        return key
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=COMMAND_S, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        code = getattr(error, "returncode", None)
        how = f"ended with code {code}" if code is not None else f"failed: {type(error).__name__}"
        raise UnauthorisedError(
            f"access.key_variable: the command in {variable}_COMMAND {how}; run it by hand"
        ) from None
    _minted[command] = time.monotonic(), done.stdout.strip()
    return done.stdout.strip()


def signed_token(variable: str) -> str:
    """Return a JSON web token (RFC 7519, HS256), at most TOKEN_USED_S old.

    The variable holds `ACCESS_KEY:SECRET_KEY`. Errors: UnauthorisedError naming the variable.
    """
    keys = read_key(variable)
    at, token = _signed.get(keys, (-TOKEN_USED_S, ""))
    if time.monotonic() - at < TOKEN_USED_S:
        return token
    access, _, secret = keys.partition(":")
    if not access or not secret:
        raise UnauthorisedError(
            f"access.key_variable: {variable} must hold both keys of this vendor as ACCESS:SECRET"
        )
    now = int(time.time())
    claims = {"iss": access, "exp": now + TOKEN_LIVES_S, "nbf": now - 5}  # 5 s for clocks apart
    signed = f"{_encoded({'alg': 'HS256', 'typ': 'JWT'})}.{_encoded(claims)}"
    digest = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    _signed[keys] = time.monotonic(), f"{signed}.{_base64(digest)}"
    return _signed[keys][1]


def _encoded(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
