"""VideoPhy-2 evaluator program: semantic adherence and physical commonsense.

    python evaluators/ask_videophy2.py VIDEOS ANSWER REPOSITORY WEIGHTS

Runs in VideoPhy-2's environment; REPOSITORY is its folder VIDEOPHY2, WEIGHTS its checkpoint. The
model answers in text: an answer that cannot be parsed is null, never 0. Written from VideoPhy-2's
documentation.
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
        inputs = Path(out) / "videos.csv"
        with inputs.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["videopath", "caption"])
            writer.writerows(
                [str((videos / entry["video"]).resolve()), entry["prompt"]] for entry in listed
            )
        for task in TASKS:
            outputs = Path(out) / f"{task}.csv"
            subprocess.run(
                [sys.executable, "inference.py", "--input_csv", str(inputs), "--checkpoint",
                 str(weights), "--output_csv", str(outputs), "--task", task],
                cwd=repository, check=True,
            )  # fmt: skip
            with outputs.open(newline="") as file:
                scores[task] = {
                    Path(row["videopath"]).name: _score(row.get("score", ""))
                    for row in csv.DictReader(file)
                }
    answer.write_text(json.dumps({"version": "VideoPhy-2 AutoEval", "scores": scores}))


def _score(text: str) -> float | None:
    """Return a score from 1 to 5, or None where the answer could not be parsed."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 1 <= value <= 5 else None


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
