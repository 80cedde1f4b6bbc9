"""Weight files that params name, and the repository that publishes each.

Nothing is downloaded here. All missing files are named at once before any service starts, each with
the command that fetches it. Imports no torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from afd.checkpoints import content_files
from afd.config import Params, Student
from afd.runtime.identity import WEIGHTS
from afd.runtime.outcome import RefusedError


@dataclass(frozen=True)
class Repository:
    """Repository of the Hugging Face hub; `file` where params name one file of it."""

    name: str
    file: str = ""

    def fetch(self, path: str) -> str:
        """Return the command that puts the weights at `path`."""
        if not self.file:
            return f"hf download {self.name} --local-dir {path}"
        folder = Path(path).parent
        fetched = folder / self.file
        moved = "" if fetched == Path(path) else f" && mv {fetched} {path}"
        return f"hf download {self.name} {self.file} --local-dir {folder}{moved}"


_WAN = Repository("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
_BACKBONES = {"vlm": Repository("Qwen/Qwen2-VL-2B-Instruct"), "dit_features": _WAN}
_REWARD = Repository("KwaiVGI/VideoReward")
_EVALUATORS = {
    "videoalign": _REWARD,
    "videophy2": Repository("videophysics/videophy_2_auto"),
}


def refuse_missing_weights(params: Params) -> None:
    """Raise RefusedError naming every file of weights that is not here or cannot be read.

    Only names and permissions are checked: hashing 20 GB takes half a minute, and a stage does it.
    """
    problems: list[str] = []
    for field, (path, parts) in paths_of(params).items():
        try:
            content_files(path, parts)
        except OSError as error:
            problems.append(
                f"{field}: {error.filename or path}: {error.strerror}{_cure(params, field, path)}"
            )
    if problems:
        raise RefusedError(
            "\n".join(problems) + "\nNothing is downloaded and nothing was started: put the "
            "weights there, on a disk that every node sees, or correct the paths"
        )


def paths_of(params: Params) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return path and counted folder entries of every weights field that is set."""
    values = params.model_dump(mode="json")
    found: dict[str, tuple[str, tuple[str, ...]]] = {
        f"{section}.{field}": (str(values[section][field]), parts)
        for (section, field), parts in WEIGHTS.items()
        if values[section].get(field) is not None
    }
    for evaluator in params.evaluate.evaluators:
        if evaluator.weights is not None:
            found[f"evaluate.evaluators.{evaluator.name}.weights"] = evaluator.weights, ()
    return found


def repository_of(params: Params, field: str) -> Repository | None:
    """Return the repository that publishes a field's weights, or None."""
    match field:
        case "student.checkpoint":
            return _checkpoint_of(params.student)
        case "student.components":
            return _WAN
        case "discriminator.backbone":
            return _BACKBONES.get(params.discriminator.kind)
        case "discriminator.reward":
            return _REWARD
        case _:
            return _EVALUATORS.get(field.removeprefix("evaluate.evaluators.").split(".")[0])


def _checkpoint_of(student: Student) -> Repository | None:
    match student.family:
        case "causal_wan":
            return None
        case "self_forcing":
            return Repository("gdhe17/Self-Forcing", "checkpoints/self_forcing_dmd.pt")
        case "causal_forcing":
            layout = "framewise" if student.latent_frames_per_block == 1 else "chunkwise"
            return Repository("zhuhz22/Causal-Forcing", f"{layout}/causal_forcing.pt")
        case "anyflow_far":
            return Repository("nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers")
        case _:
            assert_never(student.family)


def _cure(params: Params, field: str, path: str) -> str:
    """Return the line below a problem: the command that fetches the weights."""
    repository = repository_of(params, field)
    return "" if repository is None else f"\n    {repository.fetch(path)}"
