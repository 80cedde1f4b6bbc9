"""Plan of a campaign: each stage's FLOPs, memory, time and bytes, and stages that do not fit.

FLOPs are those of matrix products of student, VAE and discriminator. Memory is weights, optimiser
state and activations for the backward pass, plus a tenth for short-lived tensors. Time is FLOPs
over the device's peak at a stated utilisation: right within a factor of two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from afd.config import (
    BlockCausalWan,
    ConvDiscriminator,
    FilePrompts,
    Params,
    PluginDiscriminator,
    is_published,
)
from afd.harvest.budget import MICRO, reservation
from afd.params import ParamsError
from afd.planning import networks
from afd.planning.machines import Machine
from afd.planning.workload import Workload, published, workload

SHORT_LIVED = 1.1  # gradients of activations, buffers of libraries, fragments
TRAINED_BYTES = 16  # float32: weight, gradient, two moments
VAE_BYTES = 4  # a number: Wan's VAE is published in float32, and stays so
TEXT_BYTES = 2  # a number of the text encoder where it is on a GPU
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: number of runs, and cost of one run."""

    stage: str
    runs: int
    flops: float
    memory: Mapping[str, float]  # bytes by what they hold, on each device
    stored: float  # bytes that stay in the store
    knobs: str  # params to change when the memory does not fit

    @property
    def peak_bytes(self) -> float:
        """Peak memory on each device."""
        return SHORT_LIVED * sum(self.memory.values())


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """Cost of a whole campaign on one kind of device."""

    machine: Machine
    work: Workload
    stages: tuple[StagePlan, ...]
    num_clips: int  # of the teacher
    usd_per_clip: float | None
    problems: tuple[str, ...]
    num_ranks: int = 1  # devices that compute an update together

    @property
    def device_hours(self) -> float:
        return sum(self.machine.hours(stage.runs * stage.flops) for stage in self.stages)

    @property
    def stored_bytes(self) -> float:
        return sum(stage.runs * stage.stored for stage in self.stages)

    @property
    def teacher_usd(self) -> float | None:
        return None if self.usd_per_clip is None else self.num_clips * self.usd_per_clip


def plan(params: Params, machine: Machine, num_ranks: int = 1) -> CampaignPlan:
    """Return the cost of the campaign of `params` on `machine`, with the problems.

    `num_ranks` devices compute an update together: memory is that of each. Raises ParamsError for
    an impossible machine.
    """
    _refuse_impossible(machine, num_ranks)
    work = workload(params)
    num_clips, usd = _teacher(params)
    stages = (
        *_harvest(params, num_clips),
        *_warmstart(params, work),
        _rollout(params, work),
        _fit(params, work),
        _update(params, work, num_ranks),
        _evaluate("evaluate", params, work, params.num_rounds, in_round=True),
        _evaluate("evaluate (final)", params, work, 1, in_round=False),
    )
    most = machine.memory_gb * GIGA
    problems = [
        f"{stage.stage} needs {stage.peak_bytes / GIGA:.1f} GB a device and {machine.device} has "
        f"{machine.memory_gb:g}: {stage.knobs}"
        for stage in stages
        if stage.peak_bytes > most
    ]
    budget = params.teacher.access.budget_usd if params.teacher.kind == "remote" else None
    if budget is not None and usd is not None and usd * num_clips > budget:
        problems.append(
            f"the teacher's {num_clips} clips cost about {usd * num_clips:,.2f} USD and "
            f"teacher.access.budget_usd is {budget:g}: raise it, or lower num_rounds, "
            "rollout.num_prompts, evaluate.num_prompts or teacher.clips_per_prompt"
        )
    rows = _batch(params)
    if params.update.memory.shard_blocks and rows % num_ranks:
        problems.append(
            f"update.memory.shard_blocks needs shares of one size: a batch of {rows} does not "
            f"divide by {num_ranks} ranks: change --ranks, or update.batch_size"
        )
    return CampaignPlan(machine, work, stages, num_clips, usd, tuple(problems), num_ranks)


def _refuse_impossible(machine: Machine, num_ranks: int) -> None:
    price = machine.usd_per_hour
    wrong = [
        f"{option}: must be {rule}, got {value:g}"
        for option, rule, value, is_right in (
            ("--ranks", "1 or more", num_ranks, num_ranks >= 1),
            ("--memory-gb", "a number above 0", machine.memory_gb, 0 < machine.memory_gb < inf),
            ("--usd-per-hour", "a number from 0", price or 0.0, price is None or 0 <= price < inf),
        )
        if not is_right
    ]
    if wrong:
        raise ParamsError("afd plan", wrong)


