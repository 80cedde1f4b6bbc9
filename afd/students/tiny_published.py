"""A tiny published student with random weights: python -m afd.students.tiny_published FOLDER.

Writes the files that people download for Self-Forcing, of tiny sizes and the real classes:

self_forcing.pt    a checkpoint under the original's names, as Self-Forcing saves it
vae/ text_encoder/ tokenizer/    the components of a Wan-Diffusers folder

Nothing is downloaded and nothing has learned anything: every stage of a campaign computes, on a CPU
in a minute (params/students/tiny_published.yaml).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from afd.students.layouts import to_original

TEXT_DIM = 12
HEAD_DIM = 12


def tiny_vae() -> AutoencoderKLWan:
    """Return a VAE of 71k parameters; z_dim stays 16, so that the published statistics apply."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, attn_scales=[]
    )
    return vae.eval().requires_grad_(False)  # type: ignore[union-attr]


def save_components(folder: Path) -> Path:
    """Write vae/, text_encoder/ and tokenizer/ of a Wan-Diffusers folder; give the folder."""
    with torch.random.fork_rng(devices=()):
        tiny_vae().save_pretrained(folder / "vae")
        torch.manual_seed(1)
        config = UMT5Config(
            vocab_size=384, d_model=TEXT_DIM, d_kv=4, d_ff=16, num_layers=2, num_heads=3
        )
        UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
        ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def tiny_transformer() -> WanTransformer3DModel:
    """Return a Wan transformer of two blocks with 2 heads of 12."""
    torch.manual_seed(2)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=HEAD_DIM,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )
    with torch.no_grad():  # a velocity of the size of noise, as a trained one's
        model.proj_out.weight.mul_(4)
    return model


def save_self_forcing(file: Path) -> Path:
    """Write a checkpoint as Self-Forcing saves it, with its average and under FSDP's names."""
    with torch.random.fork_rng(devices=()):
        original = to_original(tiny_transformer().state_dict())
    state = {f"model._fsdp_wrapped_module.{name}": value for name, value in original.items()}
    torch.save({"generator_ema": state, "critic": {"x": torch.zeros(1)}}, file)
    return file


def main(argv: Sequence[str] | None = None) -> int:
    """Write all of it; exit code 2 with the reason where the folder cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m afd.students.tiny_published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(argv).folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_self_forcing(save_components(folder) / "self_forcing.pt")
    except OSError as error:
        sys.stderr.write(f"{error.filename or folder}: {error.strerror}; choose another folder\n")
        return 2
    sys.stdout.write(f"{folder / 'self_forcing.pt'}\n{folder}/: vae text_encoder tokenizer\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
