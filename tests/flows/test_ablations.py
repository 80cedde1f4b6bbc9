"""The grid under a real `dvc repro`, on the smallest real campaigns."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from afd.params import ParamsError
from flows import ablations
from flows.campaign_lock import HOLDER, OLD_S, LockHolder
from flows.paths import CampaignPaths
from tests.flows.test_campaign_lock import left_elsewhere

pytestmark = pytest.mark.timeout(1500)  # the first `dvc repro` is seven campaigns: 2 to 6 minutes
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

    printed = ""  # by the first `dvc repro`

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
    cell, paths = ablations.Cell("afd", 1), CampaignPaths(tmp_path / "runs", tmp_path / "store")
    folder = paths.runs / cell.campaign
    folder.mkdir(parents=True)
    left_elsewhere(folder)
    past = time.time() - 2 * OLD_S
    looks: list[ablations.Cell] = []
    elsewhere = ablations.played_elsewhere

    def looked(one: ablations.Cell, at: CampaignPaths) -> LockHolder | None:
        looks.append(one)
        if len(looks) == 3:
            os.utime(folder / HOLDER, (past, past))
        return elsewhere(one, at)

    monkeypatch.setattr(ablations, "played_elsewhere", looked)
    monkeypatch.setattr(ablations, "is_finished", lambda *_: False)
    monkeypatch.setattr(ablations, "_start", lambda *_: subprocess.Popen(["true"]))
    assert dict(ablations.played([cell], paths, Path("local.yaml"), 1)) == {cell: 0}
    assert len(looks) >= 3
    said = capsys.readouterr().err
    assert said.count("ablation-afd-1: waits for pid") == 1 and "on elsewhere" in said


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("grid"))
    clone.printed = clone.dvc("repro")
    return clone


@pytest.mark.campaign
@pytest.mark.nightly
def test_each_group_says_how_long_it_takes_and_each_cell_where_it_is(played: Clone) -> None:
    assert re.search(r"3 campaigns, \d at a time, 6 rounds: about .*Ctrl-C keeps", played.printed)
    assert "afd-1 starts: runs/.ablations/afd-1.log" in played.printed
    assert (
        "afd-1 finished, " in played.printed and "broken-1 ended with exit code" in played.printed
    )


@pytest.mark.campaign
@pytest.mark.nightly
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
@pytest.mark.nightly
def test_again_it_computes_nothing(played: Clone) -> None:
    assert "up to date" in played.dvc("repro")


@pytest.mark.campaign
@pytest.mark.nightly
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
@pytest.mark.nightly
def test_a_stop_leaves_recorded_results_in_place_and_the_run_cache_knows_them(
    played: Clone,
) -> None:
    names = ("arms/sft-1.json", "curves/sft-1.csv", "prompts/sft-1.parquet")
    files = [played.folder / "results" / name for name in names]
    before = [file.read_bytes() for file in files]
    overlay = played.folder / "params" / "ablations" / "sft.yaml"
    was = overlay.read_text()
    overlay.write_text("update: {objective: supervised, num_steps: 100000}\n")
    log = played.folder / "stopped.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "main@sft-1"], cwd=played.folder,
            stdout=output, stderr=output, start_new_session=True,
            env=os.environ | {"AFD_ALONE": "1", "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while b"sft-1 starts" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(120) != 0
    printed = log.read_text()
    assert "1 campaign, 1 at a time, 2 rounds: about" in printed and "sft-1 starts" in printed
    assert [file.read_bytes() for file in files] == before
    overlay.write_text(was)
    printed = played.dvc("repro", "main@sft-1")
    assert "didn't change, skipping" in printed or "is cached" in printed
    assert [file.read_bytes() for file in files] == before


@pytest.mark.campaign
@pytest.mark.nightly
def test_campaigns_of_the_grid_are_compared_by_name(played: Clone) -> None:
    told = played.run(".venv/bin/afd", "compare", "ablation-afd-1", "ablation-sft-1")
    assert "ablation-sft-1 minus ablation-afd-1" in told and "Trajectory error" in told


@pytest.mark.campaign
@pytest.mark.nightly
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
    left.unlink()  # of no cell of this grid, so for the next test it never ran


@pytest.mark.campaign
@pytest.mark.nightly
def test_what_ran_here_is_compared_with_the_committed_numbers(played: Clone) -> None:
    """Of what ran here: equal, a number that no CPU explains, what never ran, a typing error."""
    arms = played.folder / "results" / "arms"

    def commit() -> None:
        played.run("git", "add", "results/arms")
        played.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "results")

    def reproduced(*options: str) -> "subprocess.CompletedProcess[str]":
        asked = [".venv/bin/afd", "ablation", "reproduced", *options]
        return subprocess.run(asked, cwd=played.folder, capture_output=True, text=True, check=False)

    num_done = sum(played.arm(file.stem)["status"] == "done" for file in arms.iterdir())
    never = json.loads((arms / "no_prior-1.json").read_bytes()) | {"name": "beta_low-1"}
    (arms / "beta_low-1.json").write_text(json.dumps(never))
    commit()
    done = reproduced()
    assert done.returncode == 0, done.stdout
    equal = f"run here: {num_done}, equal to the last bit in every number: {num_done}"
    assert equal in done.stdout and "not run here: 1" in done.stdout
    assert "0.1 + 10% of it" in done.stdout

    done = reproduced("--store", "another")  # where nothing ran: files of the commit prove nothing
    assert done.returncode == 1 and "nothing to compare" in done.stdout
    assert not (played.folder / "another").exists()

    numbers = json.loads((arms / "sft-1.json").read_bytes())
    numbers["student"]["sharpness"] += 0.1
    (arms / "sft-1.json").write_text(json.dumps(numbers))
    commit()
    done = reproduced()
    assert done.returncode == 1 and "OUTSIDE  sft-1, student: sharpness is" in done.stdout
    assert reproduced("--against", "HEAD~1").returncode == 0
    done = reproduced("--against", "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr
