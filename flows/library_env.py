"""Environment defaults of libraries: no telemetry, and without --verbose no lines of theirs.

Imports nothing heavy, so it can come first.
"""

import logging
import os
from collections.abc import Sequence

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # What a server of MLflow lacks is recorded later: seven retries of 120 s wait in vain.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # So is Prefect's, without which a campaign goes on.
    "PREFECT_API_REQUEST_TIMEOUT": "15",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    # Its import sets up logging anew: flushes and closes every handler of the process, under
    # the lock that the threads of Prefect's handlers wait for. It has stopped a round.
    "SUBMITIT_LOG_LEVEL": "NOCONFIG",
    "GIT_PYTHON_REFRESH": "quiet",
    "DVC_NO_ANALYTICS": "1",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The terminal is for progress and for our own errors: none of these with --verbose.
SILENCED = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # its server has the lines
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
VERBOSE = "AFD_VERBOSE"  # inherited by jobs and services of ours
DVC_LOGGERS = ("dvc", "dvc_data", "dvc_objects")


def set_library_defaults() -> None:
    """Set what the user has not set; call before any of these libraries is imported."""
    for name, value in (DEFAULTS if is_verbose() else DEFAULTS | SILENCED).items():
        os.environ.setdefault(name, value)
    leave_loopback_out_of_proxies()


def leave_loopback_out_of_proxies() -> None:
    """Except this host from proxies: servers of this project answer on it alone."""
    names = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    left_out = [name.strip() for name in names.split(",") if name.strip()]
    left_out += [host for host in LOOPBACK if host not in left_out]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(left_out)


def take_verbose(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without -v and --verbose, which set AFD_VERBOSE."""
    left = [word for word in arguments if word not in ("-v", "--verbose")]
    if len(left) < len(arguments):
        os.environ[VERBOSE] = "1"
    return left


def is_verbose() -> bool:
    """Return whether AFD_VERBOSE is set."""
    return os.environ.get(VERBOSE, "") not in ("", "0")


def quieten_dvc() -> None:
    """Hide DVC's progress bars, which follow the level of its loggers; errors are raised anyway."""
    if not is_verbose():
        for name in DVC_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
