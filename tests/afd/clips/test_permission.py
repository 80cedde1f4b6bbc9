"""Whether clips may be trained on is asked of their own records, whatever params say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from afd.artifacts import Artifact
from afd.clips import packs
from afd.clips.library import StoredClip, clip_paths
from afd.clips.lookup import find_clips
from afd.clips.permission import NotPermittedError, PermitError, permit, refuse_clips
from afd.clips.requests import clip_request, teacher_spec
from afd.clips.shards import read_table
from afd.config import FolderTeacher, Params
from afd.config.teachers import Terms
from afd.harvest.folder.importing import import_folder
from afd.harvest.folder.reading import FolderError, read_folder
from afd.harvest.inspect_clip import ClipInspector
from afd.harvest.provenance import InspectionResult
from afd.harvest.restore import revalidate
from afd.params import load_params
from afd.prompts import Prompt, prompt_id
from afd.runtime.outcome import status_of
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from afd.teachers.build import build
from flows.inputs import chosen_params
from flows.paths import CampaignPaths

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
TERMS = Terms(url="https://example.com/terms", date="2026-11-26")


def folder_teacher(videos: Path | None, permitted: str, clips: int = 1) -> FolderTeacher:
    return FolderTeacher.model_validate(
        {
            "kind": "folder",
            "name": "my-clips",
            "path": None if videos is None else str(videos),
            "clips_per_prompt": clips,
            "training_permitted": permitted,
            "terms": TERMS.model_dump(mode="json"),
            "min_clip_share": 1.0,
        }
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with sidecars of the first two rounds' prompts, by the simulator."""
    tiny, root = load_params(Params, TINY), tmp_path_factory.mktemp("films")
    store, simulator = Store(root / "store"), build(tiny.teacher, tiny.num_frames, tiny.fps)
    prompt_set = execute(requests.prompts(tiny), store).ref
    videos = root / "videos"
    videos.mkdir()
    clips = [
        execute(requests.harvest_round(tiny, prompt_set, index), store)
        for index in range(tiny.num_rounds)
    ]
    texts = [text for made in clips for text in read_table(made.path)["prompt"]]
    for number, text in enumerate(dict.fromkeys(texts)):
        (videos / f"{number}.mp4").write_bytes(simulator.film(text, number))
        (videos / f"{number}.txt").write_text(text)
    return videos


def params_with(teacher: FolderTeacher) -> Params:
    tiny = load_params(Params, TINY).model_dump(mode="json")
    return Params.model_validate(tiny | {"teacher": teacher.model_dump(mode="json")})


def harvested(store: Store, params: Params) -> Artifact:
    prompt_set = execute(requests.prompts(params), store).ref
    return execute(requests.harvest_round(params, prompt_set, 0), store)


def chosen(tmp_path: Path, store: Store, teacher: FolderTeacher) -> Params:
    """As `afd campaign` reads its params, before it starts anything."""
    import yaml

    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"teacher": teacher.model_dump(mode="json")}))
    return chosen_params("x", CampaignPaths(tmp_path / "runs", store.root), TINY, [overlay])


@pytest.mark.parametrize("permitted", ["no", "unknown"])
def test_what_was_imported_as_forbidden_is_not_trained_on_whatever_params_say(
    tmp_path: Path, films: Path, permitted: str
) -> None:
    store = Store(tmp_path / "store")
    import_folder(store, folder_teacher(films, permitted))
    generous = folder_teacher(films, "yes")  # params alone would have let it pass
    with pytest.raises(NotPermittedError, match=f"training_permitted: {permitted}") as told:
        chosen(tmp_path, store, generous)
    assert "folder/my-clips" in str(told.value) and "afd harvest permit" in str(told.value)
    assert not (tmp_path / "runs").exists() and not (store.root / "prompt_set").exists()

    clips = harvested(store, params_with(generous))  # harvesting always may
    params = params_with(generous)
    student = execute(requests.warmstart(params, _prompt_set(params, store)), store)
    rollouts = execute(requests.rollout(params, _prompt_set(params, store), student.ref, 0), store)
    fit = requests.fit(params, [clips.ref], [rollouts.ref], None, 0)
    with pytest.raises(NotPermittedError) as refused:
        execute(fit, store)
    assert status_of(refused.value) == "refused"
    supervised = params.model_copy(
        update={"update": params.update.model_copy(update={"objective": "supervised"})}
    )
    update = requests.update(supervised, [clips.ref], None, None, student.ref, student.ref, 0)
    with pytest.raises(NotPermittedError):
        execute(update, store)

    assert permit(store, "folder/my-clips", "yes", TERMS) == len(clip_paths(store))
    assert chosen(tmp_path, store, generous).teacher == generous
    execute(fit, store)  # the very clips that were harvested before
    assert permit(store, "folder/my-clips", "yes", TERMS) == 0
    permit(store, "folder/my-clips", "no", TERMS)  # terms can change again
    with pytest.raises(NotPermittedError):
        refuse_clips(store, clips)


