"""Messages of refused params: plain words for every error type that the schema can raise."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from omegaconf import OmegaConf
from pydantic_core.core_schema import ErrorType

from afd.config import Cluster, Params
from afd.config.messages import RULES
from afd.params import ParamsError, validate
from tests.afd.test_params import POCKET

NOTHING: set[str] = set()
# Error types of each node of pydantic's core schema, in strict mode.
NODES = {
    "bool": {"bool_type"},
    "int": {"int_type"},
    "float": {"float_type", "finite_number"},
    "str": {"string_type", "string_unicode"},
    "literal": {"literal_error"},
    "list": {"list_type"},
    "tuple": {"tuple_type", "too_long", "missing"},
    "dict": {"dict_type"},
    "model": {"model_type"},
    "model-fields": {"missing", "extra_forbidden", "invalid_key"},
    "tagged-union": {"union_tag_invalid", "union_tag_not_found", "model_attributes_type"},
    "function-after": {"value_error"},
    "function-before": {"value_error"},
    "function-plain": {"value_error"},
    **dict.fromkeys(
        ("any", "none", "nullable", "union", "default", "definitions", "definition-ref"), NOTHING
    ),
    **dict.fromkeys(("model-field", "json-or-python", "no-info"), NOTHING),
}
CONSTRAINTS = {
    "ge": "greater_than_equal",
    "gt": "greater_than",
    "le": "less_than_equal",
    "lt": "less_than",
    "multiple_of": "multiple_of",
    "pattern": "string_pattern_mismatch",
}
LENGTHS = {"str": ("string_too_short", "string_too_long")}
LAX = {"tuple", "tagged-union"}  # a list for a tuple; parses no scalar
OTHER_PURPOSES = {"json_schema_input_schema", "serialization", "return_schema", "metadata"}


def raisable(schema: Any) -> Iterator[str]:
    """Yield the error types that a core schema can raise."""
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from raisable(part)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if isinstance(kind, str):
        assert schema.get("strict", True) or kind in LAX, "parsing errors need words"
        custom = schema.get("custom_error_type")
        yield from {custom} if custom else NODES[kind]
        yield from (error for name, error in CONSTRAINTS.items() if name in schema)
        short, long = LENGTHS.get(kind, ("too_short", "too_long"))
        yield from (
            e for name, e in (("min_length", short), ("max_length", long)) if name in schema
        )
    for name, part in schema.items():
        if name not in OTHER_PURPOSES:
            yield from raisable(part)


@pytest.mark.parametrize("model", [Params, Cluster])
def test_every_error_that_the_schema_can_raise_has_words(model: type[Params | Cluster]) -> None:
    assert set(raisable(model.__pydantic_core_schema__)) <= RULES.keys()


def test_no_rule_is_for_an_error_that_does_not_exist() -> None:
    assert RULES.keys() - {"invalid-json-value"} <= set(get_args(ErrorType))
    assert not [rule for rule in RULES.values() if "nput should" in rule]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("fit", 3, "fit: must be a mapping of fields, got 3; its fields are batch_size, betas, "),
        ("prompts", [1], "prompts: must be a mapping of fields, got [1]; its fields are kind, "),
        ("update.betas", [0.1, 0.2, 0.3], "must be a list of at most 2, got [0.1, 0.2, 0.3]"),
        ("update.betas", [0.1], "update.betas.1: missing; add it"),
        ("fit.replay_share", 1.5, "must be 1 or less, got 1.5; meaning: Share of a batch that is"),
        ("num_rounds", "12", "must be a whole number, got '12'; write it without quotes"),
        ("num_rounds", True, "must be a whole number, got true; meaning: Rounds of the campaign"),
        ("fit.loss", "bradley_tery", "got 'bradley_tery'; did you mean 'bradley_terry'?"),
        ("fit.loss", {"api_key": "hunter2"}, "got a mapping"),
        ("evaluate.noise_seeds", None, "evaluate.noise_seeds: must be a list, got null; meaning:"),
        ("rollout", {1: 2}, "rollout.1: must have text as names of fields, got 1; its fields are"),
    ],
)
def test_a_message_has_field_rule_value_and_cure(field: str, value: Any, problem: str) -> None:
    values: Any = OmegaConf.to_container(OmegaConf.load(POCKET))
    *sections, name = field.split(".")
    section = values
    for part in sections:
        section = section[part]
    section[name] = value
    with pytest.raises(ParamsError) as error:
        validate(Params, values, "params.yaml")
    assert any(problem in found for found in error.value.problems), error.value.problems
    assert "hunter2" not in str(error.value)
