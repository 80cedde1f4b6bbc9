"""Videos of sentences by a campaign's students: the same bytes by every way, and refusals."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image

import afd
from afd.sampling.campaign import Campaign, open_campaign
from afd.sampling.errors import SamplingError
from afd.sampling.student import SampledStudent, of_round
from afd.sampling.teacher import TeacherClips
from afd.sampling.video import Video, Videos
from afd.stages.evaluate_batches import sample as sample_of_evaluation
from afd.store import Store, StoreError
from afd.students.checkpoint import load_student
from flows.commands.sample import Sampling, write_videos
from flows.mlflow_runs.student_model import STORE_VARIABLE
from flows.paths import CampaignPaths
from tests.flows.conftest import PROJECT, Finished

pytestmark = pytest.mark.campaign
SENTENCE = "a small red ball starts high on the left and moves quickly to the right"
OTHER = "a large blue ball starts low on the right and drops straight down"


@pytest.fixture(scope="module")
def student(finished: Finished) -> SampledStudent:
    return afd.load_student(finished.folder, store=finished.store)


def asked(finished: Finished, *sentences: str) -> Sampling:
    name, runs = finished.folder.name, finished.folder.parent
    return Sampling(name, sentences, runs=runs, store=finished.store)


def frames_of(file: Path) -> "np.ndarray":
    with av.open(str(file)) as opened:
        return np.stack([f.to_ndarray(format="rgb24") for f in opened.decode(video=0)])


def test_a_sentence_and_a_seed_give_the_same_bytes_in_every_way(
    finished: Finished, student: SampledStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in a second process, Python, MLflow, and the evaluation under that seed."""
    command = [sys.executable, "-m", "flows.cli", "sample", finished.folder.name, SENTENCE]
    command += ["--seed", "3", "-o", str(tmp_path / "out.mp4"), "--runs"]
    done = subprocess.run(
        [*command, str(finished.folder.parent)],  # its store is the one that it was run with
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out.mp4\n"
    video = student(SENTENCE, seed=3)
    assert video.save(tmp_path / "ours.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()
    shown = frames_of(tmp_path / "out.mp4")
    assert shown.shape == (16, 256, 256, 3) and video.frames.shape == (16, 16, 16, 3)
    small = shown.reshape(16, 16, 16, 16, 16, 3).mean(axis=(2, 4))
    assert np.abs(small - video.frames).max() < 8
    several = student([OTHER, SENTENCE], seed=[2, 3])
    assert isinstance(several, Videos)
    assert [(one.sentence, one.seed) for one in several][2:] == [(SENTENCE, 2), (SENTENCE, 3)]
    assert several[3].mp4() == video.mp4() != several[2].mp4()  # alone or beside others

    (prompt,) = (one for one in Campaign(finished.folder, Store(finished.store)).prompts
                 if one.text == SENTENCE)  # fmt: skip
    levels = sample_of_evaluation(load_student(student.artifact.path, "average"), [prompt], 3)
    assert np.array_equal(np.rint(levels[0] * 255).transpose(0, 2, 3, 1), video.frames)

    import mlflow

    # Over whatever address an earlier test of this process has left in MLflow's library.
    mlflow.set_tracking_uri(CampaignPaths(finished.folder.parent).tracking_uri())
    model = mlflow.pyfunc.load_model(f"models:/{finished.folder.name}-student/3")
    made = model.predict([SENTENCE, OTHER], params={"seed": 3})
    assert made["mp4"][0] == video.mp4()
    assert made.columns.tolist() == ["sentence", "seed", "fps", "mp4"]
    assert made["sentence"].tolist() == [SENTENCE, OTHER]
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    with pytest.raises(SamplingError, match=r"not in .*\n.*export AFD_STORE=DIR, or"):
        mlflow.pyfunc.load_model(f"models:/{finished.folder.name}-student/3")
    there = mlflow.pyfunc.load_model(
        f"models:/{finished.folder.name}-student/3", model_config={"store": str(finished.store)}
    )
    assert there.predict([SENTENCE], params={"seed": 3})["mp4"][0] == video.mp4()


def test_a_notebook_shows_it(student: SampledStudent) -> None:
    video = student(SENTENCE)
    page = video._repr_html_()
    (data,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert base64.b64decode(data) == video.mp4() and SENTENCE in page
    risky = replace(video, sentence="<script>")
    assert "<script>" not in Videos([video, risky])._repr_html_()


def test_import_of_the_package_is_cheap() -> None:
    code = "import afd, sys; print({'torch', 'pandas'} & sys.modules.keys(), dir(afd))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=PROJECT
    )
    assert done.stdout.startswith(b"set() ")


def test_beside_the_start_and_the_teacher(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels and sentences are pixels above clips that stay what they are; nothing is ordered."""
    campaign = open_campaign(finished.folder, finished.store)
    (held_out, *_) = (one.text for one in campaign.prompts if one.split == "held_out")
    spare = next(one.text for one in campaign.prompts if one.text not in _filmed(campaign))
    several = replace(
        asked(finished, held_out, spare),
        beside=("teacher", "start"),
        seeds=(1, 2),
        output=str(tmp_path / "out.mp4"),
        sheet=tmp_path / "sheet.png",
    )
    before = sorted(finished.store.rglob("*"))
    write_videos(several)
    assert sorted(finished.store.rglob("*")) == before
    said = capsys.readouterr()
    assert spare in said.err and "none is ordered" in said.err and held_out not in said.err
    shown = frames_of(tmp_path / "out.mp4")
    side = 256 + 8
    assert shown.shape[2] == 5 * side  # the teacher, then start and round for each seed
    teacher = TeacherClips(campaign)(held_out)
    assert teacher is not None
    top = min(range(200), key=lambda row: np.abs(_cell(shown, row, 0) - teacher.frames).max())
    for column, (label, seed) in enumerate([("start", 1), ("last", 1), ("start", 2), ("last", 2)]):
        sampler = of_round(campaign, campaign.student(label))  # type: ignore[arg-type]
        video = sampler(held_out, seed)
        assert np.abs(_cell(shown, top, (column + 1) * side) - video.frames).max() < 12
    text = shown[0, :top].min(axis=2)
    assert (text < 100).any() and (text[:, -side:] < 200).any()  # a sentence, and the last label
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= 8 * 128


def _cell(shown: "np.ndarray", top: int, left: int) -> "np.ndarray":
    """A clip out of a comparison, at its own size."""
    part = shown[:, top : top + 256, left : left + 256].astype(float)
    return part.reshape(16, 16, 16, 16, 16, 3).mean(axis=(2, 4))


def _filmed(campaign: Campaign) -> set[str]:
    return set(TeacherClips(campaign)._places)


def test_a_file_for_each_sentence_and_seed(finished: Finished, tmp_path: Path) -> None:
    chosen = replace(asked(finished, SENTENCE, OTHER), seeds=(1, 2), output=f"{tmp_path}/made/")
    write_videos(chosen)
    names = sorted(file.name for file in (tmp_path / "made").iterdir())
    assert len(names) == 4 and all(re.fullmatch(r"0[12]-a-.*-seed-[12]\.mp4", n) for n in names)
    with pytest.raises(SamplingError, match="is there already; add --overwrite"):
        write_videos(chosen)
    write_videos(replace(chosen, overwrite=True))


def test_another_clone_knows_students_by_their_pointers(
    finished: Finished, student: SampledStudent, tmp_path: Path
) -> None:
    """Of the folder there are NNN.dvc alone; what is not pulled is named with the cure."""
    rounds = tmp_path / "runs" / "demo" / "rounds"
    rounds.mkdir(parents=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "store").symlink_to(finished.store)
    for file in (finished.folder / "rounds").glob("*.json"):
        made = json.loads(file.read_bytes()).values()
        paths = [f"store/{ref['kind']}/{ref['fingerprint'][:16]}" for ref in made]
        outs = [{"path": path, "md5": "0.dir"} for path in paths]
        pointer = {"wdir": "../../..", "outs": outs}
        (rounds / f"{file.stem}.dvc").write_text(yaml.safe_dump(pointer))
    there = afd.load_student(tmp_path / "runs" / "demo")
    assert there.fps == student.fps and there.label == student.label == "round 1"
    assert there(SENTENCE).mp4() == student(SENTENCE).mp4()
    assert afd.load_student(tmp_path / "runs" / "demo", "start").label == "start"
    (tmp_path / "store").unlink()
    (tmp_path / "store").mkdir()
    with pytest.raises(SamplingError, match=r"no student in .*`dvc pull`"):
        afd.load_student(tmp_path / "runs" / "demo")


def test_a_running_campaign_has_the_rounds_that_are_finished(
    finished: Finished, tmp_path: Path
) -> None:
    rounds = tmp_path / "demo" / "rounds"
    rounds.mkdir(parents=True)
    shutil.copy(finished.folder / "rounds" / "start.json", rounds)
    assert afd.load_student(tmp_path / "demo", store=finished.store).label == "start"
    shutil.copy(finished.folder / "rounds" / "000.json", rounds)
    assert afd.load_student(tmp_path / "demo", store=finished.store).label == "round 0"
    with pytest.raises(SamplingError, match=r"--round 1: .* students of: start, 0; later rounds"):
        afd.load_student(tmp_path / "demo", 1, store=finished.store)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sentences": ("a big red ball",)}, "word 2 is 'big', expected large | small"),
        ({"sentences": ()}, "no sentence; write one or more"),
        ({"sentences": (SENTENCE, "x\x1b[2J")}, "sentence 2: text has the control character"),
        (
            {"campaign": "nope"},
            "no such campaign in .*; campaigns with a student there: ",
        ),
        ({"round": 9}, "--round 9: campaign '.*' has students of: start, 0, 1$"),
        ({"output": "out.gif"}, "out.gif: videos are written as mp4: write out.mp4"),
        ({"output": "file/out.mp4"}, "file/out.mp4: .*file is no folder that can be written"),
        ({"sheet": Path("sheet.jpg")}, "a contact sheet is a PNG"),
        ({"guidance": 3.0}, "guidance 3 needs a published student"),
        ({"scale": 0}, "--scale 0: must be a whole number"),
        ({"seeds": tuple(range(40))}, "players show 4096 at most: give fewer"),
    ],
)
def test_refusals_leave_nothing_behind(
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    chosen = replace(asked(finished, SENTENCE), output="out.mp4")
    with pytest.raises(SamplingError) as refused:
        write_videos(replace(chosen, **changes))  # type: ignore[arg-type]
    assert re.search(said.replace("|", r"\|"), str(refused.value))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_weights_that_cannot_be_read(finished: Finished, tmp_path: Path) -> None:
    """Missing, cut short, or no weights at all: which file, and what brings it back."""
    store = tmp_path / "store"
    shutil.copytree(finished.store, store, ignore=shutil.ignore_patterns(".work", ".cache"))
    broken = afd.load_student(finished.folder, store=store)
    file = broken.artifact.path / "average.safetensors"
    whole = file.read_bytes()
    file.write_bytes(bytes(len(whole)))
    with pytest.raises(ValueError, match="cannot be read as student weights"):
        broken(SENTENCE)
    file.write_bytes(whole[:100])
    with pytest.raises(StoreError, match=r"average\.safetensors: 100 bytes, not"):
        afd.load_student(finished.folder, store=store)
    file.unlink()
    with pytest.raises(StoreError, match=r"average\.safetensors: missing"):
        afd.load_student(finished.folder, store=store)
    with pytest.raises(SamplingError, match=r"average\.safetensors: there is no such file"):
        afd.load_student(file.parent)
    shutil.rmtree(broken.artifact.path)  # as that message says: an older round is no answer
    with pytest.raises(SamplingError, match=r"--round 1: .*`afd resume campaign` makes them anew"):
        afd.load_student(finished.folder, store=store)
    assert afd.load_student(finished.folder, 0, store=store).label == "round 0"


def test_video_is_a_value(tmp_path: Path) -> None:
    """Odd sizes are padded for the encoder; large ones stay as they are."""
    odd = Video(np.zeros((2, 301, 303, 3), np.uint8), 8, "x", "teacher")
    assert frames_of(odd.save(tmp_path / "deep" / "odd.mp4")).shape == (2, 302, 304, 3)
    assert frames_of(odd.save(tmp_path / "twice.mp4", scale=2)).shape == (2, 602, 606, 3)
    with pytest.raises(SamplingError, match="written as mp4"):
        odd.save(tmp_path / "odd.avi")
