"""Keeps one Prefect server for all campaigns of a folder, for as long as any of them runs.

    python -m flows.prefect_runs.keeper HOME PORT

Whoever uses the server holds a shared lock on HOME/users; the kernel drops it with the process, so
after `kill -9` of the last campaign the server goes too, and none is left behind. It answers on its
own host alone; other hosts see from the keeper's beat that it is there.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from afd.processes import ProcessId
from afd.store import write_atomic

KNOWN = "server.json"  # the port and the keeper, for whoever wants to use the server
SERVER = "server-process.json"
BEAT = "keeper-beat.json"
GRACE_S = 15.0  # between the start and the first user's lock
POLL_S = 1.0
BEAT_S = 5.0
SILENT_S = 20.0  # a keeper on another host whose beat stands still for so long is gone
PR_SET_PDEATHSIG = 1


def keep(home: Path, port: int) -> int:
    """Run the server until nobody uses it; gives its exit code."""
    keeper = os.getpid()
    server = subprocess.Popen(
        _command(port),
        cwd=home,  # a prefect.toml, .env or pyproject.toml of the user's folder is not its own
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _die_with(keeper),  # noqa: PLW1509 (the keeper has one thread)
    )
    write_atomic(home / SERVER, ProcessId.of(server.pid).model_dump_json().encode())
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    started, beaten = time.monotonic(), -BEAT_S
    with (home / "users").open("a+b") as users:
        while server.poll() is None:
            if time.monotonic() - beaten >= BEAT_S:
                beaten = time.monotonic()
                with contextlib.suppress(OSError):  # a full disk must not end the server
                    write_atomic(home / BEAT, ProcessId.current().model_dump_json().encode())
            time.sleep(POLL_S)
            if time.monotonic() - started < GRACE_S:
                continue
            if not _is_overtaken(home):
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                # Still locked: a newcomer waits, then finds no server.
                (home / KNOWN).unlink(missing_ok=True)
            server.terminate()
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
    return server.wait()


def known(home: Path) -> tuple[int, ProcessId] | None:
    """Return the port of the server that was started last, and its keeper; both may be gone."""
    try:
        entry = json.loads((home / KNOWN).read_bytes())
        return int(entry["port"]), ProcessId.model_validate(entry["keeper"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def other_host(home: Path) -> str | None:
    """Return the other host where the server runs; 20 s without a beat are None."""
    left = known(home)
    if left is None or left[1].is_here:
        return None
    first, deadline = _beat(home), time.monotonic() + SILENT_S
    while known(home) == left and time.monotonic() < deadline:
        if _beat(home) != first:
            return left[1].host
        time.sleep(0.2)
    return None


def end_left_server(home: Path) -> None:
    """Kill the server of a keeper that is gone; nobody but its keeper ends it."""
    try:
        left = ProcessId.model_validate_json((home / SERVER).read_bytes())
    except (FileNotFoundError, ValueError):
        return
    if left.is_here and left.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(left.pid, signal.SIGKILL)
    (home / SERVER).unlink(missing_ok=True)


def _beat(home: Path) -> bytes | None:
    try:
        return (home / BEAT).read_bytes()
    except FileNotFoundError:
        return None  # it has just started


def _is_overtaken(home: Path) -> bool:
    """Return whether another host took this keeper for dead and started its own server."""
    try:
        last = known(home)
    except OSError:
        return False  # a hiccup of a shared disk must not end the server
    return last is not None and not last[1].is_same(ProcessId.current())


def _command(port: int) -> list[str]:
    command = [sys.executable, "-m", "prefect", "server", "start"]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def _die_with(keeper: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)  # it died before the line above


if __name__ == "__main__":
    os.setsid()  # Ctrl-C is for the flow
    sys.exit(keep(Path(sys.argv[1]), int(sys.argv[2])))
