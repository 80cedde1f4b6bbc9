"""`afd gc` lists and removes what no campaign needs, and nothing that cannot be computed again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from afd.artifacts import Artifact
from afd.runtime.outcome import RefusedError
from afd.stages import requests
from afd.store import write_json
from flows.campaign_lock import hold_campaign
from flows.commands.collect import collect, garbage
from flows.paths import CampaignPaths, save_params
from tests.flows.campaign_on_disk import CampaignOnDisk, make_campaign, small_params

PAID_AND_TRAINED = ("clips/a.mp4", "harvest/ledger.db", "quarantine/b.mp4", "packs/c.tar")


@pytest.fixture
def campaign(tmp_path: Path) -> CampaignOnDisk:
    """A finished campaign, and beside it a round that no campaign has."""
    made = make_campaign(tmp_path, small_params())
    made.folder.mkdir(parents=True)
    save_params(made.folder, made.params)
    for name, refs in zip(("000", "001"), made.rounds, strict=True):
        content = {role: ref.model_dump() for role, ref in refs.items()}
        write_json_in(made.folder / "rounds" / f"{name}.json", content)
    assert made.evaluation is not None
    final = {"evaluation": made.evaluation.ref.model_dump()}
    write_json_in(made.folder / "rounds" / "final.json", final)
    for name in PAID_AND_TRAINED:
        file = tmp_path / "store" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("paid")
    return made


def write_json_in(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def left_over(campaign: CampaignOnDisk) -> dict[str, Artifact]:
    """What another campaign made whose folder is gone, by kind."""
    params, refs = campaign.params, campaign.rounds[-1]
    (prompt_set,) = (a.ref for a in campaign.store.all() if a.manifest.kind == "prompt_set")
    clips = campaign.save(2, requests.harvest_round(params, prompt_set, 2), 2)
    rollouts = campaign.save(2, requests.rollout(params, prompt_set, refs["student"], 2), 2)
    fit = requests.fit(params, [clips.ref], [rollouts.ref], refs["discriminator"], 2)
    found = [clips, rollouts, campaign.save(2, fit, 2)]
    return {one.manifest.kind: one for one in found}


def paths(campaign: CampaignOnDisk) -> CampaignPaths:
    return CampaignPaths(campaign.root / "runs", campaign.root / "store")


def whole(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in (root / "store").rglob("*") if file.is_file()}


def test_what_can_be_computed_again_is_removed_and_nothing_else(campaign: CampaignOnDisk) -> None:
    before = whole(campaign.root)
    assert garbage(paths(campaign)) == []
    extra = left_over(campaign)
    work = campaign.root / "store" / ".work" / "rollouts-0123456789abcdef"
    work.mkdir(parents=True)
    (work / "checkpoint").write_bytes(b"x" * 1000)
    cache = campaign.root / "store" / ".cache" / "frames"
    cache.mkdir(parents=True)
    (cache / "one").write_bytes(b"x" * 500)
    found = garbage(paths(campaign))
    removed = {extra["rollouts"].path, work.resolve(), cache.parent.resolve()}
    assert {one.path for one in found} == removed
    assert {one.path.name: one.num_bytes for one in found}[work.name] == 1000
    here = paths(campaign)
    collect(here.runs, here.store, remove=True, dry_run=False)
    weights_and_clips = {
        str((extra[kind].path / name).relative_to(campaign.root))
        for kind in ("teacher_clips", "discriminator_weights")
        for name in ("manifest.json", *extra[kind].manifest.files)
    }
    assert whole(campaign.root) == before | weights_and_clips
    assert garbage(here) == []


def test_without_a_word_nothing_is_removed(
    campaign: CampaignOnDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    left_over(campaign)
    before, here = whole(campaign.root), paths(campaign)
    collect(here.runs, here.store, remove=True, dry_run=True)
    assert "rollouts of no campaign" in capsys.readouterr().out
    collect(here.runs, here.store, remove=False, dry_run=False)  # no terminal: nobody types yes
    printed = capsys.readouterr().out
    assert "nothing was removed" in printed and "gc --yes" in printed
    assert whole(campaign.root) == before


def test_an_unfinished_campaign_keeps_what_was_made_since_it_started(
    campaign: CampaignOnDisk,
) -> None:
    left_over(campaign)
    assert len(garbage(paths(campaign))) == 1
    (campaign.folder / "rounds" / "final.json").unlink()
    os.utime(campaign.folder / "params.yaml", (0, 0))  # started before everything here
    assert garbage(paths(campaign)) == []


def test_it_is_refused_while_something_runs_or_where_no_campaign_says_what_is_needed(
    campaign: CampaignOnDisk, tmp_path: Path
) -> None:
    left_over(campaign)
    here, before = paths(campaign), whole(campaign.root)
    with hold_campaign(campaign.folder, "demo"), pytest.raises(RefusedError, match="demo runs"):
        collect(here.runs, here.store, remove=True, dry_run=False)
    request = requests.rollout(
        campaign.params, campaign.rounds[0]["student"], campaign.rounds[0]["student"], 7
    )
    with (
        campaign.store.attempt(request.output),
        pytest.raises(RefusedError, match="a process computes it now"),
    ):
        collect(here.runs, here.store, remove=True, dry_run=False)
    with pytest.raises(RefusedError, match="no campaign is here"):
        garbage(CampaignPaths(tmp_path / "nowhere", here.store))
    with pytest.raises(RefusedError, match="no such folder"):
        garbage(CampaignPaths(here.runs, tmp_path / "nowhere"))
    assert before <= whole(campaign.root)


def test_the_command_as_it_is_typed(campaign: CampaignOnDisk) -> None:
    left_over(campaign)
    paths = ("--runs", str(campaign.root / "runs"), "--store", str(campaign.root / "store"))
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "gc", "--dry-run", *paths],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "clips, ledgers and weights always stay" in done.stdout
    assert json.loads((campaign.folder / "rounds" / "final.json").read_bytes())