def _batch(params: Params) -> int:
    """Return the rows of one step of an update."""
    return min(params.update.batch_size, params.rollout.num_prompts * params.rollout.group_size)


def _smaller(params: Params, work: Workload) -> list[str]:
    """Return the changes that lower the memory of rollouts."""
    student = params.student
    knobs: list[str] = []
    if is_published(student) and student.precision != "bfloat16":
        knobs.append("set student.precision=bfloat16")
    if isinstance(student, BlockCausalWan):
        blocks = work.wan.window_blocks or work.wan.num_blocks
        if blocks > 2:
            knobs.append(f"set student.window_frames={2 * student.latent_frames_per_block}")
    return [*knobs, "take a larger device"]


def _teacher(params: Params) -> tuple[int, float | None]:
    """Return the largest number of clips and the price of one (None: nothing is paid)."""
    teacher = params.teacher
    in_rounds = params.num_rounds * params.rollout.num_prompts
    if params.prompts.num_train is not None:  # then rounds begin to reuse clips
        in_rounds = min(in_rounds, params.prompts.num_train * params.teacher.clips_per_prompt)
    num_clips = in_rounds + params.evaluate.num_prompts
    if teacher.kind == "folder" and teacher.path is not None and Path(teacher.path).is_dir():
        num_clips = min(num_clips, sum(1 for _ in Path(teacher.path).rglob("*.mp4")))
    if teacher.kind == "folder" and (captions := _captions(params)) is not None:
        num_clips = min(num_clips, captions * teacher.clips_per_prompt)
    if teacher.kind != "remote":
        return num_clips, None
    return num_clips, reservation(teacher.access.price, teacher.duration_s) / MICRO


def _captions(params: Params) -> int | None:
    """Return the number of captions in the prompts file; None without the file."""
    if not isinstance(params.prompts, FilePrompts):
        return None
    try:
        lines = Path(params.prompts.path).read_bytes().splitlines()
    except OSError:
        return None
    return sum(bool(line.strip()) for line in lines)


def _weights(work: Workload) -> dict[str, float]:
    """Return the bytes of a student that only samples."""
    held = {"student": float(work.wan.num_parameters * work.bytes_per_value)}
    if work.rank is not None:
        held["LoRA"] = 4.0 * work.num_trained
    return held


def _decoding(work: Workload) -> dict[str, float]:
    if not work.has_vae:
        return {}
    activations = networks.VAE_VALUES_PER_PIXEL * work.pixels
    return {"VAE": float(VAE_BYTES * (networks.VAE_PARAMETERS + activations))}


def _decode_flops(work: Workload) -> float:
    if not work.has_vae:
        return 0.0
    return networks.vae_decode_flops(work.wan.num_latent_frames, work.pixels)


def _codec_flops(work: Workload) -> float:
    """Return the FLOPs of encoding and decoding one clip."""
    if not work.has_vae:
        return 0.0
    encoded = networks.vae_encode_flops(work.wan.num_latent_frames, work.pixels)
    return encoded + _decode_flops(work)


def _latents_bytes(work: Workload) -> float:
    return 4.0 * work.wan.latent_values


def _harvest(params: Params, num_clips: int) -> tuple[StagePlan, ...]:
    """Plan a local pipeline, two passes a step under guidance; other teachers use no device."""
    teacher = params.teacher
    if teacher.kind != "diffusers":
        return ()
    frames, pixels = (teacher.num_frames + 3) // 4, teacher.size.height * teacher.size.width
    wan = replace(
        published("teacher.pipeline", teacher.pipeline, []),
        rows=teacher.size.height // 8,
        columns=teacher.size.width // 8,
        num_latent_frames=frames,
        latent_frames_per_block=frames,
    )
    parameters = teacher.parameters
    steps, guidance = (
        parameters.get("num_inference_steps", 50),
        parameters.get("guidance_scale", 5.0),
    )
    passes = int(str(steps)) * (2 if float(str(guidance)) > 1 else 1)
    flops = passes * wan.noisy_flops + networks.vae_decode_flops(frames, pixels)
    size = 2 if teacher.dtype == "bfloat16" else 4
    memory = {
        "transformer": float(size * wan.num_parameters),
        "text encoder": float(size * networks.UMT5_PARAMETERS),
        "VAE": float(size * (networks.VAE_PARAMETERS + networks.VAE_VALUES_PER_PIXEL * pixels)),
        "pass": float(size * wan.num_tokens * (14 * wan.width + 2 * wan.ffn_dim)),
    }
    knob = "set teacher.dtype=bfloat16, or take a smaller teacher.pipeline or a larger device"
    return (StagePlan("harvest, a clip", num_clips, flops, memory, 0.0, knob),)


