"""What is put aside stays with its reason, comes back when it is judged anew, and is never lost."""

import errno
import gzip
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from afd.clips import quarantine
from afd.store import Store, StoreError
from afd.video.encode import encode
from afd.video.mp4_boxes import ClipError, outline

HTML = b"<!DOCTYPE html>\x1b[31m<html>" + bytes(200)
BROKEN = b"\x00\x00\x00\x18ftypmp42" + bytes(range(256))  # a video that is none


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def delivered(folder: Path, data: bytes = HTML, name: str = "d.mp4") -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


def test_a_file_with_its_reason_and_where_it_came_from(store: Store, tmp_path: Path) -> None:
    file = delivered(tmp_path)
    entry = quarantine.put(store, file, "HTML", {"key": "k1"})
    assert not file.exists() and "DOCTYPE" in entry.first_bytes
    assert list(quarantine.entries(store)) == [entry]
    video = quarantine.put(store, delivered(tmp_path, BROKEN), "cut short", {"key": "k2"})
    assert video.path.read_bytes() == BROKEN


@pytest.mark.parametrize(
    "page",
    [
        b"<html>login sk-CANARY0123456789</html>",
        b"  \n<Error><Url>https://x/?sig=sk-CANARY0123456789</Url></Error>" + bytes(9),
        b'{"key": "sk-CANARY0123456789"}',
        b'["sk-CANARY0123456789"]',
        b"sk-CANARY0123456789",
        b"#EXTM3U\nhttps://x/?sig=sk-CANARY0123456789\n",
        "sk-CANARY0123456789 \u00fcber".encode(),
        "\ufeff<Error>sk-CANARY0123456789</Error>".encode("utf-16"),
        '{"key": "sk-CANARY0123456789"}'.encode("utf-16-be"),
        gzip.compress(b"<html>sk-CANARY0123456789</html>", mtime=0),
        zlib.compress(b"no such key: sk-CANARY0123456789"),
        gzip.compress(gzip.compress(b"<html>sk-CANARY0123456789</html>", mtime=0), mtime=0),
        b"\x1b[31msk-CANARY0123456789\x1b[0m" * 100_000,
        b"\x82\xa3key\xb4sk-CANARY0123456789\x00",  # msgpack: no text, but it holds the key
    ],
)
def test_a_page_is_kept_as_delivered_and_its_note_holds_no_secret(
    store: Store, tmp_path: Path, page: bytes
) -> None:
    with pytest.raises(ClipError) as told:
        outline(io.BytesIO(page), 10**6)
    canary = ("sk-CANARY0123456789",)
    entry = quarantine.put(store, delivered(tmp_path, page), str(told.value), {"key": "k"}, canary)
    assert entry.path.read_bytes() == page
    assert entry.path.stat().st_mode & 0o077 == 0
    note = entry.path.with_suffix(".json").read_text()
    for text in (note, str(told.value), entry.description):
        assert "CANARY" not in text and "sk-" not in text and "://" not in text
    assert f"{len(page)} bytes, sha256 {entry.sha256}" in entry.description


@pytest.mark.parametrize(
    ("came", "type_", "words"),
    [
        (b"<!DOCTYPE html><html>Sign in", "text/html", "Sign in"),
        (b'{"error": "try https://a.b/c?sig=1"}', "application/json", "<url>"),
        (b"quota exceeded", "text/plain", "quota exceeded"),
        ("\ufeffover".encode("utf-16-le"), "text/plain", "over"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "image/png", "PNG"),
        (bytes(range(200, 256)), "application/octet-stream", ""),
    ],
)
def test_a_message_shows_type_size_and_first_words(
    store: Store, tmp_path: Path, came: bytes, type_: str, words: str
) -> None:
    entry = quarantine.put(store, delivered(tmp_path, came), "?", {"key": "k"})
    assert entry.description.startswith(f"{type_}, {len(came)} bytes")
    assert words in entry.first_bytes
    assert "://" not in entry.description


FILM = encode(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8), 16)


