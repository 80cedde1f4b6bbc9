"""Student weights on disk: the files of a StudentWeights folder, and their strict loading.

student.json          params, latent geometry, and the start that holds the frozen parts
student.safetensors   the trained weights, for rollouts
average.safetensors   their exponential moving average, for evaluation

A fresh student trains all its weights, with its codec beside them (codec.safetensors). A published
student trains a LoRA; all frozen parts lie once in its start (afd.students.published, imported at
first use: importing peft and AutoencoderKLWan takes seconds that a pocket process saves).
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
from afd.config import Student as StudentParams
from afd.config import is_published
from afd.device import compute_device
from afd.flow.times import step_list
from afd.latents import LatentGeometry
from afd.students import codec as codecs
from afd.students.codec import Codec
from afd.students.initialisation import build
from afd.students.strict_loading import CheckpointError, load_strictly, weights_sha256
from afd.students.student import AnyStudent
from afd.text.encoder import TextEncoder
from afd.text.word_vectors import Words

WeightsName = Literal["student", "average"]
_PARAMS: TypeAdapter[StudentParams] = TypeAdapter(StudentParams)


@dataclass(frozen=True)
class StudentDescription:
    """Content of student.json, and the folder of the frozen parts."""

    params: StudentParams
    geometry: LatentGeometry
    start: Path  # the folder that holds the frozen parts; its own, for a start

    @property
    def steps(self) -> tuple[float, ...]:
        """Times of the sampler, from 1 down."""
        return step_list(self.params.num_steps, self.params.shift)


@dataclass(frozen=True)
class LoadedStudent:
    """A student in memory with its codec, text encoder and params."""

    student: AnyStudent
    codec: Codec
    encode: TextEncoder
    params: StudentParams
    start: Path
    weights_sha256: Callable[[], str]  # of the trained weights in memory

    @property
    def steps(self) -> tuple[float, ...]:
        """Times of the sampler, from 1 down."""
        return step_list(self.params.num_steps, self.params.shift)


def load_student(folder: Path, which: WeightsName) -> LoadedStudent:
    """Load the student of a StudentWeights folder in eval mode on the compute device.

    Raises CheckpointError naming missing, unexpected, misshapen or non-finite tensors.
    """
    described = describe(folder)
    file = folder / f"{which}.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read as student weights: {error}") from error
    if not is_published(described.params):
        student = build(described.params, described.geometry, seeds.generator(0, "overwritten"))
        load_strictly(student, tensors, str(file))
        trained: nn.Module = student
    else:
        from afd.students import published

        student = published.load(described.params, described.geometry, described.start)
        trained = published.add_trained_adapter(
            student, described.params, "student", tensors, str(file)
        )
    return LoadedStudent(
        student=cast(Any, student).eval().to(compute_device()),
        codec=load_codec(folder),
        encode=load_encoder(folder),
        params=described.params,
        start=described.start,
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
    """Write trained weights, their average and student.json; frozen parts stay in `start`.

    Tensors are contiguous copies, so that views never share storage in the file.
    """
    for name, module in (("student", trained), ("average", average)):
        save_file(
            {
                key: value.detach().cpu().contiguous().clone()
                for key, value in module.state_dict().items()
            },
            folder / f"{name}.safetensors",
        )
    content: dict[str, Any] = {
        "params": params.model_dump(mode="json"),
        "geometry": asdict(geometry),
    }
    if start is None:
        codec.save(folder)
    else:
        content["start"] = start.name
    (folder / "student.json").write_text(json.dumps(content, indent=1))


def params_of(values: Any) -> StudentParams:
    """Return a request's section `student` as params of its family; raises pydantic's error."""
    return _PARAMS.validate_python(values)


def describe(folder: Path) -> StudentDescription:
    """Read the description of a StudentWeights folder, no weights; raises CheckpointError."""
    try:
        content = json.loads((folder / "student.json").read_text())
        params = params_of(content["params"])
        geometry = LatentGeometry(**content["geometry"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read as student weights: {error}") from error
    start = folder if "start" not in content else folder.parent / str(content["start"])
    if not (start / "student.json").is_file():
        raise CheckpointError(
            f"{folder}: its frozen parts belong in {start}, which is not there: restore it with "
            "`dvc pull`, or make it anew by running the campaign again"
        )
    return StudentDescription(params, geometry, start)


def load_codec(folder: Path) -> Codec:
    """Load the codec of a StudentWeights folder without its student."""
    described = describe(folder)
    if is_published(described.params):
        from afd.students import published

        return published.load_codec(described.start)
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
    """Load the text encoder of a StudentWeights folder without its student."""
    described = describe(folder)
    if not is_published(described.params):
        return Words(described.params.num_text_tokens, described.params.text_dim)
    from afd.students import published

    return published.load_encoder(described.params, described.start)