def _prompt_set(params: Params, store: Store) -> Any:
    return execute(requests.prompts(params), store).ref


def test_a_single_forbidden_clip_is_named(tmp_path: Path, films: Path) -> None:
    store = Store(tmp_path / "store")
    teacher = folder_teacher(films, "yes")
    import_folder(store, teacher)
    clips = harvested(store, params_with(teacher))
    refuse_clips(store, clips)
    key = read_table(clips.path)["key"][2]
    note = StoredClip(key, clip_paths(store)[key])
    note.restate({"training_permitted": "no"})
    with pytest.raises(NotPermittedError, match=f"clip {key[:12]} of folder/my-clips: its own"):
        refuse_clips(store, clips)
    said = json.loads(note.note.read_bytes())
    del said["training_permitted"]  # a record that says nothing does not say yes
    note.note.write_text(json.dumps(said))
    with pytest.raises(NotPermittedError, match="training_permitted: unknown"):
        refuse_clips(store, clips)


def test_a_clone_asks_the_rows_of_its_shards_and_can_be_cured(tmp_path: Path, films: Path) -> None:
    store = Store(tmp_path / "store")
    import_folder(store, folder_teacher(films, "no"))
    generous = params_with(folder_teacher(None, "yes"))
    clips = harvested(store, generous)
    for name in ("clips", "harvest"):  # a clone that pulled has artifacts only
        shutil.rmtree(store.root / name)
    with pytest.raises(NotPermittedError):
        refuse_clips(store, clips)
    with pytest.raises(PermitError, match="pack --unpack"):
        permit(store, "folder/my-clips", "yes", TERMS)
    assert packs.unpack(store) == 4
    assert permit(store, "folder/my-clips", "yes", TERMS) == 4
    refuse_clips(store, clips)


def test_params_of_a_campaign_never_restate_what_an_import_said(
    tmp_path: Path, films: Path
) -> None:
    store = Store(tmp_path / "store")
    import_folder(store, folder_teacher(films, "no"))
    import_folder(store, folder_teacher(films, "yes"))  # as a stage does it
    notes = [
        StoredClip(*kept).provenance["training_permitted"] for kept in clip_paths(store).items()
    ]
    assert set(notes) == {"no"}
    done = import_folder(store, folder_teacher(films, "yes"), restating=True)  # as a person does
    assert (done.num_new, done.num_restated) == (0, len(notes))
    for kept in clip_paths(store).items():
        about = StoredClip(*kept).provenance
        assert about["training_permitted"] == "yes"
        assert [said["training_permitted"] for said in about["earlier"]] == ["no"]


def test_a_bare_yes_in_yaml_or_on_the_command_line_is_yes(tmp_path: Path) -> None:
    for said in ("yes", "'yes'", "true"):
        read = load_params(Params, TINY, (), [f"teacher.training_permitted={said}"])
        assert read.teacher.training_permitted == "yes"
    assert load_params(Params, TINY, (), ["teacher.training_permitted=no"]).teacher == (
        load_params(Params, TINY).teacher.model_copy(update={"training_permitted": "no"})
    )


