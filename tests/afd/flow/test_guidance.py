"""Guidance against its formula, block by block in parallel passes without any cache."""

from pathlib import Path

import pytest
import torch

from afd.config import Params
from afd.flow.guidance import Guided
from afd.flow.solver import rollout, sample_block
from afd.flow.times import step_list
from afd.latents import LatentGeometry
from afd.params import ParamsError, load_params
from afd.planning.machines import machine
from afd.planning.plan import plan
from afd.runtime.request import StageRequest
from afd.seeds import generator
from afd.stages import requests
from afd.students.causal_wan import CausalWan
from afd.students.initialisation import build

PARAMS = Path(__file__).parents[3] / "params"
GEOMETRY = LatentGeometry(4, 3, 1, 4, 4)
STEPS = step_list(2, 3)
SCALE = 3.0


@pytest.fixture(scope="module")
def student() -> CausalWan:
    params = load_params(Params, PARAMS / "tiny.yaml").student
    assert params.family == "causal_wan"
    wan = params.model_copy(update={"text_dim": 6, "prediction": "velocity"})
    model = build(wan, GEOMETRY, generator(0, "student"), 2)
    torch.nn.init.normal_(model.proj_out.weight, std=0.2, generator=generator(0, "head"))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_a_guided_rollout_is_the_formula_in_parallel_passes(student: CausalWan, scale: float):
    draw = generator(0, "given")
    text, empty = torch.randn(2, 5, 6, generator=draw), torch.randn(1, 5, 6, generator=draw)
    noise = torch.randn(2, len(STEPS), *GEOMETRY.shape(1)[1:], generator=draw)
    clean = torch.zeros(GEOMETRY.shape(2))
    for block in range(GEOMETRY.num_blocks):
        frames = GEOMETRY.block_frames(block)

        def velocity(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            whole = clean.clone()
            whole[:, :, frames] = noisy  # noqa: B023  called before the next block
            times = t[:, None].expand(-1, GEOMETRY.num_blocks)
            asked, unasked = (
                student.velocity(whole, times, said, clean)[:, :, frames]  # noqa: B023
                for said in (text, empty.expand(2, -1, -1))
            )
            return unasked + scale * (asked - unasked)

        clean[:, :, frames] = sample_block(velocity, noise[:, :, :, frames], STEPS)
    found = rollout(Guided(student, empty, scale), text, noise, STEPS)
    torch.testing.assert_close(found, clean, atol=2e-5, rtol=1e-4)
    plain = rollout(student, text, noise, STEPS)
    assert torch.allclose(found, plain, atol=2e-5) == (scale == 1.0)


def test_it_is_identity_where_it_judges_and_nowhere_else():
    plain = load_params(Params, PARAMS / "self_forcing.yaml")
    judging = plain.evaluate.model_copy(update={"guidance": SCALE})
    guided = plain.model_copy(update={"evaluate": judging})
    assert "guidance" not in plain.model_dump(mode="json")["evaluate"]
    prompts = StageRequest(stage="prompts", params={}, inputs={}).output
    one, other = (requests.evaluate_round(of, prompts, prompts, prompts) for of in (plain, guided))
    assert one.output != other.output and other.params["guidance"] == SCALE
    one, other = (requests.rollout(of, prompts, prompts, 0) for of in (plain, guided))
    assert one.output == other.output


def test_the_plan_says_what_it_costs():
    plain = load_params(Params, PARAMS / "self_forcing.yaml")
    guided = load_params(Params, PARAMS / "self_forcing.yaml", (), [f"evaluate.guidance={SCALE}"])
    for one, other in zip(
        plan(plain, machine("h100")).stages, plan(guided, machine("h100")).stages, strict=True
    ):
        if not one.stage.startswith("evaluate"):
            assert one == other
            continue
        assert 1.5 < other.flops / one.flops < 2
        assert other.memory["cache"] == 2 * one.memory["cache"]


def test_it_is_refused_where_it_has_no_meaning():
    with pytest.raises(ParamsError, match=r"causal_wan has never seen an empty prompt"):
        load_params(Params, PARAMS / "tiny.yaml", (), ["evaluate.guidance=3.0"])
    with pytest.raises(ParamsError, match=r"rollout\.guidance"):
        load_params(Params, PARAMS / "self_forcing.yaml", (), ["rollout.guidance=3.0"])
    with pytest.raises(ParamsError, match=r"evaluate\.guidance"):
        load_params(Params, PARAMS / "self_forcing.yaml", (), ["evaluate.guidance=1.0"])
