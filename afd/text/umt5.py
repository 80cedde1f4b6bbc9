"""UMT5, the text encoder of Wan: padded to a fixed length with ZERO rows and used without a mask.

It is larger than the student (11 GB in bfloat16), so it is loaded once a campaign: whoever starts
the student encodes every prompt of the prompt set and keeps the result (afd.text.cached).
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from afd import stored_dtypes
from afd.device import compute_device
from afd.signals import show_life
from afd.text.encoder import TextError

BATCH = 16  # prompts at a time
FOLDERS = ("text_encoder", "tokenizer")


class Umt5:
    """A TextEncoder out of a Wan-Diffusers folder; nothing is ever downloaded.

    Raises TextError when a folder or a tensor is missing or another model lies there.
    """

    def __init__(self, folder: Path, num_tokens: int) -> None:
        from transformers import AutoTokenizer, UMT5EncoderModel

        for name in FOLDERS:
            if not (folder / name).is_dir():
                raise TextError(
                    f"{folder / name}: there is no such folder; nothing is downloaded: put the "
                    f"{name} of a Wan-Diffusers checkpoint there, or correct student.components"
                )
        self.num_tokens = num_tokens
        try:
            for file in _files(folder):
                _refuse_packed(stored_dtypes.of_safetensors(file), file)
            self._tokenizer = AutoTokenizer.from_pretrained(
                folder / "tokenizer", local_files_only=True
            )
            model, loading_info = cast(Any, UMT5EncoderModel).from_pretrained(
                folder / "text_encoder", local_files_only=True, output_loading_info=True
            )
        except TextError:
            raise
        except Exception as error:  # a user's files, and three libraries' choice of classes
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise TextError(
                f"{_unreadable(folder)}: holds no text encoder that loads: {reason}; nothing is "
                "downloaded: copy text_encoder/ and tokenizer/ of a Wan-Diffusers checkpoint "
                "there again, or correct student.components"
            ) from error
        wrong = {
            name: list(loading_info[name])
            for name in ("missing_keys", "unexpected_keys")
            if loading_info[name]
        }
        if wrong:
            raise TextError(f"{folder / 'text_encoder'}: is no whole UMT5 encoder: {wrong}"[:600])
        _refuse_packed(stored_dtypes.of_tensors(model.state_dict()), folder / "text_encoder")
        if broken := [n for n, t in model.state_dict().items() if not torch.isfinite(t).all()]:
            raise TextError(
                f"{_file_of(folder, broken[0])}: {broken[0]} holds NaN or infinity "
                f"({len(broken)} tensor(s) do); nothing was encoded: download or copy it again"
            )
        place = compute_device()
        if place.type == "cuda":  # as Wan runs it; published in float32 it takes 23 GB
            model = model.to(torch.bfloat16)
        self._model = model.eval().requires_grad_(False).to(place)

    @property
    def dim(self) -> int:
        return int(self._model.config.d_model)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """[batch, num_tokens, dim]; raises TextError naming every prompt that is too long."""
        encoded = torch.zeros(len(prompts), self.num_tokens, self.dim)
        for row, tokens in enumerate(self.rows(prompts)):
            encoded[row, : len(tokens)] = tokens.float()
        return encoded

    @torch.no_grad()
    def rows(self, prompts: Sequence[str]) -> list[Tensor]:
        """Each prompt's own rows [its tokens, dim], in the model's precision."""
        ids = [self._tokenizer(cleaned(prompt)).input_ids for prompt in prompts]
        too_long = [
            f"{len(each)} tokens: {prompt[:60]!r}"
            for prompt, each in zip(prompts, ids, strict=True)
            if len(each) > self.num_tokens
        ]
        if too_long:
            raise TextError(
                f"{len(too_long)} prompt(s) exceed {self.num_tokens} tokens "
                f"(student.num_text_tokens); shorten them: {'; '.join(too_long[:5])}"
            )
        rows: list[Tensor] = []
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            padded = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
            mask = torch.zeros_like(padded)
            for row, each in enumerate(batch):
                padded[row, : len(each)] = torch.tensor(each)
                mask[row, : len(each)] = 1
            place = self._model.device  # on one core the prompts of a campaign would take an hour
            hidden = self._model(padded.to(place), attention_mask=mask.to(place))
            hidden = hidden.last_hidden_state.cpu()
            show_life()
            for row, each in enumerate(batch):
                if not torch.isfinite(hidden[row, : len(each)]).all():
                    raise TextError(
                        f"the text encoder makes NaN or infinity of {prompts[start + row][:60]!r}; "
                        "its weights are not a UMT5's: check student.components"
                    )
            rows += [states[: len(each)] for states, each in zip(hidden, batch, strict=True)]
        return rows


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "text_encoder").glob("*.safetensors"))


def _refuse_packed(dtypes: Mapping[str, str], source: Path) -> None:
    """Raise TextError for tensors that are no plain floats."""
    if packed := stored_dtypes.problem(dtypes, source, "student.components"):
        raise TextError(packed)


def _unreadable(folder: Path) -> Path:
    """Return the first file of weights that does not open; the folder where all do."""
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return file
    return folder


def _file_of(folder: Path, name: str) -> Path:
    """Return the file that holds a tensor; text_encoder/ where no file has that name."""
    for file in _files(folder):
        with safe_open(file, framework="pt") as opened:
            if name in opened.keys():  # noqa: SIM118 (no mapping)
                return file
    return folder / "text_encoder"


def cleaned(prompt: str) -> str:
    """Return a prompt as Wan's pipelines clean it: HTML entities resolved, spaces single.

    They also repair broken Unicode where ftfy is installed; prompts are taken as they are here.
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()