def _warmstart(params: Params, work: Workload) -> tuple[StagePlan, ...]:
    """Plan the warm start: training, or for a published student each prompt encoded once."""
    own = params.warmstart
    if own is None:
        prompts = params.prompts.num_train or params.num_rounds * params.rollout.num_prompts
        prompts += params.prompts.num_held_out + params.prompts.num_tuning
        flops = prompts * networks.text_flops(work.wan.num_text_tokens)
        encoder = {"text encoder": float(TEXT_BYTES * networks.UMT5_PARAMETERS)}
        stored = float(work.wan.num_parameters * work.bytes_per_value)
        stored += VAE_BYTES * networks.VAE_PARAMETERS
        stored += TEXT_BYTES * prompts * work.wan.num_text_tokens * work.wan.text_dim
        return (StagePlan("warmstart", 1, flops, encoder, stored, "take a larger device"),)
    flops = own.num_steps * own.batch_size * work.wan.training_flops(None, checkpointing=False)
    activations = work.wan.activation_bytes(None, work.bytes_per_value, checkpointing=False)
    memory = {
        "student": float(TRAINED_BYTES * work.num_trained),
        "average": 4.0 * work.num_trained,
        "activations": float(own.batch_size * activations),
        "corpus": 4.0 * own.num_clips * work.wan.latent_values,
    }
    stored = 8.0 * work.num_trained
    return (StagePlan("warmstart", 1, flops, memory, stored, "lower warmstart.batch_size"),)


def _rollout(params: Params, work: Workload) -> StagePlan:
    own = params.rollout
    num_clips = own.num_prompts * own.group_size
    cache = work.wan.cache_bytes(work.bytes_per_value)
    memory = _weights(work) | {"cache": float(min(own.batch_size, num_clips) * cache)}
    if work.has_vae:
        memory["text"] = 4.0 * work.wan.num_text_tokens * work.wan.text_dim * own.batch_size
    flops = num_clips * work.wan.rollout_flops(work.num_steps)
    knobs = _smaller(params, work)
    if min(own.batch_size, num_clips) > 1:
        knobs = ["set rollout.batch_size=1", *knobs]
    stored = num_clips * _latents_bytes(work)
    return StagePlan("rollout", params.num_rounds, flops, memory, stored, ", or ".join(knobs))


def _fit(params: Params, work: Workload) -> StagePlan:
    """Plan a fit: both sides preprocessed once, steps on pairs with R1 and mismatch."""
    own, discriminator = params.fit, work.discriminator
    pairs = own.num_steps * own.batch_size + own.warmup_steps * own.batch_size / params.num_rounds
    passes = 2 + (2 if own.mismatch else 0)
    penalty = 2 * discriminator.train_flops if own.r1 else 0.0
    per_pair = passes * discriminator.train_flops + penalty
    rollouts = params.rollout.num_prompts * params.rollout.group_size
    clips = params.rollout.num_prompts
    preprocessing = (1 + own.replay_rounds) * (rollouts + clips) * discriminator.preprocess_flops
    # Rollouts are decoded to pixels, then both sides pass through the codec
    # (stages/discriminator_inputs.py).
    decoding = rollouts * _decode_flops(work) + (rollouts + clips) * _codec_flops(work)
    flops = pairs * per_pair + preprocessing + decoding
    rows = min(work.discriminator_rows, own.batch_size) * (passes + (4 if own.r1 else 0))
    memory = {
        "backbone": float(discriminator.num_frozen * discriminator.frozen_bytes),
        "trained": float(TRAINED_BYTES * discriminator.num_trained),
        "activations": float(rows * discriminator.activation_bytes),
    } | _decoding(work)
    knobs: list[str] = []
    if isinstance(params.discriminator, ConvDiscriminator | PluginDiscriminator):
        knobs.append("lower fit.batch_size")
    else:
        if params.discriminator.micro_batch > 1:
            knobs.append("set discriminator.micro_batch=1")
        if not params.discriminator.gradient_checkpointing:
            knobs.append("set discriminator.gradient_checkpointing=true")
    knobs.append("take a larger device")
    stored = 12.0 * discriminator.num_trained
    return StagePlan("fit", params.num_rounds, flops, memory, stored, ", or ".join(knobs))


