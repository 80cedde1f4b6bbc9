"""Nothing phones home, libraries keep off the terminal. Imports nothing, so it can come first."""

import os

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "DVC_NO_ANALYTICS": "1",
    # Prefect's log lines go to its server; the terminal is for progress and for our own errors.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}


def be_quiet() -> None:
    """Set what the user has not set; call before any of these libraries is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
