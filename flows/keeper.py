"""Keeps one Prefect server for all campaigns of a folder, for as long as any of them runs.

    python -m flows.keeper HOME PORT

Whoever uses the server holds a shared lock on HOME/users; the kernel drops it with the process, so
after `kill -9` of the last campaign the server goes too, and none is left behind.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 15.0  # between the start and the first user's lock
POLL_S = 1.0


def keep(home: Path, port: int) -> int:
    """Run the server until nobody uses it; gives its exit code."""
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
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
            server.terminate()  # still locked: a newcomer waits, then finds no server
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
    return server.wait()


if __name__ == "__main__":
    os.setsid()  # Ctrl-C is for the flow
    sys.exit(keep(Path(sys.argv[1]), int(sys.argv[2])))
