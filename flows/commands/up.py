"""`afd up` and `afd down`: Prefect's server and the two deployments, in the background.

runs/.services/up.json    the process that serves the deployments, and the server it talks to
runs/.services/up.log     its output

The server belongs to the folder (keeper.py): it lives while the serving process or a campaign uses
it, and so goes with them whatever kills them. `up` may be typed again after any crash; `down` ends
the process that `up` started, named by pid and creation time, and nothing else.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import ValidationError

from afd.attempts import flock
from afd.config import Frozen
from afd.processes import ProcessId
from afd.store import disk_errors, write_atomic
from flows.command_text import command, short_path
from flows.paths import CampaignPaths
from flows.prefect_runs.reach import MARK, PROJECT_SETTINGS, own_answers, trouble
from flows.prefect_runs.services import (
    OwnPrefect,
    ServiceError,
    other_host,
    others_api,
    tail,
)

STATE, LOG, READY = "up.json", "up.log", "up.ready"
READY_PATIENCE_S = 180.0  # importing takes 10 s, registering 2 s, on a busy machine tenfold
ORDERLY_S = 60.0  # serving ends when the runs it cancels have ended: Prefect gives them 30 s


class Up(Frozen):
    """Process that `afd up` started, and its Prefect server."""

    serving: ProcessId
    api: str
    is_own: bool  # the server belongs to this folder, not to the user
    store: str = ""  # where the deployments keep artifacts; "": an earlier version wrote this

    @property
    def answers(self) -> bool:
        """True where its server answers."""
        return own_answers(self.api) if self.is_own else trouble(self.api) is None

    @property
    def is_well(self) -> bool:
        return self.serving.is_here and self.serving.is_alive() and self.answers


def bring_up(paths: CampaignPaths) -> tuple[Up, bool]:
    """Start a server and serve the deployments; return what runs, and True if it ran already.

    Raises ServiceError with the last words of what did not start, when it serves another store, or
    when it runs on another host.
    """
    with _alone(paths):
        known = read_up(paths)
        if known is not None:
            if known.is_well:
                _refuse_other_store(paths, known)
                return known, True
            _refuse_elsewhere(paths, known)
            _end(known.serving)
        api = others_api(paths)
        if api is not None:
            if (found := trouble(api)) is not None:
                raise ServiceError(f"the Prefect server at {api} {found}; nothing was started")
            up = _serve(paths, api, None)
        else:
            own = OwnPrefect(paths)
            own.start()
            try:
                own.configure()
                own.wait()
                up = _serve(paths, own.api, own)
            finally:
                own.let_go()  # the serving process keeps the server from here on
            _configure_prefect(up.api)
        return up, False


def check_up(paths: CampaignPaths) -> tuple[Up | None, str | None]:
    """Return what is up already, and the server of the user's own that `bring_up` would use.

    Changes nothing; raises ServiceError for what `bring_up` would be refused for.
    """
    known = read_up(paths)
    if known is not None and known.is_well:
        _refuse_other_store(paths, known)
        return known, None
    if known is not None:
        _refuse_elsewhere(paths, known)
    api = others_api(paths)
    if api is not None and (found := trouble(api)) is not None:
        raise ServiceError(f"the Prefect server at {api} {found}; nothing was started")
    return None, api


def _refuse_other_store(paths: CampaignPaths, known: Up) -> None:
    if known.store in ("", str(paths.store.resolve())):
        return
    down = command("down", runs=paths.runs)
    raise ServiceError(
        f"up already, but for the store {short_path(Path(known.store))}, not "
        f"{short_path(paths.store)}: nothing was changed\n"
        f"  {down}    ends it, then type the same command again"
    )


def _refuse_elsewhere(paths: CampaignPaths, known: Up) -> None:
    """Raise ServiceError where another host serves, or may.

    A server of the user's own does not show whether that process lives; the folder's own server
    lives for as long as it.
    """
    if known.serving.is_here or (known.is_own and other_host(paths) is None):
        return
    host, down = known.serving.host, command("down", runs=paths.runs)
    raise ServiceError(
        f"up on {host} (pid {known.serving.pid}): nothing was changed here\n"
        f"  {down}    on {host} ends it, then type the same command again\n"
        f"  rm {_folder(paths) / STATE}    if {host} is lost"
    )


def take_down(paths: CampaignPaths) -> Up | None:
    """Stop the process that `up` started; return it, None where nothing ran.

    Raises ServiceError when it runs on another host.
    """
    with _alone(paths) as folder:
        known = read_up(paths)
        if known is None:
            return None
        _refuse_elsewhere(paths, known)
        was_alive = known.serving.is_here and known.serving.is_alive()
        _end(known.serving)
        (folder / STATE).unlink(missing_ok=True)
        (folder / READY).unlink(missing_ok=True)
        if PROJECT_SETTINGS.exists() and PROJECT_SETTINGS.read_text().startswith(MARK):
            PROJECT_SETTINGS.unlink()
        return known if was_alive else None


def read_up(paths: CampaignPaths) -> Up | None:
    """Return the process that `up` started last, None without one; it may have ended since."""
    try:
        return Up.model_validate_json((_folder(paths) / STATE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _serve(paths: CampaignPaths, api: str, own: OwnPrefect | None) -> Up:
    """Start the serving process and wait until both deployments are registered."""
    folder = _folder(paths)
    ready = folder / READY
    ready.unlink(missing_ok=True)
    log = folder / LOG
    environment = {**os.environ, "PREFECT_API_URL": api}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.deploy", str(ready), str(paths.runs), str(paths.store)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # it outlives the terminal
            pass_fds=() if own is None else (own.users,),  # its lock keeps the server
        )
    store = str(paths.store.resolve())
    up = Up(serving=ProcessId.of(process.pid), api=api, is_own=own is not None, store=store)
    write_atomic(folder / STATE, up.model_dump_json().encode())
    deadline = time.monotonic() + READY_PATIENCE_S
    while not ready.exists():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            _end(up.serving)
            (folder / STATE).unlink(missing_ok=True)
            raise ServiceError(
                f"the deployments {'are not served' if ended else 'do not get ready'}; "
                f"the log is {log}:\n{tail(log)}"
            )
        time.sleep(0.1)
    return up


def _end(process: ProcessId) -> None:
    """End exactly that process with its children: by SIGTERM, after ORDERLY_S by SIGKILL."""
    if not process.is_here or not process.is_alive():
        return  # its number is another process's here
    try:
        serving = psutil.Process(process.pid)
        family = [*serving.children(recursive=True), serving]
        serving.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(family, timeout=ORDERLY_S)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=5)


def _configure_prefect(api: str) -> None:
    """Write prefect.toml, so that plain `prefect` commands in this folder use the server.

    A file of the user's own is left alone.
    """
    if PROJECT_SETTINGS.exists() and not PROJECT_SETTINGS.read_text().startswith(MARK):
        return
    write_atomic(PROJECT_SETTINGS.absolute(), f'{MARK}[api]\nurl = "{api}"\n'.encode())


@contextmanager
def _alone(paths: CampaignPaths) -> Iterator[Path]:
    """Hold the lock of `afd up` and yield its folder; a second `afd up` waits here."""
    folder = _folder(paths)
    with disk_errors(paths.runs):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "up.lock").open("a+b") as lock:
            flock(lock, fcntl.LOCK_EX)
            yield folder


def _folder(paths: CampaignPaths) -> Path:
    return (paths.runs / ".services").resolve()
