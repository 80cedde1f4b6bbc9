"""The grid under a real `dvc repro`, on the smallest real campaigns."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from afd.params import ParamsError
from flows import ablations
from flows.hold import HOLDER, OLD_S
from flows.places import Places
from tests.flows.test_hold import left_elsewhere

PROJECT = Path(__file__).resolve().parents[2]
GRID = {
    "seeds": [1],
    "main": ["afd", "sft", "broken"],
    "further": ["afd_tuned"],
    "grid": ["no_prior"],
    "long": ["frozen_long"],
    "worlds": ["look_alike"],
    "world_arms": ["afd"],
}
ALL = ("afd", "sft", "afd_tuned", "no_prior", "frozen_long")
# A learning rate at which nothing stays finite.
BROKEN = "update: {learning_rate: {low: 1.0e+30, high: 1.0e+30}, max_skipped_steps: 0}\n"
TINY = {
    "broken": BROKEN,
    "protocol": "evaluate: {round_num_prompts: 2}\n",
    "frozen_long": "num_rounds: 2\nfit: {warmup_steps: 3, num_steps: 0}\n",
}


class Clone:
    """A folder with the project's own dvc.yaml over tiny params."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PROJECT / "params", folder / "params")
        for package in ("afd", "flows"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / package, folder / package, ignore=ignored)
        shutil.copy(PROJECT / "params" / "tiny.yaml", folder / "params" / "pocket.yaml")
        (folder / "params" / "grid.yaml").write_text(yaml.safe_dump(GRID))
        for overlay, text in TINY.items():
            (folder / "params" / "ablations" / f"{overlay}.yaml").write_text(text)
        pipeline = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
        del pipeline["stages"]["demo"]
        quick = pipeline["stages"]["quick"]
        known = {f"{arm}-1" for arm in GRID["main"]}
        quick["deps"] = [dep for dep in quick["deps"] if Path(dep).stem in known]
        (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "afd").symlink_to(Path(sys.executable).with_name("afd"))
        self.run("git", "init", "-q")
        self.dvc("init", "-q")
        self.dvc("config", "core.analytics", "false")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=560,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def arm(self, name: str) -> dict[str, object]:
        return json.loads((self.folder / "results" / "arms" / f"{name}.json").read_bytes())


def test_quick_waits_for_every_main_arm_and_for_no_other() -> None:
    """dvc.yaml has them by hand: a matrix cannot be named as a dependency."""
    main = yaml.safe_load((PROJECT / "params" / "grid.yaml").read_text())["main"]
    quick = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]["quick"]["deps"]
    cells = [dep for dep in quick if dep.startswith("results/")]
    kinds = {"arms": "json", "curves": "csv"}  # rows of prompts are of the clone that ran them
    assert sorted(cells) == sorted(
        f"results/{kind}/{arm}-1.{ending}" for arm in main for kind, ending in kinds.items()
    )


def test_a_faulty_grid_is_refused_with_everything_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "grid.yaml"
    monkeypatch.setattr(ablations, "GRID", file)
    monkeypatch.setattr(ablations, "ABLATIONS", PROJECT / "params" / "ablations")
    file.write_text(yaml.safe_dump(GRID | {"main": ["afd", "sft"]}))
    assert [cell.name for cell in ablations.group("main", 2)] == ["afd-2", "sft-2"]
    file.write_text(yaml.safe_dump(GRID | {"main": ["afd", "nobody", "afd"], "long": ["../afd"]}))
    with pytest.raises(ParamsError, match=r"long\.0"):
        ablations.read_grid()
    file.write_text(yaml.safe_dump(GRID | {"main": ["afd", "nobody", "afd"]}))
    with pytest.raises(ParamsError) as refused:
        ablations.read_grid()
    assert "main: 'nobody' has no file" in str(refused.value)
    assert "main: 'afd' stands there twice" in str(refused.value)
    file.write_text(yaml.safe_dump({"seeds": ["1"], "main": ["afd"]}))
    with pytest.raises(ParamsError) as refused:
        ablations.read_grid()
    assert "seeds.0" in str(refused.value) and "world_arms" in str(refused.value)
    file.write_text("main: [")
    with pytest.raises(ParamsError, match="cannot be read"):
        ablations.read_grid()


def test_a_cell_that_another_host_plays_is_waited_for_and_said_until_that_host_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, places = ablations.Cell("afd", 1), Places(tmp_path / "runs", tmp_path / "store")
    folder = places.runs / cell.campaign
    folder.mkdir(parents=True)
    left_elsewhere(folder)
    past = time.time() - 2 * OLD_S
    threading.Timer(1.0, os.utime, (folder / HOLDER, (past, past))).start()
    monkeypatch.setattr(ablations, "is_finished", lambda *_: False)
    monkeypatch.setattr(ablations, "_start", lambda *_: subprocess.Popen(["true"]))
    began = time.monotonic()
    assert dict(ablations.played([cell], places, Path("local.yaml"), 1)) == {cell: 0}
    assert time.monotonic() - began > 0.9
    said = capsys.readouterr().err
    assert said.count("ablation-afd-1: waits for pid") == 1 and "on elsewhere" in said


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("grid"))
    clone.dvc("repro")
    return clone