def _update(params: Params, work: Workload, num_ranks: int) -> StagePlan:
    """Plan an update: scores of all rollouts; a training pass and two forward passes a step.

    The forward passes are those of behaviour and reference student. Sharded ranks hold a share of
    the frozen network each, and two gathered blocks.
    """
    own, wan = params.update, work.wan
    rollouts = params.rollout.num_prompts * params.rollout.group_size
    scored = rollouts * (
        work.discriminator.preprocess_flops + work.discriminator.score_flops
    )  # of clips that fit preprocessed
    training = wan.training_flops(
        work.rank, checkpointing=work.checkpointing, context_gradient=work.context_gradient
    )
    steps = own.num_steps * own.batch_size * (training + 2 * wan.parallel_flops)
    activations = wan.activation_bytes(
        work.rank,
        work.bytes_per_value,
        checkpointing=work.checkpointing,
        context_gradient=work.context_gradient,
    )
    mine = -(-own.batch_size // num_ranks)
    rows = min(mine, own.memory.micro_batch or mine)
    frozen = float(wan.num_parameters * work.bytes_per_value) if work.rank else 0.0
    is_sharded = own.memory.shard_blocks and num_ranks > 1
    if is_sharded:
        frozen *= 1 / num_ranks + 2 / wan.num_layers
    copies = 8.0 if work.rank is not None else 12.0  # average and behaviour; and the reference
    memory = {
        "student": frozen,
        "trained": float(TRAINED_BYTES * work.num_trained),
        "other students": copies * work.num_trained,
        "activations": float(rows * activations),
    }
    knobs = ["set update.memory.micro_batch=1"] if rows > 1 else ["take a larger device"]
    if rows == 1 and work.rank is not None:
        knobs.append("lower student.lora.rank")
    batch = _batch(params)
    if more := max((n for n in range(num_ranks + 1, 9) if batch % n == 0), default=None):
        if work.rank is not None and not own.memory.shard_blocks:
            knobs.append(
                "set update.memory.shard_blocks=true and update.memory.may_halve=false and plan "
                f"with --ranks {more}"
            )
        elif work.rank is not None:
            knobs.append(
                f"give update more ranks (--ranks {more} here, tasks_per_node in the cluster's "
                "file)"
            )
    if not work.checkpointing:
        knobs.append("set update.memory.gradient_checkpointing=true")
    if work.rank is not None and work.context_gradient:
        knobs.append("set student.context_gradient=false")
    stored = 16.0 * work.num_trained
    return StagePlan(
        "update", params.num_rounds, scored + steps, memory, stored, ", or ".join(knobs)
    )


def _evaluate(
    stage: str, params: Params, work: Workload, runs: int, *, in_round: bool
) -> StagePlan:
    """Plan an evaluation: a clip for each prompt and noise seed, two passes under guidance.

    Clips of the base, and one more for each prompt for its own look, are sampled once for all runs.
    """
    own = params.evaluate
    prompts = own.round_num_prompts if in_round else own.num_prompts
    noises = len(own.round_noise_seeds if in_round else own.noise_seeds)
    clips = prompts * noises + prompts * (noises + 1) / runs
    passes = 1 if own.guidance is None else 2
    flops = clips * (passes * work.wan.rollout_flops(work.num_steps) + _decode_flops(work))
    clip_bytes = 3.0 * 4 * work.num_frames * work.pixels
    memory = _weights(work) | _decoding(work)
    memory |= {"cache": float(passes * work.wan.cache_bytes(work.bytes_per_value))}
    memory["clips"] = 2 * prompts * noises * clip_bytes if not work.has_vae else clip_bytes
    knobs = _smaller(params, work)
    if own.guidance is not None:
        knobs = ["set evaluate.guidance=null", *knobs]
    if not work.has_vae:  # all clips are in memory at once; with a VAE one by one
        which = "round_" if in_round else ""
        knobs = [f"lower evaluate.{which}num_prompts", f"shorten evaluate.{which}noise_seeds"]
    return StagePlan(stage, runs, flops, memory, 1e6, ", or ".join(knobs))
