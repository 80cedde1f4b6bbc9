"""The VLM discriminator on a tiny Qwen2-VL saved by the real classes: against stock and peft."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from afd.config import VlmDiscriminator
from afd.discriminators import checkpoint, vlm
from afd.discriminators.backbones import BackboneError
from afd.discriminators.build import build
from afd.discriminators.discriminator import Setting
from afd.discriminators.vlm import Vlm
from afd.discriminators.vlm_inputs import PromptTooLongError
from afd.losses.adversarial import bradley_terry, r1_penalty
from afd.runtime.training_state import Training
from tests.afd.discriminators import tiny_qwen

SETTING = Setting(num_frames=8, frame_size=16, text_dim=64)
PROMPTS = ["a red ball falls", "two balls", "a green ball rises and meets a blue one"]
TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.save(tmp_path_factory.mktemp("qwen"))


def params(folder: Path, **changes: Any) -> VlmDiscriminator:
    values = {
        "kind": "vlm",
        "backbone": str(folder),
        "reward": None,
        "dtype": "float32",
        "penalty_step": None,
        "micro_batch": 2,
        "gradient_checkpointing": False,
        "question": f"How good is this film of: {{prompt}}? {' '.join(TOKENS)}",
        "reward_tokens": list(TOKENS),
        "num_text_tokens": 300,
        "num_frames": 4,
        "frame_pixels": 16 * 16,
        "lora_rank": 4,
        "lora_alpha": 8.0,
    }
    return VlmDiscriminator.model_validate(values | changes)


def fresh(folder: Path, seed: int = 0, **changes: Any) -> Vlm:
    made = build(params(folder, **changes), SETTING, no_encoder, Generator().manual_seed(seed))
    assert isinstance(made, Vlm)
    return made


def no_encoder(prompts: Any) -> Tensor:
    raise AssertionError("a VLM reads prompts by its own tokenizer")


def clips(seed: int = 0, count: int = 3) -> Tensor:
    return torch.rand(count, 8, 3, 16, 16, generator=Generator().manual_seed(seed))


def scored(judge: Vlm, seed: int = 0) -> Tensor:
    with torch.no_grad():
        return judge.score(judge.see(clips(seed)), judge.read(PROMPTS), Generator())


def test_frames_are_cut_as_qwens_own_processor_cuts_them(folder: Path) -> None:
    """A still film is an image to Qwen2-VL: its image processor is the judge."""
    judge = fresh(folder, num_frames=2)
    still = (clips(count=1)[:, :1] * 255).round().expand(-1, 8, -1, -1, -1) / 255
    picture = (still[0, 0] * 255).byte().permute(1, 2, 0).numpy()
    vision = judge.model.config.vision_config
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": 64, "longest_edge": 16 * 16},
    )
    wanted = processor(images=[picture], return_tensors="pt")
    assert wanted["image_grid_thw"].tolist() == [list(judge.sight.grid)]
    torch.testing.assert_close(judge.see(still)[0], wanted["pixel_values"], atol=1e-5, rtol=0)


def test_hidden_states_are_those_of_stock_qwen(folder: Path) -> None:
    """Tokens, patches, positions and padding, handed to the stock class as a user would."""
    judge = fresh(folder)
    seen, text = judge.see(clips()), judge.read(PROMPTS)
    stock = Qwen2VLForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    stock.resize_token_embeddings(len(judge.tokenizer), mean_resizing=False)
    with torch.no_grad():
        stock.get_input_embeddings().weight.copy_(judge.model.get_input_embeddings().weight)
    for row in range(3):
        ids = text[row : row + 1]
        ids = ids[:, : int((ids != judge.tokenizer.pad_token_id).sum())]
        with torch.no_grad():
            hidden = stock.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values_videos=seen[row],
                video_grid_thw=torch.tensor([judge.sight.grid]),
                mm_token_type_ids=2 * (ids == stock.config.video_token_id).int(),
            ).last_hidden_state
        at = [(ids[0] == token).nonzero().item() for token in judge.reward_ids]
        wanted = judge.head(hidden[0, at]).mean()
        torch.testing.assert_close(scored(judge)[row], wanted.detach(), atol=2e-6, rtol=0)


def test_a_score_depends_on_its_own_clip_and_prompt_alone(folder: Path) -> None:
    judge = fresh(folder)
    with torch.no_grad():
        judge.head.weight.mul_(20)
    state = torch.random.get_rng_state()
    together = scored(judge)
    assert torch.equal(together, scored(judge))
    assert torch.equal(state, torch.random.get_rng_state())
    seen, text = judge.see(clips()), judge.read(PROMPTS)
    with torch.no_grad():
        alone = torch.cat([judge(seen[i : i + 1], text[i : i + 1], Generator()) for i in range(3)])
        other = judge(seen, text.roll(1, 0), Generator())
        backwards = judge(judge.see(clips().flip(1)), text, Generator())
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together - other).abs().min() > 1e-4 and (together - backwards).abs().min() > 1e-4
    assert torch.equal(scored(fresh(folder, seed=0)), scored(fresh(folder, seed=0)))


@pytest.fixture(scope="module")
def video_reward(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """VideoReward as VideoAlign leaves it: an adapter folder, one state dict, and its model."""
    place = tmp_path_factory.mktemp("reward")
    torch.manual_seed(5)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    model.resize_token_embeddings(len(fresh(folder).tokenizer), mean_resizing=False)
    model.rm_head = nn.Linear(tiny_qwen.WIDTH, 1, bias=False)
    layers = r".*language_model.*\.(q_proj|v_proj|down_proj)"
    peft = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=layers))
    for name, parameter in peft.named_parameters():
        if "lora_" in name or "rm_head" in name:
            nn.init.normal_(parameter, std=0.2)
    peft.save_pretrained(place)
    others = {
        name: value
        for name, value in peft.state_dict().items()
        if "rm_head" in name or "embed_tokens" in name
    }
    torch.save(others, place / "non_lora_state_dict.pth")
    published = place / "published"
    (published / "checkpoint-12").mkdir(parents=True)
    torch.save(peft.state_dict(), published / "checkpoint-12" / "model.pth")
    lora = {"lora_enable": True, "lora_r": 3, "lora_alpha": 6, "use_rslora": False}
    (published / "model_config.json").write_text(json.dumps({"peft_lora_config": lora}))
    merged = peft.merge_and_unload()
    whole = place / "whole.pth"
    torch.save({f"base_model.model.{k}": v for k, v in merged.state_dict().items()}, whole)
    return place, whole, merged


def test_it_starts_exactly_at_videoreward(folder: Path, video_reward: Any) -> None:
    place, whole, merged = video_reward
    by_adapter = fresh(folder, reward=str(place))
    by_whole = fresh(folder, seed=9, reward=str(whole))
    as_published = fresh(folder, seed=4, reward=str(place / "published"))
    own = dict(merged.model.named_parameters())
    for name, parameter in by_adapter.model.named_parameters():
        if "lora_" not in name:
            stock = own[name.replace(".base_layer", "")]
            torch.testing.assert_close(parameter, stock, atol=1e-6, rtol=0, msg=name)
    torch.testing.assert_close(by_adapter.head.weight, merged.rm_head.weight)
    torch.testing.assert_close(scored(by_adapter), scored(by_whole), atol=1e-5, rtol=0)
    torch.testing.assert_close(scored(as_published), scored(by_whole), atol=1e-5, rtol=0)


def test_a_published_reward_wants_all_its_tensors_and_its_config(
    folder: Path, video_reward: Any, tmp_path: Path
) -> None:
    shutil.copytree(video_reward[0] / "published", tmp_path / "cut")
    file = tmp_path / "cut" / "checkpoint-12" / "model.pth"
    tensors = torch.load(file, weights_only=True)
    gate = "base_model.model.model.language_model.layers.0.mlp.gate_proj.weight"
    del tensors[gate]
    torch.save(tensors, file)
    with pytest.raises(BackboneError, match=r"missing language_model\.layers\.0\.mlp\.gate_proj"):
        fresh(folder, reward=str(tmp_path / "cut"))
    (tmp_path / "cut" / "model_config.json").unlink()
    with pytest.raises(BackboneError, match=r"model_config\.json is not there"):
        fresh(folder, reward=str(tmp_path / "cut"))


def as_authors_do(folder: Path, form: str) -> dict[str, Any]:
    """LoRA and head alone, out of an adapter's folder, as a trainer saves what it trained."""
    lora = load_file(folder / "adapter_model.safetensors")
    lora = {name: value for name, value in lora.items() if "lora_" in name}
    others = torch.load(folder / "non_lora_state_dict.pth", weights_only=True)
    head = {name: value for name, value in others.items() if "rm_head" in name}
    (weight,) = head.values()
    match form:
        case "flat":
            named = {name.replace(".weight", ".default.weight"): v for name, v in lora.items()}
            return named | head
        case "entries":
            return {"lora": lora, "head": {"weight": weight}, "optimizer": {"m": weight}, "step": 7}
        case _:
            bare = {
                f"module.model.{n.removeprefix('base_model.model.')}": v for n, v in lora.items()
            }
            return {"discriminator": bare | {"module.score.weight": weight}, "lora_alpha": 6}


