"""Nothing phones home, libraries keep off the terminal. Imports nothing, so it can come first."""

import os

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # An MLflow server that is slow or down is told later: seven retries of 120 s wait for nothing.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # So is Prefect's, without which a campaign goes on.
    "PREFECT_API_REQUEST_TIMEOUT": "15",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    # Its import sets up logging anew: flushes and closes every handler of the process, under
    # the lock that the threads of Prefect's handlers wait for. A round was seen to stand still so.
    "SUBMITIT_LOG_LEVEL": "NOCONFIG",
    "GIT_PYTHON_REFRESH": "quiet",
    "DVC_NO_ANALYTICS": "1",
    # Prefect's log lines go to its server; the terminal is for progress and for our own errors.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def be_quiet() -> None:
    """Set what the user has not set; call before any of these libraries is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    leave_loopback_out_of_proxies()


def leave_loopback_out_of_proxies() -> None:
    """Servers of our own answer on this host alone: a proxy of the user's cannot reach them."""
    names = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    left_out = [name.strip() for name in names.split(",") if name.strip()]
    left_out += [host for host in LOOPBACK if host not in left_out]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(left_out)
