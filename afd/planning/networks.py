"""Sizes and FLOPs of the other networks of a campaign: VAE, text encoder, discriminators.

Published configs, counted once on meta tensors by torch's FlopCounterMode (tests/afd/planning).
"""

from dataclasses import dataclass

from afd.config import ConvDiscriminator, DitFeaturesDiscriminator, VlmDiscriminator
from afd.planning.wan import WanSizes

# AutoencoderKLWan, FLOPs per pixel of a frame: the first latent frame is 1 frame, others are 4.
VAE_PARAMETERS = 126_892_531
VAE_DECODE_FIRST, VAE_DECODE_NEXT = 10.90e6, 33.93e6
VAE_ENCODE_FIRST, VAE_ENCODE_NEXT = 6.81e6, 20.16e6
# Streaming holds about 12 tensors of 96 channels and 4 frames at full resolution.
VAE_VALUES_PER_PIXEL = 12 * 96 * 4

# UMT5-XXL's encoder: all parameters, and those every token goes through.
UMT5_PARAMETERS, UMT5_BLOCK_PARAMETERS = 5_680_910_336, 4_630_757_376

# Qwen2-VL-2B without its language head: all, vision tower, language layers.
QWEN_PARAMETERS, QWEN_VISION, QWEN_LAYERS = 2_208_985_600, 665_271_296, 1_310_339_072
QWEN_WIDTH, QWEN_NUM_LAYERS, QWEN_FFN, QWEN_KEYS = 1536, 28, 8960, 256
QWEN_VISION_WIDTH, QWEN_VISION_LAYERS = 1280, 32
QWEN_PATCH = 14


def vae_decode_flops(num_latent_frames: int, pixels: int) -> float:
    """Return the FLOPs of decoding one clip; `pixels` of one frame."""
    return pixels * (VAE_DECODE_FIRST + (num_latent_frames - 1) * VAE_DECODE_NEXT)


def vae_encode_flops(num_latent_frames: int, pixels: int) -> float:
    """Return the FLOPs of encoding one clip; `pixels` of one frame."""
    return pixels * (VAE_ENCODE_FIRST + (num_latent_frames - 1) * VAE_ENCODE_NEXT)


def text_flops(num_tokens: int) -> float:
    """Return the FLOPs of one prompt through UMT5-XXL, padded to `num_tokens`."""
    return 2.0 * UMT5_BLOCK_PARAMETERS * num_tokens


@dataclass(frozen=True, slots=True)
class DiscriminatorCost:
    """FLOPs, parameters and bytes of a discriminator for one clip."""

    preprocess_flops: float  # once for each clip
    score_flops: float
    train_flops: float  # forward and backward, without a penalty
    num_frozen: int  # parameters
    num_trained: int
    frozen_bytes: int  # a parameter
    activation_bytes: float  # for one clip's backward
    checkpointing: bool


def conv(params: ConvDiscriminator, num_frames: int, pixels: int) -> DiscriminatorCost:
    """Return the cost of the pocket network: pooling by 2, three convolutions, a linear layer."""
    width, area = params.width, pixels / 4
    kernels = (3 * num_frames * width * area, width**2 * area / 4, width**2 * area / 16)
    one_pass = 2 * 9 * sum(kernels) + 2 * width**2 * area / 16
    num_trained = 9 * width * (3 * num_frames + 2 * width) + int(width**2 * area / 16)
    activations = 4 * width * area * (1 + 1 / 4 + 1 / 16) + 4 * 3 * num_frames * area
    return DiscriminatorCost(
        0, params.num_passes * one_pass, 3 * one_pass, 0, num_trained, 4, activations, False
    )


def vlm(params: VlmDiscriminator, pixels: int) -> DiscriminatorCost:
    """Return the cost of Qwen2-VL-2B: vision without gradient, LoRA on the language layers."""
    frame_pixels = min(pixels, params.frame_pixels)
    patches = params.num_frames // 2 * (frame_pixels // QWEN_PATCH**2)
    tokens = patches // 4 + params.num_text_tokens
    per_frame = frame_pixels // QWEN_PATCH**2  # vision attention stays within a pair of frames
    vision = patches * (2 * QWEN_VISION + 4 * QWEN_VISION_LAYERS * QWEN_VISION_WIDTH * per_frame)
    linear = 2 * tokens * QWEN_LAYERS
    attention = 4 * QWEN_NUM_LAYERS * QWEN_WIDTH * tokens**2
    rank = params.lora_rank
    in_and_out = 4 * QWEN_WIDTH + 2 * (QWEN_WIDTH + QWEN_KEYS) + 3 * (QWEN_WIDTH + QWEN_FFN)
    num_lora = QWEN_NUM_LAYERS * rank * in_and_out
    forward = vision + linear + attention + 2 * tokens * num_lora
    backward = linear + 2 * attention + 4 * tokens * num_lora
    again = forward if params.gradient_checkpointing else 0
    size = 2 if params.dtype == "bfloat16" else 4
    layer = tokens * (14 * QWEN_WIDTH * size + 8 * QWEN_WIDTH * 4 + 3 * QWEN_FFN * size)
    layers = QWEN_NUM_LAYERS
    activations = layer * layers
    if params.gradient_checkpointing:
        activations = layers * tokens * QWEN_WIDTH * size + layer
    return DiscriminatorCost(
        0, forward, forward + backward + again, QWEN_PARAMETERS, num_lora, size, activations,
        params.gradient_checkpointing,
    )  # fmt: skip


def dit_features(params: DitFeaturesDiscriminator, wan: WanSizes, pixels: int) -> DiscriminatorCost:
    """Return the cost of a frozen bidirectional Wan up to the last block read, per noise level."""
    share = (params.layers[-1] + 1) / wan.num_layers
    per_token = wan.linear_flops + wan.attention_flops(wan.num_tokens + wan.num_text_tokens)
    forward = len(params.times) * share * wan.num_tokens * per_token
    size = 2 if params.dtype == "bfloat16" else 4
    heads = len(params.layers) * params.head_width * (2 * wan.width + params.head_width)
    frozen = int(share * wan.num_parameters) + VAE_PARAMETERS
    # Heads need features alone; only the penalty has a backward pass through Wan.
    activations = len(params.times) * len(params.layers) * wan.num_tokens * wan.width * 4
    see = vae_encode_flops(wan.num_latent_frames, pixels)
    return DiscriminatorCost(
        see, forward, forward, frozen, heads, size, activations, params.gradient_checkpointing
    )
