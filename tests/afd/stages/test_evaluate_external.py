"""Evaluators inside a real evaluation: columns by prompt, cards, bad programs that cost little."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from afd.artifacts import Artifact
from afd.config import OutsideEvaluator, Params
from afd.evaluation import readings
from afd.evaluation.metrics import general
from afd.params import load_params
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
# Mean brightness of each film, by a decoder of its own: what evaluate knows from pixels.
GOOD = """
import json, sys, av
videos, answer = sys.argv[1:3]
scores, words = {}, {}
for entry in json.load(open(f"{videos}/videos.json")):
    frames = [f.to_ndarray(format="rgb24") for f in av.open(f"{videos}/{entry['video']}").decode()]
    scores[entry["video"]] = float(sum(f.mean() for f in frames) / len(frames) / 255)
    words[entry["video"]] = len(entry["prompt"].split())
json.dump({"version": "b1", "scores": {"brightness": scores, "words": words}}, open(answer, "w"))
"""

# Spoils what it was given, and tells of videos that nobody asked about.
VANDAL = """
import json, pathlib, sys
videos, answer = map(pathlib.Path, sys.argv[1:3])
for number, file in enumerate(sorted(videos.iterdir())):
    file.unlink() if number % 2 else file.write_bytes(b"spoilt")
json.dump({"scores": {"quality": {"other.mp4": 1}}}, answer.open("w"))
"""


def evaluator(name: str, program: str, *metrics: str, **changes: Any) -> OutsideEvaluator:
    values: dict[str, Any] = {
        "name": name,
        "version": "1",
        "command": [sys.executable, "-c", program, "{videos}", "{answer}"],
        "weights": None,
        "metrics": [
            {"name": m, "goal": "none", "low": 0.0, "high": 100.0, "independent": m != "words"}
            for m in metrics
        ],
        "when": "final",
        "timeout_min": 1.0,
        "variables": [],
    }
    return OutsideEvaluator.model_validate(values | changes)


class Played:
    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.params = load_params(Params, TINY)
        self.prompt_set = self.make(requests.prompts(self.params))
        self.student = self.make(requests.warmstart(self.params, self.prompt_set.ref))
        self.held_out = self.make(requests.harvest_held_out(self.params, self.prompt_set.ref))

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)

    def asked(self, *evaluators: OutsideEvaluator) -> StageRequest:
        evaluate = self.params.evaluate.model_copy(update={"evaluators": evaluators})
        params = self.params.model_copy(update={"evaluate": evaluate})
        base, student = self.prompt_set.ref, self.student.ref
        return requests.evaluate_final(params, base, student, student, self.held_out.ref)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("store"))


def test_good_and_bad_programs_in_one_evaluation(played: Played) -> None:
    made = played.make(
        played.asked(
            evaluator("vandal", VANDAL, "quality"),
            evaluator("bright", GOOD, "brightness", "words"),
            evaluator("crash", "raise SystemExit('CUDA error: out of memory')", "quality"),
            evaluator("hang", "import time; time.sleep(600)", "slow", timeout_min=0.02),
        )
    )
    summary = json.loads(made.file("summary.json").read_bytes())
    table = pd.read_parquet(made.file("per_prompt.parquet"))
    columns = ["bright.brightness", "bright.words", "crash.quality", "hang.slow"]
    assert table[columns[:2]].notna().all(axis=None) and table[columns[2:]].isna().all(axis=None)
    words = table["prompt"].str.split().str.len()
    assert (table["bright.words"] == words).all()  # every answer came back to its own prompt
    for name in ("trajectory_error_px", "bright.brightness"):
        assert summary["metrics"][name]["student"] is not None
    student = table[table["side"] == "student"]["bright.brightness"].mean()
    assert summary["metrics"]["bright.brightness"]["student"] == pytest.approx(student)
    assert summary["metrics"]["crash.quality"]["student"] is None
    assert summary["metrics"]["crash.quality"]["num_failed"] == 20
    known = readings.row("bright.words", summary["metrics"]["bright.words"])
    assert not known.is_independent and known.better == "none"
    changed = replace(known, base=1.0, student=2.0, interval=(0.5, 1.5), p_holm=None, num_prompts=8)
    assert readings.read(changed).endswith("; no independent judge, the discriminator knows it")
    told = summary["outside"]
    assert told["bright"]["error"] is None and told["bright"]["version_told"] == "b1"
    assert told["bright"]["remarks"] is None
    assert "1 videos that nobody asked about, such as other.mp4" in told["vandal"]["error"]
    assert told["bright"]["metrics"]["words"]["independent"] is False
    assert "out of memory" in told["crash"]["error"] and "killed" in told["hang"]["error"]
    assert told["crash"]["metrics"]["quality"]["num_failed"] == told["crash"]["num_videos"] == 20
    card = json.loads(made.file("card.json").read_bytes())
    assert card["evaluators"]["bright"]["version"] == "1" and "crf 12" in card["encoder"]


def test_prompts_of_any_world_are_measured_by_pixels_and_programs(
    played: Played, tmp_path: Path
) -> None:
    """No sentence of the pocket world: its physics has no meaning there, and nothing falls over."""
    file = tmp_path / "prompts.jsonl"
    lines = [{"text": f"a dog runs along beach number {n}"} for n in range(12)]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    told = {"kind": "file", "path": str(file), "num_held_out": 4, "num_tuning": 0}
    whole = played.params.model_dump(mode="json")
    whole["prompts"] = told | {"num_train": None}
    whole["evaluate"]["evaluators"] = [
        evaluator("bright", GOOD, "brightness", when="every_round").model_dump(mode="json")
    ]
    params = Params.model_validate(whole)
    prompt_set, student = played.make(requests.prompts(params)), played.student.ref
    made = played.make(requests.evaluate_round(params, prompt_set.ref, student, student))
    summary = json.loads(made.file("summary.json").read_bytes())
    names = {*general.NAMES, "bright.brightness", "frechet_distance"}
    assert summary["metrics"].keys() == names
    row = summary["metrics"]["frame_change"]
    assert row["student"] > 0 and row["difference"] == 0  # the student is the base here
    assert summary["metrics"]["bright.brightness"]["student"] > 0
    card = json.loads(made.file("card.json").read_bytes())
    assert card["metrics_version"] == "general 1" and card["laws"] is None


def test_how_it_is_run_is_circumstance_and_its_version_is_not(
    played: Played, tmp_path: Path
) -> None:
    none = played.asked().output
    one = evaluator("bright", GOOD, "brightness")
    same = one.model_copy(update={"timeout_min": 9.0, "command": ("x", "{videos}", "{answer}")})
    other = one.model_copy(update={"version": "2"})
    prints = [played.asked(e).output.fingerprint for e in (one, same, other)]
    assert prints[0] == prints[1] and len({*prints, none.fingerprint}) == 3
    assert "evaluators" not in played.asked().params
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    heavy = one.model_copy(update={"weights": str(weights)})
    first = played.asked(heavy).output
    moved = tmp_path / "elsewhere.bin"
    weights.rename(moved)
    assert played.asked(heavy.model_copy(update={"weights": str(moved)})).output == first
    with pytest.raises(RefusedError, match=r"evaluate\.evaluators\.bright\.weights"):
        played.asked(heavy)
