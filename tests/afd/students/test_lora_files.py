"""LoRA files as their own tools write them: named for what they are, and laid over their base."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from afd.config import SelfForcingParams
from afd.runtime import identity
from afd.students import lora_files, published
from afd.students.layouts import to_diffusers, to_original
from afd.students.strict_loading import CheckpointError
from afd.students.wan_checkpoints import load_wan
from tests.afd.students.original_wan import OriginalWan

RANK, ALPHA, HEAD_DIM = 3, 6.0, 12
LINEARS = r"blocks\.\d+\.((self|cross)_attn\.(q|k|v|o)|ffn\.(0|2))"


def whole() -> OriginalWan:
    torch.manual_seed(0)
    return OriginalWan()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, and one LoRA as each tool leaves it."""
    folder = tmp_path_factory.mktemp("lora")
    torch.save({"generator_ema": whole().state_dict()}, folder / "base.pt")
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LINEARS, init_lora_weights=False)
    model = get_peft_model(whole(), config)
    model.save_pretrained(folder / "peft")
    state = get_peft_model_state_dict(model)
    torch.save({"generator_lora": state, "critic_lora": {}, "step": 3}, folder / "longlive.pt")
    halves = {name.removeprefix("base_model.model."): value for name, value in state.items()}
    comfy, kohya = {}, {}
    for name, value in halves.items():
        layer, half = name.removesuffix(".weight").rsplit(".", 1)
        end = {"lora_A": "lora_down", "lora_B": "lora_up"}[half]
        comfy[f"diffusion_model.{layer}.{end}.weight"] = value.clone()
        comfy[f"diffusion_model.{layer}.alpha"] = torch.tensor(int(ALPHA))
        kohya[f"lora_unet_{layer.replace('.', '_')}.{end}.weight"] = value.clone()
        kohya[f"lora_unet_{layer.replace('.', '_')}.alpha"] = torch.tensor(ALPHA)
    save_file(comfy, folder / "comfy.safetensors")
    save_file(kohya, folder / "kohya.safetensors")
    ours: dict[str, Tensor] = {}
    for half in ("lora_A", "lora_B"):
        own = {n.replace(f".{half}", ""): v for n, v in halves.items() if f".{half}" in n}
        for name, value in to_diffusers(own).items():
            ours[f"{name.removesuffix('.weight')}.{half}.weight"] = value
    WanPipeline.save_lora_weights(
        folder / "diffusers",
        transformer_lora_layers=ours,
        transformer_lora_adapter_metadata={"r": RANK, "lora_alpha": ALPHA},
    )
    (folder / "store").mkdir()
    save_file(ours, folder / "store" / "student.safetensors")
    told = {"params": {"lora": {"rank": RANK, "alpha": ALPHA}}}
    (folder / "store" / "student.json").write_text(json.dumps(told))
    merged = model.merge_and_unload().state_dict()
    torch.save(merged, folder / "merged.pt")
    return folder


def params(place: Path, checkpoint: str, **changes: object) -> SelfForcingParams:
    values = {
        "family": "self_forcing", "checkpoint": str(place / checkpoint), "weights": None,
        "components": str(place), "head_dim": HEAD_DIM, "latent_frames_per_block": 1,
        "num_text_tokens": 8, "num_steps": 2, "shift": 5.0, "precision": "float32",
        "lora": {"rank": 2, "alpha": 2.0, "targets": "all"}, "window_frames": None,
        "sink_frames": 0, "context_gradient": False,
    }  # fmt: skip
    return SelfForcingParams.model_validate(values | changes)


FILES = (
    "peft", "peft/adapter_model.safetensors", "comfy.safetensors", "kohya.safetensors",
    "diffusers", "diffusers/pytorch_lora_weights.safetensors", "store/student.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("file", [*FILES, "longlive.pt"])
def test_a_lora_says_what_it_is_and_starts_over_its_base(place: Path, file: str) -> None:
    for reader in (
        lambda: published.load_transformer(params(place, file)),
        lambda: load_wan(place / file, HEAD_DIM),
    ):
        with pytest.raises(CheckpointError) as told:
            reader()
        assert f"is a LoRA of rank {RANK} on 20 layers, not whole weights" in str(told.value)
        assert "--set student.base=PLACE" in str(told.value)
    chosen = params(place, file, base=str(place / "base.pt"))
    if file == "longlive.pt":  # nobody tells its alpha: asked for, and the answer is taken
        with pytest.raises(CheckpointError, match=r"no alpha.*--set student\.checkpoint_alpha=ALP"):
            published.load_transformer(chosen)
        chosen = params(place, file, base=str(place / "base.pt"), checkpoint_alpha=ALPHA)
    found = to_original(published.load_transformer(chosen).state_dict())
    expected = torch.load(place / "merged.pt", weights_only=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=name)


def test_without_alpha_a_format_has_its_own_meaning(place: Path, tmp_path: Path) -> None:
    """diffusers' and ComfyUI's files without alpha have strength 1, as those tools read them."""
    tensors = load_file(place / "diffusers" / "pytorch_lora_weights.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")
    model = published.load_transformer(
        params(place, str(tmp_path / "bare.safetensors"), base=str(place / "base.pt"))
    )
    stock = WanTransformer3DModel.from_config(model.config)
    stock.load_state_dict(to_diffusers(whole().state_dict()))
    pipeline = WanPipeline(None, None, None, None, transformer=stock)
    pipeline.load_lora_weights(tmp_path, weight_name="bare.safetensors")
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-6, rtol=0)