@pytest.mark.campaign
def test_every_arm_is_in_the_table_and_a_failed_one_as_failed(played: Clone) -> None:
    page = (played.folder / "docs" / "results.md").read_text()
    for arm in ("afd", "sft", "no_prior", "look alike"):
        assert arm in page
    assert played.arm("broken-1")["status"] == "failed"
    assert "broken-1" in page and "max_skipped_steps" in page
    assert played.arm("afd-1")["status"] == played.arm("afd-look_alike-1")["status"] == "done"
    for heading in ("Longer clips", "A long schedule", "Who wins where"):
        assert f"## {heading}" in page
    for picture in ("arms", "curves", "horizon", "long"):
        assert (played.folder / "docs" / "images" / f"results-{picture}.png").stat().st_size > 5_000
    page = (played.folder / "docs" / "quick.md").read_text()
    assert {arm for arm in (*ALL, "broken") if f"| {arm} |" in page} == {"afd", "sft", "broken"}


@pytest.mark.campaign
def test_again_it_computes_nothing(played: Clone) -> None:
    assert "up to date" in played.dvc("repro")


@pytest.mark.campaign
def test_a_changed_arm_alone_runs_again_and_going_back_hits_the_run_cache(played: Clone) -> None:
    overlay = played.folder / "params" / "ablations" / "sft.yaml"
    before, was = overlay.read_text(), played.arm("sft-1")["student"]
    overlay.write_text("update: {objective: supervised, num_steps: 3}\n")
    told = played.dvc("repro")
    ran = {line.split("'")[1] for line in told.splitlines() if line.startswith("Running stage")}
    assert ran == {"main@sft-1", "quick", "results"}
    assert played.arm("sft-1")["status"] == "done"
    assert played.arm("sft-1")["student"] != was
    overlay.write_text(before)
    told = played.dvc("repro")
    assert "Stage 'main@sft-1' is cached" in told
    assert played.arm("sft-1")["student"] == was


@pytest.mark.campaign
def test_campaigns_of_the_grid_are_compared_by_name(played: Clone) -> None:
    told = played.run(".venv/bin/afd", "compare", "ablation-afd-1", "ablation-sft-1")
    assert "ablation-sft-1 minus ablation-afd-1" in told and "Trajectory error" in told


@pytest.mark.campaign
def test_a_killed_campaign_and_a_mistyped_cluster_are_no_failed_arm(played: Clone) -> None:
    """Nothing is written that dvc would take for a result; typed again it goes on."""
    cell = (".venv/bin/afd", "ablation", "play", "noisy_context", "--seed", "1", "--group", "grid")
    left = played.folder / "results" / "arms" / "noisy_context-1.json"
    alone = os.environ | {"AFD_ALONE": "1", "OMP_NUM_THREADS": "1"}

    def typed(**more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            cell, cwd=played.folder, capture_output=True, text=True, timeout=560, check=False,
            env=alone | more,
        )  # fmt: skip

    refused = typed(AFD_CLUSTER="params/cluster/slrum.yaml")
    assert refused.returncode == 2 and "slrum.yaml" in refused.stderr and not left.exists()
    killed = typed(AFD_FAILPOINT="store.after_publish")
    assert killed.returncode == 2 and "exit code -9" in killed.stderr and not left.exists()
    assert typed().returncode == 0
    assert json.loads(left.read_bytes())["status"] == "done"


@pytest.mark.campaign
def test_what_was_played_again_is_held_against_the_committed_numbers(played: Clone) -> None:
    """One's own commit is equal; a number that no CPU explains, and a typing error, are told."""
    played.run("git", "add", "results/arms")
    author = ("-c", "user.name=t", "-c", "user.email=t@t")
    played.run("git", *author, "commit", "-qm", "played")
    asked = (".venv/bin/afd", "ablation", "reproduced")
    cells = [played.arm(file.stem) for file in (played.folder / "results" / "arms").iterdir()]
    num_done = sum(cell["status"] == "done" for cell in cells)
    assert f"{num_done} cells: {num_done} equal to the last bit" in played.run(*asked)

    file = played.folder / "results" / "arms" / "sft-1.json"
    numbers = json.loads(file.read_bytes())
    numbers["student"]["sharpness"] += 0.1
    file.write_text(json.dumps(numbers))
    (played.folder / "results" / "arms" / "no_prior-1.json").unlink()

    def refused(*options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*asked, *options], cwd=played.folder, capture_output=True, text=True, check=False
        )

    done = refused()
    assert done.returncode == 1
    assert "OUTSIDE  sft-1, student: sharpness is" in done.stdout
    assert "no_prior-1: not played here" in done.stdout
    done = refused("--against", "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr
    played.run("git", "checkout", "--", "results/arms")
