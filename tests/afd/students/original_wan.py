"""The original Wan and its causal descendants, written again from their published description.

An oracle, and nothing else: plain torch, float32 weights under the original names, attention as a
softmax of a masked product, tables in float64, one timestep a frame. Sources: Wan2.1's model
(arXiv:2503.20314) and the causal variants of CausVid (arXiv:2412.07772), Self-Forcing
(arXiv:2506.08009) and Causal-Forcing. It shares no code with afd.students or with diffusers.
"""

import math

import torch
from torch import Tensor, nn


def sinusoid(dim: int, position: Tensor) -> Tensor:
    """Cosines, then sines, of position / 10000^(i / half), in float64."""
    half = dim // 2
    frequency = torch.pow(10000, -torch.arange(half, dtype=torch.float64).div(half))
    angle = torch.outer(position.double(), frequency)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def rope_table(length: int, dim: int) -> Tensor:
    frequency = 1.0 / torch.pow(10000, torch.arange(0, dim, 2, dtype=torch.float64).div(dim))
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    return torch.polar(torch.ones_like(angle), angle)


def rope_tables(head_dim: int, length: int = 64) -> Tensor:
    """Frame, row and column tables side by side: the frame's gets what six does not divide."""
    plane = 2 * (head_dim // 6)
    parts = (head_dim - 2 * plane, plane, plane)
    return torch.cat([rope_table(length, dim) for dim in parts], dim=1)


def apply_rope(x: Tensor, frames: list[int], grid: tuple[int, int], table: Tensor) -> Tensor:
    """x [batch, tokens, heads, head_dim], tokens in the order frame, row, column."""
    half = x.shape[3] // 2
    time, row, column = table.split([half - 2 * (half // 3), half // 3, half // 3], dim=1)
    turns = [
        torch.cat([time[frame], row[r], column[c]])
        for frame in frames
        for r in range(grid[0])
        for c in range(grid[1])
    ]
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:3], half, 2))
    turned = pairs * torch.stack(turns)[None, :, None]
    return torch.view_as_real(turned).flatten(3).float()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """[batch, tokens, heads, head_dim]; mask [queries, keys], true where seen."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[3])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=3), v)


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.o = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1))


class Block(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.self_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor, text: Tensor, sees: "Sees") -> Tensor:
        """x [batch, tokens, dim], e [batch, tokens, 6, dim]."""
        e = (self.modulation[:, None] + e).unbind(dim=2)
        y = self.norm1(x) * (1 + e[1]) + e[0]
        attn = self.self_attn
        q, k = attn.split(attn.norm_q(attn.q(y))), attn.split(attn.norm_k(attn.k(y)))
        x = x + attn.o(sees(q, k, attn.split(attn.v(y))).flatten(2)) * e[2]
        attn, y = self.cross_attn, self.norm3(x)
        q, k = attn.split(attn.norm_q(attn.q(y))), attn.split(attn.norm_k(attn.k(text)))
        x = x + attn.o(attention(q, k, attn.split(attn.v(text))).flatten(2))
        y = self.norm2(x) * (1 + e[4]) + e[3]
        return x + self.ffn(y) * e[5]


class Sees:
    """One layer's self-attention of one pass: rotation, a mask, a growing history."""

    def __init__(self, frames, grid, table, mask=None, past=None) -> None:
        self.frames, self.grid, self.table, self.mask, self.past = frames, grid, table, mask, past
        self.made: tuple[Tensor, Tensor] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = apply_rope(q, self.frames, self.grid, self.table)
        k = apply_rope(k, self.frames, self.grid, self.table)
        self.made = (k, v)
        if self.past is not None:
            k = torch.cat([self.past[0], k], dim=1)
            v = torch.cat([self.past[1], v], dim=1)
        return attention(q, k, v, self.mask)


class Head(nn.Module):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation[:, None] + e[:, :, None]).unbind(dim=2)
        return self.head(self.norm(x) * (1 + scale) + shift)


