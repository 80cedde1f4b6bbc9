"""A failpoint kills for real, at its own place and time, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PASS = """
from afd.failpoints import failpoint
for step in range(3):
    print(step, flush=True)
    failpoint("fit.step")
    failpoint("update.step")
"""


def passed(wanted: str | None) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that passes two failpoints three times."""
    environment = {k: v for k, v in os.environ.items() if k != "AFD_FAILPOINT"}
    if wanted is not None:
        environment["AFD_FAILPOINT"] = wanted
    done = subprocess.run(
        [sys.executable, "-c", PASS],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("wanted", "code", "steps"),
    [
        (None, 0, "0 1 2"),
        ("", 0, "0 1 2"),
        ("fit.step", -9, "0"),
        ("fit.step:1", -9, "0"),
        ("update.step:2", -9, "0 1"),
        ("fit.step:4", 0, "0 1 2"),
        ("warmstart.step", 0, "0 1 2"),
    ],
)
def test_it_kills_at_its_place_and_time(wanted: str | None, code: int, steps: str) -> None:
    returned, output, _ = passed(wanted)
    assert (returned, output.split()) == (code, steps.split())


def test_a_name_that_does_not_exist_is_told() -> None:
    code, _, told = passed("fit.stpe")
    assert code == 1
    assert "no such failpoint; one of" in told
    assert "fit.step" in told
