"""The services a campaign starts for itself: Prefect's server, offline, without analytics."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from afd.stages.mailbox import Owner
from afd.store import write_atomic
from flows.keeper import KNOWN, end_left_server
from flows.quiet import QUIET
from flows.run_ids import CAMPAIGN, RunIds
from flows.session import Places, campaign_folder

DRAIN_S = 10.0
START_PATIENCE_S = 180.0  # a new database is migrated for 10-30 s on a busy machine


class ServiceError(RuntimeError):
    """A service did not start: its last words and the way around it."""


def configured_api() -> str | None:
    """The Prefect server that the user has configured, by environment or profile."""
    if api := os.environ.get("PREFECT_API_URL"):
        return api
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    if not (home / "profiles.toml").exists():
        return None  # nothing to ask: spares importing Prefect
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


class OwnPrefect:
    """A Prefect server for the campaigns of one folder, kept while any of them runs (keeper.py)."""

    def __init__(self, places: Places) -> None:
        self._home = (places.runs / ".services" / "prefect").resolve()
        self._home.mkdir(parents=True, exist_ok=True)
        self._log = self._home / "server.log"
        self._users = (self._home / "users").open("a+b")
        self._port = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Use the server that runs already, or start one; it answers some seconds later."""
        fcntl.flock(self._users, fcntl.LOCK_SH)
        with (self._home / "starting").open("a+b") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            port = self._known_port()
            if port is None:
                end_left_server(self._home)
                port = _free_port()
                keeper = self._start_keeper(port)
                entry = {"port": port, "keeper": keeper.model_dump()}
                write_atomic(self._home / KNOWN, json.dumps(entry).encode())
        self._port = port
        os.environ["PREFECT_HOME"] = str(self._home)
        os.environ["PREFECT_API_URL"] = self.api

    def _known_port(self) -> int | None:
        """The port of a server whose keeper lives."""
        try:
            entry = json.loads((self._home / KNOWN).read_bytes())
            self._keeper = Owner.model_validate(entry["keeper"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return int(entry["port"]) if self._keeper.is_alive() else None

    def _start_keeper(self, port: int) -> Owner:
        environment = {
            **os.environ,
            "PREFECT_HOME": str(self._home),
            "PREFECT_LOGGING_LEVEL": "WARNING",
        }
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "flows.keeper", str(self._home), str(port)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._keeper = Owner.of(process.pid)
        return self._keeper

    def wait(self) -> None:
        """Until it answers; raises ServiceError with its last words."""
        deadline = time.monotonic() + START_PATIENCE_S
        while not answers(self.api):
            died = not self._keeper.is_alive()
            if died or time.monotonic() > deadline:
                raise ServiceError(
                    f"Prefect's server {'ended' if died else 'does not answer'}; "
                    f"its log is {self._log}:\n{_tail(self._log)}\n"
                    "  everything computed is kept; the same command with --no-prefect runs without"
                )
            time.sleep(0.1)

    def let_go(self) -> None:
        """It ends when its last user has let go."""
        _drain()
        self._users.close()


@contextlib.contextmanager
def prefect_server(places: Places) -> Iterator["OwnPrefect | None"]:
    """The user's server where one is configured (None), else one of our own, starting."""
    configured = configured_api()
    if configured is not None:
        if not answers(configured):
            raise ServiceError(
                f"the Prefect server at {configured} does not answer\n"
                "  nothing was started; start it, or unset PREFECT_API_URL to have one started "
                "here, or use --no-prefect"
            )
        yield None
        return
    own = OwnPrefect(places)
    own.start()
    try:
        yield own
    finally:
        own.let_go()


def _drain() -> None:
    """Hand over Prefect's last events and log lines: without a server it retries for minutes."""
    if "prefect.events.worker" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=DRAIN_S)


def answers(api: str) -> bool:
    """Whether a Prefect API is healthy there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{api.rstrip('/')}/health", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(file: Path, num_lines: int = 15) -> str:
    if not file.exists():
        return ""
    return "\n".join(file.read_text(errors="replace").splitlines()[-num_lines:])


def serve_mlflow(runs: Path, campaign: str | None, port: int, *, dry: bool) -> None:
    """MLflow's UI on these campaigns, opened on one of them; blocks until Ctrl-C."""
    places = Places(runs)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", places.tracking_uri]
    page = f"http://127.0.0.1:{port}/#/experiments"
    if campaign is not None:
        told = RunIds(campaign_folder(campaign, places)).read(CAMPAIGN)
        if "run_id" in told:
            page += f"/{told['experiment_id']}/runs/{told['run_id']}?workflowType=machine_learning"
    sys.stdout.write(f"{page}\n")
    if dry:
        sys.stdout.write(" ".join(command) + "\n")
        return
    environment = {**os.environ, **QUIET}
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(command, env=environment, check=False)
