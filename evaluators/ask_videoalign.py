"""VideoAlign evaluator program: VQ, MQ and TA, run in VideoAlign's environment.

    python evaluators/ask_videoalign.py VIDEOS ANSWER REPOSITORY WEIGHTS

REPOSITORY is a checkout of VideoAlign, WEIGHTS its checkpoint folder. They are not independent
where the discriminator started from VideoReward. Written from VideoAlign's documentation.
"""

import json
import sys
from pathlib import Path

import torch

BATCH = 8
DIMENSIONS = {"vq": "VQ", "mq": "MQ", "ta": "TA"}


def main(videos: Path, answer: Path, repository: Path, weights: Path) -> None:
    sys.path.insert(0, str(repository))
    from inference import VideoVLMRewardInference  # pyright: ignore[reportMissingImports]

    listed = json.loads((videos / "videos.json").read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VideoVLMRewardInference(str(weights), device=device, dtype=torch.bfloat16)
    scores: dict[str, dict[str, float]] = {name: {} for name in DIMENSIONS}
    with torch.no_grad():
        for start in range(0, len(listed), BATCH):
            batch = listed[start : start + BATCH]
            paths = [str((videos / entry["video"]).resolve()) for entry in batch]
            rewards = model.reward(paths, [entry["prompt"] for entry in batch], use_norm=True)
            for entry, reward in zip(batch, rewards, strict=True):
                for name, key in DIMENSIONS.items():
                    scores[name][entry["video"]] = float(reward[key])
    answer.write_text(json.dumps({"version": "VideoAlign", "scores": scores}))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
