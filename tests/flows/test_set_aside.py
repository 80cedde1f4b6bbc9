"""A campaign keeps what its artifacts are made from; a name is made free by renaming alone."""

import shutil
from pathlib import Path

import pytest

from afd.config import Params
from afd.params import ParamsError, load_params
from flows.paths import save_params, saved_params, set_aside
from tests.flows.conftest import PARAMS


def params(*overrides: str) -> Params:
    return load_params(Params, PARAMS, (), overrides)


def test_other_params_are_renamed_the_same_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    assert set_aside(folder, params()) is None  # nothing was started
    save_params(folder, params())
    (folder / "summary.json").write_text("{}")
    assert set_aside(folder, params()) is None
    moved = set_aside(folder, params("update.beta=0.2"))
    assert moved is not None and moved.parent == tmp_path and not folder.exists()
    assert saved_params(moved) == params() and (moved / "summary.json").exists()
    folder.mkdir()
    save_params(folder, params("update.beta=0.2"))
    again = set_aside(folder, params())
    assert again is not None and again != moved and saved_params(again) == params("update.beta=0.2")


def test_paths_and_memory_may_change_contents_may_not(tmp_path: Path) -> None:
    first, moved, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    first.write_text("one")
    shutil.copy(first, moved)
    other.write_text("another")
    folder = tmp_path / "demo"
    folder.mkdir()
    save_params(folder, of_file(first))
    first.unlink()  # moved, as people do
    taken = of_file(moved, "update.memory.micro_batch=1")
    save_params(folder, taken)
    assert saved_params(folder) == taken and set_aside(folder, taken) is None
    with pytest.raises(ParamsError) as refused:
        save_params(folder, of_file(other, "update.beta=0.2", "update.memory.micro_batch=2"))
    told = str(refused.value)
    assert "update.beta: the campaign has" in told and "prompts.path: the campaign has" in told
    assert "micro_batch" not in told and "another NAME, which reuses" in told
    assert "add --set-aside to `afd campaign`" in told
    assert saved_params(folder) == taken and set_aside(folder, of_file(other)) is not None


def test_params_of_another_family_are_counted_not_listed(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    save_params(folder, params())
    with pytest.raises(ParamsError) as refused:
        save_params(folder, load_params(Params, PARAMS.with_stem("self_forcing")))
    assert 12 < len(refused.value.problems) < 16 and " other fields differ" in str(refused.value)


def of_file(path: Path, *overrides: str) -> Params:
    overlay = path.with_name("overlay.yaml")
    sizes = "num_train: null, num_tuning: 4, num_held_out: 4"
    overlay.write_text(f"prompts: {{kind: file, path: {path}, {sizes}}}")
    return load_params(Params, PARAMS, [overlay], overrides)
