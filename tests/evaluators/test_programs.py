"""The ready-made programs in their own process, against stand-ins of the tools' documented shape.

What is not tested: the real tools, whose weights and environments are not here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from afd.config import OutsideEvaluator, Params
from afd.params import load_params

ROOT = Path(__file__).parents[2]
TORCH = """
class _No:
    def __enter__(self): return self
    def __exit__(self, *_): pass
bfloat16 = "bfloat16"
def no_grad(): return _No()
def device(name): return name
class cuda:
    is_available = staticmethod(lambda: False)
"""
VBENCH = """
import json, os
class VBench:
    def __init__(self, device, info, out): self.out = out
    def evaluate(self, videos_path, name, prompt_list, dimension_list, local, read_frame, mode):
        assert mode == "custom_input" and all(os.path.isabs(p) for p in prompt_list)
        def one(path, dimension):
            good = dimension == "dynamic_degree"
            return {"video_path": path, "video_results": good or len(prompt_list[path]) / 10}
        told = {d: [0.5, [one(p, d) for p in prompt_list]] for d in dimension_list}
        with open(os.path.join(self.out, f"{name}_eval_results.json"), "w") as file:
            json.dump(told, file)
"""
VIDEOALIGN = """
class VideoVLMRewardInference:
    def __init__(self, weights, device, dtype): assert weights == "w"
    def reward(self, paths, prompts, use_norm):
        return [{"VQ": len(p), "MQ": 1.5, "TA": -1, "Overall": 0} for p in prompts]
"""
VIDEOPHY = """
import argparse, csv
parser = argparse.ArgumentParser()
for name in ("input_csv", "checkpoint", "output_csv", "task"): parser.add_argument("--" + name)
told = parser.parse_args()
rows = list(csv.DictReader(open(told.input_csv)))
with open(told.output_csv, "w") as file:
    writer = csv.DictWriter(file, ["videopath", "caption", "score"])
    writer.writeheader()
    for n, row in enumerate(rows):
        writer.writerow(row | {"score": 4 if n == 0 else ("0" if told.task == "pc" else "great")})
"""


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    told = [{"video": f"{n}.mp4", "prompt": p, "fps": 16} for n, p in enumerate(["four", "sixsix"])]
    (folder / "videos.json").write_text(json.dumps(told))
    return folder


def run(program: str, videos: Path, modules: dict[str, str], *arguments: str) -> dict:
    place = videos.parent / "modules"
    place.mkdir()
    for name, source in modules.items():
        (place / f"{name}.py").write_text(source)
    answer = videos.parent / "answer.json"
    filled = [str(place) if a == "REPOSITORY" else a for a in arguments]
    subprocess.run(
        [sys.executable, str(ROOT / "evaluators" / program), str(videos), str(answer), *filled],
        env={**os.environ, "PYTHONPATH": str(place)},
        check=True,
    )
    return json.loads(answer.read_text())["scores"]


def test_vbench(videos: Path) -> None:
    scores = run("ask_vbench.py", videos, {"torch": TORCH, "vbench": VBENCH}, "info.json")
    assert scores["motion_smoothness"] == {"0.mp4": 0.4, "1.mp4": 0.6}
    assert scores["dynamic_degree"] == {"0.mp4": 1.0, "1.mp4": 1.0}


def test_videoalign(videos: Path) -> None:
    modules = {"torch": TORCH, "inference": VIDEOALIGN}
    scores = run("ask_videoalign.py", videos, modules, "REPOSITORY", "w")
    assert scores == {
        "vq": {"0.mp4": 4.0, "1.mp4": 6.0},
        "mq": {"0.mp4": 1.5, "1.mp4": 1.5},
        "ta": {"0.mp4": -1.0, "1.mp4": -1.0},
    }


def test_what_videophy_could_not_parse_is_no_score(videos: Path) -> None:
    scores = run("ask_videophy2.py", videos, {"inference": VIDEOPHY}, "REPOSITORY", "w")
    assert scores == {
        "sa": {"0.mp4": 4.0, "1.mp4": None},
        "pc": {"0.mp4": 4.0, "1.mp4": None},
    }


@pytest.mark.parametrize("name", ["vbench", "videoalign", "videophy2"])
def test_ready_made_params_are_valid_and_name_what_is_there(name: str) -> None:
    overlay = ROOT / "params" / "evaluators" / f"{name}.yaml"
    params = load_params(Params, ROOT / "params" / "tiny.yaml", [overlay])
    (evaluator,) = params.evaluate.evaluators
    assert isinstance(evaluator, OutsideEvaluator)
    assert (ROOT / evaluator.command[1]).is_file()
    assert all(metric.independent == (name != "videoalign") for metric in evaluator.metrics)
