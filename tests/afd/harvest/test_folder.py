"""Folders of finished videos: the usual layouts, and every kind of hostile name and table."""

import csv
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from afd.harvest.folder.reading import Folder, FolderError, leaks, read_folder
from afd.video.encode import encode


def video(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (2, 16, 16, 3))
    return encode(noise.astype(np.uint8), 16)


def fill(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(video(number))


def reasons(folder: Folder) -> dict[str, str]:
    return {refused.name: refused.reason for refused in folder.refused}


ROWS = [
    {"file_name": "a.mp4", "caption": "a red ball", "split": "train"},
    {"file_name": "deep/b.mp4", "caption": "b, \u201cquoted\u201d", "split": "held_out"},
]


def write_jsonl(root: Path) -> None:
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")


def write_csv(root: Path) -> None:
    with (root / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "caption", "split"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(root: Path) -> None:
    pd.DataFrame(ROWS).assign(other=b"bytes").to_parquet(root / "metadata.parquet")


def write_lists(root: Path) -> None:
    (root / "prompt.txt").write_text("".join(f"{row['caption']}\n" for row in ROWS))
    (root / "videos.txt").write_text("".join(f"{row['file_name']}\n" for row in ROWS))


def write_sidecars(root: Path) -> None:
    (root / "a.txt").write_text("a red ball\n")
    (root / "deep/b.json").write_text(json.dumps({"prompt": ROWS[1]["caption"], "split": "eval"}))


@pytest.mark.parametrize(
    "layout", [write_jsonl, write_csv, write_parquet, write_lists, write_sidecars]
)
def test_layouts(tmp_path: Path, layout) -> None:
    fill(tmp_path, "a.mp4", "deep/b.mp4")
    (tmp_path / ".hidden.mp4").write_bytes(b"nobody's")
    layout(tmp_path)
    folder = read_folder(tmp_path)
    assert [(clip.name, clip.caption) for clip in folder.clips] == [
        (row["file_name"], row["caption"]) for row in ROWS
    ]
    assert [clip.path.read_bytes() for clip in folder.clips] == [video(0), video(1)]
    assert (folder.refused, folder.num_duplicates) == ((), 0)
    if layout not in (write_lists, write_sidecars):
        assert [clip.split for clip in folder.clips] == ["train", "held_out"]


def test_captions_are_never_guessed(tmp_path: Path) -> None:
    fill(tmp_path, "a red ball falls.mp4", "b.mp4")
    with pytest.raises(FolderError, match="never guessed from file names"):
        read_folder(tmp_path)
    (tmp_path / "b.txt").write_text("a blue ball")
    folder = read_folder(tmp_path)
    assert [clip.name for clip in folder.clips] == ["b.mp4"]
    assert "no caption" in reasons(folder)["a red ball falls.mp4"]


def test_two_layouts_are_a_question(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "deep/b.mp4")
    write_jsonl(tmp_path)
    write_lists(tmp_path)
    with pytest.raises(FolderError, match=r"metadata.jsonl, prompt.txt \+ videos.txt.*Keep one"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.csv", b'file_name,caption\n"a.mp4,x\n', "cannot be read"),
        ("metadata.csv", b"file_name,caption\n\xff\xfe,x\n", "cannot be read"),
        ("metadata.parquet", b"PAR1 of nothing", "cannot be read"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    fill(tmp_path, "a.mp4")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError, match=told):
        read_folder(tmp_path)


def test_lists_of_other_lengths_are_not_paired(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    (tmp_path / "prompt.txt").write_text("one\ntwo\n")
    (tmp_path / "videos.txt").write_text("a.mp4\n")
    with pytest.raises(FolderError, match=r"2 lines, videos\.txt 1"):
        read_folder(tmp_path)


def test_each_bad_row_has_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    bad = [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('"a.mp4"', "no object"),
        ('{"file_name": "a.mp4"}', "exactly one of caption"),
        ('{"file_name": "a.mp4", "caption": "x", "text": "y"}', "caption and text"),
        ('{"file_name": "a.mp4", "path": "b.mp4", "caption": "x"}', "file_name and path"),
        ('{"file_name": ["a.mp4"], "caption": "x"}', "is no text"),
        ('{"file_name": "a.mp4", "caption": NaN}', "is no text"),
        ('{"file_name": "a.mp4", "caption": "x", "split": ["train"]}', "split"),
        ('{"file_name": "a.mp4", "caption": "x", "split": "trian"}', "write train or held_out"),
        ('{"file_name": "a.mp4", "caption": "x\\u202ey"}', "control character"),
        ('{"file_name": "a.mp4", "caption": "   "}', "empty"),
        ('{"file_name": "a.mp4", "caption": "x", "category": {"a": 1}}', "category"),
        ('{"file_name": "gone.mp4", "caption": "x"}', "it is not in the folder"),
        ('{"file_name": "/etc/passwd", "caption": "x"}', "inside the folder"),
        ('{"file_name": "../up.mp4", "caption": "x"}', "inside the folder"),
        ('{"file_name": "C:\\\\a.mp4", "caption": "x"}', "inside the folder"),
        ('{"file_name": "a\\u0000.mp4", "caption": "x"}', "control"),
        ('{"file_name": "\\ud800.mp4", "caption": "x"}', "UTF-8"),
    ]
    good = json.dumps({"file_name": "a.mp4", "caption": "${oc.env:HOME} stays as it is"})
    (tmp_path / "metadata.jsonl").write_text("\n".join([line for line, _ in bad] + [good]))
    folder = read_folder(tmp_path)
    assert [clip.caption for clip in folder.clips] == ["${oc.env:HOME} stays as it is"]
    assert len(folder.refused) == len(bad)
    said = [refused.reason for refused in folder.refused]
    for _, told in bad:
        assert any(told in reason for reason in said), told


def test_names_that_bite(tmp_path: Path) -> None:
    """Each is refused by itself; none is opened, followed, or waited for."""
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(video(9))
    root = tmp_path / "folder"
    root.mkdir()
    fill(root, "good.mp4", "new\nline.mp4", "\u202egpm.mp4", "Case.mp4", "case.mp4")
    accents = [unicodedata.normalize(form, "\u00e9.mp4") for form in ("NFC", "NFD")]
    fill(root, *accents)
    (root / "inner.mp4").symlink_to("good.mp4")
    (root / "out.mp4").symlink_to(outside)
    (root / "ring.mp4").symlink_to("ring.mp4")
    (root / "zero.mp4").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.mp4")
    (root / "folder.mp4").mkdir()
    names = [path.name for path in root.iterdir()]
    for name in names:
        (root / name).with_suffix(".txt").write_text(f"caption of {name!a}".replace("\\", "/"))
    folder = read_folder(root)
    assert sorted(clip.name for clip in folder.clips) == ["good.mp4", "inner.mp4"]
    said = reasons(folder)
    assert "control" in said["new\nline.mp4"] and "control" in said["\u202egpm.mp4"]
    assert "only in case" in said["Case.mp4"] and "only in case" in said["case.mp4"]
    assert all("accents" in said[name] for name in accents)
    assert "leads out" in said["out.mp4"] and "leads out" in said["zero.mp4"]
    assert "cannot be read" in said["ring.mp4"]
    assert "not a plain file" in said["pipe.mp4"]


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_a_caption_that_links_out_is_not_read(tmp_path: Path, suffix: str) -> None:
    secret = tmp_path / f"secret{suffix}"
    secret.write_text(json.dumps({"caption": "the key"}) if suffix == ".json" else "the key")
    root = tmp_path / "folder"
    fill(root, "a.mp4", "b.mp4")
    (root / "a.txt").write_text("a ball")
    (root / f"b{suffix}").symlink_to(secret)
    folder = read_folder(root)
    assert [clip.caption for clip in folder.clips] == ["a ball"]
    assert "leads out" in reasons(folder)["b.mp4"]


@pytest.mark.parametrize("layout", [write_jsonl, write_csv, write_parquet, write_lists])
def test_a_table_that_links_out_is_not_read(tmp_path: Path, layout) -> None:
    outside, root = tmp_path / "outside", tmp_path / "folder"
    fill(root, "a.mp4", "deep/b.mp4")
    outside.mkdir()
    layout(outside)
    for file in outside.iterdir():
        (root / file.name).symlink_to(file)
    with pytest.raises(FolderError, match="leads out"):
        read_folder(root)


def test_equal_clips_are_kept_once_and_never_on_both_sides(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "again.mp4").write_bytes(video(0))

    def rows(*given: tuple[str, str, str]) -> None:
        named = [dict(zip(("file", "prompt", "split"), row, strict=True)) for row in given]
        lines = [json.dumps(row) for row in named]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))

    rows(("a.mp4", "x", "train"), ("again.mp4", "x", "train"), ("b.mp4", "y", "held_out"))
    folder = read_folder(tmp_path)
    assert [clip.name for clip in folder.clips] == ["a.mp4", "b.mp4"]
    assert folder.num_duplicates == 1

    rows(("a.mp4", "x", "train"), ("again.mp4", "z", "held_out"), ("b.mp4", "x", "held_out"))
    with pytest.raises(FolderError) as told:
        read_folder(tmp_path)
    assert len(told.value.problems) == 2  # by content and by caption, both at once
    assert "'a.mp4' (train) and 'again.mp4' (held-out)" in str(told.value)
    assert "caption 'x'" in str(told.value)


def test_leaks_are_linear_in_the_number_of_clips() -> None:
    many = [(str(n), "train" if n % 2 else "held_out", f"c{n}", f"p{n}") for n in range(200_000)]
    assert leaks(many) == []
    assert len(leaks([*many, ("x", "train", "c0", "p0")])) == 2


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not a folder"):
        read_folder(tmp_path / "gone")


def test_a_table_cannot_name_what_a_name_check_refused(tmp_path: Path) -> None:
    fill(tmp_path, "A.mp4", "a.mp4", "deep/b.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    rows = ["A.mp4", "a.mp4", "link/b.mp4", "./deep/b.mp4"]
    lines = [json.dumps({"file": name, "caption": f"caption {n}"}) for n, name in enumerate(rows)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    folder = read_folder(tmp_path)
    assert [clip.name for clip in folder.clips] == ["./deep/b.mp4"]
    assert {"A.mp4", "a.mp4", "link/b.mp4"} <= reasons(folder).keys()


SECRET = "a line that is nobody's caption"


def secret_outside(tmp_path: Path) -> Path:
    """A folder beside the imported one, with a video and words that must not come in."""
    outside = tmp_path / "outside"
    fill(outside, "v.mp4")
    (outside / "v.txt").write_text(SECRET)
    (outside / "metadata.jsonl").write_text(json.dumps({"file_name": "a.mp4", "caption": SECRET}))
    pd.DataFrame([{"file_name": "a.mp4", "caption": SECRET}]).to_parquet(
        outside / "metadata.parquet"
    )
    (outside / "lines.txt").write_text(f"{SECRET}\n")
    return outside


def told_by(root: Path) -> str:
    """Everything that reading a folder says of it."""
    try:
        folder = read_folder(root)
    except FolderError as error:
        return str(error)
    return f"{[(clip.name, clip.caption) for clip in folder.clips]} {reasons(folder)}"


def test_nothing_comes_in_through_a_folder_that_is_a_link(tmp_path: Path) -> None:
    outside, root = secret_outside(tmp_path), tmp_path / "root"
    fill(root, "a.mp4")
    (root / "a.txt").write_text("a red ball")
    (root / "link").symlink_to(outside)
    (root / "up").symlink_to("..")
    folder = read_folder(root)
    assert [clip.name for clip in folder.clips] == ["a.mp4"]
    assert SECRET not in told_by(root)
    as_link = tmp_path / "as_link"  # the folder itself may be one: a person named it
    as_link.symlink_to(root)
    assert [clip.name for clip in read_folder(as_link).clips] == ["a.mp4"]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.parquet"])
def test_no_table_is_read_through_a_link_that_leads_out(tmp_path: Path, table: str) -> None:
    outside, root = secret_outside(tmp_path), tmp_path / "root"
    fill(root, "a.mp4")
    (root / table).symlink_to(outside / table)
    assert "leads out of the folder" in told_by(root) and SECRET not in told_by(root)
    (root / table).unlink()
    (root / "between").symlink_to(outside / table)  # a link to a link
    (root / table).symlink_to("between")
    assert "leads out of the folder" in told_by(root) and SECRET not in told_by(root)


@pytest.mark.parametrize("which", ["prompt.txt", "videos.txt"])
def test_no_list_is_read_through_a_link_that_leads_out(tmp_path: Path, which: str) -> None:
    outside, root = secret_outside(tmp_path), tmp_path / "root"
    fill(root, "a.mp4")
    for name in ("prompt.txt", "videos.txt"):
        (root / name).write_text("a.mp4\n")
    (root / which).unlink()
    (root / which).symlink_to(outside / "lines.txt")
    assert "leads out of the folder" in told_by(root) and SECRET not in told_by(root)


@pytest.mark.parametrize(
    "name",
    ["../outside/v.mp4", "link/v.mp4", "deep/../../outside/v.mp4", "{outside}/v.mp4", "link.mp4",
     "/proc/self/environ", "\\\\host\\v.mp4", "deep/hop/v.mp4"],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["jsonl", "parquet", "lists"])
def test_no_row_names_a_video_outside(tmp_path: Path, layout: str, name: str) -> None:
    outside, root = secret_outside(tmp_path), tmp_path / "root"
    fill(root, "a.mp4", "deep/b.mp4")
    (root / "link").symlink_to(outside)
    (root / "link.mp4").symlink_to(outside / "v.mp4")
    (root / "deep" / "hop").symlink_to("../../outside")
    rows = [
        {"file_name": "a.mp4", "caption": "a red ball"},
        {"file_name": "deep/b.mp4", "caption": "a blue ball"},
        {"file_name": name.format(outside=outside), "caption": "a green ball"},
    ]
    if layout == "jsonl":
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif layout == "parquet":
        pd.DataFrame(rows).to_parquet(root / "metadata.parquet")
    else:
        (root / "prompt.txt").write_text("".join(f"{row['caption']}\n" for row in rows))
        (root / "videos.txt").write_text("".join(f"{row['file_name']}\n" for row in rows))
    folder = read_folder(root)
    assert [clip.name for clip in folder.clips] == ["a.mp4", "deep/b.mp4"]
    assert folder.refused


def test_a_folder_that_dvc_links_from_its_cache_is_read(tmp_path: Path) -> None:
    from dvc.repo import Repo

    root = tmp_path / "clips"
    fill(root, "a.mp4", "deep/b.mp4", "c.mp4")
    (root / "a.txt").write_text("a red ball")
    (root / "deep/b.json").write_text(json.dumps({"caption": "a blue ball"}))
    (root / "c.txt").symlink_to(Path("/etc/hostname"))  # of no cache: it stays outside
    contents = {name: (root / name).read_bytes() for name in ("a.mp4", "deep/b.mp4")}
    (root / "c.txt").rename(tmp_path / "c.txt")
    repo = Repo.init(str(tmp_path), no_scm=True)
    with repo.config.edit() as settings:
        settings["cache"]["type"] = ["symlink"]
    with Repo(str(tmp_path)) as linking:
        linking.add(str(root))
    assert all((root / name).is_symlink() for name in ("a.mp4", "a.txt", "deep/b.json"))
    (tmp_path / "c.txt").rename(root / "c.txt")
    folder = read_folder(root)
    assert {clip.name: clip.path.read_bytes() for clip in folder.clips} == contents
    assert [clip.caption for clip in folder.clips] == ["a red ball", "a blue ball"]
    assert reasons(folder).keys() == {"c.mp4"}


def test_a_name_as_long_as_a_disk_allows_costs_that_file_alone(tmp_path: Path) -> None:
    long = f"{'l' * 251}.mp4"
    fill(tmp_path, "a.mp4", long, "captioned.mp4")
    (tmp_path / "a.txt").write_text("a red ball")
    (tmp_path / "captioned.json").write_text(json.dumps({"caption": "a blue ball"}))
    folder = read_folder(tmp_path)
    assert [clip.name for clip in folder.clips] == ["a.mp4", "captioned.mp4"]
    assert "no caption" in reasons(folder)[long]
    Path(tmp_path / long).with_suffix(".txt").write_text("a green ball")
    assert len(read_folder(tmp_path).clips) == 3
