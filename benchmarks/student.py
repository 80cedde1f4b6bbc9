"""Speed of the student's KV cache in rollout and of its mask-free loop in training.

Ratios of CPU seconds within one run, on one thread, best of several repeats, variants in turn; peak
memory of each variant in a process of its own. Both variants are checked to agree first.

Counting blocks read, a cache over n blocks of 4 + 1 passes saves at most 2 (n + 1) / 5: 2.0x for
the 4 blocks of the pocket student, 3.2x for 7, 8.8x for the 21 of a frame-wise student. The
target of 4x is therefore for the frame-wise layout; short clips cannot reach it.
A mask costs tokens x tokens, the rest of the pass tokens x width: the saving of a loop depends on
the tokens for each channel of width. `python -m benchmarks.student`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from afd.config import CausalWanParams
from afd.flow import path
from afd.flow.solver import rollout, sample_block
from afd.flow.times import step_list
from afd.latents import LatentGeometry
from afd.seeds import generator
from afd.students.attention_pattern import AttentionPattern
from afd.students.causal_wan import CausalWan
from afd.students.initialisation import build

STEPS = step_list(4, 3)
REPEATS = 5
PATCH = 2
TOKENS = LatentGeometry(16, 21, 3, 8, 16)  # 7 blocks of 96 tokens; clean and noisy: 1,344
# At real size 65,520 tokens meet a width of 1,536: 43 tokens a channel, as 1,344 at width 32.
WIDTHS = {
    "32": {"num_heads": 2, "head_dim": 16, "ffn_dim": 128},
    "128": {"num_heads": 4, "head_dim": 32, "ffn_dim": 512},
}
ROLLOUTS = {
    "4 blocks of 1 token, the pocket student": (LatentGeometry(256, 4, 1, 1, 1), 1, 64),
    "7 blocks of 3 frames, Self-Forcing's layout": (LatentGeometry(16, 21, 3, 4, 8), 2, 8),
    "21 blocks of 1 frame, the frame-wise layout": (LatentGeometry(16, 21, 1, 4, 8), 2, 16),
}


@dataclass(frozen=True)
class Prefix:
    """Block-causal attention of the clean prefix and the noisy block, without a cache."""

    num_blocks: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[2] // self.num_blocks
        outputs = [
            scaled_dot_product_attention(
                query[:, :, end - size : end], key[:, :, :end], value[:, :, :end]
            )
            for end in range(size, query.shape[2] + 1, size)
        ]
        return torch.cat(outputs, dim=2)


@dataclass(frozen=True)
class DenseMask:
    """Attention over [all clean | all noisy] by one call under a mask of tokens x tokens."""

    mask: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=self.mask)


def dense_mask(geometry: LatentGeometry, patch: int) -> DenseMask:
    """Let clean block i attend to clean blocks <= i, noisy block i to clean < i and itself."""
    num_tokens = geometry.num_latent_frames * geometry.height * geometry.width // patch**2
    block = (torch.arange(num_tokens) * geometry.num_blocks // num_tokens).repeat(2)
    noisy = torch.arange(2 * num_tokens) >= num_tokens
    past = ~noisy & (block < block[:, None])
    own = (noisy == noisy[:, None]) & (block == block[:, None])
    return DenseMask(past | own)


def student(
    geometry: LatentGeometry, patch: int, num_heads: int = 4, head_dim: int = 32, ffn_dim: int = 512
) -> CausalWan:
    """Build a student of this geometry, by default of the pocket student's sizes."""
    params = CausalWanParams.model_validate(
        {
            "family": "causal_wan",
            "num_layers": 3,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "ffn_dim": ffn_dim,
            "freq_dim": 64,
            "text_dim": 64,
            "num_text_tokens": 24,
            "prediction": "velocity",
            "init_gate": 0.5,
            "latent_frames_per_block": geometry.latent_frames_per_block,
            "num_steps": 4,
            "shift": 3.0,
            "codec": {"kind": "patch", "frames": 4, "components": None, "whitening": 0.0},
        }
    )
    model = build(params, geometry, generator(0, "student"), patch)
    torch.nn.init.normal_(model.proj_out.weight, std=0.02, generator=generator(0, "head"))
    return model


@torch.no_grad()
def rollout_without_cache(model: CausalWan, text: Tensor, noise: Tensor) -> Tensor:
    """Sample as afd.flow.solver does, with the clean prefix computed again in every pass."""
    geometry = model.geometry
    size = geometry.latent_frames_per_block
    clean = noise.new_empty(noise.shape[0], *noise.shape[2:])
    for block in range(geometry.num_blocks):
        frames = geometry.block_frames(block)
        after = AfterPrefix(model, text, clean[:, :, : block * size], Prefix(block + 1))
        clean[:, :, frames] = sample_block(after, noise[:, :, :, frames], STEPS)
    return clean


@dataclass(frozen=True)
class AfterPrefix:
    """Velocity of a block after a clean prefix that every call computes again."""

    model: CausalWan
    text: Tensor
    prefix: Tensor
    pattern: AttentionPattern

    def __call__(self, noisy: Tensor, t: Tensor) -> Tensor:
        frames = torch.cat([self.prefix, noisy], dim=2)
        timestep = (1000 * t[:, None]).repeat(1, frames.shape[2])
        timestep[:, : self.prefix.shape[2]] = 0
        positions = list(range(frames.shape[2]))
        return self.model.run_pattern(
            self.pattern, frames, timestep, positions, self.text, noisy.shape[2]
        )


