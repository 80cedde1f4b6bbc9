"""Versions against real dvc and git: one file a round, another clone, killed writers, no git."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dvc.lock import make_lock

from afd.artifacts import Artifact
from afd.store import Store
from flows import dvc_tracking
from flows.dvc_locks import release_dead_writers
from tests.flows.campaign_on_disk import CampaignOnDisk, make_campaign, small_params

ROOT = Path(__file__).parents[2]
DVC = str(Path(sys.executable).with_name("dvc"))
IGNORED = "/store/\n/dvc-remote/\n/runs/**\n!/runs/**/\n!/runs/**/*.dvc\n"
QUIET = {**os.environ, "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=QUIET, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commit(folder: Path) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "round")


@pytest.fixture
def campaign(tmp_path: Path) -> CampaignOnDisk:
    """A small campaign inside a git and dvc repository of its own, with this project's config."""
    clone = tmp_path / "clone"
    clone.mkdir()
    run(clone, "git", "init", "-q")
    run(clone, DVC, "init", "-q")
    for name in (".dvc/config", ".dvcignore"):
        shutil.copy(ROOT / name, clone / name)
    (clone / ".gitignore").write_text(IGNORED)
    return make_campaign(clone, small_params(), num_rounds=2)


def track_all(campaign: CampaignOnDisk) -> list[Path | None]:
    names = [("start", None), ("000", 0), ("001", 1)]
    return [dvc_tracking.track(campaign.folder, name, campaign.of_round(at)) for name, at in names]


def test_one_file_a_round_holds_all_its_artifacts_with_the_digest_that_lineage_shows(
    campaign: CampaignOnDisk,
) -> None:
    files = track_all(campaign)
    assert [f.relative_to(campaign.root).as_posix() for f in files if f] == [
        "runs/demo/rounds/start.dvc",
        "runs/demo/rounds/000.dvc",
        "runs/demo/rounds/001.dvc",
    ]
    for file, index in zip(files, (None, 0, 1), strict=True):
        assert file is not None
        outs = yaml.safe_load(file.read_text())["outs"]
        said = {out["path"].rpartition("/")[2]: out["md5"] for out in outs}
        made = campaign.of_round(index)
        assert said == {a.manifest.fingerprint[:16]: dvc_tracking.digest(a) for a in made}
    assert "up to date" in run(campaign.root, DVC, "status")
    commit(campaign.root)
    assert run(campaign.root, "git", "status", "--porcelain") == ""  # nothing but .dvc files


def test_tracking_again_leaves_every_byte_and_time_alone(campaign: CampaignOnDisk) -> None:
    first = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in track_all(campaign) if f}
    assert {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in track_all(campaign) if f} == first


def test_an_artifact_that_was_made_anew_is_tracked_anew(campaign: CampaignOnDisk) -> None:
    """Its numbers are the same, the times in its manifest are not."""
    track_all(campaign)
    index, request, artifact = campaign.made[-1]
    shutil.rmtree(artifact.path)
    again = campaign.save(index, request, seed=1)
    file = dvc_tracking.track(campaign.folder, "start", campaign.of_round(None))
    assert file is not None
    digests = {out["md5"] for out in yaml.safe_load(file.read_text())["outs"]}
    assert dvc_tracking.digest(again) in digests
    assert "up to date" in run(campaign.root, DVC, "status")


@pytest.mark.parametrize("cut", ["nothing", "a key", "a path", "all but the folder"])
def test_a_file_that_a_kill_cut_short_is_written_anew(campaign: CampaignOnDisk, cut: str) -> None:
    file = track_all(campaign)[1]
    assert file is not None
    whole = file.read_bytes()
    end = {
        "nothing": 0,
        "a key": whole.rindex(b"path") + 2,
        "a path": whole.rindex(b"store/") + 20,
        "all but the folder": whole.index(b"wdir"),
    }
    file.write_bytes(whole[: end[cut]])
    assert not dvc_tracking.tracked_by(file).keys() >= {a.path for a in campaign.of_round(0)}
    other = dvc_tracking.track(campaign.folder, "001", campaign.of_round(1))
    assert other is not None  # nobody stumbles over it meanwhile
    assert dvc_tracking.track(campaign.folder, "000", campaign.of_round(0)) == file
    assert file.read_bytes() == whole
    assert "up to date" in run(campaign.root, DVC, "status")


