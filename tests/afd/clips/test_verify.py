"""Missing, unexpected and wrong, all at once; packs that come and go with every byte."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from afd.clips import packs, quarantine
from afd.clips.library import add_file, clip_paths, find_clip
from afd.clips.requests import TeacherSpec, clip_request, order_key
from afd.clips.shards import TABLE, TAR, read_shard, write_shard
from afd.clips.verify import verify
from afd.harvest import restore
from afd.harvest.ledger import Ledger
from afd.prompts import Prompt
from afd.store import Store, StoreError
from afd.video.encode import encode

NUM_CLIPS = 7


def key(number: int) -> str:
    return f"{number:02x}" + "0" * 62


def video(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (2, 16, 16, 3))
    return encode(noise.astype(np.uint8), 16)


def note(number: int) -> dict:
    return {"key": key(number), "prompt": f"a ball, {number}", "prompt_id": f"p{number}", "seed": 5}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.root.mkdir()
    for number in range(NUM_CLIPS):
        file = made.root / "incoming.mp4"
        file.write_bytes(video(number))
        add_file(made, key(number), file, note(number))
    aside = made.root / "aside"
    aside.write_bytes(b"<html>")
    quarantine.put(made, aside, "HTML", {"key": "k"})
    return made


def clip(store: Store, number: int) -> Path:
    found = find_clip(store, key(number))
    assert found is not None
    return found.path


def damage(path: Path, place: int = 200) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def told(store: Store, verified: tuple[str, ...] = ()) -> set[tuple[str, str]]:
    found = verify(store, verified, num_threads=2)
    return {
        (finding.kind, finding.path.relative_to(store.root).as_posix())
        for finding in found.findings
    }


def test_a_whole_store_is_whole(store: Store) -> None:
    packs.pack(store, clips_per_shard=3)
    found = verify(store, [key(number) for number in range(NUM_CLIPS)])
    assert found.is_whole
    assert found.num_files == NUM_CLIPS + 1 + 2 * 3  # clips, quarantine, three packs of two files


def test_everything_that_is_wrong_is_told_at_once(store: Store) -> None:
    packs.pack(store, clips_per_shard=4)
    first, second = packs.pack_folders(store)
    rows = read_shard(first)
    damage(first / TAR, rows[1]["offset"] + 5)
    (second / TAR).unlink()
    lost, changed = clip(store, 2), clip(store, 3)
    lost.unlink()
    damage(changed)
    (store.clips / "stray.txt").write_text("?")
    (store.clips / "00" / "stranger.mp4").write_bytes(video(9))
    (entry,) = quarantine.entries(store)
    entry.path.write_bytes(b"other")
    (quarantine.folder(store) / "f00.bin").write_bytes(b"whose?")
    place = lost.relative_to(store.root).as_posix()
    assert told(store, (key(2), key(6), "ff" + "0" * 62)) == {
        ("missing", place),
        ("wrong", changed.relative_to(store.root).as_posix()),
        ("unexpected", "clips/stray.txt"),
        ("unexpected", "clips/00/stranger.mp4"),
        ("wrong", entry.path.relative_to(store.root).as_posix()),
        ("unexpected", "quarantine/f00.bin"),
        ("wrong", (first / TAR).relative_to(store.root).as_posix()),
        ("missing", (second / TAR).relative_to(store.root).as_posix()),
        ("missing", "clips/ff/ff" + "0" * 62 + ".*.mp4"),
    }


def test_a_member_without_a_row(store: Store, tmp_path: Path) -> None:
    packs.pack(store)
    (folder,) = packs.pack_folders(store)
    rows = read_shard(folder)
    other = tmp_path / "other"
    other.mkdir()
    write_shard(other, rows[:-1])
    shutil.copy(other / TABLE, folder / TABLE)
    assert [kind for kind, _ in told(store)] == ["unexpected"]


def test_packs_hold_every_clip_with_its_provenance(store: Store) -> None:
    made = packs.pack(store, clips_per_shard=3)
    assert (made.num_clips, made.num_before, len(made.folders)) == (NUM_CLIPS, 0, 3)
    rows = [row for folder in packs.pack_folders(store) for row in read_shard(folder)]
    assert {row["key"]: row["bytes"] for row in rows} == {
        key(number): video(number) for number in range(NUM_CLIPS)
    }
    assert all(json.loads(row["provenance"]) == note(int(row["key"][:2], 16)) for row in rows)
    assert packs.pack(store).num_clips == 0

    file = store.root / "incoming.mp4"
    file.write_bytes(video(20))
    add_file(store, key(20), file, note(20))
    later = packs.pack(store)
    assert (later.num_clips, later.num_before) == (1, NUM_CLIPS)


def test_another_clone_gets_everything_back_from_packs(store: Store, tmp_path: Path) -> None:
    packs.pack(store, clips_per_shard=3)
    clone = Store(tmp_path / "clone")
    shutil.copytree(store.root / "packs", clone.root / "packs")
    assert packs.unpack(clone) == NUM_CLIPS
    assert packs.unpack(clone) == 0
    for number in range(NUM_CLIPS):
        found = find_clip(clone, key(number))
        assert found is not None
        assert found.read() == video(number)
        assert found.provenance == note(number)
    assert verify(clone, clip_paths(store).keys()).is_whole


def test_a_changed_clip_is_not_packed(store: Store) -> None:
    path = clip(store, 4)
    damage(path)
    with pytest.raises(StoreError, match="changed on disk"):
        packs.pack(store, clips_per_shard=3)
    assert len(packs.pack_folders(store)) == 1  # the first three were finished before


def test_a_kill_in_the_middle_leaves_finished_packs_and_nothing_else(store: Store) -> None:
    """A real process, killed while it writes its third pack; the next call makes the rest."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from afd.clips import packs\n"
        "from afd.store import Store\n"
        "whole = packs.write_shard\n"
        "count = 0\n"
        "def dying(folder, rows):\n"
        "    global count\n"
        "    count += 1\n"
        "    whole(folder, rows)\n"
        "    if count == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "packs.write_shard = dying\n"
        "packs.pack(Store(Path(sys.argv[1])), clips_per_shard=2)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(store.root)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(packs.pack_folders(store)) == 2
    assert verify(store).is_whole
    assert packs.pack(store, clips_per_shard=2).num_before == 4
    assert verify(store).is_whole
    rows = [row["key"] for folder in packs.pack_folders(store) for row in read_shard(folder)]
    assert sorted(rows) == sorted(clip_paths(store))


