"""A finished campaign goes to another clone by git and dvc, and is the same campaign there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from afd.artifacts import Artifact
from afd.store import Store
from tests.afd.harvest.ordering import KEY, KEY_VARIABLE, teacher_at
from tests.flows.conftest import CLUSTER, PROJECT, Forge
from tests.harvest_server.script import Script
from tests.harvest_server.server import Server

DVC = str(Path(sys.executable).with_name("dvc"))
QUIET = {
    **os.environ,
    "DVC_NO_ANALYTICS": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "PYTHONPATH": str(PROJECT),
}
PYCACHE = shutil.ignore_patterns("__pycache__")
COPIED = (  # of the project: what dvc reads, and what its stage `quick` depends on
    ".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "dvc.lock", "params", "results", "docs",
    "afd/evaluation", "afd/runtime/revisions.py", "flows/commands/comparing.py",
)  # fmt: skip
AUTHOR = ("-c", "user.name=t", "-c", "user.email=t@t")


def call(folder: Path, *command: str) -> str:
    """What a command prints; it ends well."""
    done = subprocess.run(
        command, cwd=folder, env=QUIET, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def make_clone(folder: Path) -> None:
    """A repository with this project's own configuration, pipeline and committed results."""
    folder.mkdir()
    call(folder, "git", "init", "-q")
    call(folder, DVC, "init", "-q")
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=PYCACHE)
        else:
            shutil.copy(PROJECT / name, folder / name)
    call(folder, "git", "add", "-A")
    call(folder, "git", *AUTHOR, "commit", "-qm", "the project")


def play(forge: Forge, clone: Path) -> dict[str, Artifact]:
    """Run both campaigns in a clone; everything that is then in its store.

    The second differs in its update alone: prompts, clips and warm start are the first one's.
    """
    here = Forge(forge.process, clone / "runs")
    log = clone.parent / f"{clone.name}.log"
    for name, *own in (("tiny",), ("other", "--set", "update.beta=0.2", "--set", "num_rounds=1")):
        code = here.afd("campaign", "--name", name, *own, store=clone / "store", log=log)
        assert code == 0, log.read_text()
    return {a.manifest.fingerprint: a for a in Store(clone / "store").all()}


def keep(clone: Path, *names: str) -> None:
    """Commit campaigns and push their artifacts: README's row, to the remote of the project."""
    call(clone, "git", "add", *(f"runs/{name}" for name in names))
    call(clone, "git", *AUTHOR, "commit", "-qm", "campaigns")
    tracked = call(clone, "git", "ls-files", "runs")
    assert not [
        line for line in tracked.split() if Path(line).suffix not in (".dvc", ".json", ".yaml")
    ]
    assert "WARNING" not in call(clone, DVC, "push")
    assert not (clone / "dvc-remote").exists()


def pull(clone: Path) -> None:
    """Fetch the artifacts in a clone beside the first one: nothing is set up."""
    assert "WARNING" not in call(clone, DVC, "pull")


def afd(clone: Path, *arguments: str) -> str:
    return call(clone, sys.executable, "-m", "flows.cli", *arguments)


def summary_of(clone: Path, name: str) -> bytes:
    return (clone / "runs" / name / "summary.json").read_bytes()


def test_a_fresh_clone_has_nothing_to_pull_and_a_pipeline_without_errors(tmp_path: Path) -> None:
    """No file is named that nobody has: rows of prompts are of the clone that ran the cells."""
    make_clone(tmp_path / "first")
    call(tmp_path, "git", "clone", "-q", "first", "second")
    second = tmp_path / "second"
    assert "WARNING" not in call(second, DVC, "push") + call(second, DVC, "pull")
    call(second, DVC, "status", "quick")
    planned = call(second, DVC, "repro", "quick", "--dry")
    assert "Running stage 'quick'" in planned and planned.count("ablation play") == 7


