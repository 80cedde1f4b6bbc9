"""A preloaded parent that forks `afd` commands: real processes to kill, without paying imports.

    echo '{"arguments": [...], "environment": {...}, "log": "file"}' | python tests/flows/forge.py

Every line answers with the exit code of its child; negative is the signal that killed it. The
campaign page is asked for and not written: a third of a tiny campaign's CPU, and a wait at its end.
tests/flows/test_campaign_page.py writes it.
"""

import json
import os
import subprocess
import sys
import traceback
from typing import Any, NoReturn, get_args

from afd.stages.execute import limit_threads


def preload() -> None:
    """Import what a campaign imports, and stay single-threaded."""
    limit_threads(1)
    import dvc.repo  # noqa: F401
    import mlflow.tracking  # noqa: F401

    import flows.commands.launch  # noqa: F401
    from afd.runtime.request import StageName
    from afd.stages import worker
    from flows import campaign_page
    from flows.library_env import set_library_defaults

    set_library_defaults()
    assert get_args(StageName)
    worker.preload()
    campaign_page.compose = lambda _: subprocess.Popen(["true"])


def run(asked: dict[str, Any]) -> NoReturn:
    """The child: one command line, its output in a file."""
    code = 1
    try:
        os.environ.update(asked["environment"])
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["afd", *asked["arguments"]]
        from flows.cli import main

        main()
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:  # noqa: BLE001 (a test reads it in the log)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Fork for every line of stdin until it ends."""
    preload()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(asked)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
