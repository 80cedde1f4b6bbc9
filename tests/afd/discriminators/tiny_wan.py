"""A tiny random Wan-Diffusers folder, transformer and VAE, as the real classes save it."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

TEXT_DIM = 20


def save(folder: Path, seed: int = 0) -> Path:
    """3 blocks of width 24; a VAE of 71,000 weights with Wan's own 8x8x4 and 16 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT_DIM,
            freq_dim=16,
            ffn_dim=32,
            num_layers=3,
        ).save_pretrained(folder / "transformer")
        AutoencoderKLWan(
            base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1
        ).save_pretrained(folder / "vae")
    return folder