def test_an_artifact_stays_with_the_campaign_that_tracked_it_first(
    campaign: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    dvc_tracking._warn_once.cache_clear()
    track_all(campaign)
    assert caplog.records == []
    other = campaign.root / "runs" / "other"
    shared = campaign.of_round(None)
    assert dvc_tracking.track(other, "start", shared) is None
    again = dvc_tracking.track(other, "000", [*campaign.of_round(0), *shared])
    assert again is None and not (other / "rounds" / "000.dvc").exists()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2  # one line a file of the owner, however often it is met
    for line, name in zip(told, ("start", "000"), strict=True):
        assert f"campaign 'demo' already, so it stays in runs/demo/rounds/{name}.dvc" in line
    for artifact in shared:
        assert artifact.path.relative_to(campaign.root).as_posix() in told[0]
    assert "up to date" in run(campaign.root, DVC, "status")  # dvc sees no overlap


def test_another_clone_pulls_a_finished_campaign_with_equal_content(
    campaign: CampaignOnDisk, tmp_path: Path
) -> None:
    track_all(campaign)
    commit(campaign.root)
    run(campaign.root, DVC, "push", "-q")
    other = tmp_path / "other"
    run(tmp_path, "git", "clone", "-q", str(campaign.root), str(other))
    remote = str(campaign.root.parent / "afd-dvc-remote")
    run(other, DVC, "remote", "modify", "--local", "local", "url", remote)
    run(other, DVC, "pull", "-q")
    store = Store(other / "store")
    for _, request, artifact in campaign.made:
        assert store.have(request.output)  # so the campaign there computes nothing
        assert store.load(request.output, verify=True).manifest == artifact.manifest
    assert campaign.evaluation is not None
    pulled = store.load(campaign.evaluation.ref).file("summary.json").read_bytes()
    assert pulled == campaign.evaluation.file("summary.json").read_bytes()


WRITER = """
import os, signal, sys
from pathlib import Path
from flows import dvc_tracking
from flows.dvc_locks import release_dead_writers
from tests.flows.campaign_on_disk import CampaignOnDisk, small_params
from afd.store import Store
from dvc.stage import Stage
root = Path(sys.argv[1])
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
Stage.dump = die  # after the bytes are in the cache, while both locks are held
artifacts = list(Store(root / "store").all())
dvc_tracking.track(root / "runs" / "demo", "all", artifacts)
"""


def test_a_writer_killed_while_it_held_dvc_blocks_nobody(campaign: CampaignOnDisk) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(campaign.root)], cwd=ROOT, env=QUIET, check=False
    )
    assert done.returncode == -signal.SIGKILL
    table = campaign.root / ".dvc" / "tmp" / "rwlock"
    # An entry of a number that another, younger process has now: dvc would wait for it for ever.
    entry = {"pid": os.getpid(), "cmd": "dvc add"}
    table.write_text(json.dumps({"write": {str(campaign.root / "store"): entry}, "read": {}}))
    os.utime(table, (1, 1))  # long before this process began
    assert all(track_all(campaign))
    assert "up to date" in run(campaign.root, DVC, "status")


def test_a_lock_table_cut_short_by_a_kill_is_removed(campaign: CampaignOnDisk) -> None:
    table = campaign.root / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(exist_ok=True)
    table.write_text('{"write": {"/a": {"pi')
    assert all(track_all(campaign))


def test_a_living_writer_keeps_its_entry(campaign: CampaignOnDisk) -> None:
    table = campaign.root / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(exist_ok=True)
    entry = {"pid": os.getpid(), "cmd": "dvc repro"}
    table.write_text(json.dumps({"write": {"/elsewhere": entry}, "read": {}}))
    assert release_dead_writers(campaign.root) == []
    assert json.loads(table.read_text())["write"] == {"/elsewhere": entry}


TRACK = """
import sys
from pathlib import Path
from afd.artifacts import ArtifactRef
from afd.store import Store
from flows import dvc_tracking
store = Store(Path(sys.argv[1]) / "store")
names = [name.split("/") for name in sys.argv[2:]]
made = [store.load(ArtifactRef(kind=kind, fingerprint=name)) for kind, name in names]
print("asked", flush=True)
print(dvc_tracking.track(Path(sys.argv[1]) / "runs" / "other", "start", made), flush=True)
"""


def test_what_a_campaign_beside_has_tracked_while_dvc_was_waited_for_stays_its_own(
    campaign: CampaignOnDisk,
) -> None:
    """Of an artifact with two owners dvc would refuse to read anything."""
    shared = campaign.of_round(None)
    owner = dvc_tracking.track(campaign.folder, "start", shared)
    assert owner is not None
    content = owner.read_bytes()
    owner.unlink()
    names = [f"{a.ref.kind}/{a.ref.fingerprint}" for a in shared]
    command = [sys.executable, "-c", TRACK, str(campaign.root), *names]
    with make_lock(str(campaign.root / ".dvc" / "tmp" / "lock")):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=QUIET)
        assert other.stdout is not None and other.stdout.readline() == "asked\n"
        time.sleep(2)  # it has found no owner and waits for dvc
        owner.write_bytes(content)
    assert other.communicate(timeout=60)[0] == "None\n"
    assert not (campaign.root / "runs" / "other" / "rounds" / "start.dvc").exists()
    assert "up to date" in run(campaign.root, DVC, "status")


