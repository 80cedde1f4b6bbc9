"""`afd resume` goes on where the cluster's file says now, for a person may have mended it."""

import os
import shlex
import time
from pathlib import Path

import pytest

from afd.runtime.outcome import RefusedError
from flows import campaign_lock as holding
from flows.campaign_lock import CampaignRunningError, hold_campaign
from flows.commands import launch
from flows.commands.launch import Launch, resume
from flows.commands.operate import print_status, to_resume
from flows.session import open_campaign
from tests.flows.conftest import CLUSTER, PARAMS
from tests.flows.test_campaign_lock import left_elsewhere


@pytest.fixture
def failed(tmp_path: Path) -> Launch:
    """A round that was asked for with a cluster file of its own, and failed."""
    file = tmp_path / "mine.yaml"
    file.write_text(CLUSTER.read_text())
    runs, store = tmp_path / "runs", tmp_path / "store"
    asked = Launch.chosen("demo", PARAMS, (), (), file, ("timeout_min=7",), runs, store)
    with (
        pytest.raises(OSError, match="refused"),
        open_campaign(
            *("demo", asked.paths, asked.params, asked.cluster),
            kind="round",
            cluster_source=asked.cluster_source,
        ),
    ):
        raise OSError("refused")
    return asked


def test_the_clusters_file_is_read_again_with_what_was_laid_over_it(
    failed: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(file: Path | None = None, *overrides: str) -> Launch:
        asked: list[Launch] = []
        monkeypatch.setattr(launch, "launch_round", lambda one, *_, **__: asked.append(one))
        left = to_resume(failed.paths.runs, "demo")
        resume(left, with_prefect=False, cluster=file, cluster_overrides=overrides)
        return asked[0]

    assert failed.cluster_source is not None
    mine = Path(failed.cluster_source.file)
    mine.write_text(f"{CLUSTER.read_text()}\nhang_min: 3\n")
    mended = again()
    assert (mended.cluster.hang_min, mended.cluster.timeout_min) == (3, 7)
    assert mended.cluster_source == failed.cluster_source
    assert again(None, "timeout_min=9").cluster.timeout_min == 9
    other = again(CLUSTER)
    assert other.cluster_source is not None and other.cluster_source.file == str(CLUSTER)
    assert other.cluster.timeout_min != 7
    mine.unlink()
    assert again().cluster == failed.cluster
    assert "is gone: going on with" in capsys.readouterr().err


def test_where_a_round_was_asked_for_and_others_are_left_status_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, runs, store = tmp_path / "mine.yaml", tmp_path / "runs", tmp_path / "store"
    file.write_text(CLUSTER.read_text())
    asked = Launch.chosen("demo", PARAMS, (), (), file, ("timeout_min=7",), runs, store)
    given = (asked.paths, asked.params, asked.cluster)
    with open_campaign("demo", *given, kind="round", cluster_source=asked.cluster_source):
        pass
    print_status(runs, "demo")
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "goes on" in line]
    typed, _, _ = said.partition("    goes on with its rounds")
    words = shlex.split(typed)
    words = words[words.index("campaign") :]
    assert words[:3] == ["campaign", "demo", "--set-cluster=timeout_min=7"]
    paths = dict(zip(words[3::2], words[4::2], strict=True))
    assert {option: Path(place).resolve() for option, place in paths.items()} == {
        "--runs": runs,
        "--store": store,
        "--cluster": file,
    }
    with pytest.raises(RefusedError, match="goes on with its rounds") as refused:
        resume(to_resume(runs, "demo"), with_prefect=False)
    assert typed.strip() in str(refused.value)


def test_what_a_lost_host_left_is_taken_up_on_another(
    failed: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "SILENT_S", 1.0)
    runs = failed.paths.runs
    left_elsewhere(runs / "demo")
    with pytest.raises(RefusedError, match="no campaign was stopped"):
        to_resume(runs, None)  # its last beat is young
    assert to_resume(runs, "demo").is_left
    past = time.time() - 2 * holding.OLD_S
    os.utime(runs / "demo" / holding.HOLDER, (past, past))
    monkeypatch.setattr(holding, "SILENT_S", 3600.0)  # `afd status` waits for nobody
    assert to_resume(runs, None).name == "demo"


def test_what_runs_is_waited_for_or_cancelled(failed: Launch) -> None:
    folder = failed.paths.runs / "demo"
    with (
        hold_campaign(folder, "demo"),
        pytest.raises(CampaignRunningError, match=r"wait for it or stop it \(.*cancel demo"),
    ):
        to_resume(failed.paths.runs, "demo")