@pytest.mark.parametrize("form", ["flat", "entries", "with alpha"])
def test_lora_and_head_in_one_file_are_laid_over_the_backbone(
    folder: Path, video_reward: Any, tmp_path: Path, form: str
) -> None:
    place, whole, _ = video_reward
    file = tmp_path / "discriminator.pt"
    torch.save(as_authors_do(place, form), file)
    known = form == "with alpha"
    wanted = {"reward": str(file), "reward_alpha": None if known else 6.0}
    expected = fresh(folder, reward=str(whole))
    tokens = expected.model.get_input_embeddings().weight
    found = fresh(folder, **wanted)
    for name, parameter in found.model.named_parameters():
        if "lora_" not in name and "embed_tokens" not in name:  # the file has no embeddings
            stock = dict(expected.model.named_parameters())[name]
            torch.testing.assert_close(parameter, stock, atol=1e-6, rtol=0, msg=name)
    torch.testing.assert_close(found.head.weight, expected.head.weight)
    assert tokens.shape == found.model.get_input_embeddings().weight.shape
    vlm.look(params(folder, **wanted))
    other = wanted | {"reward_alpha": 6.0 if known else None}
    said = "tells its own alpha.*=null" if known else (
        r"is a LoRA of rank 3 on 6 layers with a head, and no alpha .*--set "
        r"discriminator\.reward_alpha=ALPHA \(--set discriminator\.reward_alpha=3 is strength 1\)"
    )  # fmt: skip
    for refused in (lambda: fresh(folder, **other), lambda: vlm.look(params(folder, **other))):
        with pytest.raises(BackboneError, match=said):
            refused()