def test_two_owners_are_told_apart_by_the_next_run_of_either(campaign: CampaignOnDisk) -> None:
    shared = campaign.of_round(None)
    owner = dvc_tracking.track(campaign.folder, "start", shared)
    second = campaign.root / "runs" / "other" / "rounds" / "start.dvc"
    assert owner is not None
    second.parent.mkdir(parents=True)
    shutil.copy(owner, second)
    assert dvc_tracking.track(second.parent.parent, "start", shared) is None
    assert owner.exists() and not second.exists()
    assert "up to date" in run(campaign.root, DVC, "status")


def make_one(folder: Path) -> Artifact:
    return make_campaign(folder, small_params(), num_rounds=0).made[0][2]


def test_without_dvc_nothing_is_tracked_and_the_digest_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: CampaignOnDisk
) -> None:
    artifact = make_one(tmp_path / "plain")
    dvc_tracking._warn_once.cache_clear()
    runs = tmp_path / "plain" / "runs"
    assert dvc_tracking.track(runs / "demo", "start", [artifact]) is None
    assert dvc_tracking.track(runs / "demo", "000", [artifact]) is None
    assert len([r for r in caplog.records if "no dvc repository" in r.message]) == 1
    assert dvc_tracking.digest(artifact) == dvc_tracking.digest(campaign.made[0][2])


def test_without_git_rounds_are_tracked_all_the_same(tmp_path: Path) -> None:
    root = tmp_path / "nogit"
    (root / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    artifact = make_one(root)
    file = dvc_tracking.track(root / "runs" / "demo", "start", [artifact])
    assert file is not None
    assert yaml.safe_load(file.read_text())["outs"][0]["md5"] == dvc_tracking.digest(artifact)


def test_a_cache_that_cannot_be_written_is_told_with_what_is_kept(
    campaign: CampaignOnDisk,
) -> None:
    cache = campaign.root / ".dvc" / "cache"
    cache.write_text("a file where dvc wants a folder")
    with pytest.raises(dvc_tracking.TrackingError, match="kept in the store; run the same command"):
        dvc_tracking.track(campaign.folder, "start", campaign.of_round(None))
    cache.unlink()
    assert dvc_tracking.track(campaign.folder, "start", campaign.of_round(None)) is not None


AFD = """
import sys
from pathlib import Path
from afd.store import Store
from flows import dvc_tracking
from flows.dvc_locks import release_dead_writers
Path("ran").write_text(" ".join(sys.argv[1:]))
Path("runs/demo/rounds/start.dvc").unlink()
made = [a for a in Store(Path("store")).all() if a.manifest.stage in ("prompts", "warmstart")]
# dvc inside `dvc repro`, as it really is
assert dvc_tracking.track(Path("runs/demo"), "start", made)
"""


def test_dvc_repro_computes_nothing_after_a_finished_campaign(campaign: CampaignOnDisk) -> None:
    """With this project's own dvc.yaml; the campaign command would leave a mark if it ran."""
    root = campaign.root
    for name in ("dvc.yaml", "params"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    for name in ("afd", "flows"):
        (root / name).mkdir()
        (root / name / "code.py").write_text("")
    track_all(campaign)
    for name in ("summary.json", "report.html"):
        (campaign.folder / name).write_text("{}")
    other = campaign.params.model_copy(update={"seed": campaign.params.seed + 1})
    assert not dvc_tracking.commit_pipeline(campaign.folder, other)  # another campaign's params
    assert not (root / "dvc.lock").exists()
    assert dvc_tracking.commit_pipeline(campaign.folder, campaign.params)
    bin_dir = root / ".venv" / "bin"  # all that `make demo` makes; nothing puts it into PATH
    bin_dir.mkdir(parents=True)
    (bin_dir / "afd").write_text(f"#!{sys.executable}\n{AFD}")
    (bin_dir / "afd").chmod(0o755)
    environment = {**QUIET, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}

    def repro() -> str:
        (root / "ran").unlink(missing_ok=True)
        subprocess.run([DVC, "repro", "-q", "demo"], cwd=root, env=environment, check=True)
        return (root / "ran").read_text() if (root / "ran").exists() else ""

    asked = "campaign --name demo --params params/pocket.yaml --no-prefect --set-aside"
    assert repro() == ""
    for changed in ("afd/code.py", "flows/code.py", "params/cluster/local.yaml"):
        with (root / changed).open("a") as file:
            file.write("# changed\n")
        assert repro() == asked, changed
        assert repro() == "", changed
    assert (campaign.folder / "report.html").exists()  # dvc did not delete it before running
    assert len(list(campaign.store.all())) == len(campaign.made)
