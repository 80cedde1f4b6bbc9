"""What is known to stop a campaign is said before anything starts or is written."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from afd.config import Params
from afd.params import load_params
from afd.runtime.outcome import RefusedError
from afd.runtime.weight_checks import problems_of
from afd.students import tiny_published
from flows.inputs import chosen_params
from flows.paths import CampaignPaths
from tests.flows.conftest import PARAMS

SELF_FORCING = PARAMS.with_stem("self_forcing")


def refused(tmp_path: Path, *overrides: str, params: Path = PARAMS) -> str:
    with pytest.raises(RefusedError) as told:
        chosen_params(
            "demo", CampaignPaths(tmp_path / "runs", tmp_path / "store"), params, (), overrides
        )
    assert not list(tmp_path.iterdir())
    return str(told.value)


@pytest.mark.parametrize("permitted", ["no", "unknown"])
def test_a_teacher_whose_terms_forbid_training(tmp_path: Path, permitted: str) -> None:
    told = refused(tmp_path, f"teacher.training_permitted={permitted!r}")
    assert f"teacher.training_permitted is {permitted!r}" in told


def test_a_prompts_file_that_is_not_there(tmp_path: Path) -> None:
    told = refused(tmp_path, "prompts.kind=file", f"prompts.path={tmp_path / 'none.jsonl'}")
    assert "prompts.path" in told
    assert "none.jsonl" in told


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny published student whose checkpoint is a LoRA, beside its base."""
    folder = tmp_path_factory.mktemp("weights")
    tiny_published.save_self_forcing(tiny_published.save_components(folder) / "self_forcing.pt")
    halves = {"A": torch.zeros(2, 24), "B": torch.zeros(24, 2)}
    layer = "diffusion_model.blocks.0.self_attn.q"
    lora = {f"{layer}.lora_{half}.weight": value for half, value in halves.items()}
    save_file(lora, folder / "lora.safetensors")
    return folder


def test_a_lora_as_the_student_and_the_cure_as_it_is_typed(tiny: Path, tmp_path: Path) -> None:
    """Said before a folder is made or a clip is paid; what it says to type is enough."""
    overlay = PARAMS.parent / "students" / "tiny_published.yaml"
    places = [f"student.checkpoint={tiny / 'lora.safetensors'}", f"student.components={tiny}"]

    paths = CampaignPaths(tmp_path / "runs", tmp_path / "store")
    with pytest.raises(RefusedError) as told:
        chosen_params("demo", paths, PARAMS, [overlay], places)
    assert "is a LoRA of rank 2 on 1 layers, not whole weights" in str(told.value)
    assert "Nothing was started, and nothing was paid" in str(told.value)
    assert not list(tmp_path.iterdir())
    (cure,) = re.findall(r"--set (student\.base)=PLACE", str(told.value))
    typed = f"{cure}={tiny / 'self_forcing.pt'}"
    chosen = load_params(Params, PARAMS, [overlay], [*places, typed])
    assert problems_of(chosen.model_dump(mode="json")) == []


FETCHED = {  # field and path -> what fetches it
    "student.checkpoint: weights/self_forcing_dmd.pt": (
        "gdhe17/Self-Forcing checkpoints/self_forcing_dmd.pt --local-dir weights"
        " && mv weights/checkpoints/self_forcing_dmd.pt weights/self_forcing_dmd.pt"
    ),
    "student.components: weights/Wan2.1-T2V-1.3B-Diffusers": (
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir weights/Wan2.1-T2V-1.3B-Diffusers"
    ),
    "discriminator.backbone: weights/Qwen2-VL-2B-Instruct": (
        "Qwen/Qwen2-VL-2B-Instruct --local-dir weights/Qwen2-VL-2B-Instruct"
    ),
    "discriminator.reward: weights/VideoReward": (
        "KwaiVGI/VideoReward --local-dir weights/VideoReward"
    ),
}


def test_weights_that_are_not_here_with_the_repository_that_has_them(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All at once, before a folder of the name is made; a file that is there is not named."""
    there = tmp_path_factory.mktemp("files")
    rows = [{"text": f"cat {n}", "split": "train" if n else "held_out"} for n in range(9)]
    (there / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (there / "checkpoint.pt").touch()
    chosen = [f"prompts.path={there / 'prompts.jsonl'}", "teacher.training_permitted='yes'"]
    told = refused(tmp_path, *chosen, params=SELF_FORCING).splitlines()
    for field, fetched in FETCHED.items():
        (place,) = (number for number, line in enumerate(told) if line.startswith(field))
        assert "No such file" in told[place]
        assert told[place + 1].strip() == f"hf download {fetched}"
    assert "put the weights there" in told[-1]
    here = f"student.checkpoint={there / 'checkpoint.pt'}"
    less = refused(tmp_path, *chosen, here, params=SELF_FORCING)
    assert "student.checkpoint" not in less and "student.components" in less
    frame_wise = "student.latent_frames_per_block=1"
    other = refused(tmp_path, *chosen, frame_wise, params=PARAMS.with_stem("causal_forcing"))
    assert "zhuhz22/Causal-Forcing framewise/causal_forcing.pt" in other
