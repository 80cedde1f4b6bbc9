"""The recorder against a real MLflow on sqlite: written twice, after kills, while it is away."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from afd.artifacts import Artifact
from afd.runtime.request import StageRequest
from afd.store import Store
from flows import dvc_tracking
from flows.mlflow_runs.facts import note_begun
from flows.mlflow_runs.recorder import RunRecorder
from flows.mlflow_runs.registry import choose_champion
from flows.mlflow_runs.run_ids import RunIds
from flows.mlflow_runs.runs import CampaignRuns
from tests.flows.campaign_on_disk import METRICS, CampaignOnDisk, make_campaign, small_params
from tests.flows.conftest import Forge

ROOT = Path(__file__).parents[2]


def recorded_nowhere(root: Path, database: bytes, num_rounds: int) -> CampaignOnDisk:
    """A finished campaign beside an MLflow database that has nothing of it."""
    folder = root / "runs" / ".services" / "mlflow"
    folder.mkdir(parents=True)
    (folder / "mlflow.db").write_bytes(database)
    return make_campaign(root, small_params(), num_rounds)


@pytest.fixture
def campaign(tmp_path: Path, empty_database: bytes) -> CampaignOnDisk:
    return recorded_nowhere(tmp_path, empty_database, num_rounds=2)


def uri(campaign: CampaignOnDisk) -> str:
    return f"sqlite:///{campaign.root / 'runs' / '.services' / 'mlflow' / 'mlflow.db'}"


def digests(made: CampaignOnDisk, request: StageRequest) -> dict[str, str]:
    """Role -> DVC's digest of what a stage was made from."""
    return {role: dvc_tracking.digest(made.store.load(ref)) for role, ref in request.inputs.items()}


def recorder(made: CampaignOnDisk, address: str | None = None) -> RunRecorder:
    made.write_folder()
    return RunRecorder(address or uri(made), made.folder, made.store)


def play(made: CampaignOnDisk, address: str | None = None) -> RunRecorder:
    """What a campaign's process does, its stages computed."""
    own = recorder(made, address)
    own.open()
    for index, request, artifact in made.made:
        if not own.ids.is_finished(artifact.ref.fingerprint[:16]):
            with own.computing(index, request):
                pass
        own.record(index, request)
    own.close("finished")
    return own


def sync(made: CampaignOnDisk, **chosen: Any) -> int:
    """What `afd sync` does."""
    made.write_folder()
    return CampaignRuns(uri(made), made.folder, made.store).sync(**chosen)


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
    play(campaign)
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
        assert shown == digests(campaign, request)
        assert run.data.tags["afd.dvc"] == dvc_tracking.digest(artifact)
        assert run.data.tags["mlflow.source.git.commit"] == artifact.manifest.made_by.revision
    top = next(run for run in runs if run.data.tags["afd.level"] == "campaign")
    assert top.data.params["student.codec.frames"] == str(campaign.params.student.codec.frames)
    assert len(top.data.params) > 100  # more than MLflow takes in one call


def test_curves_pictures_films_are_there(campaign: CampaignOnDisk) -> None:
    play(campaign)
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
    play(campaign)
    runs = {r.data.tags["afd.key"]: r for r in all_runs(campaign)}
    made = next(a for i, r, a in campaign.made if i == 1 and r.stage == "evaluate")
    for run in (runs[made.ref.fingerprint[:16]], runs["campaign"]):
        assert run.data.tags["afd.not_independent"] == "align.motion, crash.motion"
        assert run.data.tags["afd.evaluator.align"] == "motion: 3 of 24 videos are null"
        assert run.data.tags["afd.evaluator.crash"] == "crash: exit code 1"
        assert run.data.metrics["evaluate/align.motion.num_failed"] == 3
        assert run.data.metrics["evaluate/crash.sharp.num_failed"] == 24
        assert run.data.metrics["evaluate/crash.num_videos"] == 24


