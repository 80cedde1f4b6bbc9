"""One process holds a campaign: the lock, its params and what the next one is told."""

import contextlib
from pathlib import Path

import pytest

from afd.config import Cluster, Params
from afd.params import ParamsError, load_params
from afd.runtime.outcome import RefusedError
from flows import session, settle
from flows.asked import FILE, Asked, read_asked, write_asked
from flows.decisions import PausedError
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds
from flows.places import Places, campaign_folder
from flows.session import Session, held, opened
from tests.flows.conftest import CLUSTER, PARAMS


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "runs", tmp_path / "store")


def params(*overrides: str) -> Params:
    return load_params(Params, PARAMS, (), overrides)


def cluster() -> Cluster:
    return load_params(Cluster, CLUSTER, (), ["executor=in_process"])


def test_the_same_process_finds_its_session_again(places: Places) -> None:
    with (
        opened("demo", places, params(), cluster()) as outer,
        opened("demo", places, params(), cluster()) as inner,
    ):
        assert inner is outer is held("demo", places)
    assert held("demo", places) is None
    assert not (places.store / ".work").exists()


def test_a_campaign_keeps_its_params(places: Places) -> None:
    with opened("demo", places, params(), cluster()):
        pass
    with (
        pytest.raises(ParamsError) as caught,
        opened("demo", places, params("seed=2", "update.beta=0.2"), cluster()),
    ):
        pass
    told = str(caught.value)
    assert "seed: the campaign has 1, not 2" in told
    assert "update.beta: the campaign has 0.1, not 0.2" in told
    assert "another --name" in told


def test_mlflow_is_where_the_clusters_params_say_for_who_settles_a_killed_campaign_too(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(uri: str, folder: Path, _: object) -> None:
        raise ConnectionError(f"asked {uri} about {folder.name}")

    for module in (session, settle):
        monkeypatch.setattr(module, "RunRecorder", asked)
    monkeypatch.setattr("flows.places.MLFLOW_SERVER", "http://of-the-environment:5000")
    chosen = cluster().model_copy(update={"mlflow": "http://chosen:5000"})
    with (
        pytest.raises(ConnectionError, match="http://chosen:5000 about demo"),
        opened("demo", places, params(), chosen),
    ):
        pass
    left = Asked(
        doing="round",
        round_index=None,
        cluster=chosen,
        store=str(places.store),
        with_prefect=False,
    )
    write_asked(campaign_folder("demo", places), left)
    with pytest.raises(ConnectionError, match="http://chosen:5000 about demo"):
        settle.settle("demo", places, "crashed")
    assert places.tracking_uri() == "http://of-the-environment:5000"


def test_damaged_kept_params_are_named(places: Places) -> None:
    folder = campaign_folder("demo", places)
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_bytes(b"\xff\xfe: [")
    with (
        pytest.raises(ParamsError, match=r"params\.yaml"),
        opened("demo", places, params(), cluster()),
    ):
        pass


@pytest.mark.parametrize("name", ["", "a/b", "..", ".services", "a b", "x" * 65, "a\nb", "ü", "-"])
def test_a_campaigns_name_is_a_plain_folder_name(places: Places, name: str) -> None:
    with pytest.raises(ParamsError, match="name"):
        campaign_folder(name, places)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with (
        pytest.raises((OSError, RuntimeError), match="file"),
        opened("demo", Places(blocked / "runs", tmp_path), params(), cluster()),
    ):
        pass
    assert [left.name for left in tmp_path.iterdir()] == ["file"]


def test_only_a_complete_campaign_ends_finished_and_a_refusal_touches_nothing(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = RunIds(campaign_folder("demo", places))

    def ends(refuse: bool = False) -> str:
        with (
            contextlib.suppress(RefusedError),
            opened("demo", places, params(), cluster()),
        ):
            if refuse:
                raise RefusedError("round 9")
        return str(ids.read(CAMPAIGN)["state"])

    assert ends() == "scheduled"
    monkeypatch.setattr(Session, "is_complete", True)
    assert ends() == "finished"
    monkeypatch.undo()
    before, asked = ids.read(CAMPAIGN), (campaign_folder("demo", places) / FILE).read_bytes()
    assert ends(refuse=True) == "finished"
    assert ids.read(CAMPAIGN) == before
    assert (campaign_folder("demo", places) / FILE).read_bytes() == asked


def test_what_is_checked_is_refused_before_anything_is_written(places: Places) -> None:
    def refuse(_: Session) -> None:
        raise RefusedError("round 9")

    with (
        pytest.raises(RefusedError),
        opened("demo", places, params(), cluster(), check=refuse),
    ):
        pass
    folder = campaign_folder("demo", places)
    assert not (folder / "params.yaml").exists()
    assert not (folder / FILE).exists()
    assert held("demo", places) is None


def test_a_pause_is_noted_with_what_was_asked_before_it(places: Places) -> None:
    folder = campaign_folder("demo", places)
    with opened("demo", places, params(), cluster()):
        pass
    with (
        pytest.raises(PausedError),
        opened("demo", places, params(), cluster(), doing="round", round_index=1),
    ):
        raise PausedError("paused by an alarm")
    asked = read_asked(folder)
    assert asked is not None
    assert (asked.doing, asked.state, asked.told) == ("campaign", "paused", "paused by an alarm")
