"""The report stage on a small campaign: complete, self-contained, escaped, the same every time."""

import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from afd.artifacts import Artifact
from afd.attempts import Attempt
from afd.runtime.workspace import Workspace
from afd.stages import report, requests
from afd.stages.execute import execute
from tests.flows import campaign_on_disk
from tests.flows.campaign_on_disk import METRICS, CampaignOnDisk, make_campaign, small_params

HOSTILE = '<script>alert(1)</script> "quoted" & {{ 7 * 7 }} ${HOME}'


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> CampaignOnDisk:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign_on_disk, "SENTENCES", (HOSTILE, *campaign_on_disk.SENTENCES[1:]))
        return make_campaign(tmp_path_factory.mktemp("report"), small_params(), num_rounds=3)


@pytest.fixture(scope="module")
def made(campaign: CampaignOnDisk) -> Artifact:
    assert campaign.evaluation is not None
    asked = requests.report(campaign.params, campaign.evaluation.ref, campaign.rounds)
    return execute(asked, campaign.store)


@pytest.fixture(scope="module")
def page(made: Artifact) -> str:
    return made.file("report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects tags and attributes; complains about an end without a start."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_it(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    names = [tag for tag, _ in tags.found]
    assert "script" not in names and "iframe" not in names
    for _, attributes in tags.found:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http" not in re.sub(r"data:[^\"']*", "", page)
    assert "url(" not in page


def test_hostile_prompts_stay_text(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page and "${HOME}" in page


def test_every_metric_and_every_filmstrip_and_every_round_is_there(
    page: str, campaign: CampaignOnDisk, made: Artifact
) -> None:
    for name, (teacher, _, student) in METRICS.items():
        assert report.spec_in_report(name).title in page
        assert report.readings.show(student) in page and report.readings.show(teacher) in page
    assert page.count('<td class="pass">pass</td>') == 5  # every target, by the made up numbers
    assert page.count('class="strip"') == 3
    assert page.count("<video") == 1
    for one in campaign.rounds:
        for ref in one.values():
            assert ref.fingerprint[:16] in page
    assert "student.codec.frames" in page
    assert campaign.evaluation is not None
    assert campaign.evaluation.manifest.made_by.revision in page
    assert made.manifest.summary == {"num_rounds": 3, "num_metrics": 5, "num_filmstrips": 3}


def test_the_game_is_told_by_the_keys_that_the_stages_leave(campaign: CampaignOnDisk) -> None:
    """`fit` writes what it measured before and after; the matching only step by step."""
    made = [{role: campaign.store.load(r) for role, r in one.items()} for one in campaign.rounds]
    names = [name for role in report.HEALTH for name in report.charts_of(role)]
    curves = dict(zip(names, report.health_curves(made), strict=True))
    assert {name: says for name, (_, says) in curves.items() if not says} == {}
    assert curves["pair_accuracy_before"][0].points == [(0, 0.35), (1, 0.36), (2, 0.37)]
    steps = [1 + 1 / (step + 1) for step in range(5)]
    expected = [(0.6 + 0.02 * index) * sum(steps) / 5 for index in range(3)]
    found = [value for _, value in curves["mismatch_pair_accuracy"][0].points]
    assert found == pytest.approx(expected)


def test_the_plots_are_pictures_of_every_curve(made: Artifact) -> None:
    for name in ("learning_curves.png", "discriminator_health.png"):
        image = Image.open(io.BytesIO(made.file(name).read_bytes()))
        assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 24) or []) > 10


def test_the_same_inputs_give_the_same_bytes(
    campaign: CampaignOnDisk, made: Artifact, tmp_path: Path
) -> None:
    assert campaign.evaluation is not None
    asked = requests.report(campaign.params, campaign.evaluation.ref, campaign.rounds)
    inputs = {role: campaign.store.load(ref) for role, ref in asked.inputs.items()}
    work = Workspace(Attempt.begin(tmp_path / "work"))
    work.prepare()
    report.run(asked.params, inputs, campaign.store, work)
    for name in made.manifest.files:
        assert (work.out / name).read_bytes() == made.file(name).read_bytes(), name


def test_costs_count_each_stage_once(campaign: CampaignOnDisk) -> None:
    assert campaign.evaluation is not None
    asked = requests.report(campaign.params, campaign.evaluation.ref, campaign.rounds)
    inputs = {role: campaign.store.load(ref) for role, ref in asked.inputs.items()}
    counted = {stage: count for stage, count, _, _ in report.spent(inputs, campaign.store)}
    made = [r.stage for _, r, _ in campaign.made]
    assert counted == {stage: made.count(stage) for stage in set(made) - {"report"}}


def test_a_promised_file_that_is_missing_is_named(campaign: CampaignOnDisk, tmp_path: Path) -> None:
    assert campaign.evaluation is not None
    copy = tmp_path / "copy"
    shutil.copytree(campaign.evaluation.path, copy)
    files = {n: e for n, e in campaign.evaluation.manifest.files.items() if n != "card.json"}
    broken = Artifact(copy, campaign.evaluation.manifest.model_copy(update={"files": files}))
    asked = requests.report(campaign.params, campaign.evaluation.ref, campaign.rounds)
    inputs = {role: campaign.store.load(ref) for role, ref in asked.inputs.items()}
    work = Workspace(Attempt.begin(tmp_path / "work"))
    work.prepare()
    with pytest.raises(KeyError, match=r"card\.json"):
        report.run(asked.params, inputs | {"evaluation": broken}, campaign.store, work)


def test_alarms_are_told_with_what_they_did_and_silence_is_told_too(
    campaign: CampaignOnDisk, page: str
) -> None:
    assert campaign.evaluation is not None
    assert "None was raised in 3 rounds" in page
    values = campaign.params.model_dump(mode="json")
    values["alarms"] = {"collapse": {"action": "more_fit_steps", "min_pair_accuracy": 1.0}}
    params = type(campaign.params).model_validate(values)
    asked = requests.report(params, campaign.evaluation.ref, campaign.rounds)
    alarmed = execute(asked, campaign.store).file("report.html").read_text(encoding="utf-8")
    section = alarmed[alarmed.index('id="alarms"') : alarmed.index('id="discriminator"')]
    assert section.count("<td>collapse</td>") == 3 and section.count("fit/pair_accuracy") == 3
    assert "fit.num_steps x 2" in section and "max_fit_steps_changes is reached" in section
    assert "None was raised" not in section