def test_differences_of_whole_tensors_are_added(place: Path, tmp_path: Path) -> None:
    tensors = load_file(place / "comfy.safetensors")
    tensors["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.full((24,), 0.5)
    tensors["diffusion_model.blocks.1.self_attn.norm_q.diff"] = torch.full((24,), 0.25)
    save_file(tensors, tmp_path / "lora.safetensors")
    chosen = params(place, str(tmp_path / "lora.safetensors"), base=str(place / "base.pt"))
    found = to_original(published.load_transformer(chosen).state_dict())
    expected = torch.load(place / "merged.pt", weights_only=True)
    for name, by in (
        ("blocks.0.self_attn.q.bias", 0.5),
        ("blocks.1.self_attn.norm_q.weight", 0.25),
    ):
        torch.testing.assert_close(found[name], expected[name] + by)


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(place: Path, tmp_path: Path) -> None:
    tensors = load_file(place / "comfy.safetensors")
    q = "diffusion_model.blocks.0.self_attn.q"
    tensors[f"{q}.lora_up.weight"] = torch.zeros(7, RANK)
    del tensors["diffusion_model.blocks.1.ffn.0.lora_up.weight"]
    tensors["diffusion_model.blocks.1.ffn.2.lora_up.weight"].fill_(torch.nan)
    tensors["diffusion_model.img_emb.lora_down.weight"] = torch.zeros(RANK, 4)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError) as told:
        published.load_transformer(
            params(place, str(tmp_path / "wrong.safetensors"), base=str(place / "base.pt"))
        )
    for part in ("4 part(s) do not fit", "attn1.to_q: [7, 3] x [3, 24] is no [24, 24]",
                 "net.0.proj: one half", "net.2 holds NaN", "img_emb: there is no"):  # fmt: skip
        assert part in str(told.value)
    tensors = load_file(place / "comfy.safetensors") | {f"{q}.dora_scale": torch.ones(24)}
    save_file(tensors, tmp_path / "dora.safetensors")
    with pytest.raises(CheckpointError, match=r"parts that no plain LoRA has: .*q\.dora_scale"):
        load_wan(tmp_path / "dora.safetensors", HEAD_DIM)


def test_a_base_or_an_alpha_that_is_not_wanted_is_refused(place: Path) -> None:
    for field, value in (("base", str(place / "base.pt")), ("checkpoint_alpha", 4.0)):
        with pytest.raises(CheckpointError, match=rf"is no LoRA.*--set student\.{field}=null"):
            published.load_transformer(params(place, "base.pt", **{field: value}))
    with pytest.raises(CheckpointError, match=r"tells its own alpha \(6\).*checkpoint_alpha=null"):
        published.load_transformer(
            params(place, "comfy.safetensors", base=str(place / "base.pt"), checkpoint_alpha=4.0)
        )
    with pytest.raises(CheckpointError, match=r"longlive\.pt: is a LoRA.*not whole weights"):
        published.load_transformer(
            params(place, "comfy.safetensors", base=str(place / "longlive.pt"))
        )


def test_identity_is_as_before_where_no_base_is_given(place: Path) -> None:
    def of(**changes: object) -> dict[str, object]:
        values = {"student": params(place, "base.pt", **changes).model_dump(mode="json")}
        return identity.semantic(values)["student"]

    assert not {"base", "checkpoint_alpha"} & of().keys()
    assert of(base="somewhere") == of() and of(checkpoint_alpha=4.0) != of()
    content = identity.content({"student": {"base": str(place / "base.pt")}})
    assert content["content"].keys() == {"student.base"}


def test_a_half_of_rank_one_layer_is_no_module_of_its_own() -> None:
    """The names of a network that merely has `lora` in a word stay what they are."""
    assert not lora_files.is_lora(nn.ModuleDict({"explora": nn.Linear(1, 1)}).state_dict())
