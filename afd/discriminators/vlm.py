"""Qwen2-VL as a discriminator: LoRA and a score head on its stock hidden states, on pixels.

The question carries reward tokens, as VideoAlign's does (arXiv:2501.13918); the score is the mean
of the head's answers at them. LoRA, head and the reward tokens' embeddings train, in float32; the
backbone stays in its folder. Nothing here is random but the start.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Generator, Tensor, nn
from transformers import AutoConfig, AutoTokenizer, Qwen2VLModel
from transformers.utils import logging as transformers_logging

from afd.config import VlmDiscriminator as VlmParams
from afd.config import rows_and_columns
from afd.device import compute_device
from afd.discriminators import video_reward
from afd.discriminators.backbones import found, loading, refuse_unsound
from afd.discriminators.discriminator import Setting
from afd.discriminators.vlm_inputs import Sight, fitted, token_ids
from afd.latents import Clips, Scores

FIELD = "discriminator.backbone"
FILES = ("config.json", "*.safetensors", "tokenizer.json")
# Every linear of the language model, none of the vision tower: VideoAlign's choice.
LORA_LAYERS = (
    r"language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
# Of CLIP, which Qwen2-VL's preprocessor_config.json repeats.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Vlm(nn.Module):
    """Scores patches [N, patches, values] under token ids [N, tokens]."""

    def __init__(self, params: VlmParams, model: Any, tokenizer: Any, sight: Sight) -> None:
        super().__init__()
        self.params = params
        self.model = model
        self.tokenizer = tokenizer
        self.sight = sight
        self.reward_ids = [tokenizer.convert_tokens_to_ids(t) for t in params.reward_tokens]
        width = model.config.text_config.hidden_size
        self.rewards = nn.Parameter(torch.zeros(len(self.reward_ids), width))
        self.head = nn.Linear(width, 1, bias=False)

    @property
    def precision(self) -> torch.dtype:
        return self.model.dtype

    @property
    def penalty_step(self) -> float | None:
        return self.params.penalty_step

    @property
    def micro_batch(self) -> int | None:
        return self.params.micro_batch

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Return the whole question as token ids; raises PromptTooLongError."""
        return token_ids(
            self.tokenizer,
            self.params.question,
            prompts,
            self.params.num_text_tokens,
            self.sight.num_tokens,
        )

    @torch.no_grad()
    def see(self, clips: Clips) -> Tensor:
        """Evenly spaced frames, resized and cut into Qwen2-VL's patches."""
        parts = [self.sight.patches(part) for part in clips.split(self.params.micro_batch)]
        return torch.cat(parts)

    def score(self, seen: Tensor, text: Tensor, generator: Generator) -> Scores:
        """As a training pass, `micro_batch` rows at a time."""
        size = self.params.micro_batch
        pairs = zip(seen.split(size), text.split(size), strict=True)
        return torch.cat([self(part, words, generator) for part, words in pairs])

    def forward(self, seen: Tensor, text: Tensor, generator: Generator) -> Scores:
        """Return a score a row, back where `seen` is; computed where the head is."""
        device = self.head.weight.device
        present = (text != self.tokenizer.pad_token_id).to(device)
        longest = int(present.sum(dim=1).max())
        ids, present = text[:, :longest].to(device), present[:, :longest]
        is_film = ids == self.model.config.video_token_id
        hidden = self.model(
            inputs_embeds=self._embedded(ids, is_film, seen.to(device)),
            attention_mask=present.long(),
            position_ids=self._places(ids, is_film, present),
            use_cache=False,
        ).last_hidden_state
        at = torch.stack([(ids == token).long().argmax(dim=1) for token in self.reward_ids], dim=1)
        answers = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
        return self.head(answers.float())[..., 0].mean(dim=1).to(seen.device)

    def _embedded(self, ids: Tensor, is_film: Tensor, seen: Tensor) -> Tensor:
        """Words, film and reward tokens as one sequence of embeddings."""
        embedded = self.model.get_input_embeddings()(ids)
        grid = self._grids(len(ids), ids.device)
        pixels = seen.flatten(0, 1).to(self.model.visual.dtype)
        film = self.model.visual(pixels, grid_thw=grid).pooler_output
        embedded = embedded.masked_scatter(is_film[..., None], film.to(embedded.dtype))
        for number, token in enumerate(self.reward_ids):
            reward = self.rewards[number].to(embedded.dtype)
            embedded = torch.where((ids == token)[..., None], reward, embedded)
        return embedded

    def _places(self, ids: Tensor, is_film: Tensor, present: Tensor) -> Tensor:
        """Qwen2-VL's three-axis positions; kinds of token are 0 text and 2 video."""
        places, _ = self.model.get_rope_index(
            ids,
            mm_token_type_ids=2 * is_film.int(),
            video_grid_thw=self._grids(len(ids), ids.device),
            attention_mask=present.long(),
        )
        return places

    def _grids(self, num_clips: int, device: torch.device) -> Tensor:
        return torch.tensor([self.sight.grid] * num_clips, device=device)


