"""What is known to stop a campaign is said before anything starts or is written."""

from pathlib import Path

import pytest

from afd.stages.outcome import RefusedError
from flows.choices import chosen_params
from flows.places import Places
from tests.flows.conftest import PARAMS


def refused(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(RefusedError) as told:
        chosen_params("demo", Places(tmp_path / "runs", tmp_path / "store"), PARAMS, (), overrides)
    assert not list(tmp_path.iterdir())
    return str(told.value)


@pytest.mark.parametrize("permitted", ["no", "unknown"])
def test_a_teacher_whose_terms_forbid_training(tmp_path: Path, permitted: str) -> None:
    told = refused(tmp_path, f"teacher.training_permitted={permitted!r}")
    assert f"teacher.training_permitted is {permitted!r}" in told


def test_a_prompts_file_that_is_not_there(tmp_path: Path) -> None:
    told = refused(tmp_path, "prompts.kind=file", f"prompts.path={tmp_path / 'none.jsonl'}")
    assert "prompts.path" in told
    assert "none.jsonl" in told
