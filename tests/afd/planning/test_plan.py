"""The plan of whole campaigns: counted networks, published numbers, refusals that name the knob."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig, Qwen2VLModel, UMT5Config, UMT5EncoderModel

from afd.config import DitFeaturesDiscriminator, Params, VlmDiscriminator
from afd.params import ParamsError, load_params
from afd.planning import networks
from afd.planning.machines import machine
from afd.planning.plan import plan
from afd.planning.wan import WAN_1_3B
from afd.students.layouts import to_diffusers
from tests.afd.students.original_wan import OriginalWan

PARAMS = Path(__file__).parents[3] / "params"
PIXELS, LATENT_FRAMES = 480 * 832, 21
QUESTION = "Good? {prompt} <|MQ_reward|>"


def test_the_vae_costs_what_is_counted_on_meta_tensors() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert sum(p.numel() for p in vae.parameters()) == networks.VAE_PARAMETERS
    for frames in (1, 3):
        with FlopCounterMode(display=False) as decode, torch.no_grad():
            vae.decode(torch.empty(1, 16, frames, 60, 104, device="meta"))
        with FlopCounterMode(display=False) as encode, torch.no_grad():
            vae.encode(torch.empty(1, 3, 4 * frames - 3, 480, 832, device="meta"))
        planned = networks.vae_decode_flops(frames, PIXELS)
        assert planned == pytest.approx(decode.get_total_flops(), rel=0.01)
        planned = networks.vae_encode_flops(frames, PIXELS)
        assert planned == pytest.approx(encode.get_total_flops(), rel=0.01)
    assert networks.vae_decode_flops(LATENT_FRAMES, PIXELS) == pytest.approx(275e12, rel=0.01)


def test_text_encoder_and_vlm_are_the_published_sizes() -> None:
    with torch.device("meta"):
        umt5 = UMT5EncoderModel(
            UMT5Config(
                vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64
            )
        )
        qwen = Qwen2VLModel(
            Qwen2VLConfig(
                text_config={
                    "hidden_size": networks.QWEN_WIDTH,
                    "intermediate_size": networks.QWEN_FFN,
                    "num_hidden_layers": networks.QWEN_NUM_LAYERS,
                    "num_attention_heads": 12,
                    "num_key_value_heads": 2,
                    "vocab_size": 151936,
                },
                vision_config={"hidden_size": 1536},
            )
        )
    counted = [sum(p.numel() for p in part.parameters()) for part in (
        umt5, umt5.encoder.block, qwen, qwen.visual, qwen.language_model.layers,
    )]  # fmt: skip
    assert counted == [
        networks.UMT5_PARAMETERS,
        networks.UMT5_BLOCK_PARAMETERS,
        networks.QWEN_PARAMETERS,
        networks.QWEN_VISION,
        networks.QWEN_LAYERS,
    ]


def test_a_score_of_the_paper_size() -> None:
    """students.md: a score 12 TFLOP, a pair to fit 80, at VideoAlign's 2 frames a second."""
    params = VlmDiscriminator(
        kind="vlm", backbone="x", reward=None, dtype="bfloat16", penalty_step=0.05, micro_batch=1,
        gradient_checkpointing=True, question=QUESTION, reward_tokens=("<|MQ_reward|>",),
        num_text_tokens=600, num_frames=10, frame_pixels=448 * 448, lora_rank=64, lora_alpha=128.0,
    )  # fmt: skip
    cost = networks.vlm(params, PIXELS)
    assert cost.score_flops == pytest.approx(12e12, rel=0.3)
    assert 2 * cost.train_flops == pytest.approx(80e12, rel=0.4)
    assert 0 < cost.activation_bytes < 20e9


def test_dit_features_run_a_share_of_wan() -> None:
    params = DitFeaturesDiscriminator(
        kind="dit_features", backbone="x", dtype="bfloat16", penalty_step=None, micro_batch=1,
        gradient_checkpointing=True, layers=(4, 9), times=(0.0, 0.3), head_width=256,
    )  # fmt: skip
    wan = replace(WAN_1_3B, latent_frames_per_block=LATENT_FRAMES)
    cost = networks.dit_features(params, wan, PIXELS)
    whole = wan.noisy_flops  # one block that sees itself: the bidirectional pass
    assert cost.score_flops == pytest.approx(2 * whole / 3, rel=0.02)


