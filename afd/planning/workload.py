"""Workload of a campaign: sizes of its student, clips and discriminator."""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from afd.checkpoints import place
from afd.config import (
    AnyFlowFarParams,
    BlockCausalWan,
    CausalWanParams,
    Params,
    is_published,
    rows_and_columns,
    student_family,
)
from afd.planning import networks
from afd.planning.networks import DiscriminatorCost
from afd.planning.wan import WAN_1_3B, WanSizes


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes of a campaign that its plan is computed from."""

    wan: WanSizes
    num_frames: int
    pixels: int  # of a frame
    num_steps: int  # of the sampler
    rank: int | None  # of the student's LoRA; None: all weights train
    num_trained: int
    bytes_per_value: int  # of frozen weights and of activations
    checkpointing: bool
    context_gradient: bool
    has_vae: bool
    discriminator: DiscriminatorCost
    discriminator_rows: int  # pairs in memory at once
    assumed: tuple[str, ...]  # sizes that could not be read from files


def workload(params: Params) -> Workload:
    """Return the workload of a campaign's params."""
    height, width = rows_and_columns(params.frame_size)
    pixels = height * width
    student = params.student
    assumed: list[str] = []
    if params.teacher.kind == "plugin":
        assumed.append("teacher: the cost of a plugin is unknown and counted as 0")
    if not is_published(student):
        wan = _pocket(student, params.num_frames, pixels)
        rank, trained, size = None, wan.num_parameters, 4
        context_gradient = True
    else:
        where = "student.checkpoint", student.checkpoint, assumed
        if isinstance(student, AnyFlowFarParams):  # a folder with its sizes
            sizes = published(*where)
        else:
            sizes = published(*where, student.head_dim, student.weights)
        wan = replace(
            sizes,
            num_text_tokens=student.num_text_tokens,
            rows=height // 8,
            columns=width // 8,
            num_latent_frames=(params.num_frames + 3) // 4,
            latent_frames_per_block=student.latent_frames_per_block,
            window_blocks=None,
        )
        rank = student.lora.rank
        trained = wan.num_lora_parameters(rank, feed_forward=student.lora.targets == "all")
        size = 2 if student.precision == "bfloat16" else 4
        context_gradient = True
        if isinstance(student, BlockCausalWan):
            context_gradient = student.context_gradient
            window = student.window_frames
            if window is not None:
                wan = replace(wan, window_blocks=window // student.latent_frames_per_block)
    discriminator, rows = _discriminator(params, wan, pixels, assumed)
    return Workload(
        wan=wan,
        num_frames=params.num_frames,
        pixels=pixels,
        num_steps=student.num_steps,
        rank=rank,
        num_trained=trained,
        bytes_per_value=size,
        checkpointing=params.update.memory.gradient_checkpointing,
        context_gradient=context_gradient,
        has_vae=student_family(student.family).has_vae,
        discriminator=discriminator,
        discriminator_rows=rows,
        assumed=tuple(assumed),
    )


def _pocket(student: CausalWanParams, num_frames: int, pixels: int) -> WanSizes:
    codec = student.codec
    return WanSizes(
        num_layers=student.num_layers,
        num_heads=student.num_heads,
        head_dim=student.head_dim,
        ffn_dim=student.ffn_dim,
        freq_dim=student.freq_dim,
        text_dim=student.text_dim,
        num_text_tokens=student.num_text_tokens,
        channels=codec.components or 3 * codec.frames * pixels,
        rows=1,
        columns=1,
        num_latent_frames=num_frames // codec.frames,
        latent_frames_per_block=student.latent_frames_per_block,
        patch=1,
    )


def published(
    field: str,
    checkpoint: str,
    assumed: list[str],
    head_dim: int = 128,
    entry: Literal["generator_ema", "generator"] | None = None,
) -> WanSizes:
    """Return sizes by the folder's config.json or by the shapes in the file.

    Without either, sizes are those of Wan 1.3B, with a line in `assumed`.
    """
    path, source = place(checkpoint), f"{field} {checkpoint}"
    for folder in (path, path / "transformer"):
        if (folder / "config.json").is_file():
            return _sizes(json.loads((folder / "config.json").read_text()))
    if path.is_file():
        from afd.students.strict_loading import CheckpointError
        from afd.students.wan_checkpoints import read

        try:
            return _sizes(read(path, head_dim, entry).config)
        except CheckpointError as error:
            assumed.append(f"{source} tells no sizes, taken as Wan 1.3B: {error}")
    else:
        what = "holds no config.json" if path.exists() else "is absent"
        assumed.append(f"{source} {what}: taken as Wan 1.3B")
    return WAN_1_3B


def _sizes(config: dict[str, Any]) -> WanSizes:
    return replace(
        WAN_1_3B,
        num_layers=int(config["num_layers"]),
        num_heads=int(config["num_attention_heads"]),
        head_dim=int(config["attention_head_dim"]),
        ffn_dim=int(config["ffn_dim"]),
        freq_dim=int(config["freq_dim"]),
        text_dim=int(config["text_dim"]),
        channels=int(config["in_channels"]),
        patch=int(config["patch_size"][1]),
    )


def _discriminator(
    params: Params, wan: WanSizes, pixels: int, assumed: list[str]
) -> tuple[DiscriminatorCost, int]:
    """Return the discriminator's cost, and the number of its pairs in memory at once."""
    chosen = params.discriminator
    match chosen.kind:
        case "conv":
            return networks.conv(chosen, params.num_frames, pixels), params.fit.batch_size
        case "plugin":
            assumed.append("discriminator: the cost of a plugin is unknown and counted as 0")
            return networks.DiscriminatorCost(0, 0, 0, 0, 0, 4, 0, False), params.fit.batch_size
        case "vlm":
            assumed.append("discriminator.backbone is taken as Qwen2-VL-2B")
            return networks.vlm(chosen, pixels), chosen.micro_batch
        case "dit_features":
            frames = (params.num_frames + 3) // 4
            height, width = rows_and_columns(params.frame_size)
            backbone = replace(
                published("discriminator.backbone", chosen.backbone, assumed),
                num_latent_frames=frames,
                rows=height // 8,
                columns=width // 8,
                latent_frames_per_block=frames,
            )
            return networks.dit_features(chosen, backbone, pixels), chosen.micro_batch