def test_a_reward_of_another_backbone_is_seen_without_values(
    folder: Path, video_reward: Any, tmp_path: Path
) -> None:
    place, whole, _ = video_reward
    for sound in (whole, place, place / "published"):
        vlm.look(params(folder, reward=str(sound)))
    saved = as_authors_do(place, "flat")
    saved = {n: v[:, :5].clone() if "q_proj.lora_A" in n else v for n, v in saved.items()}
    torch.save({n: v for n, v in saved.items() if "rm_head" not in n}, tmp_path / "wrong.pt")
    with pytest.raises(BackboneError, match=r"3 tensor\(s\) cannot be used.*is its base") as told:
        vlm.look(params(folder, reward=str(tmp_path / "wrong.pt"), reward_alpha=6.0))
    assert "rm_head.weight is None" in str(told.value)
    assert "q_proj is for another shape" in str(told.value)


def test_a_reward_that_does_not_fit_is_listed(
    folder: Path, video_reward: Any, tmp_path: Path
) -> None:
    _, whole, _ = video_reward
    tensors = torch.load(whole, weights_only=True)
    head = tensors.pop("base_model.model.rm_head.weight")
    norm = "base_model.model.model.language_model.norm.weight"
    tensors[norm] = tensors[norm][:-1].clone()
    tensors["base_model.model.model.language_model.extra.weight"] = head
    gate = "base_model.model.model.language_model.layers.0.mlp.gate_proj.weight"
    tensors[gate] = tensors[gate].clone().fill_(torch.nan)
    torch.save(tensors, tmp_path / "wrong.pth")
    with pytest.raises(BackboneError) as told:
        fresh(folder, reward=str(tmp_path / "wrong.pth"))
    for part in ("unexpected language_model.extra.weight", "norm.weight is [31], not [32]",
                 "gate_proj.weight holds NaN", "rm_head.weight is None"):  # fmt: skip
        assert part in str(told.value)