@pytest.mark.campaign
def test_another_clone_pulls_a_campaign_that_is_finished_and_evaluates_to_the_same_numbers(
    forge: Forge, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_clone(first)
    made = play(forge, first)
    assert "tracked by campaign 'tiny' already" in (tmp_path / "first.log").read_text()
    assert not (first / "runs" / "other" / "rounds" / "start.dvc").exists()
    summaries = {name: summary_of(first, name) for name in ("tiny", "other")}
    assert summaries["tiny"] != summaries["other"]
    keep(first, "tiny", "other")
    shutil.rmtree(first / "store")  # nothing but the remote is left of it

    call(tmp_path, "git", "clone", "-q", str(first), str(second))
    pull(second)
    status = afd(second, "status")
    assert "finished   2 of 2 rounds" in status and "finished   1 of 1 rounds" in status
    assert "student_weights" in afd(second, "show", "tiny")
    again = afd(second, "campaign", "--name", "tiny", "--no-prefect", "--cluster", str(CLUSTER))
    assert "trajectory_error_px" in again  # without params: they came with the pointers
    assert call(second, "git", "status", "--porcelain") == ""
    pulled = play(forge, second)
    assert pulled.keys() == made.keys()
    for fingerprint, artifact in pulled.items():  # the very same, so nothing was computed again
        assert artifact.manifest == made[fingerprint].manifest
    assert {name: summary_of(second, name) for name in summaries} == summaries

    final = next(a for a in pulled.values() if _is_final(a))  # of either campaign
    before = {name: final.file(name).read_bytes() for name in final.manifest.files}
    shutil.rmtree(final.path)
    again = play(forge, second)[final.manifest.fingerprint]
    assert again.manifest.created_at >= final.manifest.created_at
    assert {name: again.file(name).read_bytes() for name in again.manifest.files} == before


@pytest.mark.campaign
def test_clips_that_were_paid_go_to_another_clone_and_replay_there_without_the_vendor(
    forge: Forge, tmp_path: Path
) -> None:
    """Another round than the one that was paid wants them there: nothing is ordered, none is lost.

    `store/clips` and the ledger are of the clone that paid; what is pulled are the rounds' shards.
    """
    first, second, log = tmp_path / "first", tmp_path / "second", tmp_path / "log"
    make_clone(first)

    def harvested(clone: Path, name: str, num_prompts: int) -> list[Artifact]:
        """The teacher clips in a clone's store after a campaign there."""
        code = Forge(process, clone / "runs").afd(
            *("campaign", "--name", name, "--overlay", str(tmp_path / "teacher.yaml")),
            *("--set", "num_rounds=1", "--set", f"rollout.num_prompts={num_prompts}"),
            store=clone / "store",
            log=log,
            **{KEY_VARIABLE: KEY},
        )
        assert code == 0, log.read_text()
        made = Store(clone / "store").all()
        return [artifact for artifact in made if artifact.manifest.kind == "teacher_clips"]

    process = forge.process
    with Server("ark", Script(key=KEY, film="constant", job_s=0.05)) as server:
        teacher = {"teacher": teacher_at(server).model_dump(mode="json")}
        (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(teacher))
        paid = harvested(first, "paid", 4)
        assert len(server.posts()) == 8
    bytes_paid = {sha for artifact in paid for sha in _sha256s(artifact)}
    keep(first, "paid")
    shutil.rmtree(first / "store")

    call(tmp_path, "git", "clone", "-q", str(first), str(second))
    pull(second)
    assert not (second / "store" / "clips").exists() and not (second / "store" / "harvest").exists()
    replayed = harvested(second, "other", 3)  # the server is gone
    known = {artifact.manifest.fingerprint for artifact in paid}
    (fresh,) = (artifact for artifact in replayed if artifact.manifest.fingerprint not in known)
    assert (fresh.manifest.summary["num_paid"], fresh.manifest.summary["num_reused"]) == (0, 3)
    assert set(_sha256s(fresh)) <= bytes_paid


def _sha256s(clips: Artifact) -> list[str]:
    return pd.read_parquet(clips.path / "clips.parquet")["sha256"].tolist()


def _is_final(artifact: Artifact) -> bool:
    return artifact.manifest.stage == "evaluate" and "teacher_clips" in artifact.manifest.made_from
