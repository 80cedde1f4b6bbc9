"""One row a stage: every list of stages elsewhere agrees with it."""

from typing import get_args

from afd.config.cluster import SHARED, SPLITTABLE, Resourced
from afd.runtime.revisions import REVISION, StageName
from afd.runtime.stage_specs import STAGES
from afd.stages.execute import split_function, stage_function

NAMES = set(get_args(StageName))


def test_every_stage_has_one_row_a_revision_resources_and_a_function() -> None:
    assert STAGES.keys() == REVISION.keys() == NAMES
    assert set(get_args(Resourced)) == NAMES | {"worker"}
    assert all(spec.name == name for name, spec in STAGES.items())
    for name in get_args(StageName):
        assert stage_function(name).__module__ == f"afd.stages.{name}"


def test_what_may_be_shared_or_split_is_a_stage_that_can() -> None:
    assert {name for name, spec in STAGES.items() if spec.is_shared} == set(SHARED)
    for name in SPLITTABLE:
        assert name != "worker"
        assert callable(split_function(name))