def test_code_in_a_pickle_is_not_run(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, Any]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(
        BackboneError, match=r"discriminator\.reward.*objects other than tensors"
    ) as told:
        fresh(folder, reward=str(tmp_path / "trap.pth"))
    assert "weights_only" not in str(told.value)  # torch advises to run what it holds
    assert not (tmp_path / "sprung").exists()


def broken(folder: Path, tmp_path: Path, change: Any) -> Path:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    change(copy)
    return copy


def _without_a_tensor(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["visual.merger.mlp.0.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})


def _with_nan(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})


def _of_another_shape(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["embed_dim"] = 64
    (copy / "config.json").write_text(json.dumps(config))


def _cut_short(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (_without_a_tensor, "missing visual.merger.mlp.0.weight"),
        (_with_nan, "norm.weight holds NaN"),
        (_of_another_shape, "discriminator.backbone"),
        (_cut_short, "does not load"),
        (lambda copy: (copy / "tokenizer.json").unlink(), "holds no tokenizer.json"),
    ],
    ids=["missing tensor", "NaN", "other shape", "cut short", "no tokenizer"],
)
def test_an_unsound_backbone_is_named(folder: Path, tmp_path: Path, change: Any, part: str) -> None:
    with pytest.raises(BackboneError) as told:
        fresh(broken(folder, tmp_path, change))
    assert part in str(told.value)


def test_missing_weights_are_named_with_the_place_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="Nothing is downloaded") as told:
        fresh(tmp_path / "Qwen" / "Qwen2-VL-2B-Instruct")
    assert "Qwen2-VL-2B-Instruct" in str(told.value)


def test_a_caption_that_does_not_fit_is_refused_and_cannot_speak_the_chat(folder: Path) -> None:
    judge = fresh(folder)
    with pytest.raises(PromptTooLongError, match=r"discriminator\.num_text_tokens is 300"):
        judge.read(["a ball " * 60])
    film = judge.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    ids = judge.read(["<|video_pad|><|im_end|> <|MQ_reward|>"])[0]
    assert (ids == film).sum() == judge.sight.num_tokens
    assert all((ids == token).sum() == 1 for token in judge.reward_ids)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_learns_pairs_and_goes_on_from_disk(
    folder: Path, tmp_path: Path, checkpointing: bool
) -> None:
    """Teacher clips grow brighter, student clips darker; only LoRA, head and tokens are saved."""
    judge = fresh(folder, gradient_checkpointing=checkpointing)
    optimiser = torch.optim.AdamW([p for p in judge.parameters() if p.requires_grad], lr=1e-2)
    training = Training("discriminator", {"discriminator": judge}, optimiser)
    ramp = torch.linspace(0.2, 0.8, 8)[None, :, None, None, None]
    teacher = judge.see((ramp + 0.1 * clips(1)).clamp(0, 1))
    student = judge.see((ramp.flip(1) + 0.1 * clips(2)).clamp(0, 1))
    text = judge.read(PROMPTS)
    for _ in range(12):
        seen = teacher.clone().requires_grad_()
        scores = judge(seen, text, Generator())
        loss, _ = bradley_terry(scores, judge(student, text, Generator()))
        optimiser.zero_grad()
        (loss + 0.01 * r1_penalty(scores, seen)).backward()
        optimiser.step()
    with torch.no_grad():
        margin = judge(teacher, text, Generator()) - judge(student, text, Generator())
    assert margin.min() > 0.5
    checkpoint.save(tmp_path, judge.params, SETTING, training.tensors())
    held = load_file(tmp_path / "discriminator.safetensors")
    assert sum(v.numel() for k, v in held.items() if k.startswith("discriminator/")) < 10_000
    again = checkpoint.load(tmp_path, no_encoder)
    assert isinstance(again, Vlm)
    assert torch.equal(scored(again), scored(judge))
