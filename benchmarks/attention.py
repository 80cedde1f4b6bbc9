"""Costs of the student's attention, rollout and update against their alternatives.

Ratios within one run: CPU seconds on one thread, best of five, variants in turn; peak memory of
each in a process of its own, which returns the memory of large tensors to the system. Variants are
checked to agree before they are timed. A target is the ratio of the operation counts, less the
loss of small passes.

attention    the parallel pass attends to 30 % of its mask at 7 blocks: 3.3x at most
rollout      static buffers need no copy of the history; recomputing reads it again in every step
update       without gradient through the context a pass costs 1 + 3 in the place of 3 + 3: 1.5x
limit        the same FLOPs as products of square matrices of 1,024, as fast as this core does them

`python -m benchmarks.attention`, or one part: `python -m benchmarks.attention rollout`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from afd.flow import path
from afd.flow.solver import rollout, sample_block
from afd.latents import LatentGeometry
from afd.seeds import generator
from afd.students.attention_pattern import Parallel
from afd.students.causal_wan import CausalWan, RunOptions
from afd.students.key_value_cache import KeyValueCache
from benchmarks.student import (
    PATCH,
    STEPS,
    TOKENS,
    fastest,
    rollout_without_cache,
    status_mb,
    student,
)

Variants = dict[str, Callable[[], Tensor]]
HEADS, HEAD_SIZE = (
    12,
    128,
)  # Wan 1.3B's; 7 blocks of 96 tokens, no block attends to the last clean one
FRAME_WISE = LatentGeometry(16, 21, 1, 8, 16)
WIDE = {"num_heads": 4, "head_dim": 128, "ffn_dim": 2048}
MATRIX = 1024


@dataclass(frozen=True)
class Part:
    """Variants to compare: the first is AFD's; a ratio is another's cost over AFD's."""

    build: Callable[[], Variants]
    targets: dict[str, tuple[float, float]]  # of each other variant: ratio of time, of peak memory
    tolerance: float


# ------------------------------------------------------------------------------ attention


def attention(has_gradient: bool) -> Variants:
    """Return attention over [clean | noisy] in one layer: block loop, dense mask, eager flex."""
    num_blocks, draw = TOKENS.num_blocks, generator(0, "attention")
    size = 96
    num_tokens = (2 * num_blocks - 1) * size
    states = [torch.randn(1, HEADS, num_tokens, HEAD_SIZE, generator=draw) for _ in range(3)]
    index = torch.arange(num_tokens) // size
    noisy = index >= num_blocks - 1
    block = torch.where(noisy, index - (num_blocks - 1), index)

    def sees(query: Tensor, key: Tensor) -> Tensor:
        own = (noisy[query] == noisy[key]) & (block[query] == block[key])
        return own | (~noisy[key] & (block[key] < block[query]))

    every = torch.arange(num_tokens)
    mask = sees(every[:, None], every[None])
    masked = create_block_mask(
        lambda batch, head, query, key: sees(query, key), None, None, num_tokens, num_tokens, "cpu"
    )
    pattern = Parallel(num_blocks)

    def run(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        query, key, value = (part.clone().requires_grad_(has_gradient) for part in states)
        output = attend(query, key, value)
        if not has_gradient:
            return output
        output.square().mean().backward()
        assert query.grad is not None
        return query.grad

    variants: Variants = {
        "loop": lambda: run(partial(pattern.attend, 0)),
        "dense mask": lambda: run(partial(scaled_dot_product_attention, attn_mask=mask)),
    }
    if not has_gradient:  # FlexAttention has no backward on CPU
        variants["eager flex"] = lambda: run(
            lambda query, key, value: flex_attention(query, key, value, block_mask=masked)
        )
    return variants


# -------------------------------------------------------------------------------- rollout


@dataclass
class Growing:
    """History that every pass concatenates anew; stored where `commits` is true."""

    commits: bool = False
    keys: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict[int, tuple[Tensor, Tensor]])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if layer in self.keys:
            past = self.keys[layer]
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        if self.commits:
            self.keys[layer] = (key, value)
        return scaled_dot_product_attention(query, key, value)


@torch.no_grad()
def rollout_growing(model: CausalWan, text: Tensor, noise: Tensor) -> Tensor:
    """Sample as afd.flow.solver does, over a growing history."""
    prompt: KeyValueCache = model.start(text)  # both sides store the prompt's keys
    history, blocks = Growing(), list[Tensor]()

    def velocity(positions: list[int], noisy: Tensor, t: Tensor) -> Tensor:
        timestep = (1000 * t[:, None]).expand(-1, len(positions))
        return model.run_pattern(history, noisy, timestep, positions, prompt)

    for block in range(model.geometry.num_blocks):
        frames = model.geometry.block_frames(block)
        positions = list(range(frames.start, frames.stop))
        of_block = partial(velocity, positions)
        clean = sample_block(of_block, noise[:, :, :, frames], STEPS)
        history.commits = True
        of_block(clean, clean.new_zeros(len(clean)))
        history.commits = False
        blocks.append(clean)
    return torch.cat(blocks, dim=2)


def rollouts(geometry: LatentGeometry) -> Variants:
    """Return rollouts of one sample, five passes a block."""
    model = student(geometry, PATCH)
    text = torch.randn(1, 24, 64, generator=generator(0, "text"))
    noise = torch.randn(1, 4, *geometry.shape(1)[1:], generator=generator(0, "noise"))
    return {
        "static cache": lambda: rollout(model, text, noise, STEPS),
        "growing cache": lambda: rollout_growing(model, text, noise),
        "prefix again": lambda: rollout_without_cache(model, text, noise),
    }