def test_many_clips_are_a_reason_to_pack() -> None:
    assert not packs.worth_packing(1000)
    assert packs.worth_packing(50_000)


def test_notes_that_are_broken_or_gone_are_found_and_written_anew(store: Store) -> None:
    """A pack knows them whole; a clip without a pack, an order or a note stays named."""
    packs.pack(store)
    late = store.root / "incoming.mp4"
    late.write_bytes(video(NUM_CLIPS))
    add_file(store, key(NUM_CLIPS), late, note(NUM_CLIPS))
    notes = [clip(store, number).with_suffix(".json") for number in range(NUM_CLIPS + 1)]
    notes[0].write_text("{")
    notes[1].write_text("[1]")
    notes[2].unlink()
    notes[3].write_text(json.dumps(note(4)))
    notes[NUM_CLIPS].unlink()
    aside = next(quarantine.folder(store).glob("*.json"))
    aside.write_text("{}")
    assert told(store) == {
        *(("wrong", path.relative_to(store.root).as_posix()) for path in (*notes[:2], notes[3])),
        *(
            ("missing", path.relative_to(store.root).as_posix())
            for path in (notes[2], notes[NUM_CLIPS])
        ),
        ("wrong", aside.relative_to(store.root).as_posix()),
    }
    with pytest.raises(StoreError, match="its note is missing") as refused:
        packs.pack(store)
    assert "afd harvest verify --mend" in str(refused.value)
    assert restore.mend_notes(store) == 4
    for number in range(4):
        assert json.loads(notes[number].read_bytes()) == note(number)
    assert {path for _, path in told(store)} == {
        notes[NUM_CLIPS].relative_to(store.root).as_posix(),
        aside.relative_to(store.root).as_posix(),
    }
    notes[NUM_CLIPS].write_bytes(b"\xff")
    with pytest.raises(StoreError, match="cannot be read"):
        packs.pack(store)


def test_a_note_that_only_the_ledger_can_tell_says_unknown_of_its_terms(tmp_path: Path) -> None:
    made = Store(tmp_path / "store")
    asked = TeacherSpec("folder", "mine", {}, None, None, None, seeded=False)
    request = clip_request(asked.digest, Prompt("p1", "a ball", "train", "balls"), 0)
    file = tmp_path / "v.mp4"
    file.write_bytes(video(1))
    with Ledger(made.root) as ledger:
        ledger.add_delivered(asked, request, json.dumps({"fps": 16.0}))
    kept_clip = add_file(made, order_key(request.request_id, 0, seeded=False), file, {})
    assert restore.mend_notes(made) == 1
    about = kept_clip.provenance
    assert (about["prompt"], about["category"], about["fps"]) == ("a ball", "balls", 16.0)
    assert about["training_permitted"] == "unknown" and verify(made).is_whole
