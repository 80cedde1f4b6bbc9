"""A kill between MLflow's answer and the id on disk leaves one model and one version of it."""

from pathlib import Path

from flows.mlflow_runs.client import Tracking
from flows.mlflow_runs.records import Version
from flows.mlflow_runs.registry import Registry
from flows.mlflow_runs.run_ids import RunIds, stage_key
from tests.flows.campaign_on_disk import make_campaign, small_params


def test_what_mlflow_made_before_a_kill_is_found_again(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path, small_params(), num_rounds=1)
    student = next(a for _, r, a in campaign.made if r.stage == "update")
    tracking = Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client, ids = tracking.client, RunIds(campaign.folder)
    run_id = client.create_run(tracking.experiment).info.run_id
    registry, key = Registry(tracking, "demo", ids), stage_key(student.ref)

    def add() -> dict[str, object]:
        registry.add(run_id, Version(student.ref, 0, "pixel_ar", ""))
        return ids.read(key)

    first = add()
    file = ids.folder / f"{key}.json"
    for lost in ({"model_id", "version"}, {"version"}):
        file.unlink()
        ids.write(key, **{name: value for name, value in first.items() if name not in lost})
        assert add() == first, lost
    models = client.search_logged_models([tracking.experiment])
    assert [model.model_id for model in models] == [first["model_id"]]
    assert [v.version for v in client.search_model_versions("name = 'demo-student'")] == [1]
