"""Parts that MLflow refuses, and what people do in it: on sqlite, the rest is recorded."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, _validate_param_name

from flows.commands import doctor
from flows.commands.doctor_cluster import Finding
from flows.mlflow_runs.limits import MAX_NAME, allowed_name, allowed_value
from flows.mlflow_runs.run_ids import RunIds
from flows.mlflow_runs.runs import CampaignRuns
from flows.paths import CampaignPaths
from tests.flows.campaign_on_disk import CampaignOnDisk
from tests.flows.test_recorder import play, recorded_nowhere, sync, uri


@pytest.fixture
def made(tmp_path: Path, empty_database: bytes) -> CampaignOnDisk:
    return recorded_nowhere(tmp_path, empty_database, num_rounds=1)


def client_of(made: CampaignOnDisk) -> MlflowClient:
    return MlflowClient(uri(made), uri(made))


def runs_in(made: CampaignOnDisk, experiment: str = "afd") -> dict[str, Run]:
    """Every run of an experiment that is not deleted, by key."""
    client = client_of(made)
    found = client.get_experiment_by_name(experiment)
    assert found is not None and found.lifecycle_stage == "active"
    runs = client.search_runs([found.experiment_id], max_results=1000)
    keys = Counter(run.data.tags["afd.key"] for run in runs)
    assert set(keys.values()) == {1}
    return {run.data.tags["afd.key"]: run for run in runs}


def doctor_of(made: CampaignOnDisk) -> Finding:
    """What `afd doctor` says of its MLflow."""
    paths = CampaignPaths(made.root / "runs", made.root / "store")
    (found,) = doctor._mlflow(paths, None)
    return found


def is_whole(made: CampaignOnDisk, experiment: str = "afd") -> bool:
    """Whether the campaign, its round and every stage have one FINISHED run."""
    runs = runs_in(made, experiment)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    return len(runs) == 2 + len(made.made)


def change(made: CampaignOnDisk, number: int, part: str, values: Mapping[str, Any]) -> str:
    """Add `values` to a part of a stage's manifest; return the key of the stage's run."""
    artifact = made.made[number][2]
    file = artifact.path / "manifest.json"
    content = json.loads(file.read_bytes())
    file.write_text(json.dumps(content | {part: content[part] | values}))
    return artifact.ref.fingerprint[:16]


@pytest.mark.parametrize(
    "name",
    ["a$b", "x" * 300, "/root", "a//b", "../up", ".", "", "a/../b", "\u00e9t\u00e9 \u2192", "a\nb"],
)
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    allowed = allowed_name(name)
    _validate_param_name(allowed)
    assert len(allowed) <= MAX_NAME
    assert allowed_name(allowed) == allowed
    assert allowed_name(f"{name}?") != allowed  # two names stay two


def test_names_and_values_that_mlflow_takes_stay_and_long_ones_tell_their_length() -> None:
    for name in ("student.codec.frames", "evaluate/gravity", "a b-c:d_e"):
        assert allowed_name(name) == name
    assert allowed_value("x" * 6000) == "x" * 6000
    cut = allowed_value("x" * 7000)
    assert len(cut) == MAX_PARAM_VAL_LENGTH and cut.endswith("x... [7000 characters]")


def test_names_and_values_over_the_limits_are_changed_with_a_notice_and_the_rest_stays(
    made: CampaignOnDisk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {"guidance$scale": 7.5, "x" * 300: 1, "negative": "no " * 2500}
    key = change(made, 0, "params", odd)
    change(made, 0, "summary", {"share of 50%": 0.5})
    made.write_folder()
    params = made.folder / "params.yaml"
    content = yaml.safe_load(params.read_text()) | {"parameters": odd}
    params.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(made, "write_folder", lambda: None)  # it stands
    play(made)
    assert is_whole(made)
    runs = runs_in(made)
    for run, prefix, known in ((runs[key], "", "seed"), (runs["campaign"], "parameters.", "seed")):
        shown = run.data.params
        assert known in shown
        assert shown[allowed_name(f"{prefix}guidance$scale")] == "7.5"
        assert shown[allowed_name(prefix + "x" * 300)] == "1"
        assert shown[f"{prefix}negative"].startswith("no no")
    assert runs[key].data.metrics[allowed_name("prompts/share of 50%")] == 0.5
    assert "param 'guidance$scale' is recorded as 'guidance_scale-" in caplog.text
    assert "param negative is cut to 6000 of its 7500 characters" in caplog.text
    assert "refuses" not in caplog.text
    caplog.clear()
    RunIds(made.folder).write(key, state="running")
    assert sync(made, status="finished") == 1
    assert "parameters." not in caplog.text  # what MLflow has is not sent again


def test_a_part_that_mlflow_refuses_costs_no_other_part(
    made: CampaignOnDisk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = change(made, 0, "summary", {"cursed": 1.0})
    log_batch, log_artifact = MlflowClient.log_batch, MlflowClient.log_artifact

    def refuse(client: MlflowClient, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        names = {one.key for one in (*metrics, *params, *tags)}
        if names & {"prompts/cursed", "seed", "afd.dvc"}:
            raise MlflowException("not this one")
        log_batch(client, run_id, metrics, params, tags)

    def refuse_film(client: MlflowClient, run_id: str, path: str, place: Any = None) -> None:
        if path.endswith("samples.mp4"):
            raise PermissionError("no films here")
        log_artifact(client, run_id, path, place)

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    monkeypatch.setattr(MlflowClient, "log_artifact", refuse_film)
    play(made)
    assert is_whole(made)
    for what in ("metric prompts/cursed", "param seed", "tag afd.dvc", "file samples.mp4"):
        assert f"refuses {what} of demo/" in caplog.text
    shown = runs_in(made)[key].data
    assert shown.metrics["prompts/num_prompts"] == 3 and "prompts.kind" in shown.params
    assert shown.tags["afd.fingerprint"] and "afd.dvc" not in shown.tags
    monkeypatch.undo()
    assert sync(made, status="finished") == 0  # not again and again
    assert sync(made, status="finished", again=True) > 0
    assert "seed" in runs_in(made)[key].data.params
    clips = next(a for _, r, a in made.made if r.stage == "rollout").ref.fingerprint[:16]
    files = client_of(made).list_artifacts(runs_in(made)[clips].info.run_id)
    assert "samples.mp4" in {one.path for one in files}


def test_values_that_are_not_finite_are_recorded_as_they_are(made: CampaignOnDisk) -> None:
    artifact = next(a for _, r, a in made.made if r.stage == "fit")
    curve = artifact.file("metrics.jsonl")
    lines = curve.read_text().splitlines()
    more = [{"step": 90, "fit/loss": math.nan, "fit/a$b": math.inf}, {"step": 91, "fit/loss": 1.5}]
    curve.write_text("".join(f"{line}\n" for line in [*lines, *map(json.dumps, more)]))
    manifest = artifact.path / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"]["metrics.jsonl"]["num_bytes"] = curve.stat().st_size
    manifest.write_text(json.dumps(content))
    play(made)
    assert is_whole(made)
    run_id = runs_in(made)[artifact.ref.fingerprint[:16]].info.run_id
    history = client_of(made).get_metric_history(run_id, "fit/loss")
    values = {one.step: one.value for one in history}
    assert math.isnan(values[90]) and values[91] == 1.5
    assert client_of(made).get_metric_history(run_id, allowed_name("fit/a$b"))


def test_a_deleted_experiment_is_restored_and_everything_is_recorded(
    made: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(made)
    client.delete_experiment(client.create_experiment("afd", (made.root / "artifacts").as_uri()))
    play(made)
    assert is_whole(made)
    assert caplog.text.count("experiment afd was deleted; it is restored") == 1
    assert doctor_of(made).verdict == "ok"
    before = RunIds(made.folder).entries()
    caplog.clear()
    found = client.get_experiment_by_name("afd")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    assert doctor_of(made).verdict == "warning"
    assert "experiment afd is deleted; `afd sync`" in doctor_of(made).text
    assert sync(made, status="finished", again=True) == 0  # nothing was lost
    assert "was deleted; it is restored" in caplog.text
    assert is_whole(made) and RunIds(made.folder).entries() == before


def test_what_was_deleted_or_renamed_by_somebody_is_gone_on_with(
    made: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    play(made)
    client, ids = client_of(made), RunIds(made.folder)
    experiment = runs_in(made)["campaign"].info.experiment_id
    stage = made.made[0][2].ref.fingerprint[:16]
    client.rename_experiment(experiment, "ours")
    for key in ("campaign", stage):
        client.delete_run(ids.read(key)["run_id"])
    ids.write(stage, state="running")
    assert sync(made, status="finished") == 1
    assert is_whole(made, "ours")
    assert client.get_experiment_by_name("afd") is None
    for key in ("campaign", stage):
        assert f"run {key} of demo was deleted; it is restored" in caplog.text


def test_an_experiment_deleted_while_the_campaign_runs_is_restored(made: CampaignOnDisk) -> None:
    made.write_folder()
    runs = CampaignRuns(uri(made), made.folder, made.store)
    runs.sync()
    client = client_of(made)
    client.delete_experiment(runs_in(made)["campaign"].info.experiment_id)
    RunIds(made.folder).write(made.made[0][2].ref.fingerprint[:16], state="running")
    assert runs.sync(status="finished") >= 1
    assert is_whole(made)


def test_another_projects_experiment_of_our_name_is_left_alone(
    made: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(made)
    theirs = client.create_experiment("afd", (made.root / "artifacts").as_uri())
    client.create_run(theirs)
    before = client.get_experiment(theirs)
    play(made)
    assert is_whole(made, "afd-2")
    assert "recorded in experiment afd-2, for afd is another project's" in caplog.text
    after = client.get_experiment(theirs)
    assert (after.tags, after.last_update_time) == (before.tags, before.last_update_time)
    assert len(client.search_runs([theirs], run_view_type=ViewType.ALL)) == 1


def test_another_projects_registered_model_of_our_name_is_left_alone(
    made: CampaignOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(made)
    client.create_registered_model("demo-student")
    client.create_model_version("demo-student", "/theirs/weights")
    client.set_registered_model_alias("demo-student", "champion", "1")
    play(made)
    assert is_whole(made)
    theirs = client.search_model_versions("name = 'demo-student'")
    assert [one.source for one in theirs] == ["/theirs/weights"]
    assert client.get_model_version_by_alias("demo-student", "champion").version == 1
    ours = RunIds(made.folder).read("campaign")["model"]
    assert f"are versions of {ours}, for demo-student is another project's" in caplog.text
    assert len(client.search_model_versions(f"name = '{ours}'")) == 2
    assert client.get_model_version_by_alias(ours, "champion").tags["afd.fingerprint"]
    note = runs_in(made)["campaign"].data.tags["mlflow.note.content"]
    assert f"#/models/{ours}/versions/" in note


def test_without_permission_the_campaign_says_so_once_and_a_later_sync_records_it(
    made: CampaignOnDisk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "create_run", refuse)
        play(made)
    assert caplog.text.count("no permission to write: Permission denied") <= 2  # begin and end
    assert "Traceback" not in caplog.text and "refuses" not in caplog.text
    assert sync(made, status="finished") > 0
    assert is_whole(made)
