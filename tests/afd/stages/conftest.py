"""What tests of stages as processes share: a forge, and the smallest campaign's first artifacts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from afd.artifacts import Artifact
from afd.runtime.request import StageRequest
from afd.store import Store

PROJECT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60.0


@dataclass
class Run:
    """One call of the door, as a process."""

    forge: "Forge"
    pid: int
    log_file: Path

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code; negative: the signal that killed it."""
        code = self.forge.ask(wait=self.pid, timeout_s=timeout_s)
        assert code is not None, f"still runs after {timeout_s} s\n{self.log}"
        self.forge.running.discard(self.pid)
        return code

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""


@dataclass
class Forge:
    """Runs the door as real processes that share their imports (forge.py)."""

    process: "subprocess.Popen[str]"
    folder: Path
    running: set[int] = field(default_factory=set)
    num_started: int = 0

    def ask(self, **asked: Any) -> Any:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the forge died: see its stderr"
        return json.loads(answer)

    def start(self, asked: StageRequest, store: Store, *more: str, **environment: str) -> Run:
        """Call the door; keeps a checkpoint after every step unless told otherwise."""
        self.num_started += 1
        file = self.folder / f"{self.num_started}.json"
        file.write_text(asked.model_dump_json())
        log = self.folder / f"{self.num_started}.log"
        arguments = [asked.stage, "--request", str(file), "--store", str(store.root), *more]
        pid = self.ask(
            start={
                "arguments": arguments,
                "environment": {"AFD_CHECKPOINT_PERIOD_S": "0"} | environment,
                "log": str(log),
            }
        )
        self.running.add(pid)
        return Run(self, pid, log)


@pytest.fixture(scope="session")
def forge_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.afd.stages.forge"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    yield Forge(process, tmp_path_factory.mktemp("door"))
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def forge(forge_process: Forge) -> Iterator[Forge]:
    """The forge; whatever a test leaves running is killed."""
    yield forge_process
    for pid in list(forge_process.running):
        os.kill(pid, signal.SIGKILL)
        forge_process.ask(wait=pid, timeout_s=PATIENCE_S)
        forge_process.running.discard(pid)


def with_inputs(made: Store, asked: StageRequest, root: Path) -> Store:
    """A fresh store that holds what `asked` needs, and what that was made from."""
    store = Store(root)
    for ref in asked.inputs.values():
        for needed in (ref, *made.load(ref).manifest.made_from.values()):
            path = store.path(needed)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.symlink_to(made.path(needed))
    return store


def hashes(made: Artifact) -> dict[str, str]:
    """The content of an artifact."""
    return {name: entry.sha256 for name, entry in made.manifest.files.items()}
