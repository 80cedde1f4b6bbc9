"""A preloaded parent that forks the door: real processes to kill, stop and pair, imports paid once.

A line of JSON in, a line of JSON out: {"start": {"arguments", "environment", "log"}} gives a pid,
{"wait": pid, "timeout_s": s} its exit code (negative: the signal that killed it), null if it runs.
"""

import json
import os
import sys
import time
import traceback
from typing import Any, NoReturn

from afd import signals
from afd.stages import worker
from afd.stages.__main__ import main
from afd.stages.execute import limit_threads


def run(asked: dict[str, Any]) -> NoReturn:
    """The child: one call of the door, its output in a file."""
    code = 1
    try:
        os.environ.update(asked["environment"])
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signals.heed()
        code = main(asked["arguments"])
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:  # noqa: BLE001 (a test reads it in the log)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, timeout_s: float) -> int | None:
    deadline = time.monotonic() + timeout_s
    while True:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def serve() -> None:
    """Answer every line of stdin until it ends."""
    limit_threads(1)
    worker.preload()
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            answer = os.fork()
            if answer == 0:
                run(asked["start"])
        else:
            answer = wait(asked["wait"], asked["timeout_s"])
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
