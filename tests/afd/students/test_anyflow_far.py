"""AnyFlow-FAR behind the student's protocol: against diffusers' own pipeline, and itself."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
)
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from afd.flow.solver import rollout
from afd.latents import LatentGeometry
from afd.students.anyflow_far import AnyFlowFar, load_far
from afd.students.strict_loading import CheckpointError, UntrainableError

GEOMETRY = LatentGeometry(4, 5, 1, 4, 8)  # five blocks: two of them are far at the end


def tiny() -> AnyFlowFar:
    torch.manual_seed(0)
    model = AnyFlowFar(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=7,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        full_chunk_limit=3,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.configure(GEOMETRY).eval()


def given(batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = Generator().manual_seed(1)
    noisy, clean = torch.randn(2, *GEOMETRY.shape(batch), generator=draw)
    text = torch.randn(batch, 6, 7, generator=draw)
    return noisy, clean, text, torch.rand(batch, 5, generator=draw)


@torch.no_grad()
def test_a_rollout_is_that_of_diffusers_pipeline():
    """One step, from noise to r = 0; 128 tokens a block, where the pipeline pads with nothing."""
    geometry = LatentGeometry(4, 5, 1, 16, 32)
    model = tiny().configure(geometry)
    noise = torch.randn(1, 1, *geometry.shape(1)[1:], generator=Generator().manual_seed(2))
    text = given()[2][:1]
    stock = AnyFlowFARTransformer3DModel.from_config(model.config)
    stock.load_state_dict(model.state_dict())
    pipeline = AnyFlowFARPipeline(None, None, stock, None, FlowMapEulerDiscreteScheduler())
    theirs = pipeline(
        prompt_embeds=text,
        latents=noise[:, 0],
        height=128,
        width=256,
        num_frames=17,
        num_inference_steps=1,
        guidance_scale=1.0,
        chunk_partition=[1] * 5,
        output_type="latent",
    ).frames
    ours = rollout(model, text, noise, (1.0,))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_training_pass_sees_what_the_rollout_saw():
    model = tiny()
    noisy, clean, text, t = given()
    parallel = model.velocity(noisy, t, text, clean)
    cache = model.start(text)
    for block in range(5):
        frames = GEOMETRY.block_frames(block)
        for _ in range(2):
            ours = model.block_velocity(noisy[:, :, frames], t[:, block], cache)
        torch.testing.assert_close(ours, parallel[:, :, frames], atol=2e-5, rtol=0)
        model.commit(clean[:, :, frames], cache)


@torch.no_grad()
def test_longer_than_its_geometry():
    model = tiny().lengthened(7)
    noise = torch.randn(1, 2, *model.geometry.shape(1)[1:], generator=Generator().manual_seed(3))
    clips = rollout(model, given()[2][:1], noise, (1.0, 0.6))
    assert clips.shape[2] == 7 and torch.isfinite(clips).all()


def test_training_on_a_cpu_is_refused_with_the_reason():
    noisy, clean, text, t = given()
    with pytest.raises(UntrainableError, match="FlexAttention has no backward"):
        tiny().velocity(noisy, t, text, clean)


def test_its_folder_comes_in_strictly(tmp_path: Path):
    model = tiny()
    stock = AnyFlowFARTransformer3DModel.from_config(model.config)
    stock.load_state_dict(model.state_dict())
    stock.save_pretrained(tmp_path / "transformer")
    loaded = load_far(tmp_path).configure(GEOMETRY)
    with torch.no_grad():
        noisy, clean, text, t = given()
        assert torch.equal(
            loaded.velocity(noisy, t, text, clean), model.velocity(noisy, t, text, clean)
        )
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("far_patch_embedding.bias")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"missing far_patch_embedding\.bias"):
        load_far(tmp_path)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"4x6 do not divide into patches of \(1, 4, 4\)"):
        tiny().configure(LatentGeometry(4, 5, 1, 4, 6))
