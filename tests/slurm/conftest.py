"""A real SLURM of four virtual nodes for the tests below this folder (cluster.sh)."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from afd.config import Cluster, Params
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.stages.requests import prompts
from afd.store import Store
from flows.jobs.site import Site

if TYPE_CHECKING:
    from tests.slurm.start import Start

T = TypeVar("T")
MAX_ARRAY = 4  # tasks of one array on this cluster
PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("cluster.sh")
NUM_PORTS = 16  # from the first on: controller, database, nodes


@dataclass(frozen=True)
class RealSlurm:
    """A running cluster; this process and its children talk to it."""

    root: Path
    port: int
    accounting: bool = False

    def do(self, *verb: str) -> None:
        """A verb of cluster.sh: ("node-down", "n2")."""
        subprocess.run([str(SCRIPT), *verb], check=True, env=self.environment, timeout=120)

    @property
    def environment(self) -> dict[str, str]:
        chosen = {"AFD_SLURM_ROOT": str(self.root), "AFD_SLURM_PORT": str(self.port)}
        chosen |= {"AFD_SLURM_ACCOUNTING": str(int(self.accounting))}
        return {**os.environ, **chosen, "AFD_SLURM_MAX_ARRAY": str(MAX_ARRAY)}

    def ask(self, *command: str) -> str:
        """The output of a SLURM command; raises CalledProcessError."""
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """Every node is drained inside, and answers again after."""
        every_node = f"nodename={self.ask('sinfo', '-h', '-o', '%N')}"
        self.ask("scontrol", "update", every_node, "state=drain", "reason=test")
        try:
            yield
        finally:
            self.ask("scontrol", "update", every_node, "state=resume")
            # Until its first answer a resumed node is idle*, and sbatch --test-only refuses it.
            until(lambda: "*" not in self.ask("sinfo", "-h", "-N", "-o", "%T"))

    def jobs(self, name: str = "") -> list[str]:
        """Ids of every job the controller remembers, of that --name."""
        chosen = ("--name", name) if name else ()
        return self.ask("squeue", "-h", "-r", "--states=all", "-o", "%i", *chosen).split()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without SLURM every test here says what it would have tested."""
    if "slurm" in getattr(item, "fixturenames", ()) and (missing := missing_programs()):
        what = item.name.removeprefix("test_").replace("_", " ")
        pytest.skip(f"NOT TESTED, {', '.join(missing)} missing (make slurm): {what}")


def missing_programs() -> list[str]:
    return subprocess.run(
        [str(SCRIPT), "missing"], check=True, capture_output=True, text=True
    ).stdout.split()


@pytest.fixture(scope="session")
def slurm() -> Iterator[RealSlurm]:
    """One cluster for the session."""
    with started() as made:
        yield made


@contextlib.contextmanager
def started(*, accounting: bool = False) -> Iterator[RealSlurm]:
    """A cluster on ports of its own, gone when pytest ends, however it ends."""
    root = Path(tempfile.mkdtemp(prefix="afd-slurm-"))  # short: munge's socket is below it
    made = RealSlurm(root, _free_ports(), accounting)
    # Its stdin closes with this process, also when that is killed.
    guard = subprocess.Popen(
        ["sh", "-c", f"cat >/dev/null; {SCRIPT} stop 2>/dev/null; rm -rf {root}"],
        stdin=subprocess.PIPE,
        env=made.environment,
        start_new_session=True,
    )
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(root / "slurm.conf")
    try:
        made.do("start")
        yield made
    finally:
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(60)
        shutil.rmtree(root, ignore_errors=True)


def _free_ports() -> int:
    """The first of NUM_PORTS free ports in a row, below the range of ephemeral ones."""
    for first in range(17000 + os.getpid() % 1000 * 10, 32000, NUM_PORTS):
        with_all = [socket.socket() for _ in range(NUM_PORTS)]
        try:
            for offset, one in enumerate(with_all):
                one.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        else:
            return first
        finally:
            for one in with_all:
                one.close()
    raise RuntimeError("no 16 free ports in a row between 17000 and 32000")


@pytest.fixture
def site(slurm: RealSlurm, tmp_path: Path) -> Callable[..., Site]:
    """A campaign's place on the cluster: `site("demo", "resources.rollout.num_parts=3")`."""
    del slurm

    def make(name: str = "demo", *overrides: str) -> Site:
        return Site(Store(tmp_path / "store"), tmp_path / "runs" / name, cluster(*overrides))

    return make


def cluster(*overrides: str) -> Cluster:
    """The project's own SLURM params, asked about three times a second."""
    chosen = ["slurm.poll_s=0.3", "resources.every_stage.mem_gb=0.5", *overrides]
    return load_params(Cluster, PROJECT / "params" / "cluster" / "slurm.yaml", (), chosen)


def until(what: Callable[[], T], seconds: float = 240.0) -> T:
    """The first true answer; a loaded machine imports a stage for a minute."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return answer


def prompts_request(num_held_out: int = 4, seed: int = 1) -> StageRequest:
    """The quickest stage."""
    file = PROJECT / "params" / "tiny.yaml"
    asked = prompts(load_params(Params, file, (), [f"seed={seed}"]))
    own = asked.params["prompts"] | {"num_held_out": num_held_out}
    return asked.model_copy(update={"params": asked.params | {"prompts": own}})


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> "Start":
    from tests.slurm.start import make_start  # torch

    return make_start(tmp_path_factory.mktemp("start"))
