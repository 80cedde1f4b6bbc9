"""Student weights on disk: what StudentWeights holds and how it comes back, strictly.

student.json          params and latent geometry
student.safetensors   the weights in training; they make the rollouts
average.safetensors   their exponential moving average; it is what evaluation judges
codec.safetensors     pixels <-> latents
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from afd import seeds
from afd.config import CausalWanParams
from afd.latents import LatentGeometry
from afd.students import codec as codecs
from afd.students.causal_wan import CausalWan, build
from afd.students.codec import PatchCodec

Which = Literal["student", "average"]


class CheckpointError(ValueError):
    """Weights that do not fit the student they are meant for; lists what differs."""


@dataclass(frozen=True)
class Loaded:
    """A student ready to use, with its codec and params."""

    student: CausalWan
    codec: PatchCodec
    params: CausalWanParams


def save_student(
    folder: Path,
    student: nn.Module,
    average: nn.Module,
    codec: PatchCodec,
    geometry: LatentGeometry,
    params: CausalWanParams,
) -> None:
    """Write all four files; contiguous copies, so that views never share storage in the file."""
    for name, module in (("student", student), ("average", average)):
        save_file(
            {
                key: value.detach().contiguous().clone()
                for key, value in module.state_dict().items()
            },
            folder / f"{name}.safetensors",
        )
    save_file(codec.state(), folder / "codec.safetensors")
    (folder / "student.json").write_text(
        json.dumps(
            {
                "params": params.model_dump(mode="json"),
                "geometry": asdict(geometry),
            },
            indent=1,
        )
    )


def load_student(folder: Path, which: Which) -> Loaded:
    """The student of a StudentWeights folder, in eval mode.

    Raises CheckpointError naming missing, unexpected, misshapen or non-finite tensors.
    """
    try:
        described = json.loads((folder / "student.json").read_text())
        params = CausalWanParams.model_validate(described["params"])
        geometry = LatentGeometry(**described["geometry"])
        tensors = load_file(folder / f"{which}.safetensors")
        codec = codecs.load(load_file(folder / "codec.safetensors"))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read as student weights: {error}") from error
    student = build(params, geometry, seeds.generator(0, "overwritten"))
    load_strictly(student, tensors, str(folder / f"{which}.safetensors"))
    return Loaded(student.eval(), codec, params)


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load every tensor or none; a partial load is never silent."""
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        if wanted[name].shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)}, not {list(wanted[name].shape)}"
            problems.append(f"{name} is {shapes}")
        elif not torch.isfinite(tensors[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"{source}: {len(problems)} tensor(s) do not fit this student; nothing was loaded; "
            f"check student.* in params against the weights\n{shown}{more}"
        )
    module.load_state_dict(tensors)


def load_student_params(folder: Path) -> CausalWanParams:
    """The params of a StudentWeights folder alone; raises CheckpointError."""
    try:
        described = json.loads((folder / "student.json").read_text())
        return CausalWanParams.model_validate(described["params"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read as student weights: {error}") from error


def load_codec(folder: Path) -> PatchCodec:
    """The codec of a StudentWeights folder alone: pixels need no student."""
    try:
        return codecs.load(load_file(folder / "codec.safetensors"))
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: holds no codec that loads: {error}") from error
