"""Keeps one Prefect server for all campaigns of a folder, for as long as any of them runs.

    python -m flows.prefect_runs.keeper HOME PORT

Whoever uses the server holds a shared lock on HOME/users; the kernel drops it with the process, so
after `kill -9` of the last campaign the server goes too, and none is left behind.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from afd.stages.mailbox import Owner
from afd.store import write_atomic

KNOWN = "server.json"  # the port and the keeper, for whoever wants to use the server
SERVER = "server-process.json"
GRACE_S = 15.0  # between the start and the first user's lock
POLL_S = 1.0
PR_SET_PDEATHSIG = 1


def keep(home: Path, port: int) -> int:
    """Run the server until nobody uses it; gives its exit code."""
    keeper = os.getpid()
    server = subprocess.Popen(
        _command(port),
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _die_with(keeper),  # noqa: PLW1509 (the keeper has one thread)
    )
    write_atomic(home / SERVER, Owner.of(server.pid).model_dump_json().encode())
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    started = time.monotonic()
    with (home / "users").open("a+b") as users:
        while server.poll() is None:
            time.sleep(POLL_S)
            if time.monotonic() - started < GRACE_S:
                continue
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


def end_left_server(home: Path) -> None:
    """Kill the server of a keeper that is gone; nobody but its keeper ends it."""
    try:
        left = Owner.model_validate_json((home / SERVER).read_bytes())
    except (FileNotFoundError, ValueError):
        return
    if left.host == socket.gethostname() and left.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(left.pid, signal.SIGKILL)
    (home / SERVER).unlink(missing_ok=True)


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
