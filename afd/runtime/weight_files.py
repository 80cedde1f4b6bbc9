"""Weights that params name: the files that must lie on this disk, and the repository of each.

Nothing is ever downloaded here. What is missing is named before any service starts, all of it at
once, each with the command that fetches it. Imports no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from afd.checkpoints import content_files
from afd.config import Params
from afd.runtime.identity import WEIGHTS
from afd.runtime.outcome import RefusedError


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub; `file` where one file of it is what params name."""

    name: str
    file: str = ""

    def fetch(self, path: str) -> str:
        """The command that puts the weights at `path`."""
        if not self.file:
            return f"hf download {self.name} --local-dir {path}"
        folder = Path(path).parent
        fetched = folder / self.file
        moved = "" if fetched == Path(path) else f" && mv {fetched} {path}"
        return f"hf download {self.name} {self.file} --local-dir {folder}{moved}"


_CHECKPOINTS = {
    "self_forcing": Repository("gdhe17/Self-Forcing", "checkpoints/self_forcing_dmd.pt"),
    "causal_forcing": Repository("zhuhz22/Causal-Forcing", "chunkwise/causal_forcing.pt"),
    "anyflow_far": Repository("nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers"),
}
_FRAME_WISE = Repository("zhuhz22/Causal-Forcing", "framewise/causal_forcing.pt")
_WAN = Repository("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
_BACKBONES = {"vlm": Repository("Qwen/Qwen2-VL-2B-Instruct"), "dit_features": _WAN}
_REWARD = Repository("KwaiVGI/VideoReward")
_EVALUATORS = {
    "videoalign": _REWARD,
    "videophy2": Repository("videophysics/videophy_2_auto"),
}


def refuse_missing_weights(params: Params) -> None:
    """Raise RefusedError naming every file of weights that is not here or cannot be read.

    Looks at names and permissions only: hashing 20 GB takes half a minute, and a stage does it.
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
    """The path of every weights field that is set, and the entries of a folder that count."""
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
    """The repository that publishes what a field names; None where nobody is known to."""
    student, family = params.student, params.student.family
    match field:
        case "student.checkpoint":
            if family == "causal_forcing" and student.latent_frames_per_block == 1:
                return _FRAME_WISE
            return _CHECKPOINTS.get(family)
        case "student.components":
            return _WAN
        case "discriminator.backbone":
            return _BACKBONES.get(params.discriminator.kind)
        case "discriminator.reward":
            return _REWARD
        case _:
            return _EVALUATORS.get(field.removeprefix("evaluate.evaluators.").split(".")[0])


def _cure(params: Params, field: str, path: str) -> str:
    """The line below a problem: where the weights are published, as a command."""
    repository = repository_of(params, field)
    return "" if repository is None else f"\n    {repository.fetch(path)}"
