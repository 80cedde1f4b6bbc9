"""Tiny random parts of the real classes, saved as the folders that people download.

`python -m tests.afd.students.tiny_parts FOLDER` writes Self-Forcing's and Wan's (docs/students.md).
"""

import sys
from pathlib import Path

import torch
from diffusers import AnyFlowFARTransformer3DModel, AutoencoderKLWan
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from tests.afd.students.original_wan import OriginalWan

TEXT_DIM = 12
HEAD_DIM = 12


def tiny_vae() -> AutoencoderKLWan:
    """71k parameters; z_dim stays 16, so that the published statistics apply."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, attn_scales=[]
    )
    return vae.eval().requires_grad_(False)


def save_components(folder: Path) -> Path:
    """vae/, text_encoder/ and tokenizer/ of a Wan-Diffusers checkpoint."""
    tiny_vae().save_pretrained(folder / "vae")
    torch.manual_seed(1)
    config = UMT5Config(
        vocab_size=384, d_model=TEXT_DIM, d_kv=4, d_ff=16, num_layers=2, num_heads=3
    )
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def save_self_forcing(file: Path) -> Path:
    """A checkpoint as Self-Forcing saves it, with its average and under FSDP's names."""
    torch.manual_seed(2)
    model = OriginalWan(dim=2 * HEAD_DIM, channels=16, text_dim=TEXT_DIM)
    with torch.no_grad():  # a velocity of the size of noise, as a trained one's
        model.head.head.weight.mul_(4)
    state = {f"model._fsdp_wrapped_module.{k}": v for k, v in model.state_dict().items()}
    torch.save({"generator_ema": state, "critic": {"x": torch.zeros(1)}}, file)
    return file


def save_anyflow_far(folder: Path) -> Path:
    """A folder with the transformer of AnyFlow-FAR."""
    torch.manual_seed(3)
    model = AnyFlowFARTransformer3DModel(
        compressed_patch_size=(1, 2, 2),  # latents of 16 px are 2 x 2
        num_attention_heads=2,
        attention_head_dim=HEAD_DIM,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
    )
    model.save_pretrained(folder / "transformer")
    return folder


if __name__ == "__main__":
    save_self_forcing(save_components(Path(sys.argv[1])) / "self_forcing.pt")
