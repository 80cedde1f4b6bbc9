"""Student families: every params model has its row, and the rules follow the capabilities."""

from typing import get_args

import pytest

from afd.config import FamilyName, Student, families_with, student_family
from afd.config.families import FAMILY_NAMES


def test_every_params_model_has_a_row() -> None:
    union, _ = get_args(Student)
    names = [get_args(model.model_fields["family"].annotation)[0] for model in get_args(union)]
    assert sorted(names) == sorted(FAMILY_NAMES)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_published_family_has_the_parts_of_its_files(name: FamilyName) -> None:
    row = student_family(name)
    assert row.is_published == row.has_vae == row.open_vocabulary
    assert row.is_published or not row.has_original_layout


def test_a_message_names_the_capable_families() -> None:
    assert families_with(lambda row: not row.is_published) == "causal_wan"
    assert families_with(lambda row: row.has_original_layout) == "self_forcing or causal_forcing"
