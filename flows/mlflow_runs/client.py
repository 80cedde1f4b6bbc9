"""MLflow client: one experiment, batches; never the fluent API and its global state."""

import contextlib
import errno
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows.mlflow_runs.experiment import usable_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

DISK = ("disk is full", "disk I/O error", "readonly database", "unable to open database file")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
BATCH = 100  # MLflow's limit of params, and of tags, in one call
METRICS_BATCH = 1000  # of everything together


class Unavailable(RuntimeError):
    """MLflow does not answer; it has not refused the content."""


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    step: int
    at_ms: int


class Tracking:
    """Connection to MLflow, made at its first use (2-3 s of imports, 6 s for a new file)."""

    def __init__(self, uri: str, run_id: str | None = None) -> None:
        """`run_id`: of the campaign, where it is known; its experiment is gone on with."""
        self.uri, self._run_id = uri, run_id

    @cached_property
    def _connection(self) -> tuple["MlflowClient", str]:
        try:
            return _connect(self.uri, self._run_id)
        except Exception as error:
            raise Unavailable(f"MLflow at {without_password(self.uri)}: {brief(error)}") from error

    @property
    def is_remote(self) -> bool:
        """True for a server, which may have carried out a request without confirming it."""
        return self.uri.startswith("http")

    @property
    def client(self) -> "MlflowClient":
        """MLflow's own client."""
        return self._connection[0]

    @property
    def experiment(self) -> str:
        """The id of the experiment."""
        return self._connection[1]

    def is_away(self, error: Exception) -> bool:
        """Return whether `error` comes from MLflow itself: down, slow, 401, 500, its disk full.

        A server that answers the simplest request has refused the content instead.
        """
        if isinstance(error, Unavailable):
            return True
        if any(words in str(error) for words in DISK):
            return True
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if not self.is_remote:
            return False
        try:
            self.client.search_experiments(max_results=1)
        except Exception:  # noqa: BLE001  whatever it says, it does not answer
            return True
        return False

    def log(
        self,
        run_id: str,
        *,
        metrics: Iterable[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
    ) -> None:
        """Write metrics, params and tags in as few calls as MLflow allows.

        A row that is written again is the same row: its time must not depend on the clock.
        `model_id`: the logged model that the metrics are of.
        """
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(p.name, p.value, p.at_ms, p.step, model_id) for p in metrics]
        values = [Param(name, value) for name, value in (params or {}).items()]
        marks = [RunTag(name, value) for name, value in (tags or {}).items()]
        while points or values or marks:
            room = METRICS_BATCH - len(values[:BATCH]) - len(marks[:BATCH])
            self.client.log_batch(run_id, points[:room], values[:BATCH], marks[:BATCH])
            points, values, marks = points[room:], values[BATCH:], marks[BATCH:]


def is_refusal(error: Exception) -> bool:
    """Return whether an error is MLflow's answer."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException)


def brief(error: Exception) -> str:
    """Return one line of an error; those of databases contain the whole statement."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]


def without_password(uri: str) -> str:
    """Return an address without the user name and password in it."""
    return re.sub(r"//[^/@]+@", "//", uri)


def database_exists(tracking_uri: str) -> bool:
    """Return whether a sqlite database exists; True for every server."""
    file = tracking_uri.removeprefix("sqlite:///")
    return file == tracking_uri or Path(file).exists()


def _connect(uri: str, run_id: str | None) -> tuple["MlflowClient", str]:
    """Return a client and the id of the experiment; make both where they do not exist."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    location = None
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///")).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        location = (file.parent / "artifacts").as_uri()
        if not file.exists():
            _make_database(file)
        with contextlib.closing(sqlite3.connect(file)) as database:
            # Kept in the file: one fsync a commit instead of three, and the UI reads meanwhile.
            database.execute("PRAGMA journal_mode=WAL")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client, usable_experiment(client, run_id, location)


def _make_database(file: Path) -> None:
    """Make MLflow's tables in a file beside `file`, then link it there at once.

    MLflow makes them one by one; a kill meanwhile leaves a file that it cannot open again. An
    existing file stays: the first of several processes wins.
    """
    from mlflow import MlflowClient

    new = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    new.unlink(missing_ok=True)
    MlflowClient(
        tracking_uri=f"sqlite:///{new}", registry_uri=f"sqlite:///{new}"
    ).search_experiments()
    with contextlib.suppress(FileExistsError):
        os.link(new, file)
    new.unlink()


def now_ms() -> int:
    """Return the time in milliseconds, MLflow's unit."""
    return time.time_ns() // 1_000_000
