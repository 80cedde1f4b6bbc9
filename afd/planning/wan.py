"""Sizes, FLOPs and bytes of a block-causal Wan by arithmetic, for `afd plan`.

One multiply-add is 2 FLOPs, as torch's FlopCounterMode counts: on meta tensors the real class of
students/ gives the same numbers (tests/afd/planning). Norms, biases and activations are left out:
under 1 % at real size. A backward pass costs twice its forward, less what needs no gradient.
"""

from dataclasses import dataclass, replace

LINEARS_OF_ATTENTION = 4  # query, key, value, output
NUM_MODULATIONS = 6  # shift, scale and gate of self-attention and of the feed-forward


@dataclass(frozen=True, slots=True)
class WanSizes:
    """Sizes of a Wan transformer and of its clip; all other numbers derive from them."""

    num_layers: int
    num_heads: int
    head_dim: int
    ffn_dim: int
    freq_dim: int
    text_dim: int
    num_text_tokens: int
    channels: int  # of latents
    rows: int  # of latents
    columns: int
    num_latent_frames: int
    latent_frames_per_block: int
    patch: int  # side of a spatial patch, in latents
    window_blocks: int | None = None  # attended blocks, the own one included; None: all

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def num_blocks(self) -> int:
        return self.num_latent_frames // self.latent_frames_per_block

    @property
    def tokens_per_frame(self) -> int:
        return (self.rows // self.patch) * (self.columns // self.patch)

    @property
    def tokens_per_block(self) -> int:
        return self.tokens_per_frame * self.latent_frames_per_block

    @property
    def num_tokens(self) -> int:
        return self.tokens_per_frame * self.num_latent_frames

    @property
    def latent_values(self) -> int:
        """Number of values in the latents of one clip."""
        return self.channels * self.num_latent_frames * self.rows * self.columns

    # ------------------------------------------------------------------ parameters

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of diffusers' WanTransformer3DModel (text to video)."""
        d, patched = self.width, self.channels * self.patch**2
        attention = LINEARS_OF_ATTENTION * (d * d + d) + 2 * d  # and the norms of query and key
        feed_forward = d * self.ffn_dim + self.ffn_dim + self.ffn_dim * d + d
        block = 2 * attention + feed_forward + 2 * d + NUM_MODULATIONS * d  # norm2 is affine
        times = (self.freq_dim * d + d) + (d * d + d) + (d * NUM_MODULATIONS * d)
        times += NUM_MODULATIONS * d
        text = (self.text_dim * d + d) + (d * d + d)
        ends = (patched * d + d) + (d * patched + patched) + 2 * d
        return self.num_layers * block + times + text + ends

    def num_lora_parameters(self, rank: int, *, feed_forward: bool = True) -> int:
        """Return the weights of a LoRA on all 8 attention linears and the 2 of the feed-forward."""
        per_layer = 2 * LINEARS_OF_ATTENTION * 2 * self.width
        if feed_forward:
            per_layer += 2 * (self.width + self.ffn_dim)
        return self.num_layers * rank * per_layer

    # ------------------------------------------------------------------ FLOPs

    @property
    def linear_flops(self) -> int:
        """FLOPs of one token through the linears of all layers."""
        attention = (LINEARS_OF_ATTENTION + 2) * self.width**2  # text keys are counted by text
        return 2 * self.num_layers * (attention + 2 * self.width * self.ffn_dim)

    @property
    def text_flops(self) -> int:
        """FLOPs of one prompt: its embedding, and its keys and values in every layer."""
        embedding = self.text_dim * self.width + self.width**2
        return 2 * self.num_text_tokens * (embedding + self.num_layers * 2 * self.width**2)

    def attention_flops(self, num_keys: int) -> int:
        """Return the FLOPs of one query token against `num_keys` keys in all layers."""
        return 4 * self.num_layers * self.width * num_keys

    @property
    def _ends_flops(self) -> int:
        """FLOPs of one token into the network or out of it."""
        return 2 * self.channels * self.patch**2 * self.width

    @property
    def _time_flops(self) -> int:
        """FLOPs of one frame's timestep."""
        return 2 * self.width * (self.freq_dim + self.width + NUM_MODULATIONS * self.width)

    def block_flops(self, block: int) -> int:
        """Return the FLOPs of one cached pass over block number `block`."""
        seen = min(block + 1, self.window_blocks or self.num_blocks) * self.tokens_per_block
        per_token = self.linear_flops + 2 * self._ends_flops
        per_token += self.attention_flops(seen) + self.attention_flops(self.num_text_tokens)
        times = self.latent_frames_per_block * self._time_flops
        return self.tokens_per_block * per_token + times

    def rollout_flops(self, num_steps: int) -> int:
        """Return the FLOPs of one clip: `num_steps` passes a block and one that fills the cache."""
        passes = (num_steps + 1) * sum(self.block_flops(block) for block in range(self.num_blocks))
        return passes + self.text_flops

    @property
    def context_flops(self) -> int:
        """FLOPs of the clean half of the parallel pass; the last block is context to no other."""
        return sum(
            self.block_flops(block) - self.tokens_per_block * self._ends_flops
            for block in range(self.num_blocks - 1)
        )

    @property
    def noisy_flops(self) -> int:
        """FLOPs of the noisy half: a block attends to the clean blocks before it and itself."""
        return sum(self.block_flops(block) for block in range(self.num_blocks))

    @property
    def parallel_flops(self) -> int:
        """FLOPs of one forward pass over [clean | noisy]: a velocity of every block of one clip."""
        return self.context_flops + self.noisy_flops + self.text_flops

    def lora_flops(self, rank: int, num_tokens: int) -> int:
        """Return the FLOPs that a LoRA on every linear adds to a forward pass over `num_tokens`.

        The text's keys and values are left out: 512 tokens of 65,000.
        """
        return 2 * num_tokens * self.num_lora_parameters(rank)

    def training_flops(
        self, rank: int | None, *, checkpointing: bool, context_gradient: bool = True
    ) -> int:
        """Return forward and backward FLOPs of the parallel pass; `rank` None trains all weights.

        Frozen weights need no gradient, so their linears cost one forward's worth backward instead
        of two; attention has no weights and always costs two. Without `context_gradient` the clean
        half is a forward pass and no more.
        """
        num_context = (self.num_blocks - 1) * self.tokens_per_block
        if not context_gradient:
            context = self.context_flops + (self.lora_flops(rank, num_context) if rank else 0)
            alone = self._training_flops(rank, self.num_tokens, self.noisy_flops, checkpointing)
            return context + self.text_flops + alone
        num_tokens = self.num_tokens + num_context
        return self._training_flops(rank, num_tokens, self.parallel_flops, checkpointing)

    def _training_flops(
        self, rank: int | None, num_tokens: int, forward: int, checkpointing: bool
    ) -> int:
        linear = num_tokens * self.linear_flops
        if rank is None:
            backward = 2 * forward
        else:
            added = self.lora_flops(rank, num_tokens)
            backward = 2 * forward - linear + 2 * added
            forward += added
        return forward + backward + (forward if checkpointing else 0)

    # ------------------------------------------------------------------ bytes

    def cache_bytes(self, bytes_per_value: int) -> int:
        """Return the bytes of keys and values of one clip's history in every layer."""
        blocks = min(self.num_blocks, self.window_blocks or self.num_blocks)
        tokens = blocks * self.tokens_per_block
        return 2 * self.num_layers * tokens * self.width * bytes_per_value

    def layer_bytes(self, rank: int | None, bytes_per_value: int) -> int:
        """Return the bytes that one layer of the parallel pass holds for its backward, one clip.

        Counted on the real class (tests/afd/planning): with bfloat16 weights norms and rotations
        stay float32, so 10 tensors of a token's width are small and 12 are not; in float32 they are
        22. Each noisy block's keys and values are joined with those of the blocks before it.
        """
        b, d, n = bytes_per_value, self.width, self.num_blocks
        per_token = (88 if b == 4 else 10 * b + 48) * d + 2 * b * self.ffn_dim
        per_token += 0 if rank is None else 10 * 4 * rank
        joined = (2 * n - 1 + n * (n + 1)) * b * d  # outputs, keys and values, in blocks
        return self.tokens_per_block * ((2 * n - 1) * per_token + joined)

    def activation_bytes(
        self,
        rank: int | None,
        bytes_per_value: int,
        *,
        checkpointing: bool,
        context_gradient: bool = True,
    ) -> int:
        """Return the peak bytes that the parallel pass holds for its backward, one clip."""
        blocks = 2 * self.num_blocks - 1
        layer = self.layer_bytes(rank, bytes_per_value)
        if not context_gradient:  # the clean half keeps keys and values only
            layer = layer * self.num_blocks // blocks
            blocks = self.num_blocks
            layer += replace(self, window_blocks=None).cache_bytes(bytes_per_value)  # all of them
        if not checkpointing:
            return self.num_layers * layer
        tokens = self.tokens_per_block * blocks
        return self.num_layers * tokens * self.width * bytes_per_value + layer


# Published configs; text is padded to 512 tokens of UMT5-XXL. Latents of 81 frames at 480x832.
WAN_1_3B = WanSizes(
    num_layers=30,
    num_heads=12,
    head_dim=128,
    ffn_dim=8960,
    freq_dim=256,
    text_dim=4096,
    num_text_tokens=512,
    channels=16,
    rows=60,
    columns=104,
    num_latent_frames=21,
    latent_frames_per_block=3,
    patch=2,
)
WAN_14B = replace(WAN_1_3B, num_layers=40, num_heads=40, ffn_dim=13824)
