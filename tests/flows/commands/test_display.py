"""The table a campaign ends with: numbers, intervals, and a verdict for every target."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from afd.config import Cluster, Params
from afd.evaluation import targets
from afd.params import load_params
from afd.runtime.mailbox import request_id
from afd.stages.requests import prompts
from flows.command_text import command
from flows.commands import progress_lines
from flows.commands.display import results_table
from flows.commands.progress_lines import Progress, ProgressLines
from flows.jobs.records import WORKER, Job, JobRecords, Seen, StageRecord
from flows.paths import CampaignPaths
from flows.session import open_campaign
from tests.flows.conftest import CLUSTER, PARAMS, PROJECT

MEASURED: dict[str, Any] = {
    "metrics": {
        "trajectory_error_px": {"base": 4.0, "student": 1.0, "interval": [-3.2, -2.8]},
        "gravity": {"teacher": 0.15, "base": 0.05, "student": 0.06, "interval": [0.0, 0.02]},
        "interpenetration": {"base": None, "student": None, "interval": [None, None]},
    },
    "num_prompts": 192,
    "noise_seeds": [11, 12],
    "frechet_margin": 3.0,
}


def printed(folder: Path, content: dict[str, Any]) -> list[list[str]]:
    file = folder / "summary.json"
    file.write_text(json.dumps(content))
    console = Console(file=io.StringIO(), width=160)
    console.print(results_table(file))
    assert isinstance(console.file, io.StringIO)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_every_target_ends_in_its_verdict_with_its_numbers(tmp_path: Path) -> None:
    judged = [asdict(target) for target in targets.verdicts(MEASURED)]
    lines = printed(tmp_path, MEASURED | {"targets": judged})
    below = lines[lines.index(["targets"]) :]
    assert [line[:4] for line in below if line[:1] == ["trajectory_error_px"]] == [
        ["trajectory_error_px", "pass", "0.75", "0.6"]
    ]
    assert ["gravity", "fail", "0.1", "0.667"] in [line[:4] for line in below]
    for name in ("interpenetration", "object_permanence", "frechet_distance"):
        assert [name, "not", "estimable", "-"] in [line[:4] for line in below]


def test_a_summary_from_before_targets_shows_its_metrics(tmp_path: Path) -> None:
    lines = printed(tmp_path, MEASURED)
    assert ["targets"] not in lines
    assert ["trajectory_error_px", "-", "4", "1", "-", "[-3.2,", "-2.8]"] in lines


@pytest.mark.parametrize("allocation", ["stage", "round"])
def test_why_a_job_waits_is_a_line_as_soon_as_it_is_known_and_one_more_when_it_changes(
    tmp_path: Path, allocation: str
) -> None:
    chosen = load_params(
        Cluster,
        PROJECT / "params" / "cluster" / "slurm.yaml",
        (),
        [f"allocation={allocation}"],
    )
    params = load_params(Params, PARAMS)
    request = prompts(params)
    name = request_id(request) if allocation == "stage" else WORKER
    paths = CampaignPaths(tmp_path / "runs", tmp_path / "store")
    console = Console(file=io.StringIO(), width=60)
    stops = command("cancel", "demo", runs=paths.runs)
    with (
        open_campaign("demo", paths, params, chosen) as session,
        session.progress.computing(request, 0),
    ):
        lines = ProgressLines(Progress(session), console)
        ledger = JobRecords(session.site.folder / "ledger")
        lines.print_waiting()  # nothing is known yet
        for seen in (
            Seen(state="PENDING", reason="Nodes required for job are DOWN, DRAINED or reserved"),
            Seen(state="PENDING", reason="Priority"),
            Seen(state="RUNNING"),
        ):
            ledger.write(
                StageRecord(
                    name=name,
                    stage=name,
                    fingerprint="",
                    folder="",
                    jobs=(Job(job_id="7", kind="slurm", seen={"7": seen}),),
                    attempts=1,
                    submitted_at="",
                )
            )
            lines.print_waiting()
            lines.print_waiting()
        ledger.end(name, "done")
    assert isinstance(console.file, io.StringIO)
    assert [" ".join(line.split()) for line in console.file.getvalue().splitlines()] == [
        "round 0 prompts job 7 PENDING (Nodes required for job are DOWN, DRAINED or reserved)",
        f"goes on by itself when nodes come back; {stops} stops it",
        "round 0 prompts job 7 PENDING (Priority)",
    ]


def test_work_between_stages_is_a_line_once_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = CampaignPaths(tmp_path / "runs", tmp_path / "store")
    cluster = load_params(Cluster, CLUSTER, (), ["executor=in_process"])
    console = Console(file=io.StringIO(), width=20)
    assert isinstance(console.file, io.StringIO)
    with open_campaign("demo", paths, load_params(Params, PARAMS), cluster) as session:
        lines = ProgressLines(Progress(session), console)
        with session.progress.busy("Prefect's server starts"):
            lines.print_slow_activities()
            assert console.file.getvalue() == ""
            monkeypatch.setattr(progress_lines, "SLOW_S", -1.0)
            lines.print_slow_activities()
            lines.print_slow_activities()
        with session.progress.busy("DVC keeps its artifacts", 1):
            lines.print_slow_activities()
    assert console.file.getvalue().splitlines() == [
        "campaign  Prefect's server starts  0:00",
        "round 1   DVC keeps its artifacts  0:00",
    ]
