"""Shards: round trips, and every kind of damage named with shard, member and cure."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from afd.clips.shards import (
    COLUMNS,
    TABLE,
    TAR,
    ShardError,
    read_shard,
    read_table,
    read_videos,
    write_shard,
)
from afd.video.canonical import conform
from afd.video.encode import encode
from tests.afd.canon import canon, floats


def clip(number: int, num_frames: int = 4, side: int = 32) -> bytes:
    generator = np.random.default_rng(number)
    return encode(generator.integers(0, 256, (num_frames, side, side, 3)).astype(np.uint8), 16)


def rows(count: int = 5) -> list[dict]:
    return [
        {
            "prompt_id": f"id{number}",
            "prompt": f"prompt {number}, ${{oc.env:HOME}} and \u00e9\u4e2d",
            "seed": 2**63 - 1 - number,  # afd.seeds gives 63 bits
            "bytes": clip(number),
        }
        for number in range(count)
    ]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()  # a tracked store: its cure names `dvc pull`
    (folder := tmp_path / "shard").mkdir()
    write_shard(folder, rows())
    return folder


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_rows_come_back_in_order(shard: Path) -> None:
    back = read_shard(shard)
    for row, expected in zip(back, rows(), strict=True):
        assert {key: row[key] for key in expected} == expected
        assert row["sha256"] == hashlib.sha256(expected["bytes"]).hexdigest()
        assert (row["num_frames"], row["fps"], row["width"], row["height"]) == (4, 16.0, 32, 32)
    assert sorted(path.name for path in shard.iterdir()) == [TABLE, TAR]


def test_clips_are_canonical_and_beside_their_table(shard: Path) -> None:
    clips, table = read_videos(shard, canon(16, 4), conform)
    assert clips.dtype == torch.uint8
    expected = np.stack([floats(row["bytes"], 16, 4) for row in rows()])
    np.testing.assert_array_equal(clips.float().numpy() / np.float32(255), expected)
    few, beside = read_videos(shard, canon(16, 4), conform, [3, 1])
    assert torch.equal(few, clips[[3, 1]])
    assert beside["prompt"].tolist() == [rows()[row]["prompt"] for row in (3, 1)]
    assert tuple(table.columns) == COLUMNS
    assert table["prompt"].tolist() == [row["prompt"] for row in rows()]
    pd.testing.assert_frame_equal(table, read_table(shard))


def test_the_tar_is_a_tar(shard: Path) -> None:
    with tarfile.open(shard / TAR) as tar:
        for member, row in zip(tar.getmembers(), read_shard(shard), strict=True):
            assert member.name == row["member"]
            assert member.offset_data == row["offset"]
            stream = tar.extractfile(member)
            assert stream is not None
            assert stream.read() == row["bytes"]


def test_equal_rows_give_equal_files(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_shard(other, rows())
    assert (other / TAR).read_bytes() == (shard / TAR).read_bytes()
    assert (other / TABLE).read_bytes() == (shard / TABLE).read_bytes()


def test_equal_clips_share_a_member(tmp_path: Path) -> None:
    twice = [*rows(2), {**rows(1)[0], "prompt_id": "again", "seed": 3}]
    write_shard(tmp_path, twice)
    back = read_shard(tmp_path)
    assert back[0]["member"] == back[2]["member"]
    assert back[2]["bytes"] == twice[2]["bytes"]
    with tarfile.open(tmp_path / TAR) as tar:
        assert len(tar.getmembers()) == 2


def test_no_rows_are_a_shard_too(tmp_path: Path) -> None:
    write_shard(tmp_path, [])
    clips, table = read_videos(tmp_path, canon(16, 4), conform)
    assert clips.shape == (0, 4, 3, 16, 16)
    assert table.empty


def test_any_flipped_bit_of_a_member_is_found(shard: Path) -> None:
    victim = read_shard(shard)[3]
    for place in (0, victim["num_bytes"] // 2, victim["num_bytes"] - 1):
        flip(shard / TAR, victim["offset"] + place)
        with pytest.raises(ShardError) as error:
            read_videos(shard, canon(16, 4), conform)
        told = str(error.value)
        assert str(shard / TAR) in told
        assert victim["member"] in told
        assert "dvc pull" in told
        flip(shard / TAR, victim["offset"] + place)
    assert len(read_shard(shard)) == 5


def test_members_in_each_others_place_are_found(shard: Path) -> None:
    table = pd.read_parquet(shard / TABLE)
    table.loc[[0, 1], ["offset", "num_bytes"]] = table.loc[
        [1, 0], ["offset", "num_bytes"]
    ].to_numpy()
    table.to_parquet(shard / TABLE, index=False)
    with pytest.raises(ShardError, match="not those that were stored"):
        read_shard(shard)


@pytest.mark.parametrize("keep", [0, 512, 0.5])
def test_cut_tar(shard: Path, keep: float) -> None:
    data = (shard / TAR).read_bytes()
    (shard / TAR).write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(ShardError, match=r"member .*\.mp4"):
        read_shard(shard)


def test_missing_tar(shard: Path) -> None:
    (shard / TAR).unlink()
    with pytest.raises(ShardError, match=r"cannot be read.*dvc pull"):
        read_shard(shard)


@pytest.mark.parametrize("content", [None, b"", b"PAR1" + bytes(100), b"not parquet at all"])
def test_table_that_is_none(shard: Path, content: bytes | None) -> None:
    if content is None:
        (shard / TABLE).unlink()
    else:
        (shard / TABLE).write_bytes(content)
    with pytest.raises(ShardError, match=r"clips\.parquet: cannot be read.*dvc pull"):
        read_videos(shard, canon(16, 4), conform)


def test_table_of_something_else(shard: Path) -> None:
    pd.DataFrame({"prompt": ["a"]}).to_parquet(shard / TABLE)
    with pytest.raises(ShardError, match=r"columns .*sha256.* missing"):
        read_shard(shard)


@pytest.mark.parametrize(("size", "frames"), [(16, 5), (16, 3), (64, 4)])
def test_clips_of_another_shape_name_the_member(shard: Path, size: int, frames: int) -> None:
    with pytest.raises(ShardError, match=r"member .*\.mp4 \(prompt 'prompt 0"):
        read_videos(shard, canon(size, frames), conform)


@pytest.mark.parametrize("bad", [b"", b"<html>", clip(0)[:-100]])
def test_unsound_clips_never_enter(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(ShardError, match="row 1, prompt 'prompt 0"):
        write_shard(tmp_path, [rows(1)[0], {**rows(1)[0], "bytes": bad}])
    assert not list(tmp_path.iterdir())


def test_a_row_without_a_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="row 0: seed missing"):
        write_shard(tmp_path, [{k: v for k, v in rows(1)[0].items() if k != "seed"}])


def test_rows_by_path_and_what_else_is_known_of_them(tmp_path: Path) -> None:
    """Rows may come one at a time, from files, and say where they came from."""

    def given() -> Iterator[dict]:
        for number, row in enumerate(rows()):
            path = tmp_path / f"{number}.mp4"
            path.write_bytes(row.pop("bytes"))
            yield row | {"path": path, "key": f"k{number}"}
            path.unlink()

    folder = tmp_path / "shard"
    folder.mkdir()
    write_shard(folder, given())
    assert [row["bytes"] for row in read_shard(folder)] == [row["bytes"] for row in rows()]
    assert read_table(folder)["key"].tolist() == [f"k{number}" for number in range(5)]
    assert "path" not in read_table(folder)
