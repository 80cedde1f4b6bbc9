"""Weights of others: every wrapper and layout comes in exactly, everything else is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import save_file
from torch import Tensor

from afd.students.layouts import names, to_diffusers, to_original
from afd.students.strict_loading import CheckpointError
from afd.students.wan_checkpoints import load_wan
from tests.afd.students.original_wan import OriginalWan

HEAD_DIM = 12
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5676070424\n"


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return OriginalWan().state_dict()


def same(model: torch.nn.Module, original: dict[str, Tensor]) -> None:
    found = to_original(model.state_dict())
    assert found.keys() == original.keys()
    assert all(torch.equal(found[name], original[name]) for name in original)


def test_names_are_those_of_diffusers_converter(original):
    theirs = convert_wan_transformer_to_diffusers(dict(original))
    ours = to_diffusers(original)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(set(names(2).values())) == len(names(2)) == len(original)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "model.",
        "model._fsdp_wrapped_module.",
        "module.model.",
        "_orig_mod.model._checkpoint_wrapped_module.",
    ],
)
@pytest.mark.parametrize("entry", ["generator_ema", "generator", None])
def test_every_wrapper_of_a_pt_comes_off(original, tmp_path: Path, prefix: str, entry: str | None):
    state = {
        f"{prefix}{name}".replace("blocks.1.", "blocks.1._fsdp_wrapped_module."): value
        for name, value in original.items()
    }
    saved = state if entry is None else {entry: state, "critic": {"x": torch.zeros(1)}}
    torch.save(saved, tmp_path / "model.pt")
    same(load_wan(tmp_path / "model.pt", HEAD_DIM), original)


def test_the_average_is_taken_unless_the_other_is_asked_for(original, tmp_path: Path):
    other = {name: value + 1 for name, value in original.items()}
    torch.save({"generator": other, "generator_ema": original}, tmp_path / "model.pt")
    same(load_wan(tmp_path / "model.pt", HEAD_DIM), original)
    same(load_wan(tmp_path / "model.pt", HEAD_DIM, "generator"), other)
    torch.save({"generator": other, "step": 3}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"has no generator_ema; it has \['generator'"):
        load_wan(tmp_path / "model.pt", HEAD_DIM, "generator_ema")


def test_a_file_of_before_zip_archives_loads_too(original, tmp_path: Path):
    torch.save({"generator": original}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(load_wan(tmp_path / "old.pt", HEAD_DIM), original)


def test_plain_safetensors_in_both_layouts(original, tmp_path: Path):
    save_file(original, tmp_path / "original.safetensors")
    save_file(to_diffusers(original), tmp_path / "diffusers.safetensors")
    same(load_wan(tmp_path / "original.safetensors", HEAD_DIM), original)
    same(load_wan(tmp_path / "diffusers.safetensors", HEAD_DIM), original)


def test_a_wan_folder_whole_in_shards_or_inside_a_pipeline(original, tmp_path: Path):
    torch.save(original, tmp_path / "model.pt")
    model = load_wan(tmp_path / "model.pt", HEAD_DIM)
    stock = WanTransformer3DModel.from_config(model.config)
    stock.load_state_dict(model.state_dict())
    for name, shard in (("pipeline/transformer", "10GB"), ("shards", "20KB")):
        stock.save_pretrained(tmp_path / name, max_shard_size=shard)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    same(load_wan(tmp_path / "pipeline"), original)
    same(load_wan(tmp_path / "shards"), original)
    next((tmp_path / "shards").glob("*-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match=r"00002-of.*no such file.*nothing is downloaded"):
        load_wan(tmp_path / "shards")


def test_other_models_are_named(original, tmp_path: Path):
    model = load_wan_of(original, tmp_path)
    WanTransformer3DModel.from_config(model.config).save_pretrained(tmp_path / "wan")
    config = json.loads((tmp_path / "wan" / "config.json").read_text())
    (tmp_path / "wan" / "config.json").write_text(
        json.dumps(config | {"_class_name": "FluxTransformer2DModel"})
    )
    with pytest.raises(CheckpointError, match="is a FluxTransformer2DModel"):
        load_wan(tmp_path / "wan")
    (tmp_path / "wan" / "config.json").write_text(json.dumps(config | {"image_dim": 1280}))
    with pytest.raises(CheckpointError, match="image-to-video"):
        load_wan(tmp_path / "wan")
    (tmp_path / "wan" / "config.json").write_text(json.dumps(config | {"ffn_dim": 48}))
    with pytest.raises(CheckpointError, match=r"ffn\.net\.0\.proj\.weight is \[32, 24\], not \[48"):
        load_wan(tmp_path / "wan")
    save_file({"unet.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"not a Wan transformer: 1 tensor.*unet\.weight"):
        load_wan(tmp_path / "other.safetensors")


def load_wan_of(state: dict[str, Tensor], tmp_path: Path) -> torch.nn.Module:
    torch.save({"generator": state}, tmp_path / "model.pt")
    return load_wan(tmp_path / "model.pt", HEAD_DIM)


def test_every_misfit_is_told_at_once(original, tmp_path: Path):
    broken = dict(original)
    del broken["blocks.1.ffn.2.bias"]
    broken["blocks.0.self_attn.q.weight"] = torch.zeros(24, 23)
    broken["extra.weight"] = torch.zeros(1)
    broken["blocks.0.modulation"] = original["blocks.0.modulation"].clone()
    broken["blocks.0.modulation"][0, 2, 3] = float("nan")
    with pytest.raises(CheckpointError) as error:
        load_wan_of(broken, tmp_path)
    told = str(error.value)
    assert "4 tensor(s) do not fit" in told and "nothing was loaded" in told
    assert "missing blocks.1.ffn.net.2.bias" in told and "unexpected extra.weight" in told
    assert "blocks.0.attn1.to_q.weight is [24, 23], not [24, 24]" in told
    assert "blocks.0.scale_shift_table holds NaN" in told
    with pytest.raises(CheckpointError, match=r"width of 24.*heads of 128.*student\.head_dim"):
        torch.save(original, tmp_path / "model.pt")
        load_wan(tmp_path / "model.pt")


def test_a_part_of_a_checkpoint_is_no_checkpoint(original, tmp_path: Path):
    part = {name: value for name, value in original.items() if not name.startswith("time_embed")}
    with pytest.raises(CheckpointError, match=r"not a whole Wan.*time_embedder\.linear_1\.weight"):
        load_wan_of(part, tmp_path)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(original, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save(
            {"generator": original, "note": Hostile()},
            tmp_path / "model.pt",
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(CheckpointError, match=r"holds code.* as getattr \(refused\)") as told:
            load_wan(tmp_path / "model.pt", HEAD_DIM)
        assert "weights_only" not in str(told.value) and told.value.__suppress_context__
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_damaged_files_are_told(original, tmp_path: Path, name: str):
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save({"generator": original}, path)
    else:
        save_file(original, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"\n<html>404 not found</html>", LFS):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.(pt|safetensors): is ") as told:
            load_wan(path, HEAD_DIM)
        assert ("web page" in str(told.value)) == (b"<html>" in content)
        assert ("git lfs pull" in str(told.value)) == (content == LFS)
        assert ("cut short" in str(told.value)) == (whole.startswith(content))
        assert "weights_only" not in str(told.value)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no such file; nothing is downloaded"):
        load_wan(path, HEAD_DIM)


def test_names_that_collide_without_wrappers_are_refused(original, tmp_path: Path):
    twice = dict(original) | {"model.head.head.bias": original["head.head.bias"]}
    with pytest.raises(CheckpointError, match=r"two tensors are called head\.head\.bias"):
        load_wan_of(twice, tmp_path)
