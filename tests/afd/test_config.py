"""The schema: which values a campaign may have, kind of value by kind of value."""

from pathlib import Path
from typing import Any

import pytest

from afd.config import Cluster, Params
from afd.config.rules import LONGEST_SENTENCE
from afd.params import ParamsError, load_params, validate
from afd.world.sentences import all_sentences

PARAMS = Path(__file__).parents[2] / "params"


def changed(field: str, value: Any) -> dict[str, Any]:
    """The pocket campaign's values with one of them changed."""
    values = load_params(Params, PARAMS / "pocket.yaml").model_dump(mode="json")
    *sections, name = field.split(".")
    section = values
    for part in sections:
        section = section[part]
    section[name] = value
    return values


@pytest.mark.parametrize("file", ["pocket.yaml", "tiny.yaml"])
def test_params_survive_json_and_yaml(file: str) -> None:
    params = load_params(Params, PARAMS / file)
    assert validate(Params, params.model_dump(mode="json"), "again") == params
    assert Params.model_validate_json(params.model_dump_json()) == params


def test_an_int_is_a_float_and_a_list_is_a_tuple() -> None:
    params = validate(Params, changed("update.beta", 1), "values")
    assert isinstance(params.update.beta, float)
    assert params.update.betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_rounds", "12"),
        ("num_rounds", True),
        ("num_rounds", 2.0),
        ("update.beta", "0.1"),
        ("update.beta", True),
        ("update.shuffle_advantages", 1),
        ("evaluate.noise_seeds", [1, "2"]),
        ("prompts.kind", 1),
        ("update.beta", float("nan")),
        ("update.beta", float("inf")),
        ("num_rounds", -1),
        ("num_rounds", 0),
        ("num_rounds", None),
        ("teacher.laws.restitution", {"low": -0.1, "high": 0.5}),
        ("teacher.laws.restitution", {"low": 0.5, "high": 1.1}),
        ("teacher.look.contrast", {"low": -0.1, "high": 0.5}),
        ("discriminator.contrast", {"low": -0.1, "high": 0.5}),
        ("warmstart.look.background", {"low": 0.5, "high": 1.5}),
        ("update.learning_rate", {"low": -1e-4, "high": 1e-4}),
        ("update.learning_rate", {"low": 2e-4, "high": 1e-4}),
        ("update.betas", [0.9, 1.0]),
        ("fit.betas", [0.9]),
        ("fit.betas", [0.9, 0.9, 0.9]),
        ("evaluate.noise_seeds", []),
        ("evaluate.noise_seeds", [1, 1]),
        ("frame_size", 8),
        ("frame_size", 32),
        ("student.num_text_tokens", 22),
        ("num_frames", 6),
        ("update.num_best", 8),
        ("evaluate.num_prompts", 193),
        ("evaluate.round_num_prompts", 193),
    ],
)
def test_what_would_crash_or_lie_later_is_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(ParamsError) as told:
        validate(Params, changed(field, value), "values")
    assert len(told.value.problems) == 1
    assert field in told.value.problems[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("teacher.laws.gravity", {"low": -0.1, "high": 0.1}),
        ("discriminator.brightness", {"low": -0.1, "high": 0.1}),
        ("update.learning_rate", {"low": 0.0, "high": 0.0}),
        ("student.num_text_tokens", 23),
    ],
)
def test_what_has_a_meaning_is_accepted(field: str, value: Any) -> None:
    validate(Params, changed(field, value), "values")


def test_the_longest_sentence_has_as_many_words_as_the_rule_says() -> None:
    assert max(len(s.text.split()) for s in all_sentences()) == LONGEST_SENTENCE


def test_a_remote_teacher_is_not_asked_for_clips_that_nobody_could_read() -> None:
    files = (PARAMS / "pocket.yaml", [PARAMS / "teachers" / "veo.yaml"])
    price = "teacher.access.price.usd_per_second=0.4"
    large = ["teacher.size.width=3840", "teacher.size.height=2160"]  # x 8 s x 24 fps: 1.6e9 px
    with pytest.raises(ParamsError, match="paid and put aside") as told:
        load_params(Params, *files, [price, *large])
    assert "3840x2160" in str(told.value) and "1,592,524,800 pixels" in str(told.value)
    with pytest.raises(ParamsError) as several:  # told while another field is wrong as well
        load_params(Params, *files, [price, *large, "num_rounds=0"])
    assert len(several.value.problems) == 2
    load_params(Params, *files, [price, *large, "teacher.duration_s=5.0"])


def test_circumstance_is_strict_too() -> None:
    values = load_params(Cluster, PARAMS / "cluster" / "local.yaml").model_dump()
    with pytest.raises(ParamsError, match="num_threads"):
        validate(Cluster, values | {"num_threads": True}, "values")


def test_distribution_matching_refuses_a_teacher_that_shows_finished_videos_only() -> None:
    files = (PARAMS / "pocket.yaml", [PARAMS / "ablations" / "dmd.yaml"])
    params = load_params(Params, *files)
    assert params.update.objective == "distribution_matching"
    folder = {
        "kind": "folder", "name": "clips", "path": None, "clips_per_prompt": 1,
        "training_permitted": "yes", "terms": {"url": "https://a.b/c", "date": "2026-11-23"},
        "min_clip_share": 0.5,
    }  # fmt: skip
    values = params.model_dump(mode="json") | {"teacher": folder}
    with pytest.raises(ParamsError) as told:
        validate(Params, values, "values")
    (said,) = told.value.problems
    assert "update.objective distribution_matching" in said
    assert "teacher.kind folder shows finished videos only: write forward_process" in said


def test_distribution_matching_names_what_is_missing_and_who_must_not_have_it() -> None:
    with pytest.raises(ParamsError) as told:
        validate(Params, changed("update.objective", "distribution_matching"), "values")
    text = str(told.value)
    assert "teacher.white_box is null" in text and "needs update.critic" in text
    critic = {"warmup_steps": 1, "num_steps": 1, "batch_size": 1, "learning_rate": 1e-4}
    with pytest.raises(ParamsError, match=r"reads no update\.critic"):
        validate(Params, changed("update.critic", critic), "values")


@pytest.mark.parametrize(
    "file", sorted((PARAMS / "ablations").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_arm_and_world_is_sound(file: Path) -> None:
    load_params(Params, PARAMS / "pocket.yaml", [PARAMS / "ablations" / "protocol.yaml", file])
