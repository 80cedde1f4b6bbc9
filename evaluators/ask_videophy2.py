"""VideoPhy-2's semantic adherence and physical commonsense as an evaluator of AFD.

    python evaluators/ask_videophy2.py VIDEOS ANSWER REPOSITORY WEIGHTS

Runs in VideoPhy-2's environment; REPOSITORY is its folder VIDEOPHY2, WEIGHTS its checkpoint. Its
model answers in words: what it could not parse is told as no value here, never as 0. Written from
its documentation.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TASKS = ("sa", "pc")


def main(videos: Path, answer: Path, repository: Path, weights: Path) -> None:
    listed = json.loads((videos / "videos.json").read_text())
    scores: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as out:
        asked = Path(out) / "asked.csv"
        with asked.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["videopath", "caption"])
            writer.writerows(
                [str((videos / entry["video"]).resolve()), entry["prompt"]] for entry in listed
            )
        for task in TASKS:
            said = Path(out) / f"{task}.csv"
            subprocess.run(
                [sys.executable, "inference.py", "--input_csv", str(asked), "--checkpoint",
                 str(weights), "--output_csv", str(said), "--task", task],
                cwd=repository, check=True,
            )  # fmt: skip
            with said.open(newline="") as file:
                scores[task] = {
                    Path(row["videopath"]).name: _score(row.get("score", ""))
                    for row in csv.DictReader(file)
                }
    answer.write_text(json.dumps({"version": "VideoPhy-2 AutoEval", "scores": scores}))


def _score(text: str) -> float | None:
    """1 to 5; anything else is an answer that could not be parsed."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 1 <= value <= 5 else None


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
