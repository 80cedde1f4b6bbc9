"""`--json`: one document on stdout, nothing beside it, the exit code as without."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from afd.evaluation.comparison import Evaluation, compare
from flows.cli import app
from flows.commands.comparing import compare_document
from tests.flows.campaign_on_disk import CampaignOnDisk, make_campaign, small_params
from tests.flows.conftest import PARAMS, PROJECT


@pytest.fixture
def campaign(tmp_path: Path) -> CampaignOnDisk:
    return make_campaign(tmp_path, small_params(), num_rounds=2)


def document(capsys: pytest.CaptureFixture[str], *typed: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    given = app([*typed, "--json"], exit_on_error=False, result_action="return_value")
    assert (given or 0) == code
    out = capsys.readouterr().out

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(out, parse_constant=refuse)


def documented(command: str) -> set[str]:
    """The keys that docs/cli.md lists for a command's document."""
    rows = (PROJECT / "docs" / "cli.md").read_text().splitlines()
    row = next(line for line in rows if line.startswith(f"| `afd {command} --json`"))
    return {word.strip(" `") for word in row.split("|")[2].split(",")}


def paths(campaign: CampaignOnDisk) -> tuple[str, ...]:
    return ("--runs", str(campaign.root / "runs"), "--store", str(campaign.store.root))


def test_status(campaign: CampaignOnDisk, capsys: pytest.CaptureFixture[str]) -> None:
    campaign.folder.mkdir(parents=True)
    (campaign.folder / "params.yaml").write_text(PARAMS.read_text())
    found = document(capsys, "status", "--runs", str(campaign.root / "runs"))
    assert found.keys() == documented("status")
    (one,) = found["campaigns"]
    assert one["name"] == campaign.folder.name
    assert one["num_rounds"] == 2
    assert one["state"] in ("stopped", "finished")


def test_show(campaign: CampaignOnDisk, capsys: pytest.CaptureFixture[str]) -> None:
    last = [made for _, asked, made in campaign.made if asked.stage == "update"][-1]
    found = document(capsys, "show", last.ref.fingerprint[:12], *paths(campaign))
    assert found.keys() == documented("show")
    assert found["shown"] == [last.ref.fingerprint]
    by_fingerprint = {part["fingerprint"]: part for part in found["artifacts"]}
    assert found["artifacts"][0]["fingerprint"] == last.ref.fingerprint
    for part in found["artifacts"]:  # closed: every part's parts are there
        assert set(part["made_from"].values()) <= by_fingerprint.keys()


def test_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "plan", str(PARAMS))
    assert found.keys() == documented("plan")
    assert found["fits"]
    hours = sum(stage["runs"] * stage["hours"] for stage in found["stages"])
    assert found["device_hours"] == pytest.approx(hours)


def test_a_plan_that_cannot_fit_has_the_exit_code_of_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, "plan", str(PARAMS), "--memory-gb", "0.001", code=2)
    assert found["problems"] and not found["fits"]


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lacking = ("--store", "/proc/afd", "--runs", str(tmp_path))
    found = document(capsys, "doctor", *lacking, code=2)
    assert found.keys() == documented("doctor")
    assert not found["is_ready"]
    assert {"what", "verdict", "text"} == found["findings"][0].keys()


def test_compare() -> None:
    rows = pd.DataFrame({"prompt_id": ["a", "b"], "noise_seed": 1, "gravity": [0.1, 0.3]})
    other = rows.assign(gravity=[0.2, 0.3])
    found = compare(
        [Evaluation("one", {}, rows)], [Evaluation("two", {}, other)], num_resamples=999
    )
    made = compare_document("one", {"two": found})
    assert made.keys() == documented("compare")
    (row,) = made["comparisons"][0]["metrics"]
    assert row["metric"] == "gravity"
    assert row["difference"] == pytest.approx(0.05)
    assert row["num_prompts"] == 2
    assert row["low"] is None and row["high"] is None  # of two prompts


def test_levels_and_differences_are_of_the_same_prompts() -> None:
    """A level over more prompts than the difference may have another sign."""
    rows = pd.DataFrame({"prompt_id": [*"abc"], "noise_seed": 1, "gravity": [0.1, 0.3, 0.9]})
    other = rows.assign(gravity=[0.2, 0.3, float("nan")])
    (row,) = compare(
        [Evaluation("one", {}, rows)], [Evaluation("two", {}, other)], num_resamples=999
    )
    assert row.first is not None and row.second is not None
    assert row.second - row.first == pytest.approx(row.paired.mean)
    assert row.paired.num_dropped == 1