class OriginalWan(nn.Module):
    """Latents in the original's order [batch, channels, frames, height, width]; patch 1 x p x p."""

    def __init__(
        self, *, dim=24, heads=2, ffn_dim=32, layers=2, channels=4, text_dim=7, freq_dim=16, patch=2
    ) -> None:
        super().__init__()
        self.heads, self.freq_dim, self.patch = heads, freq_dim, patch
        self.patch_embedding = nn.Conv3d(
            channels, dim, kernel_size=(1, patch, patch), stride=(1, patch, patch)
        )
        self.text_embedding = nn.Sequential(
            nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim * 6))
        self.blocks = nn.ModuleList([Block(dim, ffn_dim, heads) for _ in range(layers)])
        self.head = Head(dim, channels * patch**2)
        self.table = rope_tables(dim // heads)

    def run(self, latents: Tensor, timestep: Tensor, text: Tensor, sees: list[Sees]) -> Tensor:
        """timestep is 1000 t, [batch, frames]; `sees` has one entry a layer."""
        x = self.patch_embedding(latents)
        _, _, frames, rows, columns = x.shape
        x = x.flatten(2).transpose(1, 2)
        e = self.time_embedding(sinusoid(self.freq_dim, timestep.flatten()).float())
        e0 = self.time_projection(e).unflatten(1, (6, -1))
        e, e0 = (
            part.unflatten(0, timestep.shape).repeat_interleave(rows * columns, dim=1)
            for part in (e, e0)
        )
        context = self.text_embedding(text)
        for block, seen in zip(self.blocks, sees, strict=True):
            x = block(x, e0, context, seen)
        x = self.head(x, e).unflatten(1, (frames, rows, columns))
        x = x.unflatten(4, (self.patch, self.patch, -1))
        return torch.einsum("bfhwpqc->bcfhpwq", x).flatten(5).flatten(3, 4)

    def grid(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[3] // self.patch, latents.shape[4] // self.patch

    def bidirectional(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        frames = list(range(latents.shape[2]))
        seen = [Sees(frames, self.grid(latents), self.table) for _ in self.blocks]
        return self.run(latents, timestep, text, seen)

    def block_causal(
        self, latents: Tensor, timestep: Tensor, text: Tensor, per_block: int, window=None
    ) -> Tensor:
        """Frames see all frames up to the end of their own block; `window` frames at most."""
        frames, grid = list(range(latents.shape[2])), self.grid(latents)
        mask = torch.tensor(
            [
                [
                    key < _end(query, per_block)
                    and (window is None or key >= _end(query, per_block) - window)
                    for key in frames
                ]
                for query in frames
            ]
        )
        mask = _per_token(mask, grid)
        seen = [Sees(frames, grid, self.table, mask) for _ in self.blocks]
        return self.run(latents, timestep, text, seen)

    def teacher_forcing(
        self, clean: Tensor, noisy: Tensor, timestep: Tensor, text: Tensor, per_block: int
    ) -> Tensor:
        """[clean | noisy]: noisy frames see their own block and the clean ones before it."""
        frames, grid = list(range(noisy.shape[2])), self.grid(noisy)
        everyone = [("clean", frame) for frame in frames] + [("noisy", frame) for frame in frames]
        rows = []
        for kind, query in everyone:
            start, end = _end(query, per_block) - per_block, _end(query, per_block)
            rows.append(
                [
                    (key_kind == "clean" and key < (end if kind == "clean" else start))
                    or (kind == key_kind == "noisy" and start <= key < end)
                    for key_kind, key in everyone
                ]
            )
        mask = _per_token(torch.tensor(rows), grid)
        seen = [Sees(frames + frames, grid, self.table, mask) for _ in self.blocks]
        times = torch.cat([torch.zeros_like(timestep), timestep], dim=1)
        both = self.run(torch.cat([clean, noisy], dim=2), times, text, seen)
        return both[:, :, len(frames) :]

    def cached(
        self, block: Tensor, timestep: Tensor, text: Tensor, start: int, past: list | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One block at frame `start` after `past`, a layer's keys and values; gives its own."""
        frames = list(range(start, start + block.shape[2]))
        pasts = past or [None] * len(self.blocks)
        seen = [Sees(frames, self.grid(block), self.table, None, each) for each in pasts]
        output = self.run(block, timestep, text, seen)
        return output, [each.made for each in seen]  # type: ignore[misc]


def _end(frame: int, per_block: int) -> int:
    return (frame // per_block + 1) * per_block


def _per_token(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    size = grid[0] * grid[1]
    return mask.repeat_interleave(size, dim=0).repeat_interleave(size, dim=1)


def self_forcing_rollout(
    model: OriginalWan,
    text: Tensor,
    noise: list[Tensor],
    per_block: int,
    *,
    window: int | None = None,
    sink: int = 0,
) -> Tensor:
    """Self-Forcing's inference loop: 1000, 750, 500, 250 warped with shift 5, then a pass at 0.

    noise[i] enters every block at step i, so that a test can hand the same noise to another
    implementation. `window` and `sink` count frames; the window holds the sink and the block.
    """
    steps = [1000 * 5 * s / (1 + 4 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    history: list[list[tuple[Tensor, Tensor]]] = []  # a block each, a layer each
    done: list[Tensor] = []
    for start in range(0, noise[0].shape[2], per_block):
        past = _visible(history, per_block, window, sink)
        noisy = noise[0][:, :, start : start + per_block]
        for index, step in enumerate(steps):
            timestep = torch.full((len(noisy), per_block), step)
            flow, _ = model.cached(noisy, timestep, text, start, past)
            clean = (noisy.double() - step / 1000 * flow.double()).float()
            if index + 1 < len(steps):
                sigma = steps[index + 1] / 1000
                fresh = noise[index + 1][:, :, start : start + per_block]
                noisy = (1 - sigma) * clean + sigma * fresh
        _, made = model.cached(clean, torch.zeros(len(clean), per_block), text, start, past)
        history.append(made)
        done.append(clean)
    return torch.cat(done, dim=2)


def _visible(history: list, per_block: int, window: int | None, sink: int) -> list | None:
    kept = history
    if window is not None:
        recent = (window - sink) // per_block - 1
        first = sink // per_block
        if len(history) > first + recent:
            kept = history[:first] + history[len(history) - recent :]
    if not kept:
        return None
    layers = zip(*kept, strict=True)
    return [
        tuple(torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)) for blocks in layers
    ]
