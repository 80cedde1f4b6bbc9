"""A tiny random Wan text-to-video pipeline as diffusers saves one, each part of the real class."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel


def save(folder: Path, seed: int = 0) -> Path:
    """Width 24, 2 blocks; 8x8x4 and 16 latent channels as Wan's own VAE; bytes as words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        WanPipeline(
            tokenizer=ByT5Tokenizer(),
            text_encoder=UMT5EncoderModel(
                UMT5Config(vocab_size=400, d_model=20, d_kv=5, d_ff=16, num_layers=1, num_heads=4)
            ),
            transformer=WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=16,
                out_channels=16,
                text_dim=20,
                freq_dim=16,
                ffn_dim=32,
                num_layers=2,
            ),
            vae=AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        ).save_pretrained(folder)
    return folder
