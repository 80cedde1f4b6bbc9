"""What an operator reads: SLURM's own words, and commands that work as typed."""

import sys
from pathlib import Path

import pytest

from afd.config import Cluster, Params
from afd.params import load_params
from afd.processes import ProcessId
from flows.command_text import short_path, sibling_program
from flows.commands import up
from flows.commands.operate import print_status
from flows.jobs.records import Job, JobRecords, Seen, StageRecord
from flows.last_command import LastCommand, write_last_command
from flows.paths import CampaignPaths, save_params
from flows.prefect_runs.services import ServiceError
from tests.flows.conftest import CLUSTER, PARAMS

REFUSED = (
    "prompts: SLURM refused the job; its own words:\n"
    "sbatch: error: invalid partition specified: nowhere\n"
    "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    "  nothing was submitted; correct slurm.partition in the cluster's params and run the same "
    "command again"
)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (REFUSED, [line.strip() for line in REFUSED.splitlines()]),
        ("\n".join(map(str, range(30))), ["0", *map(str, range(23, 30))]),
        ("[bold]as it is[/]", ["[bold]as it is[/]"]),
    ],
)
def test_status_says_what_ended_a_campaign_in_slurms_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str, shown: list[str]
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    save_params(folder, load_params(Params, PARAMS))
    asked = LastCommand(
        kind="round",
        round_index=None,
        cluster=load_params(Cluster, CLUSTER),
        store=str(tmp_path / "store"),
        with_prefect=False,
        state="failed",
        message=told,
    )
    write_last_command(folder, asked)
    print_status(tmp_path, "demo")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1 : 1 + len(shown)] == shown
    assert "resume demo" in lines[1 + len(shown)]


def test_a_program_beside_this_python_is_named_so_that_it_can_be_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = Path(sys.executable).with_name("prefect")
    monkeypatch.setenv("PATH", "/usr/bin")
    assert Path(sibling_program("prefect")).absolute() == ours
    monkeypatch.setenv("PATH", str(ours.parent))
    assert sibling_program("prefect") == "prefect"


def test_up_for_another_store_is_refused_with_the_one_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "own_answers", lambda api: True)
    runs, mine = tmp_path / "runs", tmp_path / "mine"
    (runs / ".services").mkdir(parents=True)
    serving = up.Up(
        serving=ProcessId.current(), api="http://here/api", is_own=True, store=str(mine)
    )
    (runs / ".services" / up.STATE).write_text(serving.model_dump_json())
    assert up.bring_up(CampaignPaths(runs, mine)) == (serving, True)
    with pytest.raises(ServiceError) as caught:
        up.bring_up(CampaignPaths(runs, tmp_path / "other"))
    assert short_path(mine) in str(caught.value) and "down --runs" in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "is_said"),
    [("ReqNodeNotAvail, UnavailableNodes:n[1-4]", True), ("Priority", False)],
)
def test_status_says_that_a_job_without_nodes_goes_on_by_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: str,
    *,
    is_said: bool,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue: what was seen last is shown
    folder = tmp_path / "demo"
    waits = Job(job_id="7", kind="slurm", seen={"7": Seen(state="PENDING", reason=reason)})
    entry = StageRecord(
        name="a",
        stage="update",
        fingerprint="f",
        folder=str(folder),
        jobs=(waits,),
        attempts=1,
        submitted_at="2026-01-01T00:00:00+00:00",
    )
    JobRecords(folder / "ledger").write(entry)
    print_status(tmp_path, "demo")
    told = capsys.readouterr().out
    assert reason.rsplit(maxsplit=1)[-1] in told
    assert ("goes on by itself" in told and "cancel demo" in told) == is_said