def build(params: VlmParams, setting: Setting, generator: Generator) -> Vlm:
    """Qwen2-VL from its folder, VideoReward's weights over it when given, LoRA at zero.

    Raises BackboneError.
    """
    model, tokenizer = _backbone(params)
    discriminator = Vlm(
        params, model, tokenizer, _sight(params, setting, model.config.vision_config)
    )
    _initialise(discriminator, generator)
    if params.reward is not None:
        reward = video_reward.read(params.reward, params.reward_alpha)
        video_reward.start_from(model, discriminator.head, reward, params.reward)
    with torch.no_grad():
        discriminator.rewards.copy_(model.get_input_embeddings().weight[discriminator.reward_ids])
    _add_lora(discriminator, generator)
    if params.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()  # transformers checkpoints in training mode only; nothing here drops out
    return discriminator.to(compute_device())


def look(params: VlmParams) -> None:
    """Raise BackboneError for what names, shapes and dtypes show to be wrong, without values."""
    path = _found(params)
    if params.reward is None:
        return
    reward = video_reward.read(params.reward, params.reward_alpha)
    with loading(FIELD, path), torch.device("meta"):
        model: Any = cast(Any, Qwen2VLModel)(
            AutoConfig.from_pretrained(path, local_files_only=True)
        )
    table = model.get_input_embeddings().weight
    rows = max(len(table), len(_tokenizer(params, path)))
    own = {
        name: torch.empty(rows, tensor.shape[1], device="meta") if tensor is table else tensor
        for name, tensor in model.named_parameters()
    }
    video_reward.refuse_misfits(own, (1, table.shape[1]), reward, params.reward)


def _found(params: VlmParams) -> Path:
    return found(params.backbone, FILES, FIELD, "a Qwen2-VL folder (Qwen/Qwen2-VL-2B-Instruct)")


def _tokenizer(params: VlmParams, path: Path) -> Any:
    with loading(FIELD, path):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        tokenizer.add_special_tokens({"additional_special_tokens": list(params.reward_tokens)})
        return tokenizer


def _backbone(params: VlmParams) -> tuple[Any, Any]:
    """Stock Qwen2-VL, frozen, without its language head, and a tokenizer with reward tokens."""
    path = _found(params)
    transformers_logging.set_verbosity_error()  # its advice is about generation
    transformers_logging.disable_progress_bar()
    with loading(FIELD, path), torch.random.fork_rng(devices=[]):
        model, loading_info = cast(Any, Qwen2VLModel).from_pretrained(
            path,
            dtype=getattr(torch, params.dtype),
            # The exact R1 needs a second derivative, which only plain attention has.
            attn_implementation="eager" if params.penalty_step is None else "sdpa",
            local_files_only=True,
            output_loading_info=True,
        )
        refuse_unsound(FIELD, path, model, loading_info)
        model = cast(Any, model).requires_grad_(False)
        tokenizer = _tokenizer(params, path)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model, tokenizer


def _sight(params: VlmParams, setting: Setting, vision: Any) -> Sight:
    rows, columns = fitted(
        *rows_and_columns(setting.frame_size),
        params.frame_pixels,
        vision.patch_size * vision.spatial_merge_size,
    )
    return Sight(
        num_frames=params.num_frames,
        rows=rows,
        columns=columns,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        temporal=vision.temporal_patch_size,
        mean=MEAN,
        deviation=DEVIATION,
    )


@torch.no_grad()
def _initialise(discriminator: Vlm, generator: Generator) -> None:
    """Head and reward tokens' embeddings when no VideoReward is given."""
    width = discriminator.head.in_features
    discriminator.head.weight.copy_(torch.randn(1, width, generator=generator) / math.sqrt(width))
    table = discriminator.model.get_input_embeddings().weight
    spread = (
        table[: min(discriminator.reward_ids)].float().std()
    )  # rows after them may be uninitialised
    drawn = torch.randn(len(discriminator.reward_ids), width, generator=generator)
    table[discriminator.reward_ids] = (spread * drawn).to(table.dtype)


def _add_lora(discriminator: Vlm, generator: Generator) -> None:
    """LoRA on the language model, B at zero: the first scores are the backbone's."""
    config = LoraConfig(
        r=discriminator.params.lora_rank, lora_alpha=cast(int, discriminator.params.lora_alpha),
        target_modules=LORA_LAYERS,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, discriminator.model)
    for name, parameter in sorted(discriminator.model.named_parameters()):
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
        if "lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
