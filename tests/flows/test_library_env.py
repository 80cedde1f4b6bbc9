"""What libraries do to a process when they are imported late."""

import subprocess
import sys

from tests.flows.conftest import PROJECT

IMPORTED_LATE = """
import logging
from flows.library_env import set_library_defaults

class Handler(logging.Handler):
    def flush(self): print("flushed")
    def close(self): print("closed"); super().close()

set_library_defaults()
handler = Handler()
logging.getLogger("prefect").addHandler(handler)
import submitit
print("imported")
"""


def test_submitit_leaves_the_log_handlers_of_others_alone() -> None:
    """It is imported in the middle of a run, beside threads that write logs."""
    command = [sys.executable, "-c", IMPORTED_LATE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.split("imported")[0] == ""