def training_pass(model: CausalWan, kind: str) -> None:
    """Run forward and backward over [clean | noisy]: "loop" (the student's) or "dense"."""
    geometry = model.geometry
    draw = generator(0, "pass")
    clean = torch.randn(geometry.shape(1), generator=draw)
    noise = torch.randn(geometry.shape(1), generator=draw)
    text = torch.randn(1, 24, 64, generator=draw)
    t = torch.full((1, geometry.num_blocks), STEPS[2])
    noisy = path.noisy(clean, noise, t)
    if kind == "loop":
        output = model.velocity(noisy, t, text, clean)
    else:
        num_frames = geometry.num_latent_frames
        frames = torch.cat([clean, noisy], dim=2)
        timestep = torch.full((1, 2 * num_frames), 1000 * STEPS[2])
        timestep[:, :num_frames] = 0
        pattern = dense_mask(geometry, PATCH)
        output = model.run_pattern(
            pattern, frames, timestep, 2 * [*range(num_frames)], text, num_frames
        )
    (output - path.velocity(clean, noise)).square().mean().backward()


def fastest(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the best CPU time of each variant in seconds, on one thread, repeats in turn."""
    best = dict.fromkeys(variants, float("inf"))
    for repeat in range(REPEATS + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            if repeat:  # the first one warms up
                best[name] = min(best[name], time.process_time() - start)
    return best


def rollout_ratio(geometry: LatentGeometry, patch: int, batch: int) -> dict[str, float]:
    """Return frames/s with and without the cache and their ratio, after a check of both."""
    model = student(geometry, patch)
    text = torch.randn(batch, 24, 64, generator=generator(0, "text"))
    noise = torch.randn(batch, 4, *geometry.shape(1)[1:], generator=generator(0, "noise"))
    torch.testing.assert_close(
        rollout(model, text, noise, STEPS),
        rollout_without_cache(model, text, noise),
        atol=1e-4,
        rtol=1e-4,
    )
    seconds = fastest(
        {
            "cached": lambda: rollout(model, text, noise, STEPS),
            "recomputed": lambda: rollout_without_cache(model, text, noise),
        }
    )
    frames = batch * geometry.num_latent_frames
    return {
        "cached_frames_per_s": frames / seconds["cached"],
        "recomputed_frames_per_s": frames / seconds["recomputed"],
        "ratio": seconds["recomputed"] / seconds["cached"],
    }


def pass_ratio(width: str) -> dict[str, float]:
    """Return seconds of both passes, dense over loop, after a check of their gradients."""
    model = student(TOKENS, PATCH, **WIDTHS[width])
    for ours, theirs in zip(gradients(model, "loop"), gradients(model, "dense"), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    seconds = fastest(
        {
            "loop": lambda: training_pass(model, "loop"),
            "dense": lambda: training_pass(model, "dense"),
        }
    )
    return {**seconds, "ratio": seconds["dense"] / seconds["loop"]}


def gradients(model: CausalWan, kind: str) -> list[Tensor]:
    """Return the gradient of every parameter after one pass."""
    model.zero_grad()
    training_pass(model, kind)
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def memory_ratio(width: str) -> dict[str, float]:
    """Return peak memory of both passes, dense over loop, each in a fresh process."""
    peaks: dict[str, float] = {}
    for name in ("loop", "dense"):
        command = [sys.executable, "-m", "benchmarks.student", width, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = json.loads(done.stdout)
    return {**peaks, "ratio": peaks["dense"] / peaks["loop"]}


def pass_peak_mb(width: str, kind: str) -> float:
    """Return the MB that one pass adds to this process at its peak; libraries are loaded."""
    training_pass(student(LatentGeometry(16, 2, 1, 2, 2), PATCH, **WIDTHS[width]), kind)
    model = student(TOKENS, PATCH, **WIDTHS[width])
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = status_mb("VmRSS")
    training_pass(model, kind)
    return status_mb("VmHWM") - before


def status_mb(field: str) -> float:
    """Return one field of this process's status, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(f"/proc/self/status has no {field}")


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(pass_peak_mb(*sys.argv[1:])))
        return
    print("KV-cached rollout against recomputing the prefix (latent frames/s)")
    for name, (geometry, patch, batch) in ROLLOUTS.items():
        found = rollout_ratio(geometry, patch, batch)
        print(
            f"  {name:45} {found['cached_frames_per_s']:8.0f} against"
            f" {found['recomputed_frames_per_s']:8.0f}: {found['ratio']:.1f}x"
        )
    print(
        "parallel pass, forward and backward at 1,344 tokens, against one call under a dense mask"
    )
    for width in WIDTHS:
        found = pass_ratio(width)
        print(
            f"  width {width:>3}  time   {found['loop']:6.3f} s  against"
            f" {found['dense']:6.3f} s:  {found['ratio']:.1f}x"
        )
        found = memory_ratio(width)
        print(
            f"             memory {found['loop']:6.0f} MB against"
            f" {found['dense']:6.0f} MB: {found['ratio']:.1f}x"
        )


if __name__ == "__main__":
    main()
