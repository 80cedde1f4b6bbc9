"""docs/extending.md as written: a package outside AFD teaches and discriminates."""

import re
import sys
from pathlib import Path

import pytest

from afd.artifacts import Artifact
from afd.config import Params
from afd.params import load_params
from afd.planning.workload import workload
from afd.plugins import PluginError, source_sha256
from afd.runtime.parts import Gather, Part, StageTask, max_parts
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.execute import execute, run_task
from afd.store import Store
from afd.video.decode import decode

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "extending.md").read_text()
FILES = re.compile(
    r"^`([\w./]+)`[^\n]*\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page, importable."""
    for name, text in FILES.findall(PAGE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "lab_parts" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab_parts"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def read(lab: Path, *overrides: str) -> Params:
    return load_params(Params, PROJECT / "params" / "tiny.yaml", [lab / "lab.yaml"], overrides)


def test_a_round_with_the_teacher_and_the_discriminator_of_the_page(lab: Path) -> None:
    store, params = Store(lab / "store"), read(lab)

    def make(request: StageRequest) -> Artifact:
        return execute(request, store)

    prompts = make(requests.prompts(params)).ref
    student = make(requests.warmstart(params, prompts)).ref
    clips = make(requests.harvest_round(params, prompts, 0))
    rollouts = make(requests.rollout(params, prompts, student, 0)).ref
    fit = requests.fit(params, [clips.ref], [rollouts], None, 0)
    fitted = make(fit)
    made = make(
        requests.update(params, [clips.ref], rollouts, fitted.ref, student, student, round_index=0)
    )

    assert clips.manifest.summary["num_clips"] == params.rollout.num_prompts
    assert {"discriminator.json", "discriminator.safetensors"} <= fitted.manifest.files.keys()
    assert made.ref.kind == "student_weights"
    again = Store(lab / "again")
    for needed in (prompts, student, clips.ref, rollouts):
        again.path(needed).parent.mkdir(parents=True, exist_ok=True)
        again.path(needed).symlink_to(store.path(needed))
    assert execute(fit, again).manifest.files == fitted.manifest.files  # the same start


def test_clips_of_a_plugin_are_made_in_parts(lab: Path) -> None:
    params = read(lab)
    prompts = execute(requests.prompts(params), Store(lab / "whole")).ref
    request = requests.harvest_round(params, prompts, 0)
    assert max_parts(request) == params.rollout.num_prompts
    whole = execute(request, Store(lab / "whole"))
    store = Store(lab / "store")
    execute(requests.prompts(params), store)
    for index in (1, 0):
        run_task(StageTask(request=request, piece=Part(index=index, num_parts=2)), store)
    gathered = run_task(StageTask(request=request, piece=Gather(num_parts=2)), store)
    assert gathered is not None
    assert gathered.manifest.files == whole.manifest.files


def test_the_plan_names_what_it_does_not_know_of_plugins(lab: Path) -> None:
    unknown = [line.partition(":")[0] for line in workload(read(lab)).assumed]
    assert unknown == ["teacher", "discriminator"]


def test_another_source_is_another_discriminator_and_other_clips(lab: Path) -> None:
    prompts = requests.prompts(read(lab)).output

    def outputs() -> tuple[str, str]:
        clips = requests.harvest_round(read(lab), prompts, 0).output
        fitted = requests.fit(read(lab), [prompts], [prompts], None, 0).output
        return clips.fingerprint, fitted.fingerprint

    before = outputs()
    assert outputs() == before
    (lab / "lab_parts" / "helpers.py").write_text("SCALE = 2\n")
    after = outputs()
    assert not set(before) & set(after)


def test_a_film_of_the_page_is_a_film(lab: Path) -> None:
    from afd.teachers.build import build

    teacher = read(lab).teacher
    assert teacher.kind == "plugin"
    assert len(decode(build(teacher, 16, 16).film("a ball", 1)).frames) == 16


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("teacher.factory=no_such_package.films:build", "no Python package no_such_package"),
        ("discriminator.factory=no_such_package:build", "discriminator.factory"),
    ],
)
def test_a_package_that_is_not_installed_is_named(lab: Path, override: str, words: str) -> None:
    from afd.runtime.identity import plugin_sources

    with pytest.raises(PluginError, match=words) as told:
        plugin_sources(read(lab, override).model_dump(mode="json"))
    assert "pip install -e" in str(told.value)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("lab_parts.discriminators:nothing", "has no function nothing"),
        ("lab_parts.broken:build", "cannot be imported: RuntimeError: no licence"),
        ("lab_parts.odd:number", "returned int, no torch.nn.Module"),
        ("lab_parts.odd:linear", "without precision, penalty_step, micro_batch, read, see, score"),
    ],
)
def test_a_part_that_does_not_fit_is_named(lab: Path, factory: str, words: str) -> None:
    from afd.discriminators.build import build
    from afd.discriminators.discriminator import Setting
    from afd.seeds import generator

    (lab / "lab_parts" / "broken.py").write_text("raise RuntimeError('no licence')\n")
    (lab / "lab_parts" / "odd.py").write_text(
        "from torch import nn\ndef number(*_): return 1\ndef linear(*_): return nn.Linear(1, 1)\n"
    )
    params = read(lab, f"discriminator.factory={factory}").discriminator
    with pytest.raises(PluginError, match=words):
        build(params, Setting(16, 16, 8), lambda _: None, generator(0, "test"))  # pyright: ignore


def test_a_module_that_is_one_file_has_its_source(lab: Path) -> None:
    (lab / "single_part.py").write_text("X = 1\n")
    before = source_sha256("teacher.factory", "single_part:build")
    (lab / "single_part.py").write_text("X = 2\n")
    assert source_sha256("teacher.factory", "single_part:build") != before
