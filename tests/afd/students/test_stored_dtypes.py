"""Weights that are no plain floats are named with their file, tensor and dtype, whoever reads."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from afd.discriminators import video_reward
from afd.discriminators.backbones import BackboneError, found
from afd.students.anyflow_far import load_far
from afd.students.strict_loading import CheckpointError
from afd.students.tiny_published import save_components
from afd.students.vae import load_published
from afd.students.wan_checkpoints import load_wan
from afd.text.encoder import TextError
from afd.text.umt5 import Umt5
from tests.afd.students.original_wan import OriginalWan
from tests.afd.students.tiny_parts import save_anyflow_far

FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)


def packed(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The matrices alone in another format, as such files have them."""
    return {name: t.to(dtype) if t.ndim > 1 else t for name, t in tensors.items()}


@pytest.fixture
def components(tmp_path: Path) -> Path:
    return save_components(tmp_path / "components")


def repacked(folder: Path, dtype: torch.dtype) -> Path:
    file = next(folder.glob("*.safetensors"))
    save_file(packed(load_file(file), dtype), file, metadata={"format": "pt"})
    return file


def told(reader: Callable[[], object], error: type[Exception], *parts: str) -> None:
    with pytest.raises(error) as refused:
        reader()
    for part in (*parts, "no plain floats", "take the float32, bfloat16 or float16 file"):
        assert part in str(refused.value)
    assert "not implemented" not in str(refused.value)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_student_names_dtype_tensor_and_file(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors, name = packed(OriginalWan().state_dict(), dtype), str(dtype).removeprefix("torch.")
    save_file(tensors, tmp_path / "wan.safetensors")
    torch.save({"generator_ema": tensors}, tmp_path / "wan.pt")
    for file in (tmp_path / "wan.safetensors", tmp_path / "wan.pt"):
        parts = (str(file), name, "blocks.0.cross_attn.k.weight", "student.checkpoint")
        told(lambda file=file: load_wan(file, 12), CheckpointError, *parts)


def test_other_readers_name_them_too(components: Path, tmp_path: Path) -> None:
    fp8 = torch.float8_e4m3fn
    far = save_anyflow_far(tmp_path / "far")
    file = repacked(far / "transformer", fp8)
    told(lambda: load_far(far), CheckpointError, str(file), "float8_e4m3fn")
    file = repacked(components / "text_encoder", fp8)
    parts = (str(file), "float8_e4m3fn", "student.components")
    told(lambda: Umt5(components, 40), TextError, *parts)
    file = repacked(components / "vae", fp8)
    told(lambda: load_published(components), CheckpointError, str(file), "float8_e4m3fn")
    told(
        lambda: found(str(components), ("vae/*.safetensors",), "discriminator.backbone", "a Wan"),
        BackboneError, str(file), "float8_e4m3fn", "discriminator.backbone",
    )  # fmt: skip
    reward = {"rm_head.weight": torch.zeros(1, 4).to(fp8)}
    torch.save(reward, tmp_path / "reward.pth")
    save_file(reward, tmp_path / "reward.safetensors")
    for file in (tmp_path / "reward.pth", tmp_path / "reward.safetensors"):
        told(
            lambda file=file: video_reward.read(str(file)),
            BackboneError, str(file), "float8_e4m3fn", "rm_head.weight",
        )  # fmt: skip


def test_half_precision_and_double_load(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        save_file(packed(OriginalWan().state_dict(), dtype), tmp_path / "wan.safetensors")
        assert load_wan(tmp_path / "wan.safetensors", 12).blocks[0].attn1.to_q.weight.dtype == dtype


@pytest.mark.parametrize("config", ["[]", "{", '{"num_layers": "two"}'])
def test_a_config_of_nonsense_is_the_files_fault(
    components: Path, tmp_path: Path, config: str
) -> None:
    """Whatever class a library raises, it ends as a refusal that names the place."""
    for folder in (save_anyflow_far(tmp_path / "far") / "transformer", components / "vae"):
        (folder / "config.json").write_text(config)
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "config.json").write_text(config)
    save_file(OriginalWan().state_dict(), tmp_path / "wan" / "diffusion_pytorch_model.safetensors")
    for reader in (
        lambda: load_far(tmp_path / "far"),
        lambda: load_wan(tmp_path / "wan"),
        lambda: load_published(components),
    ):
        with pytest.raises(CheckpointError, match=r"far|wan|vae"):
            reader()
    (components / "tokenizer" / "tokenizer_config.json").write_text(config)
    (components / "text_encoder" / "config.json").write_text(config)
    with pytest.raises(TextError, match=r"holds no text encoder"):
        Umt5(components, 40)
    (tmp_path / "model_config.json").write_text(json.dumps([1]))
    (tmp_path / "checkpoint-1").mkdir()
    torch.save({}, tmp_path / "checkpoint-1" / "model.pth")
    with pytest.raises(BackboneError, match=r"discriminator\.reward.*cannot be read.*reward=null"):
        video_reward.read(str(tmp_path))
