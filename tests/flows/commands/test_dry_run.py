"""`--dry-run`: every check of a start, nothing started, nothing written."""

import socket
from pathlib import Path

import pytest

from afd.config import Params
from afd.params import ParamsError, load_params
from afd.runtime.outcome import RefusedError
from afd.store import StoreError
from flows.campaign_lock import CampaignRunningError, hold_campaign
from flows.cli import app
from flows.paths import save_params
from tests.flows.conftest import CLUSTER, PARAMS, PROJECT

VEO = PROJECT / "params" / "teachers" / "veo.yaml"


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, ...]:
    return ("--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "store"))


def dry(*typed: str) -> None:
    app([*typed, "--dry-run"], exit_on_error=False, result_action="return_value")


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("command", ["campaign", "round"])
def test_a_new_campaign_is_checked_and_counted(
    tmp_path: Path, paths: tuple[str, ...], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    cluster = ("--cluster", str(CLUSTER))
    dry(command, "x", "--params", str(PARAMS), *cluster, *paths)
    said = capsys.readouterr().out
    assert "nothing was started or written" in said
    assert "1 warmstart" in said
    assert ("1 report" in said) == (command == "campaign")
    assert max(map(len, said.splitlines())) > 80  # a pipe: nothing is cut or wrapped
    assert list(tmp_path.iterdir()) == []


def test_what_a_start_refuses_is_refused(
    tmp_path: Path, paths: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    save_params(folder, load_params(Params, PARAMS))
    before = tree(tmp_path)
    tiny = ("campaign", "x", "--params", str(PARAMS), *paths)
    with pytest.raises(ParamsError, match=r"seed.*(\n.*)*--set-aside"):
        dry(*tiny, "--set", "seed=2")
    dry(*tiny, "--set", "seed=2", "--set-aside")
    with pytest.raises(ValueError, match=r"num_held_out is 1000"):
        dry(*tiny, "--set", "prompts.num_held_out=1000")
    with pytest.raises(RefusedError, match=r"rounds 0 to 1"):
        dry("round", *tiny[1:], "--index", "7")
    with pytest.raises(StoreError, match=r"cannot be written|is a file"):
        dry("campaign", "x", "--params", str(PARAMS), "--store", "/proc/afd")
    assert tree(tmp_path) == before
    with hold_campaign(folder, "x"), pytest.raises(CampaignRunningError):
        dry(*tiny)


def test_plan_refuses_prompts_that_only_a_campaign_refused() -> None:
    with pytest.raises(ValueError, match=r"num_held_out is 1000"):
        app(["plan", str(PARAMS), "--set", "prompts.num_held_out=1000"], exit_on_error=False)


def test_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    dry("up", *runs, "--store", str(tmp_path / "store"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RefusedError, match="something listens"):
            dry("ui", *runs, "--port", str(taken.getsockname()[1]))
    assert list(tmp_path.iterdir()) == []


def test_a_harvest_without_its_key(
    tmp_path: Path, paths: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    typed = ("harvest", "run", "--params", str(PARAMS), "--overlay", str(VEO), *paths)
    priced = ("--set", "teacher.access.price.usd_per_second=0.4")
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(RefusedError, match="GEMINI_API_KEY is not set"):
        dry(*typed, *priced)
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    dry(*typed, *priced)
    assert "nothing was sent" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_arm(
    tmp_path: Path,
    paths: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(PROJECT)
    dry("ablation", "play", "afd", "--seed", "1", "--group", "main", *paths)
    assert "ablation-afd-1" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
