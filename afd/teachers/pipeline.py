"""A text-to-video pipeline of diffusers as a black-box teacher: prompt in, finished mp4 out.

Any pipeline whose call takes prompt, height, width, num_frames and generator and answers frames:
Wan, CogVideoX, HunyuanVideo, LTX, Mochi. Its noise comes from the request's seed alone, so parts
and attempts film the same clip.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Generator

from afd.checkpoints import place
from afd.config import DiffusersTeacher
from afd.errors import InputError
from afd.teachers.teacher import PromptRefused
from afd.video.encode import encode

NEEDED = ("prompt", "height", "width", "num_frames", "generator", "output_type")


class PipelineError(InputError):
    """A folder without a usable pipeline; the text names folder, reason and cure."""


@dataclass(frozen=True)
class Pipeline:
    """Films prompts; equal prompt and seed give equal bytes on the same kind of device."""

    params: DiffusersTeacher
    pipe: Any

    def film(self, prompt: str, seed: int) -> bytes:
        """Return one mp4 in the pipeline's own size and rate.

        Errors: PromptRefused for a prompt its tokenizer would cut; FloatingPointError for frames
        that are not finite.
        """
        own = self.params
        self._refuse_cut(prompt)
        answer = self.pipe(
            prompt=prompt,
            height=own.size.height,
            width=own.size.width,
            num_frames=own.num_frames,
            generator=Generator().manual_seed(seed % 2**63),
            output_type="np",
            **own.parameters,
        )
        frames = np.asarray(answer.frames[0])
        self._refuse_unsound(frames, prompt)
        levels = np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)
        return encode(levels, own.fps)

    def _refuse_cut(self, prompt: str) -> None:
        """Raise PromptRefused for a prompt that the tokenizer would cut silently."""
        count = len(self.pipe.tokenizer(prompt)["input_ids"])
        if count > self.params.max_prompt_tokens:
            raise PromptRefused(
                f"prompt {prompt[:80]!r} has {count} tokens; the pipeline reads "
                f"{self.params.max_prompt_tokens} (teacher.max_prompt_tokens) and would cut the "
                "rest: shorten it"
            )

    def _refuse_unsound(self, frames: npt.NDArray[Any], prompt: str) -> None:
        own = self.params
        wanted = (own.num_frames, own.size.height, own.size.width, 3)
        if frames.shape != wanted:
            raise PipelineError(
                f"teacher.pipeline {own.pipeline} answered {frames.shape}, not {wanted}: choose "
                "teacher.num_frames and teacher.size as the pipeline makes them (Wan: 4k+1 frames, "
                "sides in multiples of 16)"
            )
        if not np.isfinite(frames).all():
            raise FloatingPointError(
                f"teacher.pipeline {own.pipeline}: frames of prompt {prompt[:80]!r} are not finite;"
                f" teacher.dtype is {own.dtype}: try float32"
            )


def build(params: DiffusersTeacher) -> Pipeline:
    """Load the pipeline of a folder or a cached name, on the accelerator if there is one.

    Raises PipelineError; nothing is ever downloaded.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = place(params.pipeline)
    if not (folder / "model_index.json").is_file():
        raise PipelineError(
            f"teacher.pipeline: {folder} holds no model_index.json. Nothing is downloaded by "
            "itself: put a text-to-video pipeline of diffusers there, on a disk of every node"
        )
    try:
        pipe: Any = DiffusionPipeline.from_pretrained(
            folder, dtype=getattr(torch, params.dtype), local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise PipelineError(
            f"teacher.pipeline: {folder} does not load: {str(error)[:500]}"
        ) from error
    signature = inspect.signature(pipe.__call__).parameters
    unknown = sorted({*NEEDED, *params.parameters} - signature.keys())
    if unknown or not hasattr(pipe, "tokenizer"):
        raise PipelineError(
            f"teacher.pipeline: {type(pipe).__name__} takes no {', '.join(unknown) or 'text'}; it "
            f"takes {', '.join(signature)}: correct teacher.parameters, or choose a text-to-video "
            "pipeline"
        )
    pipe.set_progress_bar_config(disable=True)
    if torch.accelerator.is_available():
        pipe.to(torch.accelerator.current_accelerator())
    return Pipeline(params, pipe)
