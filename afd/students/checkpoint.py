"""Student weights on disk: what StudentWeights holds and how it comes back, strictly.

student.json          params, latent geometry, and the start that its frozen parts are read from
student.safetensors   what trains; it makes the rollouts
average.safetensors   its exponential moving average; it is what evaluation judges

A fresh causal_wan trains all its weights and keeps its codec beside them (codec.safetensors). A
published student trains a LoRA; everything frozen lies once in its start (afd.students.published,
imported where it is needed: peft and AutoencoderKLWan cost a pocket process seconds).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from afd import seeds
from afd.config import CausalWanParams
from afd.config import Student as StudentParams
from afd.device import compute_device
from afd.flow.times import step_list
from afd.latents import LatentGeometry
from afd.students import codec as codecs
from afd.students.causal_wan import build
from afd.students.codec import Codec
from afd.students.strict import CheckpointError, load_strictly, weights_sha256
from afd.students.student import AnyStudent
from afd.text.encoder import TextEncoder
from afd.text.word_vectors import Words

Which = Literal["student", "average"]
_PARAMS: TypeAdapter[StudentParams] = TypeAdapter(StudentParams)


@dataclass(frozen=True)
class Described:
    """The content of student.json, and the folder of the frozen parts."""

    params: StudentParams
    geometry: LatentGeometry
    start: Path  # the folder that holds the frozen parts; its own, for a student that starts

    @property
    def steps(self) -> tuple[float, ...]:
        """The times its sampler visits, from 1 down."""
        return step_list(self.params.num_steps, self.params.shift)


@dataclass(frozen=True)
class Loaded:
    """A student ready to use, with everything that stages need to know of it."""

    student: AnyStudent
    codec: Codec
    encode: TextEncoder
    params: StudentParams
    start: Path
    weights_sha256: Callable[[], str]  # of what trains, as it is in memory

    @property
    def steps(self) -> tuple[float, ...]:
        """The times its sampler visits, from 1 down."""
        return step_list(self.params.num_steps, self.params.shift)


def load_student(folder: Path, which: Which) -> Loaded:
    """The student of a StudentWeights folder, in eval mode, where it computes.

    Raises CheckpointError naming missing, unexpected, misshapen or non-finite tensors.
    """
    said = describe(folder)
    file = folder / f"{which}.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read as student weights: {error}") from error
    if isinstance(said.params, CausalWanParams):
        student = build(said.params, said.geometry, seeds.generator(0, "overwritten"))
        load_strictly(student, tensors, str(file))
        trained: nn.Module = student
    else:
        from afd.students import published

        student = published.load(said.params, said.geometry, said.start)
        trained = published.give(student, said.params, "student", tensors, str(file))
    return Loaded(
        student=cast(Any, student).eval().to(compute_device()),
        codec=load_codec(folder),
        encode=load_encoder(folder),
        params=said.params,
        start=said.start,
        weights_sha256=lambda: weights_sha256(trained.state_dict()),
    )


def save_student(
    folder: Path,
    trained: nn.Module,
    average: nn.Module,
    codec: Codec,
    geometry: LatentGeometry,
    params: StudentParams,
    start: Path | None = None,
) -> None:
    """Write what trains, its average and what describes them; frozen parts stay in `start`.

    Contiguous copies, so that views never share storage in the file.
    """
    for name, module in (("student", trained), ("average", average)):
        save_file(
            {
                key: value.detach().cpu().contiguous().clone()
                for key, value in module.state_dict().items()
            },
            folder / f"{name}.safetensors",
        )
    said: dict[str, Any] = {"params": params.model_dump(mode="json"), "geometry": asdict(geometry)}
    if start is None:
        codec.save(folder)
    else:
        said["start"] = start.name
    (folder / "student.json").write_text(json.dumps(said, indent=1))


def params_of(values: Any) -> StudentParams:
    """A request's section `student` as the params of its family; raises pydantic's error."""
    return _PARAMS.validate_python(values)


def describe(folder: Path) -> Described:
    """Read the description of a StudentWeights folder, no weights; raises CheckpointError."""
    try:
        said = json.loads((folder / "student.json").read_text())
        params = params_of(said["params"])
        geometry = LatentGeometry(**said["geometry"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read as student weights: {error}") from error
    start = folder if "start" not in said else folder.parent / str(said["start"])
    if not (start / "student.json").is_file():
        raise CheckpointError(
            f"{folder}: its frozen parts belong in {start}, which is not there: restore it with "
            "`dvc pull`, or make it anew by running the campaign again"
        )
    return Described(params, geometry, start)


def load_codec(folder: Path) -> Codec:
    """The codec of a StudentWeights folder alone: pixels need no student."""
    said = describe(folder)
    if not isinstance(said.params, CausalWanParams):
        from afd.students import published

        return published.load_codec(said.start)
    try:
        return codecs.load(load_file(folder / "codec.safetensors"))
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: holds no codec that loads: {error}") from error


def codec_sha256(folder: Path) -> str:
    """Return the sha256 of a StudentWeights folder's codec; raises CheckpointError."""
    file = describe(folder).start / "codec.safetensors"
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error


def load_encoder(folder: Path) -> TextEncoder:
    """The text encoder of a StudentWeights folder alone."""
    said = describe(folder)
    if isinstance(said.params, CausalWanParams):
        return Words(said.params.num_text_tokens, said.params.text_dim)
    from afd.students import published

    return published.load_encoder(said.params, said.start)
