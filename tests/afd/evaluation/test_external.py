"""Evaluators as real programs: good ones, and every way in which one can be bad."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from afd.config.evaluators import OutsideEvaluator
from afd.evaluation.external import Answer, run_evaluator

NAMES = ["a.mp4", "b.mp4", "c.mp4"]
GOOD = """
videos, answer = sys.argv[1:3]
told = json.load(open(os.path.join(videos, "videos.json")))
scores = {v["video"]: len(v["prompt"]) / 10 for v in told}
json.dump({"version": "7", "scores": {"quality": scores}}, open(answer, "w"))
"""


def evaluator(program: str, **changes: Any) -> OutsideEvaluator:
    values: dict[str, Any] = {
        "name": "judge",
        "version": "1",
        "command": [
            sys.executable, "-c", f"import json, os, sys, time\n{program}", "{videos}", "{answer}",
        ],
        "weights": None,
        "metrics": [
            {"name": "quality", "goal": "high", "low": 0.0, "high": 1.0, "independent": True}
        ],
        "when": "final",
        "timeout_min": 0.5,
        "variables": [],
    }  # fmt: skip
    return OutsideEvaluator.model_validate(values | changes)


def run(tmp_path: Path, program: str, **changes: Any) -> Answer:
    videos = tmp_path / "videos"
    videos.mkdir()
    prompts = ["four", "sixsix", "eighteight"]
    told = [{"video": n, "prompt": p} for n, p in zip(NAMES, prompts, strict=True)]
    (videos / "videos.json").write_text(json.dumps(told))
    return run_evaluator(evaluator(program, **changes), videos, NAMES, tmp_path)


def test_a_good_program_is_believed(tmp_path: Path) -> None:
    answer = run(tmp_path, GOOD)
    assert answer.error is None and answer.version == "7"
    assert answer.scores == {"quality": {"a.mp4": 0.4, "b.mp4": 0.6, "c.mp4": 1.0}}
    assert answer.num_failed == {"quality": 0}


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("print('no GPU here'); sys.exit(3)", "exit code 3; its last words"),
        ("os.kill(os.getpid(), 11)", "died of signal SIGSEGV"),
        ("pass", "ended well and wrote no answer"),
        ("open(sys.argv[2], 'w').write('quality: 3.2')", "its answer is not JSON"),
        ("open(sys.argv[2], 'wb').write(bytes(range(256)))", "its answer is not JSON"),
        ("open(sys.argv[2], 'w').write('[' * 200000)", "its answer is not JSON"),
        ("json.dump([1, 2], open(sys.argv[2], 'w'))", 'holds no "scores"'),
        ("json.dump({'scores': {'other': {}}}, open(sys.argv[2], 'w'))", "none of the metrics"),
        ("os.symlink('/dev/zero', sys.argv[2])", "no plain file"),
        ("os.mkfifo(sys.argv[2])", "no plain file"),
        ("open(sys.argv[2], 'wb').truncate(65 << 20)", "more than 64"),  # or "wrote more than"
        ("while True: print('x' * 65536)", "wrote more than 64 MB, killed"),
    ],
    ids=["exit", "signal", "silent", "text", "bytes", "deep", "list", "other metric", "link",
         "fifo", "huge", "endless"],
)  # fmt: skip
def test_a_bad_program_costs_its_metrics_and_says_why(
    tmp_path: Path, program: str, told: str
) -> None:
    answer = run(tmp_path, program)
    assert answer.error is not None and told in answer.error
    assert answer.scores == {"quality": dict.fromkeys(NAMES)}
    assert answer.num_failed == {"quality": 3}


def test_one_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    command = ["/nowhere/python", "{videos}", "{answer}"]
    answer = run(tmp_path, "", command=command)
    assert answer.error is not None and "/nowhere/python cannot be started" in answer.error


def test_nonsense_is_counted_value_by_value(tmp_path: Path) -> None:
    lies = "{'a.mp4': %s, 'b.mp4': 0.5, 'zzz.mp4': 0.1}"
    for number, lie in enumerate(["float('nan')", "7.0", "'0.5'", "True", "[0.5]", "10 ** 400"]):
        place = tmp_path / str(number)
        place.mkdir()
        program = f"json.dump({{'scores': {{'quality': {lies % lie}}}}}, open(sys.argv[2], 'w'))"
        answer = run(place, program)
        assert answer.error is None
        assert answer.scores["quality"] == {"a.mp4": None, "b.mp4": 0.5, "c.mp4": None}
        assert answer.num_failed == {"quality": 2}
        assert answer.remarks is not None
        for reason in (
            "quality: no value for 1 of 3 videos, such as c.mp4",
            "1 values that are no number from 0 to 1, such as ",
            "1 videos that nobody asked about, such as zzz.mp4",
        ):
            assert reason in answer.remarks


def test_an_answer_about_other_videos_says_so(tmp_path: Path) -> None:
    program = "json.dump({'scores': {'quality': {'x.mp4': 1, 'y.mp4': 0}}}, open(sys.argv[2], 'w'))"
    answer = run(tmp_path, program)
    assert answer.num_failed == {"quality": 3} and answer.error is not None
    assert "no usable value in its answer: quality: no value for 3 of 3 videos" in answer.error
    assert "2 videos that nobody asked about, such as x.mp4" in answer.error


@pytest.mark.parametrize(
    "program",
    [
        "os.mkdir(sys.argv[2])",
        "import shutil; shutil.rmtree(os.path.dirname(sys.argv[2]))",
        "import shutil; shutil.rmtree(os.path.dirname(sys.argv[1]), ignore_errors=True)",
        "json.dump({'version': '\\ud800', 'scores': {'\\ud800': 3}}, open(sys.argv[2], 'w'))",
        "json.dump({'scores': {'quality': {'\\ud800': 3}}}, open(sys.argv[2], 'w'))",
        "open(sys.argv[2], 'w').write('{\"scores\": ' + '9' * 9999 + '}')",
    ],
    ids=["folder", "own folder gone", "all gone", "broken Unicode", "in a name", "many digits"],
)  # fmt: skip
def test_nothing_that_it_leaves_behind_raises(tmp_path: Path, program: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    answer = run(place, program)
    assert answer.scores == {"quality": dict.fromkeys(NAMES)} and answer.error is not None
    answer.error.encode()  # it goes into JSON, MLflow and a terminal


ORPHAN = """
import subprocess
child = "import time, os; os.setsid() if os.fork() == 0 else None; time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(600)
"""


def test_one_that_hangs_is_killed_with_everything_it_started(tmp_path: Path) -> None:
    marked = f"time.sleep({100_000 + os.getpid()})"  # other suites may run beside this one
    answer = run(tmp_path, ORPHAN.replace("time.sleep(600)", marked), timeout_min=0.03)
    assert answer.error is not None and "not ready after 0.03 min, killed" in answer.error
    assert not [process.pid for process in psutil.process_iter() if marked in _line(process)]


def _line(process: psutil.Process) -> str:
    try:
        gone = process.status() == psutil.STATUS_ZOMBIE
        return "" if gone else " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_it_ends_when_its_campaign_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    (tmp_path / "videos").mkdir()
    call = (
        "import sys; from pathlib import Path; from afd.config.evaluators import OutsideEvaluator;"
        "from afd.evaluation.external import run_evaluator;"
        "run_evaluator(OutsideEvaluator.model_validate_json(sys.argv[1]), Path(sys.argv[2]), [], "
        "Path(sys.argv[2]).parent)"
    )
    told = evaluator(program).model_dump_json()
    parent = subprocess.Popen([sys.executable, "-c", call, told, str(tmp_path / "videos")])
    while not (pid_file.exists() and pid_file.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = psutil.Process(int(pid_file.read_text()))
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_secrets_of_the_environment_stay_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENDOR_KEY", "canary")
    monkeypatch.setenv("NEEDED_HERE", "passed")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    program = f"open({str(tmp_path / 'seen')!r}, 'w').write(json.dumps(dict(os.environ)))"
    run(tmp_path, program, variables=["NEEDED_HERE"])
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["NEEDED_HERE"] == "passed" and seen["HF_HUB_OFFLINE"] == "1"
    assert "VENDOR_KEY" not in seen and "PYTHONPATH" not in seen


def test_one_that_takes_longer_than_a_stage_may_be_silent_is_waited_for(tmp_path: Path) -> None:
    """Its own limit is what ends it: a process that hangs is told from one that waits."""
    program = "time.sleep(8)\n" + GOOD
    code = (
        "import sys; from pathlib import Path; from afd import signals\n"
        "from tests.afd.evaluation.test_external import run\n"
        "signals.limit_silence(4.0)\n"
        f"print(run(Path({str(tmp_path)!r}), {program!r}).error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr
