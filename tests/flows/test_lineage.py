"""Lineage against a real MLflow on sqlite: written twice, after kills, and while it is down."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from afd.artifacts import Artifact
from afd.stages.request import StageRequest
from afd.store import Store
from flows import versions
from flows.lineage import Lineage
from flows.mlflow_runs.champion import choose_champion
from flows.mlflow_runs.run_ids import RunIds
from tests.flows.campaign_on_disk import CampaignOnDisk, make_campaign, small_params
from tests.flows.conftest import Forge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A new database takes six seconds: made once, copied for each test."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file.read_bytes()


@pytest.fixture
def campaign(tmp_path: Path, empty_database: bytes) -> CampaignOnDisk:
    folder = tmp_path / "runs" / ".services" / "mlflow"
    folder.mkdir(parents=True)
    (folder / "mlflow.db").write_bytes(empty_database)
    return make_campaign(tmp_path, small_params(), num_rounds=2)


def uri(campaign: CampaignOnDisk) -> str:
    return f"sqlite:///{campaign.root / 'runs' / '.services' / 'mlflow' / 'mlflow.db'}"


def digests(request: StageRequest, artifact: Artifact) -> dict[str, str]:
    own = {artifact.ref.fingerprint: versions.digest(artifact)}
    return own | {ref.fingerprint: f"{ref.fingerprint[:32]}.dir" for ref in request.inputs.values()}


def play(campaign: CampaignOnDisk, lineage: Lineage, *, starts: bool = True) -> None:
    """What a campaign's process tells lineage."""
    lineage.sweep()
    lineage.start_campaign(campaign.params.model_dump(mode="json"))
    for index in (None, 0, 1):
        if index is not None:
            lineage.start_round(index)
        for at, request, artifact in campaign.made:
            if at == index:
                if starts and not lineage.ids.is_finished(artifact.ref.fingerprint[:16]):
                    lineage.start_stage(index, request)
                lineage.record_stage(index, request, artifact, digests(request, artifact))
        if index is not None:
            lineage.finish_round(index)
    lineage.finish_campaign("finished")


def all_runs(campaign: CampaignOnDisk) -> list[Run]:
    client = MlflowClient(uri(campaign), uri(campaign))
    found = client.get_experiment_by_name("afd")
    return list(client.search_runs([found.experiment_id], max_results=1000)) if found else []


