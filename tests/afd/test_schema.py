"""Schema and reference of params: complete, current, and what the shipped files keep to."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from omegaconf import OmegaConf

from afd.config import Cluster, Params
from afd.config.reference import reference
from afd.config.schema import SchemaName, schema, schema_text, undescribed

PROJECT = Path(__file__).resolve().parents[2]
PARAMS = PROJECT / "params"
FILES: dict[SchemaName, Path] = {
    "params": PARAMS / "schema.json",
    "overlay": PARAMS / "overlay.schema.json",
    "cluster": PARAMS / "cluster" / "schema.json",
}
NO_PARAMS = {PARAMS / "grid.yaml", PARAMS / "tuning.yaml"}  # lists of arms
SHIPPED = sorted(set(PARAMS.rglob("*.yaml")) - NO_PARAMS)


def problems(name: SchemaName, values: Any) -> list[str]:
    found = Draft202012Validator(schema(name)).iter_errors(values)  # type: ignore[no-untyped-call]
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


def read(file: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)


@pytest.mark.parametrize("model", [Params, Cluster])
def test_every_field_has_a_description(model: type[Params] | type[Cluster]) -> None:
    assert list(undescribed(model)) == []


@pytest.mark.parametrize("name", FILES)
def test_committed_schemas_are_current(name: SchemaName) -> None:
    """`afd params schema NAME -o FILE` makes them anew."""
    assert FILES[name].read_text() == schema_text(name)
    Draft202012Validator.check_schema(json.loads(FILES[name].read_text()))


def test_the_reference_page_is_current() -> None:
    """`afd params reference -o docs/params.md` makes it anew."""
    assert (PROJECT / "docs" / "params.md").read_text() == reference()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(PARAMS)))
def test_shipped_files_name_a_schema_and_keep_to_it(file: Path) -> None:
    first = file.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    place = (file.parent / first.partition("=")[2]).resolve()
    name = next(name for name, known in FILES.items() if known == place)
    assert problems(name, read(file)) == []


def test_editors_are_told_of_typos_values_and_missing_fields() -> None:
    values = read(PARAMS / "pocket.yaml")
    assert problems("params", values | {"sed": 1})
    assert problems("params", {key: value for key, value in values.items() if key != "fit"})
    assert problems("overlay", {"fit": {"loss": "hinge"}})
    assert problems("overlay", {"fit": {"los": "bradley_terry"}})
    assert problems("overlay", {"teacher": {"clips_per_prompt": 0}})
    assert not problems("overlay", {"teacher": {"clips_per_prompt": 2}})
