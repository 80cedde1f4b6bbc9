"""One process holds a campaign: the lock, its params and what the next one is told."""

import contextlib
import time
from pathlib import Path

import pytest

from afd.attempts import StoreError
from afd.config import Cluster, Params
from afd.params import ParamsError, load_params
from afd.runtime.outcome import RefusedError
from flows import reconcile, session
from flows.alarm_log import PausedError
from flows.last_command import FILE, LastCommand, read_last_command, write_last_command
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds
from flows.paths import CampaignPaths, campaign_folder
from flows.session import Session, open_campaign, session_of
from tests.flows.conftest import CLUSTER, PARAMS


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    return CampaignPaths(tmp_path / "runs", tmp_path / "store")


def params(*overrides: str) -> Params:
    return load_params(Params, PARAMS, (), overrides)


def cluster() -> Cluster:
    return load_params(Cluster, CLUSTER, (), ["executor=in_process"])


def test_the_same_process_finds_its_session_again(paths: CampaignPaths) -> None:
    with (
        open_campaign("demo", paths, params(), cluster()) as outer,
        open_campaign("demo", paths, params(), cluster()) as inner,
    ):
        assert inner is outer is session_of("demo", paths)
    assert session_of("demo", paths) is None
    assert not (paths.store / ".work").exists()


def test_a_campaign_keeps_its_params(paths: CampaignPaths) -> None:
    with open_campaign("demo", paths, params(), cluster()):
        pass
    with (
        pytest.raises(ParamsError) as caught,
        open_campaign("demo", paths, params("seed=2", "update.beta=0.2"), cluster()),
    ):
        pass
    told = str(caught.value)
    assert "seed: the campaign has 1, not 2" in told
    assert "update.beta: the campaign has 0.1, not 0.2" in told
    assert "another NAME" in told


def test_mlflow_is_where_the_clusters_params_say_for_who_settles_a_killed_campaign_too(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(uri: str, folder: Path, _: object) -> None:
        raise ConnectionError(f"asked {uri} about {folder.name}")

    for module in (session, reconcile):
        monkeypatch.setattr(module, "RunRecorder", asked)
    monkeypatch.setattr("flows.paths.MLFLOW_SERVER", "http://of-the-environment:5000")
    chosen = cluster().model_copy(update={"mlflow": "http://chosen:5000"})
    with (
        pytest.raises(ConnectionError, match="http://chosen:5000 about demo"),
        open_campaign("demo", paths, params(), chosen),
    ):
        pass
    left = LastCommand(
        kind="round",
        round_index=None,
        cluster=chosen,
        store=str(paths.store),
        with_prefect=False,
    )
    write_last_command(campaign_folder("demo", paths), left)
    with pytest.raises(ConnectionError, match="http://chosen:5000 about demo"):
        reconcile.reconcile("demo", paths, "crashed")
    assert paths.tracking_uri() == "http://of-the-environment:5000"


def test_damaged_kept_params_are_named(paths: CampaignPaths) -> None:
    folder = campaign_folder("demo", paths)
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_bytes(b"\xff\xfe: [")
    with (
        pytest.raises(ParamsError, match=r"params\.yaml"),
        open_campaign("demo", paths, params(), cluster()),
    ):
        pass


@pytest.mark.parametrize("name", ["", "a/b", "..", ".services", "a b", "x" * 65, "a\nb", "ü", "-"])
def test_a_campaigns_name_is_a_plain_folder_name(paths: CampaignPaths, name: str) -> None:
    with pytest.raises(ParamsError, match="name"):
        campaign_folder(name, paths)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with (
        pytest.raises((OSError, StoreError), match="file"),
        open_campaign("demo", CampaignPaths(blocked / "runs", tmp_path), params(), cluster()),
    ):
        pass
    assert [left.name for left in tmp_path.iterdir()] == ["file"]


def test_only_a_complete_campaign_ends_finished_and_a_refusal_touches_nothing(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = RunIds(campaign_folder("demo", paths))

    def ends(refuse: bool = False) -> str:
        with (
            contextlib.suppress(RefusedError),
            open_campaign("demo", paths, params(), cluster()),
        ):
            if refuse:
                raise RefusedError("round 9")
        return str(ids.read(CAMPAIGN)["state"])

    assert ends() == "scheduled"
    monkeypatch.setattr(Session, "is_complete", True)
    assert ends() == "finished"
    monkeypatch.undo()
    before, asked = ids.read(CAMPAIGN), (campaign_folder("demo", paths) / FILE).read_bytes()
    assert ends(refuse=True) == "finished"
    assert ids.read(CAMPAIGN) == before
    assert (campaign_folder("demo", paths) / FILE).read_bytes() == asked


def test_what_is_checked_is_refused_before_anything_is_written(paths: CampaignPaths) -> None:
    def refuse(_: Session) -> None:
        raise RefusedError("round 9")

    with (
        pytest.raises(RefusedError),
        open_campaign("demo", paths, params(), cluster(), check=refuse),
    ):
        pass
    folder = campaign_folder("demo", paths)
    assert not (folder / "params.yaml").exists()
    assert not (folder / FILE).exists()
    assert session_of("demo", paths) is None


def test_a_pause_is_noted_with_what_was_asked_before_it(paths: CampaignPaths) -> None:
    folder = campaign_folder("demo", paths)
    with open_campaign("demo", paths, params(), cluster()):
        pass
    with (
        pytest.raises(PausedError),
        open_campaign("demo", paths, params(), cluster(), kind="round", round_index=1),
    ):
        raise PausedError("paused by an alarm")
    asked = read_last_command(folder)
    assert asked is not None
    assert (asked.kind, asked.state, asked.message) == ("campaign", "paused", "paused by an alarm")


def test_what_failed_is_told_before_it_is_recorded(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Recording ends here only when it has been told."""
    told: list[str] = []

    def close(*_: object) -> None:
        deadline = time.monotonic() + 240
        while "the disk is gone" not in "".join(told):
            assert time.monotonic() < deadline
            told.append(capfd.readouterr().err)

    monkeypatch.setattr(session, "RECORDING_PATIENCE_S", 0.0)
    monkeypatch.setattr(session.RunRecorder, "close", close)
    with (
        pytest.raises(OSError, match="the disk is gone"),
        open_campaign("demo", paths, params(), cluster()),
    ):
        raise OSError("the disk is gone\n  log: there")
    assert "demo: the disk is gone\n" in "".join(told)
