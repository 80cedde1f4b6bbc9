"""What cells of the grid leave, and what of it is read again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from afd.evaluation.results import (
    DONE,
    FAILED,
    CellResult,
    RowsError,
    load_cells,
    save_cell,
    table,
)

ROWS = pd.DataFrame({"prompt_id": ["a", "b"], "noise_seed": [1, 1], "gravity": [0.1, 0.2]})


def test_a_cell_whose_rows_are_elsewhere_is_named_unless_it_is_not_asked_for(
    tmp_path: Path,
) -> None:
    """As in a clone: numbers come with git, rows are made there."""
    for name in ("afd-1", "sft-1"):
        save_cell(tmp_path, CellResult(name, name[:3], None, 1, DONE, table=ROWS))
    save_cell(tmp_path, CellResult("gan-1", "gan", None, 1, FAILED, "it broke"))
    assert [cell.name for cell in load_cells(tmp_path)] == ["afd-1", "gan-1", "sft-1"]
    (tmp_path / "prompts" / "sft-1.parquet").unlink()
    with pytest.raises(RowsError, match=r"sft-1\.parquet is not here: `dvc repro quick`"):
        load_cells(tmp_path)
    (tmp_path / "prompts" / "sft-1.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(RowsError, match=r"sft-1\.parquet cannot be read"):
        load_cells(tmp_path)
    (tmp_path / "arms" / "sft-1.json").write_text('{"name": "sft-1", "sta')
    with pytest.raises(RowsError, match=r"sft-1\.json cannot be read"):
        load_cells(tmp_path)
    (found,) = load_cells(tmp_path, {"afd-1"})
    assert found.table is not None
    pd.testing.assert_frame_equal(found.table, ROWS)


def measured(arm: str, seed: int, effect: float) -> CellResult:
    """Two metrics on 40 prompts: one that the arm moves by `effect`, one that it does not."""
    draw = np.random.default_rng([seed, len(arm)])
    levels = {"trajectory_error_px": 1.0 + effect, "gravity": 0.15}
    rows = pd.DataFrame({"prompt_id": [f"p{n}" for n in range(40)], "noise_seed": 11})
    for name, level in levels.items():
        rows[name] = level + draw.normal(0, 0.02, 40)
    base = {"trajectory_error_px": 2.0 + seed, "gravity": 0.05}
    return CellResult(f"{arm}-{seed}", arm, None, seed, DONE, student=levels, base=base, table=rows)


def test_the_table_marks_what_is_clear_and_says_what_failed_or_shares_no_seed() -> None:
    cells = [measured("afd", 1, 0.0), measured("afd", 2, 0.0), measured("sft", 1, -0.3)]
    cells += [measured("gan", 3, 0.0), CellResult("bce-1", "bce", None, 1, FAILED, "it broke\n")]
    lines = table(cells).splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    base, afd, sft, gan, bce = rows[4:9]
    assert base[:3] == ["base", "1, 2", "3.50 (3.00 to 4.00)"]
    assert afd[:3] == ["afd", "1, 2", "1.00 (1.00 to 1.00)"]
    assert sft[:3] == ["sft", "1", "0.700"] and gan[:3] == ["gan", "3", "1.00"]
    assert bce[:4] == ["bce", "1 failed", "failed", "failed"]
    sft, gan, bce = rows[12:15]
    assert sft[:2] == ["sft", "1"] and sft[2].startswith("\u22120.3")  # clear, but of one seed
    assert gan[:2] == ["gan", "no seed that afd has too"]
    assert bce[:2] == ["bce", "failed"]
    assert "- `bce-1`: it broke" in lines


def test_a_clear_difference_is_claimed_from_three_training_seeds_on() -> None:
    for num_seeds, is_bold in ((2, False), (3, True)):
        seeds = range(1, num_seeds + 1)
        cells = [measured(arm, seed, -0.3 if arm == "sft" else 0.0)
                 for arm in ("afd", "sft") for seed in seeds]  # fmt: skip
        row = [part.strip() for part in table(cells).splitlines()[-1].strip("|").split("|")]
        assert row[0] == "sft" and row[2].startswith("**\u22120.3") == is_bold
        assert row[3] and not row[3].startswith("**")  # gravity: no effect was put there
