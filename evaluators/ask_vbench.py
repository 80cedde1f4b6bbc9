"""VBench evaluator program: the six dimensions that take any prompt.

    python evaluators/ask_vbench.py VIDEOS ANSWER INFO_JSON [DIMENSION ...]

INFO_JSON is VBench_full_info.json of VBench's repository. VBench pins transformers 4.33.2 and
numpy < 2, so it needs an environment of its own (docs/evaluators.md). Written from VBench's
documentation.
"""

import json
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from vbench import VBench  # pyright: ignore[reportMissingImports]

DIMENSIONS = [
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
]


def main(videos: Path, answer: Path, info: str, dimensions: list[str]) -> None:
    listed = json.loads((videos / "videos.json").read_text())
    prompts = {str(videos / entry["video"]): entry["prompt"] for entry in listed}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as out:
        VBench(device, info, out).evaluate(
            videos_path=str(videos),
            name="afd",
            prompt_list=prompts,
            dimension_list=dimensions,
            local=True,
            read_frame=False,
            mode="custom_input",
        )
        found = json.loads((Path(out) / "afd_eval_results.json").read_text())
    scores = {
        dimension: {
            Path(one["video_path"]).name: _number(one["video_results"]) for one in results[1]
        }
        for dimension, results in found.items()
    }
    answer.write_text(json.dumps({"version": _version(), "scores": scores}))


def _number(value: object) -> float | None:
    """Return a score as a number; dynamic_degree is true or false."""
    return float(value) if isinstance(value, bool | int | float) else None


def _version() -> str:
    try:
        return f"vbench {version('vbench')}"
    except PackageNotFoundError:
        return "vbench from a folder"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:] or DIMENSIONS)