# --------------------------------------------------------------------------------- update


def update(checkpointing: bool) -> Variants:
    """Return training passes with and without gradient through the context."""
    model = student(TOKENS, PATCH)
    if checkpointing:
        model.enable_gradient_checkpointing()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    return {
        "no-grad context": lambda: training_pass(model, context_gradient=False),
        "full": lambda: training_pass(model, context_gradient=True),
    }


def training_pass(model: CausalWan, context_gradient: bool) -> Tensor:
    """Return the velocity, equal in both variants; add gradients to the weights."""
    geometry, draw = model.geometry, generator(0, "pass")
    clean, noise = (torch.randn(geometry.shape(1), generator=draw) for _ in range(2))
    text = torch.randn(1, 24, 64, generator=draw)
    t = torch.full((1, geometry.num_blocks), STEPS[2])
    model.configure(geometry, RunOptions(context_gradient=context_gradient))
    output = model.velocity(path.noisy(clean, noise, t), t, text, clean)
    (output - path.velocity(clean, noise)).square().mean().backward()
    return output.detach()


PARTS = {
    "attention": Part(
        partial(attention, False), {"dense mask": (2.0, 1.0), "eager flex": (2.0, 2.0)}, 1e-5
    ),
    "attention with backward": Part(partial(attention, True), {"dense mask": (2.0, 1.0)}, 1e-5),
    "rollout, 7 blocks of 3 frames": Part(
        partial(rollouts, TOKENS), {"growing cache": (1.0, 1.0), "prefix again": (2.0, 1.0)}, 1e-4
    ),
    "rollout, 21 blocks of 1 frame": Part(
        partial(rollouts, FRAME_WISE),
        {"growing cache": (1.0, 1.0), "prefix again": (4.0, 1.0)},
        1e-4,
    ),
    "update": Part(partial(update, False), {"full": (1.3, 1.5)}, 1e-4),
    "update, checkpointing": Part(partial(update, True), {"full": (1.3, 1.0)}, 1e-4),
}


def compare(name: str, part: Part) -> None:
    """Print a table of one part, after a check that its variants agree."""
    variants = part.build()
    ours, *others = variants
    expected = variants[ours]()
    for other in others:
        torch.testing.assert_close(
            variants[other](), expected, atol=part.tolerance, rtol=part.tolerance
        )
    seconds = fastest(dict(variants))
    peaks = {variant: fresh_peak_mb(name, variant) for variant in variants}
    print(f"{name}\n  {ours:16} {1000 * seconds[ours]:8.1f} ms {peaks[ours]:7.1f} MB")
    for other in others:
        slower, larger = seconds[other] / seconds[ours], peaks[other] / max(peaks[ours], 0.1)
        time_target, memory_target = part.targets[other]
        print(
            f"  {other:16} {1000 * seconds[other]:8.1f} ms {peaks[other]:7.1f} MB   "
            f"time {slower:5.2f}x (target {time_target}x)   "
            f"memory {larger:5.2f}x (target {memory_target}x)"
        )


def fresh_peak_mb(name: str, variant: str) -> float:
    """Return the memory, MB, that one call adds at its peak to a process of its own."""
    command = [sys.executable, "-m", "benchmarks.attention", name, variant]
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | at_once
    )
    return float(json.loads(done.stdout))


def peak_mb(run: Callable[[], Tensor]) -> float:
    """Return the peak memory of a second call, MB; in the first, libraries make their buffers."""
    run()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = status_mb("VmRSS")
    run()
    return status_mb("VmHWM") - before


def limit() -> None:
    """Print a pass's time per token over that of its FLOPs as products of large matrices."""
    square = torch.randn(MATRIX, MATRIX, generator=generator(0, "square"))
    print(f"limit: the same FLOPs as products of {MATRIX} x {MATRIX} (target at width 512: 2x)")
    text = torch.randn(1, 24, 64, generator=generator(0, "text"))
    noise = torch.randn(1, 4, *TOKENS.shape(1)[1:], generator=generator(0, "noise"))
    for width, sizes in (("128", {}), ("512", WIDE)):
        model = student(TOKENS, PATCH, **sizes)
        runs: Variants = {
            "training pass": partial(training_pass, model, context_gradient=False),
            "rollout": partial(rollout, model, text, noise, STEPS),
        }
        num_flops = {name: flops_of(run) for name, run in runs.items()}
        seconds = fastest({**runs, "product": lambda: square @ square})
        rate = 2 * MATRIX**3 / seconds["product"]
        num_tokens = 96 * TOKENS.num_blocks
        for name in runs:
            least = num_flops[name] / rate
            print(
                f"  width {width}, {name:14} {1e6 * seconds[name] / num_tokens:8.0f} us a token"
                f" against {1e6 * least / num_tokens:8.0f}: {seconds[name] / least:.2f}x"
                f"   ({num_flops[name] / 1e9:.1f} GFLOP, product {rate / 1e9:.0f} GFLOP/s)"
            )


def flops_of(run: Callable[[], Tensor]) -> int:
    """Return the floating-point operations of a call: products and attention, with backward."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def main() -> None:
    torch.set_num_threads(1)
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    if len(sys.argv) > 2:
        sys.stdout.write(json.dumps(peak_mb(PARTS[chosen].build()[sys.argv[2]])))
        return
    for name, part in PARTS.items():
        if name.startswith(chosen):
            compare(name, part)
    if "limit".startswith(chosen):
        limit()


if __name__ == "__main__":
    main()
