"""Validation errors of params in plain words: field, rule, value, cure."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from afd.config.secrets import HIDDEN, printable

TAGS = ("kind", "family")  # the field that chooses among the models of a section
# The rule behind each of pydantic's error types that params can raise, with pydantic's context.
RULES: Mapping[str, str] = {
    "missing": "missing",
    "union_tag_not_found": "missing",
    "extra_forbidden": "unknown field",
    "value_error": "{error}",
    "union_tag_invalid": "must be one of {expected_tags}",
    "literal_error": "must be {expected}",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "dict_type": "must be a mapping of fields",
    "invalid_key": "must have text as names of fields",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_long": "must be a list of at most {max_length}",
    "too_short": "must be a list of {min_length} or more",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "string_too_short": "must be a text of {min_length} or more letters",
    "string_too_long": "must be a text of at most {max_length} letters",
    "string_pattern_mismatch": "must match {pattern}",
    "invalid-json-value": "must be a value of JSON",  # a JsonValue: vendors' parameters
}
_MAPPINGS = {"model_type", "model_attributes_type", "invalid_key"}
_NUMBERS = {"int_type", "float_type"}


@dataclass(frozen=True)
class Place:
    """Place of an error in params, without the tags of unions."""

    parts: tuple[str, ...]
    models: tuple[type[BaseModel], ...]  # of the section that holds the field
    field: FieldInfo | None  # None for an unknown field or the whole file

    @property
    def dotted(self) -> str:
        """Dotted name of the field."""
        return ".".join(self.parts) or "(the whole file)"

    @property
    def known(self) -> list[str]:
        """Names of the fields of its section."""
        return _fields(self.models)


def describe(model: type[BaseModel], detail: Any) -> str:
    """Return one pydantic error of `model` as "dotted field: rule, got value; cure"."""
    place, kind = place_of(model, detail), detail["type"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    rule = RULES[kind].format(
        **{name: f"{v:g}" if isinstance(v, float) else v for name, v in context.items()}
    )
    if kind == "extra_forbidden":
        cure = _nearest(place.parts[-1], place.known) or f"known here: {', '.join(place.known)}"
        return f"{place.dotted}: {rule}; {cure}"
    if kind in ("missing", "union_tag_not_found"):
        return f"{place.dotted}: {rule}; add it"
    if kind == "value_error":
        return f"{place.dotted}: {rule}"
    value = detail["ctx"]["tag"] if kind == "union_tag_invalid" else detail["input"]
    if any(part.endswith(("_variable", "variables")) for part in place.parts):
        return (  # the value may be the key itself
            f"{place.dotted}: must be the NAME of an environment variable (A-Z, 0-9, _), "
            f"got {HIDDEN}; write e.g. VENDOR_API_KEY and keep the key there"
        )
    cure = _cure(kind, rule, value, place)
    return f"{place.dotted}: {rule}, got {printable(value)}" + (f"; {cure}" if cure else "")


def place_of(model: type[BaseModel], detail: Any) -> Place:
    """Return the place of an error without the tags of unions."""
    parts: list[str] = []
    models, owners, field = [model], [model], None
    location = list(detail["loc"])
    for number, part in enumerate(location):
        fields = [outer.model_fields[str(part)] for outer in models if part in outer.model_fields]
        deeper = [inner for each in fields for inner in _models_in(each.annotation)]
        if isinstance(part, int) or fields or number == len(location) - 1:
            parts.append(str(part))
            owners = models
            field = fields[0] if fields else field if isinstance(part, int) else None
        elif tagged := [each for each in models if _tag(each) == part]:
            models = tagged
        models = deeper or models
    if detail["type"].startswith("union_tag"):
        parts.append(detail["ctx"]["discriminator"].strip("'"))
    return Place(tuple(parts), tuple(owners), field)


def _cure(kind: str, rule: str, value: Any, place: Place) -> str:
    """Return the nearest allowed word, the names of a section's fields, or a field's meaning."""
    if kind in ("literal_error", "union_tag_invalid"):
        return _nearest(str(value), re.findall(r"'([^']*)'", rule))
    if kind in _NUMBERS and isinstance(value, str) and _is_number(value):
        return "write it without quotes"
    if place.field is None:
        return ""
    if kind in _MAPPINGS and (inner := _models_in(place.field.annotation)):
        return f"its fields are {', '.join(_fields(inner))}"
    meaning = " ".join((place.field.description or "").partition("\n\n")[0].split())
    return f"meaning: {meaning.removesuffix('.')}" if meaning else ""


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fields(models: Iterable[type[BaseModel]]) -> list[str]:
    return sorted({name for model in models for name in model.model_fields})


def _tag(model: type[BaseModel]) -> str | None:
    """Return the `kind` or `family` that chooses this model in a union."""
    kind = next((model.model_fields[tag] for tag in TAGS if tag in model.model_fields), None)
    return None if kind is None else next(iter(get_args(kind.annotation)), None)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models_in(inner)]
