"""The chain behind an artifact: complete, from the store alone, clear about what is missing."""

import io
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from afd.artifacts import Artifact, ArtifactRef
from flows.commands.show import ShowError, ancestors, chain, find
from flows.commands.show_output import print_chains
from flows.mlflow_runs.run_ids import RunIds
from tests.flows.campaign_on_disk import CampaignOnDisk, make_campaign, small_params


@pytest.fixture
def campaign(tmp_path: Path) -> CampaignOnDisk:
    """Two rounds; the run ids that lineage would have left, without MLflow."""
    made = make_campaign(tmp_path, small_params(), num_rounds=2)
    ids = RunIds(made.folder)
    for index, (_, _, artifact) in enumerate(made.made):
        ids.write(artifact.ref.fingerprint[:16], run_id=f"run{index:029d}", state="finished")
    return made


def last_student(campaign: CampaignOnDisk) -> Artifact:
    return [a for _, r, a in campaign.made if r.stage == "update"][-1]


def printed(campaign: CampaignOnDisk, artifact: Artifact) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(chain(artifact, campaign.store, campaign.root / "runs"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_student_shows_everything_that_made_it_back_to_the_prompts(
    campaign: CampaignOnDisk,
) -> None:
    text = printed(campaign, last_student(campaign))
    ids = RunIds(campaign.folder)
    for index, request, artifact in campaign.made:
        held_out = request.params.get("split") == "held_out"
        is_behind = request.stage != "evaluate" and not held_out
        name = f"{artifact.manifest.kind} {artifact.manifest.fingerprint[:16]}"
        assert (name in text) == is_behind, (index, request.stage)
        if is_behind:
            assert ids.read(artifact.ref.fingerprint[:16])["run_id"] in text
    rounds = [line for line in text.splitlines() if line.endswith(("round 1", "round 0", "rounds"))]
    assert len(rounds) == 3


def test_every_round_stands_at_the_same_indentation(campaign: CampaignOnDisk) -> None:
    """Nested by what made what, forty rounds would be forty levels deep."""
    lines = printed(campaign, last_student(campaign)).splitlines()
    depths = [line.index("rollouts") for line in lines if "by rollout" in line]
    assert len(depths) == 2 and len(set(depths)) == 1


def test_ancestors_are_exactly_what_manifests_say(campaign: CampaignOnDisk) -> None:
    expected: set[str] = set()

    def walk(ref: ArtifactRef) -> None:
        expected.add(ref.fingerprint)
        for parent in campaign.store.load(ref).manifest.made_from.values():
            walk(parent)

    student = last_student(campaign)
    walk(student.ref)
    assert set(ancestors(student, campaign.store)) == expected


def test_a_campaign_shows_its_newest_student_and_prefixes_find_any_artifact(
    campaign: CampaignOnDisk,
) -> None:
    runs = campaign.root / "runs"
    student = last_student(campaign)
    full = student.ref.fingerprint
    for asked in ("demo", full, full[:9], f"student-{full[:8]}", f"student_weights/{full[:16]}"):
        assert [a.ref for a in find(asked, campaign.store, runs)] == [student.ref], asked


def test_a_run_id_and_a_registered_version_name_what_they_made(campaign: CampaignOnDisk) -> None:
    runs, ids = campaign.root / "runs", RunIds(campaign.folder)
    students = [a for _, r, a in campaign.made if r.stage == "update"]
    for number, student in enumerate(students, start=2):
        ids.write(student.ref.fingerprint[:16], version=number)
    ids.write("campaign", run_id="c" * 32, champion=2)
    ids.write("round_000", run_id="d" * 32)
    expected = {"demo-student/3": students[1], "models:/demo-student/2": students[0]}
    expected |= {"demo-student@champion": students[0], "c" * 32: students[1], "d" * 32: students[0]}
    for _, _, artifact in campaign.made:
        expected[ids.read(artifact.ref.fingerprint[:16])["run_id"]] = artifact
    for asked, artifact in expected.items():
        assert [a.ref for a in find(asked, campaign.store, runs)] == [artifact.ref], asked
    for unknown in ("demo-student/9", "other-student/1", "other-student@champion"):
        with pytest.raises(ShowError, match=r"has no version .*campaigns here: demo"):
            find(unknown, campaign.store, runs)


@pytest.mark.parametrize("asked", ["", "..", "dem", "zz zz", "../../etc", "\x1b[31m", "${HOME}"])
def test_what_is_neither_is_refused_by_name(campaign: CampaignOnDisk, asked: str) -> None:
    with pytest.raises(ShowError, match=r"campaign in .*\(demo\)"):
        find(asked, campaign.store, campaign.root / "runs")


def test_unknown_and_ambiguous_prefixes_say_what_there_is(campaign: CampaignOnDisk) -> None:
    runs = campaign.root / "runs"
    known = {a.ref.fingerprint[:4] for _, _, a in campaign.made}
    unknown = next(p for i in range(99999) if (p := f"{i:04x}") not in known)
    with pytest.raises(ShowError, match=f"begins with '{unknown}'; campaigns here: demo"):
        find(unknown, campaign.store, runs)
    original = last_student(campaign)
    twin = original.path.with_name(original.path.name[:-1] + "_")
    shutil.copytree(original.path, twin)
    with pytest.raises(ShowError, match="begins 2 fingerprints; add characters"):
        find(original.ref.fingerprint[:8], campaign.store, runs)


def test_a_part_that_is_not_here_is_named_with_the_way_to_get_it(campaign: CampaignOnDisk) -> None:
    rollouts = next(a for i, r, a in campaign.made if i == 0 and r.stage == "rollout")
    shutil.rmtree(rollouts.path)
    text = printed(campaign, last_student(campaign))
    assert rollouts.ref.fingerprint[:16] in text and "not made yet" in text


def test_the_short_form_is_one_line_an_earlier_round_and_no_hash(
    campaign: CampaignOnDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    last = last_student(campaign)
    paths = (campaign.root / "runs", campaign.store.root)
    print_chains(last.ref.fingerprint[:12], *paths, every=False, as_json=False)
    short = capsys.readouterr().out
    print_chains(last.ref.fingerprint[:12], *paths, every=True, as_json=False)
    whole = capsys.readouterr().out
    assert len(short.splitlines()) < len(whole.splitlines())
    assert sum("round 0" in line for line in short.splitlines()) == 1
    assert not re.search("[0-9a-f]{64}", short)
    assert "--all" in short
    assert not {"\u2026", "..."} & set(short)  # nothing is cut in a pipe