def wrapped_in_gzip(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = gzip.compress(data, 1, mtime=0)
    return data


def flipped(data: bytes, *places: int) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize(
    "came",
    [
        FILM,
        FILM[: len(FILM) // 3],
        FILM[:40],
        flipped(FILM, 4, 5, 6, 7),  # no ftyp any more
        b"<" + FILM,  # begins like a page
        b"#" + flipped(FILM, 3, 4),
        b"\x1aE\xdf\xa3" + bytes(range(256)),
        b"RIFF\x10\x00\x00\x00AVI LIST" + bytes(range(256)),
        b"G@\x00\x10" + bytes(range(256)),  # a transport stream
        gzip.compress(FILM, mtime=0),
        gzip.compress(b"<html>a page, and behind it a film</html>", mtime=0) + FILM,
        wrapped_in_gzip(b"<html>deeper than anybody wraps a page</html>", 1200),
        np.random.default_rng(2).bytes(1 << 21),
    ],
)
def test_whatever_could_be_a_clip_stays_as_it_came(
    store: Store, tmp_path: Path, came: bytes
) -> None:
    entry = quarantine.put(store, delivered(tmp_path, came), "?", {"key": "k"}, ("sk-CANARY",))
    assert entry.path.read_bytes() == came


def test_equal_bytes_are_kept_once_with_everybodys_provenance(store: Store, tmp_path: Path) -> None:
    for key in ("k1", "k2", "k1"):
        quarantine.put(store, delivered(tmp_path), "HTML", {"key": key})
    (entry,) = quarantine.entries(store)
    assert [origin["key"] for origin in entry.provenance] == ["k1", "k2"]
    assert len(list(quarantine.folder(store).glob("*.bin"))) == 1


def test_after_a_policy_change_what_is_sound_goes_back(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        quarantine.put(store, delivered(tmp_path, bytes([number])), "too short", {"key": number})
    back = tmp_path / "clips"
    back.mkdir()

    def restore(entry: quarantine.Entry) -> None:
        entry.path.rename(back / entry.path.name)

    def problem_of(entry: quarantine.Entry) -> str | None:
        return None if entry.path.read_bytes() == b"\x01" else "still too short"

    restored, remaining = quarantine.revalidate(store, problem_of, restore)
    assert [entry.provenance[0]["key"] for entry in restored] == [1]
    assert [entry.sha256 for entry in quarantine.entries(store)] == [e.sha256 for e in remaining]
    assert {entry.reason for entry in quarantine.entries(store)} == {"still too short"}
    assert [path.read_bytes() for path in back.iterdir()] == [b"\x01"]
    notes = list((quarantine.folder(store) / "restored").iterdir())
    assert [json.loads(note.read_bytes())["reason"] for note in notes] == ["too short"]
    assert quarantine.revalidate(store, problem_of, restore)[0] == []


def test_changed_bytes_and_broken_notes_are_named(store: Store, tmp_path: Path) -> None:
    entry = quarantine.put(store, delivered(tmp_path), "HTML", {})
    entry.path.write_bytes(b"somebody was here")
    with pytest.raises(StoreError, match="not those that were put aside"):
        quarantine.revalidate(store, lambda entry: None, lambda entry: None)
    entry.path.with_suffix(".json").write_text("{")
    with pytest.raises(StoreError, match="the file beside it is kept"):
        list(quarantine.entries(store))


def test_a_kill_between_note_and_file_loses_nothing(store: Store, tmp_path: Path) -> None:
    """The note stands first: without its file there is no entry, and the order may try again."""
    entry = quarantine.put(store, delivered(tmp_path), "HTML", {"key": "k"})
    file = tmp_path / "d.mp4"
    entry.path.rename(file)
    assert list(quarantine.entries(store)) == []
    assert list(quarantine.entries(store)) == [] and file.exists()
    again = quarantine.put(store, file, "HTML", {"key": "k"})
    assert again.provenance == ({"key": "k"},)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_delivery_where_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = delivered(tmp_path, BROKEN)
    real = os.fsync

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(store.root))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        quarantine.put(store, file, "cut short", {})
    monkeypatch.setattr(os, "fsync", real)
    assert file.read_bytes() == BROKEN
    assert quarantine.put(store, file, "cut short", {}).path.read_bytes() == BROKEN