def test_splits_are_shared_out_by_the_captions_alone(tmp_path: Path, films: Path) -> None:
    def splits(root: Path, num_held_out: int | None = None) -> dict[str, str]:
        done = import_folder(
            Store(tmp_path / root.name),
            folder_teacher(root, "yes"),
            sharing=True,
            num_held_out=num_held_out,
        )
        return {prompt.text: prompt.split for prompt in done.prompts.values()}

    shared = splits(films)
    assert sorted(shared.values()).count("held_out") == 2
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, sidecar in enumerate(sorted(films.glob("*.txt"), reverse=True)):
        shutil.copy(sidecar, renamed / f"x{number}.txt")
        shutil.copy(sidecar.with_suffix(".mp4"), renamed / f"x{number}.mp4")
    assert splits(renamed) == shared
    assert list(splits(renamed, 3).values()).count("held_out") == 3
    needed = f"{len(shared)} usable captions, {len(shared) + 1} are needed"
    with pytest.raises(FolderError, match=needed):
        splits(films, len(shared))

    few = tmp_path / "few"
    few.mkdir()
    film = min(films.glob("*.mp4"))
    shutil.copy(film, few / "a.mp4")
    listed = [{"file_name": name, "caption": f"caption of {name}"} for name in ("a.mp4", "c.mp4")]
    (few / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    with pytest.raises(FolderError) as refused:
        splits(few)
    assert "1 usable caption, 3 are needed" in str(refused.value)
    assert "c.mp4: it is not in the folder" in str(refused.value)

    chosen = {file.name: n % 2 for n, file in enumerate(sorted(films.glob("*.mp4")))}
    rows = [
        {"file_name": name, "caption": (films / name).with_suffix(".txt").read_text(),
         "split": "held_out" if held_out else "train"}
        for name, held_out in chosen.items()
    ]  # fmt: skip
    told = tmp_path / "told"
    shutil.copytree(films, told)
    (told / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert splits(told) == {row["caption"]: row["split"] for row in rows}
    with pytest.raises(FolderError, match="leave --held-out out"):
        splits(told, 2)
    del rows[0]["split"]
    (told / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(FolderError, match="has no split while others have one"):
        splits(told)


def test_a_caption_with_one_sound_video_has_a_first_sample(
    tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is put aside beside it; and what comes back from there takes nobody's place."""
    videos, store, caption = tmp_path / "videos", Store(tmp_path / "store"), "a ball"
    videos.mkdir()

    def add(name: str, film: str) -> None:
        shutil.copy(films / film, videos / f"{name}.mp4")
        (videos / f"{name}.txt").write_text(caption)

    def samples() -> dict[int, str]:
        notes = [StoredClip(*kept).provenance for kept in clip_paths(store).items()]
        return {note["sample"]: note["original"] for note in notes}

    judged = ClipInspector._inspect

    def judge(self: ClipInspector, file: Path) -> InspectionResult:
        return InspectionResult("too odd") if file.name == "a.mp4" else judged(self, file)

    monkeypatch.setattr(ClipInspector, "_inspect", judge)
    add("a", "0.mp4")
    add("b", "1.mp4")
    done = import_folder(store, folder_teacher(videos, "yes"))
    assert done.num_new == 1 and list(done.refused) == ["a.mp4"]
    assert done.refused["a.mp4"].startswith("too odd (video/mp4, ")
    assert samples() == {0: "b.mp4"}
    teacher = folder_teacher(None, "yes")
    request = clip_request(
        teacher_spec(teacher).digest, Prompt(prompt_id(caption), caption, "train"), 0
    )
    assert request.request_id in find_clips(store, teacher_spec(teacher), [request])
    add("c", "2.mp4")
    done = import_folder(store, folder_teacher(videos, "yes"))
    assert (done.num_new, done.num_known) == (1, 1)
    assert samples() == {0: "b.mp4", 1: "c.mp4"}
    restored, _ = revalidate(store)
    assert len(restored) == 1 and len(restored[0].provenance) == 2
    assert samples() == {0: "b.mp4", 1: "c.mp4", 2: "a.mp4"}
    assert import_folder(store, folder_teacher(videos, "yes")).num_known == 3


def test_a_film_that_was_imported_before_does_not_come_back_on_the_other_side(
    tmp_path: Path, films: Path
) -> None:
    videos, store = tmp_path / "videos", Store(tmp_path / "store")
    videos.mkdir()
    film = (films / "0.mp4").read_bytes()
    (videos / "a.mp4").write_bytes(film)
    rows = [{"file_name": "a.mp4", "caption": "a ball", "split": "train"}]
    (videos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert import_folder(store, folder_teacher(videos, "yes")).num_new == 1
    (videos / "b.mp4").write_bytes(film + b"\0\0\0\x08free")  # the same pictures, other bytes
    rows.append({"file_name": "b.mp4", "caption": "another ball", "split": "held_out"})
    (videos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(FolderError, match="show the same"):
        import_folder(store, folder_teacher(videos, "yes"))
    assert len(clip_paths(store)) == 1


def test_one_film_under_two_captions_is_told_and_never_on_both_sides(
    tmp_path: Path, films: Path
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(films, videos)
    shutil.copy(videos / "0.mp4", videos / "again.mp4")
    (videos / "again.txt").write_text("another caption")
    assert read_folder(videos).ambivalent == [["0.mp4", "again.mp4"]]
    done = import_folder(Store(tmp_path / "store"), folder_teacher(videos, "yes"))
    assert done.ambivalent == [["0.mp4", "again.mp4"]]
    caption = (videos / "0.txt").read_text()
    rows = [
        {"file_name": "0.mp4", "caption": caption, "split": "train"},
        {"file_name": "again.mp4", "caption": "another caption", "split": "held_out"},
    ]
    (videos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(FolderError, match="show the same"):
        read_folder(videos)
