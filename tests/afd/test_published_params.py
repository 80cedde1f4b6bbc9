"""The published campaigns as they are shipped: every value sound, the paper's numbers in place."""

from pathlib import Path

import pytest

from afd.config import CausalForcingParams, Params, SelfForcingParams, rows_and_columns
from afd.flow.times import step_list
from afd.params import ParamsError, load_params

PARAMS = Path(__file__).parents[2] / "params"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("self_forcing", SelfForcingParams), ("causal_forcing", CausalForcingParams)],
)
def test_they_are_complete_and_have_the_papers_settings(name: str, kind: type) -> None:
    params = load_params(Params, PARAMS / f"{name}.yaml")
    student, update = params.student, params.update
    assert isinstance(student, kind) and student.family == name
    assert (params.num_frames, rows_and_columns(params.frame_size), params.fps) == (
        81,
        (480, 832),
        16,
    )
    assert [round(1000 * t, 2) for t in step_list(student.num_steps, student.shift)] == [
        1000, 937.5, 833.33, 625,
    ]  # fmt: skip
    assert (student.lora.rank, student.lora.alpha, student.precision) == (256, 256, "bfloat16")
    assert (update.beta, update.prior, update.batch_size) == (0.1, 1e-4, 32)
    assert params.num_rounds * update.num_steps == 300
    assert params.teacher.training_permitted == "unknown"  # nobody trains before reading the terms
    told = (PARAMS / f"{name}.yaml").read_text()
    for word in ("command", "hardware", "hours", "cost", "expect"):
        assert f"#   {word}" in told


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("update.objective=reverse_chain", "update.objective reverse_chain needs student.family"),
        ("update.objective=generator", "update.objective generator needs discriminator.kind conv"),
    ],
)
def test_rival_arms_that_are_built_for_the_pocket_world_are_refused_here(
    setting: str, problem: str
) -> None:
    """Before a clip is paid: they would end in the update, out of memory or of shape."""
    with pytest.raises(ParamsError, match=problem):
        load_params(Params, PARAMS / "self_forcing.yaml", (), [setting])