def test_the_best_student_is_the_champion(campaign: CampaignOnDisk) -> None:
    play(campaign)
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
    play(campaign)
    before = snapshot(campaign)
    script = f"""
import sys
from pathlib import Path
from afd.store import Store
from flows.mlflow_runs.recorder import RunRecorder
folder, store = Path({str(campaign.folder)!r}), Store({str(campaign.store.root)!r})
own = RunRecorder({uri(campaign)!r}, folder, store)
own.open()
own.close("finished")
assert not {{"mlflow", "sqlalchemy", "dvc", "pandas"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert play(campaign).ids.is_finished("campaign")
    assert snapshot(campaign) == before
    assert sync(campaign, status="finished", again=True) == 0


def test_writing_everything_twice_leaves_the_same_rows(campaign: CampaignOnDisk) -> None:
    """As after a kill between the last row in MLflow and the note on disk that it is done."""
    play(campaign)
    before = snapshot(campaign)
    ids = RunIds(campaign.folder)
    for _, _, artifact in campaign.made:
        ids.write(artifact.ref.fingerprint[:16], state="running", version=None)
    play(campaign)
    assert snapshot(campaign) == before
    versions_now = MlflowClient(uri(campaign), uri(campaign)).search_model_versions(
        "name = 'demo-student'"
    )
    assert len(versions_now) == 3


CAMPAIGN = """
import os, signal, sys, time
from pathlib import Path
from flows.mlflow_runs.recorder import RunRecorder
from afd.runtime.request import StageRequest
from afd.store import Store
root, uri, request = Path(sys.argv[1]), sys.argv[2], StageRequest.model_validate_json(sys.argv[3])
own = RunRecorder(uri, root / "runs" / "demo", Store(root / "nothing-made"))
own.open()
with own.computing(0, request):
    while own.run_id(request.output) is None:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_inside(made: CampaignOnDisk) -> Artifact:
    """A campaign's process, killed while it computes the first stage of round 0."""
    _, request, artifact = next(one for one in made.made if one[0] == 0)
    made.folder.mkdir(parents=True, exist_ok=True)
    arguments = [str(made.root), uri(made), request.model_dump_json()]
    done = subprocess.run([sys.executable, "-c", CAMPAIGN, *arguments], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [run.info.status for run in all_runs(made)]
    assert left == ["RUNNING"] * 3  # else this kills nothing
    return artifact


def test_a_killed_campaign_leaves_nothing_running_and_goes_on_in_its_own_runs(
    campaign: CampaignOnDisk,
) -> None:
    artifact = kill_inside(campaign)
    left = {run.info.run_id for run in all_runs(campaign)}
    nothing = Store(campaign.root / "nothing-made")
    RunRecorder(uri(campaign), campaign.folder, nothing).close("killed")
    assert {run.info.status for run in all_runs(campaign)} == {"KILLED"}
    play(campaign)
    after = {run.info.run_id: run for run in all_runs(campaign)}
    assert left <= after.keys()
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert RunIds(campaign.folder).read(artifact.ref.fingerprint[:16])["run_id"] in left
    assert len(after) == 3 + len(campaign.made)


def test_a_run_made_in_the_instant_before_the_kill_is_found_again(
    campaign: CampaignOnDisk,
) -> None:
    kill_inside(campaign)
    (campaign.folder / "lineage" / "round_000.json").unlink()  # made in MLflow, not noted
    play(campaign)
    runs = all_runs(campaign)
    assert Counter(run.data.tags["afd.level"] for run in runs)["round"] == 2
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_ending_one_campaign_leaves_others_alone(campaign: CampaignOnDisk) -> None:
    for name in ("demo", "other"):
        runs = CampaignRuns(uri(campaign), campaign.root / "runs" / name, campaign.store)
        (campaign.root / "runs" / name).mkdir(exist_ok=True, parents=True)
        assert runs.sync() == 0  # made by opening it
    CampaignRuns(uri(campaign), campaign.folder, campaign.store).sync(status="killed")
    assert {r.info.run_name: r.info.status for r in all_runs(campaign)} == {
        "demo": "KILLED",
        "other": "RUNNING",
    }


def test_a_stage_that_failed_says_why_and_the_next_try_is_the_same_run(
    campaign: CampaignOnDisk,
) -> None:
    index, request, artifact = campaign.made[3]
    campaign.folder.mkdir(parents=True)
    own = RunRecorder(uri(campaign), campaign.folder, Store(campaign.root / "nothing-made"))
    own.open()
    with own.computing(index, request):
        pass
    own.fail(request, "lost", "killed by signal 9")
    own.close("failed")
    runs = {run.data.tags["afd.key"]: run for run in all_runs(campaign)}
    failed = runs[artifact.ref.fingerprint[:16]]
    assert failed.info.status == runs["campaign"].info.status == "FAILED"
    assert runs["campaign"].data.tags["afd.state"] == "failed"
    assert failed.data.tags["mlflow.note.content"] == "    killed by signal 9"
    play(campaign)
    after = {run.data.tags["afd.key"]: run for run in all_runs(campaign)}
    assert after[artifact.ref.fingerprint[:16]].info.run_id == failed.info.run_id
    assert {run.info.status for run in after.values()} == {"FINISHED"}


def test_what_a_campaign_did_while_mlflow_was_away_is_recorded_by_the_next_sync(
    campaign: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = campaign.root / "blocked"
    blocked.write_text("a file where MLflow wants a folder")
    play(campaign, f"sqlite:///{blocked}/mlflow.db")  # returns: a campaign never fails by this
    assert "sync demo" in caplog.text
    assert sync(campaign, status="finished") > 0
    assert {run.info.status for run in all_runs(campaign)} == {"FINISHED"}
    assert len(all_runs(campaign)) == 3 + len(campaign.made)
    assert sync(campaign, status="finished") == 0


def test_a_stage_that_cannot_be_read_does_not_hold_back_the_others(
    campaign: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, broken = campaign.made[0]
    (broken.path / "manifest.json").write_text("{}")
    play(campaign)
    keys = {r.data.tags["afd.key"]: r.info.status for r in all_runs(campaign)}
    assert broken.ref.short in caplog.text
    for _, _, made in campaign.made[1:]:
        assert keys[made.ref.fingerprint[:16]] == "FINISHED"


def test_a_folder_that_cannot_be_written_stops_nothing(
    campaign: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    campaign.folder.mkdir(parents=True, exist_ok=True)
    (campaign.folder / "lineage").write_text("a file where ids want a folder")
    play(campaign)
    assert any("is not written" in record.message for record in caplog.records)
    (campaign.folder / "lineage").unlink()
    play(campaign)
    done = {k for k, e in RunIds(campaign.folder).entries().items() if e["state"] == "finished"}
    assert len(done) == 3 + len(campaign.made)


def test_a_damaged_id_is_found_again_in_mlflow(campaign: CampaignOnDisk) -> None:
    artifact = kill_inside(campaign)
    file = campaign.folder / "lineage" / f"{artifact.ref.fingerprint[:16]}.json"
    before = json.loads(file.read_bytes())["run_id"]
    file.write_text('{"run_i')
    assert play(campaign).run_id(artifact.ref) == before
    assert {run.info.status for run in all_runs(campaign)} == {"FINISHED"}


def test_a_curve_grows_while_its_stage_computes_and_no_row_is_written_twice(
    campaign: CampaignOnDisk,
) -> None:
    index, request, artifact = next(m for m in campaign.made if m[1].stage == "fit")
    curve = artifact.file("metrics.jsonl").read_bytes().splitlines(keepends=True)
    key, elsewhere = artifact.ref.fingerprint[:16], Store(campaign.root / "being-made")
    work = elsewhere.work_path(artifact.ref) / "attempts"
    campaign.folder.mkdir(parents=True)
    own = RunRecorder(uri(campaign), campaign.folder, elsewhere)
    runs = CampaignRuns(uri(campaign), campaign.folder, elsewhere)

    def steps() -> list[int]:
        runs.sync({key})
        client = MlflowClient(uri(campaign), uri(campaign))
        history = client.get_metric_history(str(own.run_id(artifact.ref)), "fit/loss")
        return sorted(one.step for one in history)

    def write(attempt: str, lines: list[bytes]) -> None:
        (work / attempt / "out").mkdir(parents=True, exist_ok=True)
        (work / attempt / "out" / "metrics.jsonl").write_bytes(b"".join(lines))

    note_begun(campaign.folder, request, index, 1_000)
    assert steps() == []
    write("0001", [*curve[:2], curve[2][:9]])  # the third line is being written
    assert steps() == [0, 1]
    write("0001", curve[:4])
    assert steps() == [0, 1, 2, 3]
    write("0002", curve[:3])  # killed; the next attempt goes on from a checkpoint
    assert steps() == [0, 1, 2, 3]
    play(campaign)
    assert steps() == [0, 1, 2, 3, 4]
    shown = snapshot(campaign)[str(own.run_id(artifact.ref))]
    assert Counter(len(history) for history in shown[3].values())[5] == 3  # type: ignore[index]


def test_no_key_means_two_things(campaign: CampaignOnDisk) -> None:
    play(campaign)
    runs = {run.data.tags["afd.key"]: run for run in all_runs(campaign)}
    client = MlflowClient(uri(campaign), uri(campaign))
    for index, request, artifact in campaign.made:
        if request.stage in ("fit", "update"):
            run = runs[artifact.ref.fingerprint[:16]]
            for name in run.data.metrics:
                history = client.get_metric_history(run.info.run_id, name)
                assert len({one.step for one in history}) == len(history), name
            name = "pair_accuracy" if request.stage == "fit" else "loss"
            value = artifact.manifest.summary[name]
            for shown in (run, runs[f"round_{index:03d}"]):
                assert shown.data.metrics[f"{request.stage}/final_{name}"] == value
            # As 0.1 named it, on pages without the curve.
            assert runs[f"round_{index:03d}"].data.metrics[f"{request.stage}/{name}"] == value


def test_the_campaigns_run_and_its_students_version_hold_the_held_out_result(
    campaign: CampaignOnDisk,
) -> None:
    play(campaign)
    client = MlflowClient(uri(campaign), uri(campaign))
    run = next(run for run in all_runs(campaign) if run.data.tags["afd.key"] == "campaign")
    for name, (teacher, base, student) in METRICS.items():
        expected = {
            "teacher": teacher,
            "base": base,
            "final": student,
            "difference": student - base,
        }
        expected |= {
            "difference_low": student - base - 0.1,
            "difference_high": student - base + 0.1,
        }
        shown = {side: run.data.metrics[f"{side}/{name}"] for side in expected}
        assert shown == pytest.approx(expected)
    assert run.data.metrics["target/trajectory_error_px"] == 1.0
    assert run.data.tags["afd.target.trajectory_error_px"] == "pass"
    assert run.data.tags["afd.state"] == "finished"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee" * 6
    series = client.get_metric_history(run.info.run_id, "evaluate/gravity")
    assert sorted(one.step for one in series) == [0, 1]
    words = run.data.tags["mlflow.note.content"]
    student = [a for _, r, a in campaign.made if r.stage == "update"][-1]
    entry = RunIds(campaign.folder).read(student.ref.fingerprint[:16])
    assert "83 % lower than the base, better" in words
    assert f"#/models/demo-student/versions/{entry['version']}" in words
    model = client.get_logged_model(entry["model_id"])
    measured = {one.key: one.value for one in model.metrics or ()}
    assert measured["final/trajectory_error_px"] == METRICS["trajectory_error_px"][2]
    assert measured["evaluate/gravity"] != measured["final/gravity"]  # the round's look, the result
    assert client.get_registered_model("demo-student").description
    assert client.get_model_version("demo-student", str(entry["version"])).description
    found = client.get_experiment_by_name("afd")
    assert found is not None and "docs/alarms.md" in found.tags["mlflow.note.content"]


def test_a_campaign_of_an_earlier_version_goes_on_in_its_own_runs(
    campaign: CampaignOnDisk,
) -> None:
    """Ids of 0.1 have no start and no step; its spool is no longer read."""
    play(campaign)
    ids = RunIds(campaign.folder)
    for key, entry in ids.entries().items():
        old = {name: entry[name] for name in entry if name not in ("start_ms", "step", "final")}
        (ids.folder / f"{key}.json").write_text(json.dumps(old))
    (ids.folder / "spool.jsonl").write_text('{"kind": "stage_done"}')
    last = campaign.made[-1][2].ref.fingerprint[:16]
    ids.write(last, state="running")
    before = {run.info.run_id for run in all_runs(campaign)}
    assert sync(campaign, status="finished") > 0
    assert {run.info.run_id for run in all_runs(campaign)} == before
    assert ids.is_finished(last) and ids.read("campaign")["final"]


def test_a_new_database_is_filled_from_the_store(campaign: CampaignOnDisk) -> None:
    """As after somebody deleted the old one: MLflow shows, it holds nothing of its own."""
    play(campaign)
    before = Counter(run.data.tags["afd.key"] for run in all_runs(campaign))
    elsewhere = campaign.root / "elsewhere" / "mlflow.db"
    play(campaign, f"sqlite:///{elsewhere}")
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

    own = RunRecorder("sqlite:///nowhere", tmp_path, Store(tmp_path))
    tellers = [threading.Thread(target=own.sync_soon) for _ in range(4)]
    with monkeypatch.context() as patched:
        patched.setattr("flows.mlflow_runs.recorder.threading.Thread", Slow)
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
    assert len(started) == 1
