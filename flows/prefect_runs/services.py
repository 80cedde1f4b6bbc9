"""The services a campaign starts for itself: Prefect's server, offline, without analytics."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from afd.attempts import flock
from afd.errors import UserError
from afd.processes import ProcessId
from afd.store import write_atomic
from flows.paths import CampaignPaths
from flows.prefect_runs import keeper
from flows.prefect_runs.reach import configured_api, own_answers, trouble

DRAIN_S = 10.0
START_PATIENCE_S = 180.0  # a new database is migrated for 10-30 s on a busy machine


# The address at which a page finds the API: relative, so that it holds on whatever port or host
# name the page itself was opened, also through `ssh -L`. Unset, Prefect says 127.0.0.1:4200.
UI_API_URL = "/api"
# Of the environment, for a server of the user's own; a profile of that name is not in our home.
THEIRS = (
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_CLIENT_CUSTOM_HEADERS",
)


class ServiceError(UserError):
    """A service did not start: its last words and the way around it."""


def server_environment(home: Path) -> dict[str, str]:
    """Return the environment of a server of our own.

    No PREFECT_* variable of the user's goes in: those describe another server (its database, its
    base path, its password), and ours would answer elsewhere or write there.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **mine,
        "PREFECT_HOME": str(home),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": UI_API_URL,
        # Version 2 of its UI asks amplitude.com on every page, also with analytics off.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


_using: list[int] = []


def using() -> tuple[int, ...]:
    """Descriptors whose locks keep the servers that this process uses; a child may inherit them."""
    return tuple(_using)


class OwnPrefect:
    """A Prefect server for the campaigns of one folder, kept while any of them runs (keeper.py)."""

    def __init__(self, paths: CampaignPaths) -> None:
        self._home = _home(paths)
        self.is_new = not (self._home / "prefect.db").exists()  # its database takes long to make
        self._home.mkdir(parents=True, exist_ok=True)
        self._log = self._home / "server.log"
        self._users = (self._home / "users").open("a+b")
        self._port = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    @property
    def users(self) -> int:
        """The descriptor whose lock keeps the server; a child that inherits it keeps it too."""
        return self._users.fileno()

    def start(self) -> None:
        """Use the server that runs already, or start one; it answers some seconds later.

        Raises ServiceError where it runs on another host, or where the disk knows no locks.
        """
        if (host := keeper.other_host(self._home)) is not None:
            raise ServiceError(
                f"this folder's Prefect server runs on {host}, for who uses it there, and answers "
                "there alone; the same command on that host shows in it"
            )
        if not flock(self._users, fcntl.LOCK_SH):
            raise ServiceError(
                f"{self._home}: this disk knows no locks, by which a server of our own is shared "
                "and ended; type `prefect server start` and export its PREFECT_API_URL"
            )
        _using.append(self._users.fileno())
        with (self._home / "starting").open("a+b") as starting:
            flock(starting, fcntl.LOCK_EX)
            left = keeper.known(self._home)
            if left is not None and left[1].is_here and left[1].is_alive():
                self._port, self._keeper = left
            else:
                keeper.end_left_server(self._home)
                self._port = self._port_as_before()
                self._keeper = self._start_keeper(self._port)
                entry = {"port": self._port, "keeper": self._keeper.model_dump()}
                write_atomic(self._home / keeper.KNOWN, json.dumps(entry).encode())

    def configure(self) -> None:
        """Point Prefect in this process and its children to this server, without theirs' keys."""
        for name in THEIRS:
            os.environ.pop(name, None)
        os.environ["PREFECT_HOME"] = str(self._home)
        os.environ["PREFECT_API_URL"] = self.api
        if "prefect.context" in sys.modules:  # it read the environment at its import
            from prefect.context import refresh_global_settings_context

            refresh_global_settings_context()

    def _port_as_before(self) -> int:
        """Return the last server's port where it is free, so that bookmarks stay valid."""
        file = self._home / "port"
        with contextlib.suppress(FileNotFoundError, ValueError, OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = int(file.read_text())
            probe.bind(("127.0.0.1", port))
            return port
        port = _free_port()
        write_atomic(file, str(port).encode())
        return port

    def _start_keeper(self, port: int) -> ProcessId:
        environment = server_environment(self._home)
        command = [sys.executable, "-m", "flows.prefect_runs.keeper", str(self._home), str(port)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return ProcessId.of(process.pid)

    def wait(self) -> None:
        """Wait until it answers; raises ServiceError with the end of its log."""
        deadline = time.monotonic() + START_PATIENCE_S
        while not own_answers(self.api):
            died = not self._keeper.is_alive()
            if died or time.monotonic() > deadline:
                raise ServiceError(
                    f"Prefect's server {'ended' if died else 'does not answer'}; "
                    f"its log is {self._log}:\n{tail(self._log)}\n"
                    "  everything computed is kept; the same command with --no-prefect runs without"
                )
            time.sleep(0.1)

    def let_go(self) -> None:
        """Release the server; it ends when its last user has released it."""
        _using.remove(self._users.fileno())
        self._users.close()


def other_host(paths: CampaignPaths) -> str | None:
    """Return the other host where this folder's server runs; 20 s without a beat are None."""
    return keeper.other_host(_home(paths))


def others_api(paths: CampaignPaths) -> str | None:
    """Return the server that the user has configured, None for this folder's own."""
    configured = configured_api()
    try:
        port = int((_home(paths) / "port").read_text())
    except (FileNotFoundError, ValueError):
        return configured
    own = (f"http://127.0.0.1:{port}/api", f"http://localhost:{port}/api")
    return None if configured is not None and configured.rstrip("/") in own else configured


@contextlib.contextmanager
def prefect_server(paths: CampaignPaths) -> Iterator["OwnPrefect | None"]:
    """Yield None where the user has configured a server, else a server of our own, starting.

    Raises ServiceError where the configured one is not usable.
    """
    configured = others_api(paths)
    if configured is not None:
        if (found := trouble(configured)) is not None:
            raise ServiceError(f"the Prefect server at {configured} {found}")
        yield None
        return
    own = OwnPrefect(paths)
    own.start()
    own.configure()
    try:
        yield own
    finally:
        _drain()
        own.let_go()


@contextlib.contextmanager
def own_server(paths: CampaignPaths) -> Iterator[str]:
    """Yield the address of this folder's server, started where it does not run.

    Prefect in this process keeps its server. Raises ServiceError.
    """
    own = OwnPrefect(paths)
    own.start()
    try:
        own.wait()
        yield own.api
    finally:
        own.let_go()


def _home(paths: CampaignPaths) -> Path:
    return (paths.runs / ".services" / "prefect").resolve()


def _drain() -> None:
    """Hand over Prefect's last events and log lines: without a server it retries for minutes."""
    if "prefect.events.worker" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=DRAIN_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(file: Path, num_lines: int = 15) -> str:
    if not file.exists():
        return ""
    return "\n".join(file.read_text(errors="replace").splitlines()[-num_lines:])
