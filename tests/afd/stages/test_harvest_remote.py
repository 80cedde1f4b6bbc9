"""A round sees the same teacher clips whoever the teacher is; refused prompts have no pair."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from afd.artifacts import Artifact
from afd.clips.shards import prompt_places, read_table
from afd.config import Params
from afd.params import load_params
from afd.runtime.outcome import RefusedError, status_of
from afd.runtime.request import StageRequest, needs_network
from afd.stages import report, requests
from afd.stages.execute import execute
from afd.store import Store
from tests.afd.harvest.ordering import KEY, KEY_VARIABLE, teacher_at
from tests.harvest_server.script import Fate, Script
from tests.harvest_server.server import Server

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
GONE = "http://127.0.0.1:9"


def params_with(teacher: dict[str, Any]) -> Params:
    tiny = load_params(Params, TINY).model_dump(mode="json")
    return Params.model_validate(tiny | {"teacher": teacher})


def remote(server: Server, **changes: Any) -> Params:
    return params_with(teacher_at(server, **changes).model_dump(mode="json"))


class Round:
    """A campaign of one store, up to what its stages leave."""

    def __init__(self, store: Store, params: Params) -> None:
        self.store, self.params = store, params
        self.prompt_set = self.make(requests.prompts(params)).ref

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)

    def harvest(self) -> Artifact:
        return self.make(requests.harvest_round(self.params, self.prompt_set, 0))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the round, in its order."""
    played = Round(Store(tmp_path_factory.mktemp("prompts")), load_params(Params, TINY))
    return read_table(played.harvest().path)["prompt"].tolist()


def test_the_clips_of_a_vendor_are_a_round_like_any_other(
    tmp_path: Path, prompts: list[str]
) -> None:
    refused = prompts[1]
    with Server("ark", Script(key=KEY, fates=(Fate(refused, ends="refused_input"),))) as server:
        played = Round(Store(tmp_path), remote(server))
        clips = played.harvest()
        assert len(server.book.posts) == len(prompts)
    table = read_table(clips.path)
    assert table["prompt"].tolist() == [text for text in prompts if text != refused]
    assert prompt_places(table, prompts) == [0, 2, 3]
    summary = clips.manifest.summary
    assert (summary["num_clips"], summary["num_without_clip"]) == (3, 1)
    assert summary["num_refused_input"] == 1
    outcomes = json.loads(clips.file("outcomes.json").read_bytes())
    assert outcomes == {"(none)": {"clip": 3, "refused_input": 1}}
    assert report.refusals([{"teacher_clips": clips}] * 2) == [("(none)", 8, 6, 2, 0)]
    assert report.refusals([{}]) == []

    # The discriminator learns from the groups that have a pair.
    student = played.make(requests.warmstart(played.params, played.prompt_set))
    rollouts = played.make(requests.rollout(played.params, played.prompt_set, student.ref, 0))
    judge = played.make(requests.fit(played.params, [clips.ref], [rollouts.ref], None, 0))
    assert judge.manifest.summary["num_pairs"] == 3


def test_a_campaign_replays_when_the_vendor_is_gone_also_from_what_a_clone_pulled(
    tmp_path: Path,
) -> None:
    with Server("ark", Script(key=KEY, film="constant")) as server:
        played = Round(Store(tmp_path), remote(server))
        clips = played.harvest()
        changed = teacher_at(server, base_url=GONE, budget_usd=0.0, training_permitted="no")
        again = Round(Store(tmp_path), params_with(changed.model_dump(mode="json")))
    table = read_table(clips.path)
    vendor_gone = again.harvest()  # other terms: another artifact, of the same clips
    assert vendor_gone.manifest.fingerprint != clips.manifest.fingerprint
    assert read_table(vendor_gone.path)["sha256"].tolist() == table["sha256"].tolist()
    assert vendor_gone.manifest.summary["num_paid"] == 0

    for name in ("clips", "harvest"):  # a clone that pulled has artifacts only
        shutil.rmtree(tmp_path / name)
    shutil.rmtree(vendor_gone.path)
    from_shards = again.harvest()
    assert read_table(from_shards.path)["sha256"].tolist() == table["sha256"].tolist()


def test_how_a_teacher_is_reached_is_nobodys_identity(tmp_path: Path) -> None:
    with Server("ark", Script(key=KEY)) as server:
        here, there = remote(server), remote(server, base_url=GONE, in_flight=1, budget_usd=9.0)
        other = remote(server, parameters={"resolution": "720p"})
    prompt_set = requests.prompts(here).output
    names = [
        requests.harvest_round(params, prompt_set, 0).output.fingerprint
        for params in (here, there, other)
    ]
    assert names[0] == names[1] != names[2]
    asked = requests.harvest_round(here, prompt_set, 0)
    assert needs_network(asked)
    tiny = load_params(Params, TINY)
    assert not needs_network(requests.harvest_round(tiny, prompt_set, 0))


def test_a_round_that_too_few_prompts_answer_stops_and_says_why(
    tmp_path: Path, prompts: list[str]
) -> None:
    fates = tuple(Fate(text, ends="refused_output") for text in prompts[:3])
    with Server("ark", Script(key=KEY, fates=fates)) as server:
        played = Round(Store(tmp_path), remote(server))
        with pytest.raises(ValueError, match="1 of 4 prompts have a clip") as told:
            played.harvest()
        assert status_of(told.value) == "refused" and "3 refused_output" in str(told.value)
        patient = Round(Store(tmp_path), remote(server, min_clip_share=0.25))
        assert patient.harvest().manifest.summary["num_clips"] == 1
        assert set(server.posts().values()) == {1}


def test_training_without_permission_is_refused_and_harvesting_is_not(tmp_path: Path) -> None:
    with Server("ark", Script(key=KEY, film="constant")) as server:
        played = Round(Store(tmp_path), remote(server, training_permitted="unknown"))
        clips = played.harvest()
    with pytest.raises(RefusedError, match="training_permitted is 'unknown'"):
        requests.fit(played.params, [clips.ref], [], None, 0)


def test_a_folder_is_a_teacher_too(tmp_path: Path, prompts: list[str]) -> None:
    simulated = Round(Store(tmp_path / "simulated"), load_params(Params, TINY))
    table = read_table(simulated.harvest().path)
    videos = tmp_path / "videos"
    videos.mkdir()
    by_key = list((tmp_path / "simulated" / "clips").glob("*/*.mp4"))
    by_digest = {path.stem.rpartition(".")[2]: path for path in by_key}
    for number, row in enumerate(table.to_dict("records")):
        shutil.copy(by_digest[row["sha256"][:16]], videos / f"{number}.mp4")
        (videos / f"{number}.txt").write_text(row["prompt"])
    folder = {
        "kind": "folder",
        "name": "my-clips",
        "path": str(videos),
        "clips_per_prompt": 1,
        "training_permitted": "yes",
        "terms": {"url": "https://example.com", "date": "2026-11-23"},
        "min_clip_share": 1.0,
    }
    played = Round(Store(tmp_path / "store"), params_with(folder))
    imported = read_table(played.harvest().path)
    for column in ("prompt", "sha256", "frames_sha256", "num_frames"):
        assert imported[column].tolist() == table[column].tolist()
    shutil.rmtree(videos)
    shutil.rmtree(played.store.root / "teacher_clips")
    gone = Round(played.store, params_with(folder | {"path": None}))
    assert read_table(gone.harvest().path)["sha256"].tolist() == table["sha256"].tolist()
