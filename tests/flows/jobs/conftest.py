"""Stand-ins for SLURM's programs, for what a real cluster does not do when it is asked to."""

from collections.abc import Callable
from pathlib import Path

import pytest

Programs = Callable[..., Path]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Stand-ins for SLURM's programs, and no others; they note what they were asked."""

    def make(**scripts: str) -> Path:
        asked = tmp_path / "asked"
        asked.touch()
        for name, script in scripts.items():
            program = tmp_path / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f'#!/bin/sh\necho {name} "$@" >> {asked}\n{script}\n')
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        return asked

    return make
