"""One process holds a campaign: the lock, its params and what the next one is told."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from afd.config import Cluster, Params
from afd.params import ParamsError, load_params
from afd.stages.outcome import RefusedError
from flows.run_ids import CAMPAIGN, RunIds
from flows.session import HeldError, Places, Session, campaign_folder, held, opened
from tests.flows.conftest import CLUSTER, PARAMS, PROJECT

HOLD = """
import sys, time
from pathlib import Path
from flows.session import _locked
folder = Path(sys.argv[1])
folder.mkdir(parents=True)
with _locked(folder, "demo"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "runs", tmp_path / "store")


def params(*overrides: str) -> Params:
    return load_params(Params, PARAMS, (), overrides)


def cluster() -> Cluster:
    return load_params(Cluster, CLUSTER, (), ["executor=in_process"])


def test_the_second_start_is_told_who_holds_it_and_the_kernel_lets_go(places: Places) -> None:
    folder = campaign_folder("demo", places)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(HeldError, match=rf"pid {holder.pid} on .* since .*\n.*nothing was started"),
        opened("demo", places, params(), cluster()),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with opened("demo", places, params(), cluster()) as session:
        assert held("demo", places) is session
    assert held("demo", places) is None


def test_the_same_process_finds_its_session_again(places: Places) -> None:
    with (
        opened("demo", places, params(), cluster()) as outer,
        opened("demo", places, params(), cluster()) as inner,
    ):
        assert inner is outer
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
            opened("demo", places, params(), cluster()) as session,
        ):
            if refuse:
                raise RefusedError("round 9")
            session.lineage.start_round(0)
        return str(ids.read(CAMPAIGN)["state"])

    assert ends() == "scheduled"
    monkeypatch.setattr(Session, "is_complete", True)
    assert ends() == "finished"
    monkeypatch.undo()
    before = ids.read(CAMPAIGN)
    assert ends(refuse=True) == "finished"
    assert ids.read(CAMPAIGN) == before