def test_the_pocket_campaign_is_planned_whole() -> None:
    params = load_params(Params, PARAMS / "pocket.yaml")
    planned = plan(params, machine("cpu"))
    assert not planned.problems and planned.teacher_usd is None
    assert planned.num_clips == 8 * 64 + 192  # README: 512 to train on and 192 to compare with
    assert 0.03 < planned.device_hours < 0.3  # the demo takes six minutes
    rollout = next(stage for stage in planned.stages if stage.stage == "rollout")
    assert rollout.stored == pytest.approx(25.2e6, rel=0.01)  # as the store holds


def test_what_cannot_fit_names_the_knob() -> None:
    params = load_params(Params, PARAMS / "pocket.yaml", (), ["update.batch_size=100000"])
    problems = plan(params, machine("cpu", memory_gb=2.0)).problems
    assert len(problems) == 1
    assert problems[0].startswith("update needs") and "update.memory.micro_batch" in problems[0]


@pytest.mark.parametrize("name", ["vlm", "dit_features"])
def test_ready_made_discriminators_are_planned(name: str) -> None:
    overlays = [PARAMS / "discriminators" / f"{name}.yaml"]
    sizes = ["num_frames=17", "student.codec.frames=1", "frame_size=16"]
    planned = plan(load_params(Params, PARAMS / "tiny.yaml", overlays, sizes), machine("h100"))
    fit = next(stage for stage in planned.stages if stage.stage == "fit")
    assert not planned.problems
    assert 1e9 < fit.memory["backbone"] < 6e9


@pytest.mark.parametrize("name", ["self_forcing", "causal_forcing"])
def test_campaigns_of_published_students_are_planned_as_their_sizes_say(name: str) -> None:
    """Published arithmetic: rollout 996 TFLOP, update with no-grad context 990, cache 6.0 GB."""
    params = load_params(Params, PARAMS / f"{name}.yaml")
    planned = plan(params, machine("h100"))
    work, wan = planned.work, planned.work.wan
    assert wan.tokens_per_frame == 1560 and work.num_trained == pytest.approx(350e6, rel=0.005)
    assert wan.rollout_flops(4) == pytest.approx(996e12, rel=0.01)
    assert wan.cache_bytes(2) == pytest.approx(6.0e9, rel=0.01)
    cheap = wan.training_flops(256, checkpointing=True, context_gradient=False)
    assert cheap == pytest.approx(990e12, rel=0.02)
    assert not planned.problems
    assert planned.teacher_usd is not None and planned.teacher_usd > 0
    narrow = plan(params, machine("rtx4090")).problems
    assert any(p.startswith("update needs") and "a larger device" in p for p in narrow)
    poor = load_params(Params, PARAMS / f"{name}.yaml", (), ["teacher.access.budget_usd=1.0"])
    assert any("teacher.access.budget_usd" in p for p in plan(poor, machine("h100")).problems)


def test_14b_is_shared_out_or_refused_with_the_knob(tmp_path: Path) -> None:
    """In bfloat16 its frozen weights take 28.6 GB: 3.6 of each of 8 ranks, and two blocks more."""
    sizes = {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128}
    sizes |= {"ffn_dim": 13824, "freq_dim": 256, "text_dim": 4096, "in_channels": 16}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"patch_size": [1, 2, 2]}))
    large = f"student.checkpoint={tmp_path}"
    whole = plan(load_params(Params, PARAMS / "self_forcing.yaml", (), [large]), machine("h100"))
    assert whole.work.wan.num_parameters == pytest.approx(14.29e9, rel=0.001)
    assert [problem.split()[0] for problem in whole.problems] == ["update"]
    assert "update.memory.shard_blocks=true" in whole.problems[0]
    sharing = ["update.memory.may_halve=false", "update.memory.shard_blocks=true"]
    params = load_params(
        Params, PARAMS / "self_forcing.yaml", (), [large, *sharing, "student.lora.rank=64"]
    )
    shared = plan(params, machine("h100"), num_ranks=8)
    update = next(stage for stage in shared.stages if stage.stage == "update")
    assert not shared.problems
    assert update.memory["student"] == pytest.approx(28.6e9 * (1 / 8 + 2 / 40), rel=0.01)
    assert any("--ranks" in problem for problem in plan(params, machine("a100-40")).problems)


def test_a_window_does_not_shrink_what_an_update_keeps() -> None:
    """Each noisy block sees its own window, and all of them together every clean block."""
    sizes = {"rank": 256, "bytes_per_value": 2, "checkpointing": True, "context_gradient": False}
    windowed = replace(WAN_1_3B, window_blocks=2)
    assert windowed.activation_bytes(**sizes) == WAN_1_3B.activation_bytes(**sizes)


