"""A tiny random Wan pipeline, saved and loaded as a real one, as teacher of a harvest stage."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from afd.artifacts import Artifact
from afd.checkpoints import place
from afd.clips.shards import prompt_places, read_shard, read_table
from afd.config import DiffusersTeacher, Params
from afd.params import load_params
from afd.prompts import Prompt, prompts_of_round, read_jsonl
from afd.runtime.outcome import RefusedError
from afd.runtime.parts import Part, max_parts, missing
from afd.stages import requests
from afd.stages.execute import compute_part, execute
from afd.store import Store
from afd.teachers.build import build
from afd.teachers.pipeline import PipelineError
from afd.teachers.teacher import PromptRefused
from afd.video.decode import decode
from tests.afd.teachers import tiny_pipeline

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline.save(tmp_path_factory.mktemp("wan"))


def teacher(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "diffusers",
        "pipeline": str(folder),
        "parameters": {
            "num_inference_steps": 2,
            "guidance_scale": 1.0,
            "max_sequence_length": 200,
        },
        "dtype": "float32",
        "size": {"width": 32, "height": 16},
        "num_frames": 17,
        "fps": 16,
        "max_prompt_tokens": 200,
        "clips_per_prompt": 1,
        "training_permitted": "yes",
        "terms": {"url": "https://example.org/licence", "date": "2026-11-23"},
    } | changes


def params(folder: Path, tmp_path: Path, **changes: Any) -> Params:
    overlay = tmp_path / "teacher.yaml"
    overlay.write_text(json.dumps({"prompts": {"num_held_out": 4}}))
    base = load_params(Params, TINY, [overlay])
    return base.model_copy(update={"teacher": DiffusersTeacher(**teacher(folder, **changes))})


def every_prompt(of: Params, prompts: Artifact) -> list[Prompt]:
    found = read_jsonl(prompts.file("prompts.jsonl"))
    return prompts_of_round(found, "train", of.rollout.num_prompts, of.seed, 0)


def films(folder: Path, **changes: Any) -> Any:
    return build(DiffusersTeacher.model_validate(teacher(folder, **changes)), 16, 16)


def test_a_clip_is_an_mp4_of_its_own_size_and_its_seed_alone(folder: Path) -> None:
    one = films(folder)
    state = torch.random.get_rng_state()
    clip = one.film("a red ball falls", seed=2**62 + 5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert films(folder).film("a red ball falls", seed=2**62 + 5) == clip
    assert one.film("a red ball falls", seed=7) != clip
    assert decode(clip).frames.shape == (17, 16, 32, 3)


def test_parts_film_what_the_whole_films_and_nothing_twice(folder: Path, tmp_path: Path) -> None:
    of = params(folder, tmp_path)
    whole, parted = Store(tmp_path / "whole"), Store(tmp_path / "parted")
    prompts = requests.prompts(of)
    asked = requests.harvest_round(of, prompts.output, 0)
    for store in (whole, parted):
        execute(prompts, store)
    made = execute(asked, whole)
    assert made.manifest.summary == {"num_clips": 4, "num_paid": 4, "num_reused": 0}
    assert max_parts(asked) == 4 and missing(parted, asked, 3) == [0, 1, 2]
    for index in (2, 0):
        compute_part(asked, parted, Part(index=index, num_parts=3), 1)
    assert missing(parted, asked, 3) == [1]
    compute_part(asked, parted, Part(index=1, num_parts=3), 1)
    gathered = execute(asked, parted, gather=3)
    assert [f.sha256 for f in gathered.manifest.files.values()] == [
        f.sha256 for f in made.manifest.files.values()
    ]
    again = execute(requests.harvest_round(of, prompts.output, 0), Store(parted.root))
    assert again.ref == gathered.ref
    for row in read_shard(gathered.path):
        assert len(decode(bytes(row["bytes"])).frames) == 17


def test_a_prompt_that_it_would_cut_has_no_clip_and_the_round_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    of = params(folder, tmp_path)
    store = Store(tmp_path / "store")
    prompts = execute(requests.prompts(of), store)
    texts = [prompt.text for prompt in every_prompt(of, prompts)]
    lengths = [len(text.encode()) + 1 for text in texts]  # bytes and an end
    few = sorted(lengths)[1]
    of = params(folder, tmp_path, max_prompt_tokens=few)
    made = execute(requests.harvest_round(of, prompts.ref, 0), store)
    kept = [place for place, length in enumerate(lengths) if length <= few]
    assert made.manifest.summary["num_clips"] == len(kept) < len(lengths)
    assert made.manifest.summary["num_refused"] == len(lengths) - len(kept)
    assert prompt_places(read_table(made.path), texts) == kept


def test_its_content_is_identity_and_its_place_is_not(folder: Path, tmp_path: Path) -> None:
    of = params(folder, tmp_path)
    prompts = requests.prompts(of).output
    moved = tiny_pipeline.save(tmp_path / "elsewhere")
    other = tiny_pipeline.save(tmp_path / "other", seed=1)
    prints = [
        requests.harvest_round(params(f, tmp_path), prompts, 0).output.fingerprint
        for f in (folder, moved, other)
    ]
    assert prints[0] == prints[1] != prints[2]
    with pytest.raises(RefusedError, match=r"teacher\.pipeline"):
        requests.harvest_round(params(tmp_path / "nowhere", tmp_path), prompts, 0)


def test_what_a_pipeline_would_do_in_silence_is_said(folder: Path) -> None:
    with pytest.raises(PromptRefused, match="would cut the rest"):
        films(folder).film("a ball " * 60, seed=1)
    with pytest.raises(PipelineError, match="4k\\+1 frames"):
        films(folder, num_frames=16).film("a red ball", seed=1)
    with pytest.raises(PipelineError, match=r"takes no steps"):
        films(folder, parameters={"steps": 3})
    with pytest.raises(ValueError, match="set from other fields"):
        DiffusersTeacher.model_validate(teacher(folder, parameters={"height": 3}))


def test_a_folder_that_does_not_load_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="Nothing is downloaded"):
        films(tmp_path)
    broken = tiny_pipeline.save(tmp_path / "broken")
    weights = next((broken / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(PipelineError, match="does not load"):
        films(broken)


def test_a_hub_name_is_found_in_the_local_cache_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    cached = tmp_path / "hub" / "models--Org--Tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / "abc").symlink_to(folder)
    assert place("Org/Tiny").samefile(folder)
    assert place("Org/Absent") == Path("Org/Absent")
    assert films(Path("Org/Tiny")).film("a ball", 1) == films(folder).film("a ball", 1)