def snapshot(campaign: CampaignOnDisk) -> dict[str, object]:
    """Everything of every run that a replay could spoil."""
    client = MlflowClient(uri(campaign), uri(campaign))
    return {
        run.info.run_id: (
            run.info.status,
            run.data.params,
            {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")},
            {
                name: [(m.step, m.value, m.timestamp) for m in history]
                for name in run.data.metrics
                if (history := client.get_metric_history(run.info.run_id, name))
            },
            sorted((d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs),
            sorted(f.path for f in client.list_artifacts(run.info.run_id)),
        )
        for run in all_runs(campaign)
    }


def test_runs_are_nested_and_say_what_was_made_from_what(campaign: CampaignOnDisk) -> None:
    play(campaign, Lineage(uri(campaign), campaign.folder))
    runs = all_runs(campaign)
    by_id = {run.info.run_id: run for run in runs}
    assert Counter(run.data.tags["afd.level"] for run in runs) == {
        "campaign": 1,
        "round": 2,
        "stage": len(campaign.made),
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    ids = RunIds(campaign.folder)
    for index, request, artifact in campaign.made:
        run = by_id[ids.read(artifact.ref.fingerprint[:16])["run_id"]]
        parent = by_id[run.data.tags["mlflow.parentRunId"]]
        assert parent.data.tags["afd.level"] == ("campaign" if index is None else "round")
        assert parent.data.tags.get("afd.round") == (None if index is None else str(index))
        shown = {
            role: d.dataset.digest
            for d in run.inputs.dataset_inputs
            for role in next(t.value for t in d.tags if t.key == "mlflow.data.context").split(", ")
        }
        expected = digests(request, artifact)
        assert shown == {role: expected[r.fingerprint] for role, r in request.inputs.items()}
        assert run.data.tags["afd.dvc"] == versions.digest(artifact)
        assert run.data.tags["mlflow.source.git.commit"] == artifact.manifest.made_by.revision
    top = next(run for run in runs if run.data.tags["afd.level"] == "campaign")
    assert top.data.params["student.codec.frames"] == str(campaign.params.student.codec.frames)
    assert len(top.data.params) > 100  # more than MLflow takes in one call


def test_curves_pictures_films_are_there(campaign: CampaignOnDisk) -> None:
    play(campaign, Lineage(uri(campaign), campaign.folder))
    client = MlflowClient(uri(campaign), uri(campaign))
    runs = {r.data.tags["afd.key"]: r for r in all_runs(campaign)}
    evaluation = next(a for i, r, a in campaign.made if i == 1 and r.stage == "evaluate")
    run_id = runs[evaluation.ref.fingerprint[:16]].info.run_id
    assert {f.path for f in client.list_artifacts(run_id)} == {
        "filmstrips",
        "samples.mp4",
        "sheet.png",
    }
    assert len(client.list_artifacts(run_id, "filmstrips")) == 3
    fitted = next(a for i, r, a in campaign.made if i == 0 and r.stage == "fit")
    history = client.get_metric_history(runs[fitted.ref.fingerprint[:16]].info.run_id, "fit/loss")
    assert sorted({m.step for m in history}) == [0, 1, 2, 3, 4]
    learning = client.get_metric_history(runs["campaign"].info.run_id, "evaluate/gravity")
    assert [m.step for m in learning] == [0, 1]
    on_campaign = client.list_artifacts(runs["campaign"].info.run_id)
    assert {"filmstrips", "samples.mp4", "images"} <= {f.path for f in on_campaign}
    sheets = client.list_artifacts(runs["campaign"].info.run_id, "images")
    assert len([f for f in sheets if f.path.endswith(".png")]) == 2  # one a round


def test_what_programs_outside_say_is_marked(tmp_path: Path, empty_database: bytes) -> None:
    """How many videos failed, which metrics are no judges, who crashed: on stage and campaign."""
    (tmp_path / "runs" / ".services" / "mlflow").mkdir(parents=True)
    (tmp_path / "runs" / ".services" / "mlflow" / "mlflow.db").write_bytes(empty_database)
    params = small_params()
    metric = {"goal": "high", "low": 0.0, "high": 1.0}
    asked = [
        {
            "name": name, "version": "1", "command": ["x", "{videos}", "{answer}"],
            "weights": None, "timeout_min": 1.0, "variables": [], "when": "every_round",
            "metrics": [
                {"name": "motion", "independent": False} | metric,
                {"name": "sharp", "independent": True} | metric,
            ],
        }
        for name in ("align", "crash")
    ]  # fmt: skip
    values = params.model_dump(mode="json")
    values["evaluate"]["evaluators"] = asked
    campaign = make_campaign(tmp_path, type(params).model_validate(values), num_rounds=2)
    play(campaign, Lineage(uri(campaign), campaign.folder))
    runs = {r.data.tags["afd.key"]: r for r in all_runs(campaign)}
    made = next(a for i, r, a in campaign.made if i == 1 and r.stage == "evaluate")
    for run in (runs[made.ref.fingerprint[:16]], runs["campaign"]):
        assert run.data.tags["afd.not_independent"] == "align.motion, crash.motion"
        assert run.data.tags["afd.evaluator.align"] == "told 1"
        assert run.data.tags["afd.evaluator.crash"] == "crash: exit code 1"
        assert run.data.metrics["evaluate/align.motion.num_failed"] == 3
        assert run.data.metrics["evaluate/crash.sharp.num_failed"] == 24
        assert run.data.metrics["evaluate/crash.num_videos"] == 24


def test_the_best_student_is_the_champion(campaign: CampaignOnDisk) -> None:
    play(campaign, Lineage(uri(campaign), campaign.folder))
    client = MlflowClient(uri(campaign), uri(campaign))
    best = client.get_model_version_by_alias("demo-student", "champion")
    student = next(a for i, r, a in campaign.made if i == 1 and r.stage == "update")
    assert best.tags["afd.fingerprint"] == student.ref.fingerprint
    assert len(client.search_model_versions("name = 'demo-student'")) == 3  # warm start + 2 rounds
    model = client.get_logged_model(best.source.removeprefix("models:/"))
    assert (
        model.source_run_id == RunIds(campaign.folder).read(student.ref.fingerprint[:16])["run_id"]
    )


def test_playing_a_finished_campaign_again_changes_nothing_and_imports_nothing(
    campaign: CampaignOnDisk,
) -> None:
    play(campaign, Lineage(uri(campaign), campaign.folder))
    before = snapshot(campaign)
    again = Lineage(uri(campaign), campaign.folder)
    play(campaign, again)
    assert again._thread is None  # nothing to write: MLflow was not even opened
    assert snapshot(campaign) == before


def test_writing_everything_twice_leaves_the_same_rows(campaign: CampaignOnDisk) -> None:
    """As after a kill between the last row in MLflow and the note on disk that it is done."""
    play(campaign, Lineage(uri(campaign), campaign.folder))
    before = snapshot(campaign)
    ids = RunIds(campaign.folder)
    for _, _, artifact in campaign.made:
        ids.write(artifact.ref.fingerprint[:16], state="running", version=None)
    play(campaign, Lineage(uri(campaign), campaign.folder))
    assert snapshot(campaign) == before
    versions_now = MlflowClient(uri(campaign), uri(campaign)).search_model_versions(
        "name = 'demo-student'"
    )
    assert len(versions_now) == 3


CAMPAIGN = """
import os, signal, sys, time
from pathlib import Path
from flows.lineage import Lineage
from tests.flows.campaign_on_disk import small_params
import json
from afd.stages.request import StageRequest
from afd.store import Store
root, uri, request = Path(sys.argv[1]), sys.argv[2], StageRequest.model_validate_json(sys.argv[3])
lineage = Lineage(uri, root / "runs" / "demo")
lineage.start_campaign(small_params().model_dump(mode="json"))
lineage.start_round(0)
lineage.start_stage(0, request)
while lineage.run_id(request.output) is None:
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_campaign_leaves_nothing_running_and_goes_on_in_its_own_runs(
    campaign: CampaignOnDisk,
) -> None:
    _, request, artifact = next(m for m in campaign.made if m[0] == 0)
    arguments = [str(campaign.root), uri(campaign), request.model_dump_json()]
    done = subprocess.run([sys.executable, "-c", CAMPAIGN, *arguments], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    left = {run.info.run_id: run.info.status for run in all_runs(campaign)}
    assert list(left.values()) == ["RUNNING"] * 3  # else this test kills nothing
    swept = Lineage(uri(campaign), campaign.folder)
    swept.sweep()
    swept.close()
    assert {run.info.status for run in all_runs(campaign)} == {"KILLED"}
    play(campaign, Lineage(uri(campaign), campaign.folder))
    after = {run.info.run_id: run for run in all_runs(campaign)}
    assert left.keys() <= after.keys()
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert RunIds(campaign.folder).read(artifact.ref.fingerprint[:16])["run_id"] in left
    assert len(after) == 3 + len(campaign.made)


def test_a_run_made_in_the_instant_before_the_kill_is_found_again(
    campaign: CampaignOnDisk,
) -> None:
    first = Lineage(uri(campaign), campaign.folder)
    first.start_campaign(campaign.params.model_dump(mode="json"))
    first.start_round(0)
    first.close()
    (campaign.folder / "lineage" / "round_000.json").unlink()  # made in MLflow, not noted
    play(campaign, Lineage(uri(campaign), campaign.folder))
    runs = all_runs(campaign)
    assert Counter(run.data.tags["afd.level"] for run in runs)["round"] == 2
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_sweeping_leaves_other_campaigns_alone(campaign: CampaignOnDisk) -> None:
    params = campaign.params.model_dump(mode="json")
    for name in ("demo", "other"):
        lineage = Lineage(uri(campaign), campaign.root / "runs" / name)
        lineage.start_campaign(params)
        lineage.close()
    mine = Lineage(uri(campaign), campaign.folder)
    mine.sweep()
    mine.close()
    assert {r.info.run_name: r.info.status for r in all_runs(campaign)} == {
        "demo": "KILLED",
        "other": "RUNNING",
    }


def test_a_stage_that_failed_says_why_and_the_next_try_is_the_same_run(
    campaign: CampaignOnDisk,
) -> None:
    index, request, artifact = campaign.made[3]
    lineage = Lineage(uri(campaign), campaign.folder)
    lineage.start_campaign(campaign.params.model_dump(mode="json"))
    lineage.start_stage(index, request)
    lineage.fail_stage(index, request, "lost", "killed by signal 9")
    lineage.finish_campaign("failed")
    runs = {run.data.tags["afd.key"]: run for run in all_runs(campaign)}
    failed = runs[artifact.ref.fingerprint[:16]]
    assert failed.info.status == runs["campaign"].info.status == "FAILED"
    assert failed.data.tags["mlflow.note.content"] == "killed by signal 9"
    play(campaign, Lineage(uri(campaign), campaign.folder))
    after = {run.data.tags["afd.key"]: run for run in all_runs(campaign)}
    assert after[artifact.ref.fingerprint[:16]].info.run_id == failed.info.run_id
    assert {run.info.status for run in after.values()} == {"FINISHED"}


def test_while_mlflow_is_down_events_wait_on_disk_and_are_written_later(
    campaign: CampaignOnDisk,
) -> None:
    blocked = campaign.root / "blocked"
    blocked.write_text("a file where MLflow wants a folder")
    down = Lineage(f"sqlite:///{blocked}/mlflow.db", campaign.folder)
    play(campaign, down)  # returns: a campaign never fails by this
    spool = campaign.folder / "lineage" / "spool.jsonl"
    kinds = Counter(json.loads(line)["kind"] for line in spool.read_text().splitlines())
    assert kinds["stage_done"] == len(campaign.made)
    with spool.open("a") as stream:
        stream.write('{"kind": "stage_do')  # cut short by a kill
    later = Lineage(uri(campaign), campaign.folder)
    later.close()
    assert not spool.exists()
    assert {run.info.status for run in all_runs(campaign)} == {"FINISHED"}
    assert len(all_runs(campaign)) == 3 + len(campaign.made)


def test_one_event_that_mlflow_refuses_does_not_hold_back_the_others(
    campaign: CampaignOnDisk,
) -> None:
    index, request, artifact = campaign.made[0]
    broken = campaign.root / "gone"
    lineage = Lineage(uri(campaign), campaign.folder)
    lineage.start_campaign(campaign.params.model_dump(mode="json"))
    object_gone = Artifact(broken, artifact.manifest)
    lineage.record_stage(index, request, object_gone, {})
    for at, other, made in campaign.made[1:3]:
        lineage.record_stage(at, other, made, {})
    lineage.finish_campaign("finished")
    keys = {r.data.tags["afd.key"]: r.info.status for r in all_runs(campaign)}
    for _, _, made in campaign.made[1:3]:
        assert keys[made.ref.fingerprint[:16]] == "FINISHED"


def test_a_folder_that_cannot_be_written_stops_nothing(
    campaign: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    campaign.folder.mkdir(parents=True, exist_ok=True)
    (campaign.folder / "lineage").write_text("a file where lineage wants a folder")
    play(campaign, Lineage(uri(campaign), campaign.folder))
    assert any("is not written" in record.message for record in caplog.records)
    (campaign.folder / "lineage").unlink()
    play(campaign, Lineage(uri(campaign), campaign.folder))
    done = {k for k, e in RunIds(campaign.folder).entries().items() if e["state"] == "finished"}
    assert len(done) == 3 + len(campaign.made)


def test_a_damaged_id_is_found_again_in_mlflow(campaign: CampaignOnDisk) -> None:
    lineage = Lineage(uri(campaign), campaign.folder)
    lineage.start_campaign(campaign.params.model_dump(mode="json"))
    lineage.start_stage(None, campaign.made[0][1])
    lineage.close()
    file = lineage.ids.folder / f"{campaign.made[0][2].ref.fingerprint[:16]}.json"
    before = lineage.run_id(campaign.made[0][2].ref)
    file.write_text('{"run_i')
    play(campaign, Lineage(uri(campaign), campaign.folder))
    assert lineage.run_id(campaign.made[0][2].ref) == before
    assert {run.info.status for run in all_runs(campaign)} == {"FINISHED"}


def test_a_new_database_is_filled_from_the_store(campaign: CampaignOnDisk) -> None:
    """As after somebody deleted the old one: MLflow shows, it holds nothing of its own."""
    play(campaign, Lineage(uri(campaign), campaign.folder))
    before = Counter(run.data.tags["afd.key"] for run in all_runs(campaign))
    elsewhere = campaign.root / "elsewhere" / "mlflow.db"
    play(campaign, Lineage(f"sqlite:///{elsewhere}", campaign.folder))
    client = MlflowClient(f"sqlite:///{elsewhere}")
    found = client.get_experiment_by_name("afd")
    assert found is not None
    again = client.search_runs([found.experiment_id], max_results=1000)
    assert Counter(run.data.tags["afd.key"] for run in again) == before
    assert {run.info.status for run in again} == {"FINISHED"}


def test_the_champion_has_the_lowest_error_and_ties_go_to_the_earliest() -> None:
    key = "trajectory_error_px"
    assert choose_champion({1: {key: 2.0}, 2: {key: 0.5}, 3: {key: 0.5}}) == 2
    assert choose_champion({1: {key: None}, 2: {key: float("nan")}, 3: {key: 9}}) == 3
    assert choose_champion({1: {"gravity": 1.0}}) is None
    assert choose_champion({}) is None


@pytest.mark.campaign
def test_a_real_campaign_killed_three_times_ends_with_every_run_once_and_finished(
    forge: Forge, tmp_path: Path
) -> None:
    here = Forge(forge.process, tmp_path / "runs")

    def play(failpoint: str = "") -> int:
        log = tmp_path / "log"
        arguments = ("campaign", "--name", "tiny")
        return here.afd(*arguments, store=tmp_path / "store", log=log, failpoint=failpoint)

    database = f"sqlite:///{tmp_path / 'runs' / '.services' / 'mlflow' / 'mlflow.db'}"
    ids = RunIds(tmp_path / "runs" / "tiny")
    seen: dict[str, str] = {}
    for failpoint in ("flow.after_lineage:2", "flow.before_versions:2", "update.step:1"):
        assert play(failpoint) == -signal.SIGKILL, failpoint
        now = {key: entry["run_id"] for key, entry in ids.entries().items()}
        assert seen.items() <= now.items()  # what was begun goes on in its own run
        seen = now
    assert play() == 0
    client = MlflowClient(database, database)
    found = client.get_experiment_by_name("afd")
    assert found is not None
    runs = client.search_runs([found.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    keys = Counter(run.data.tags["afd.key"] for run in runs)
    assert set(keys.values()) == {1}
    made = {a.manifest.fingerprint[:16] for a in Store(tmp_path / "store").all()}
    assert keys.keys() == made | {"campaign", "round_000", "round_001"}
    assert seen.items() <= {key: entry["run_id"] for key, entry in ids.entries().items()}.items()
    best = client.get_model_version_by_alias("tiny-student", "champion")
    assert best.tags["afd.fingerprint"][:16] in made


def test_stages_side_by_side_start_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []

    class Slow(threading.Thread):
        def __init__(self, **_: object) -> None:
            super().__init__()
            started.append(self)
            time.sleep(0.05)

    lineage = Lineage("sqlite:///nowhere", tmp_path)
    tellers = [threading.Thread(target=lineage.finish_round, args=[index]) for index in range(4)]
    with monkeypatch.context() as patched:
        patched.setattr("flows.lineage.threading.Thread", Slow)
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
    assert len(started) == 1