def test_a_pipeline_as_teacher_takes_device_hours(tmp_path: Path) -> None:
    overlay = tmp_path / "teacher.yaml"
    overlay.write_text(
        "teacher: {kind: diffusers, pipeline: /nowhere, dtype: bfloat16, num_frames: 81, fps: 16, "
        "parameters: {num_inference_steps: 50, guidance_scale: 5.0}, "
        "size: {width: 832, height: 480}, max_prompt_tokens: 512, clips_per_prompt: 1, "
        "training_permitted: 'yes', terms: {url: 'https://example.org', date: '2026-11-23'}}"
    )
    planned = plan(load_params(Params, PARAMS / "self_forcing.yaml", [overlay]), machine("h100"))
    harvest = next(stage for stage in planned.stages if stage.stage.startswith("harvest"))
    assert planned.teacher_usd is None and harvest.runs == planned.num_clips
    assert 0.02 < planned.machine.hours(harvest.flops) < 0.2  # minutes a clip
    assert 14e9 < harvest.peak_bytes < 40e9


def test_a_folder_has_no_more_clips_than_captions(tmp_path: Path) -> None:
    captions = tmp_path / "prompts.jsonl"
    sizes = ["evaluate.num_prompts=2", "evaluate.round_num_prompts=2"]
    folder = [f"prompts.path={captions}", "teacher.clips_per_prompt=2", *sizes]
    overlay = PARAMS / "teachers" / "folder.yaml"
    params = load_params(Params, PARAMS / "self_forcing.yaml", [overlay], folder)
    assert plan(params, machine("h100")).num_clips > 12  # not written yet: as many as rounds ask
    captions.write_text('{"text": "a rabbit"}\n' * 6)
    planned = plan(params, machine("h100"))
    assert planned.num_clips == 12 and planned.usd_per_clip is None


def test_sizes_are_read_from_the_shapes_of_a_file(tmp_path: Path) -> None:
    state = to_diffusers(OriginalWan(dim=24, channels=16, text_dim=12).state_dict())
    file = tmp_path / "model.pt"
    of_file = [f"student.checkpoint={file}", "student.head_dim=12"]
    absent = plan(load_params(Params, PARAMS / "self_forcing.yaml", (), of_file), machine("h100"))
    assert any(f"{file} is absent: taken as Wan 1.3B" in what for what in absent.work.assumed)
    torch.save({"generator_ema": state}, file)
    planned = plan(load_params(Params, PARAMS / "self_forcing.yaml", (), of_file), machine("h100"))
    assert planned.work.wan.num_parameters == sum(value.numel() for value in state.values())
    assert not any("student.checkpoint" in what for what in planned.work.assumed)
    file.write_bytes(b"<html>")
    broken = plan(load_params(Params, PARAMS / "self_forcing.yaml", (), of_file), machine("h100"))
    assert any("web page" in what for what in broken.work.assumed)


def test_machines_that_cannot_be_are_refused_at_once() -> None:
    params = load_params(Params, PARAMS / "pocket.yaml")
    with pytest.raises(ParamsError) as refused:
        plan(params, machine("cpu", float("nan"), -3.0), num_ranks=0)
    told = str(refused.value)
    assert "--ranks: must be 1 or more, got 0" in told and "--memory-gb: must be" in told
    assert "--usd-per-hour: must be a number from 0, got -3" in told


def test_remedies_work_as_typed() -> None:
    """Each is typed, and the stage takes less; what would change nothing is not told."""
    file = PARAMS / "self_forcing.yaml"
    guided = ["evaluate.guidance=5.0"]
    small = machine("cpu", memory_gb=2.0)
    first = plan(load_params(Params, file, (), guided), small)
    problems = {problem.split(" needs")[0]: problem for problem in first.problems}
    for stage, told in problems.items():
        before = next(each.peak_bytes for each in first.stages if each.stage == stage)
        for remedy in told.split(": ", 1)[1].split(", or "):
            typed = [word for word in remedy.split() if "=" in word]
            ranks = int(remedy.split("--ranks ")[1].split()[0]) if "--ranks " in remedy else 1
            after = plan(load_params(Params, file, (), [*guided, *typed]), small, ranks)
            now = next(each.peak_bytes for each in after.stages if each.stage == stage)
            assert now < before or not (typed or ranks > 1), remedy
            assert not any("shares of one size" in problem for problem in after.problems)
    assert "evaluate.guidance=null" in problems["evaluate"]
    assert "num_prompts" not in problems["evaluate"] + problems["evaluate (final)"]
    sharing = ["update.memory.may_halve=false", "update.memory.shard_blocks=true"]
    uneven = plan(load_params(Params, file, (), sharing), machine("h100"), num_ranks=7).problems
    assert any("does not divide by 7 ranks: change --ranks" in problem for problem in uneven)
