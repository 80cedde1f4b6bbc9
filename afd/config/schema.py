"""JSON Schema of params, for editors: a campaign, an overlay over one, a cluster."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel

from afd.config.campaign import Params
from afd.config.cluster import Cluster

SchemaName = Literal["params", "overlay", "cluster"]
SCHEMAS: tuple[SchemaName, ...] = get_args(SchemaName)
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLES: Mapping[SchemaName, str] = {
    "params": "AFD: a campaign",
    "overlay": "AFD: values laid over a campaign",
    "cluster": "AFD: where stages run",
}


def schema(name: SchemaName) -> dict[str, Any]:
    """Return a JSON Schema; that of an overlay requires no field and takes any kind's fields."""
    model: type[BaseModel] = Cluster if name == "cluster" else Params
    made = model.model_json_schema()
    if name == "overlay":
        made = cast("dict[str, Any]", _partial(made))
    return {"$schema": DIALECT} | made | {"title": TITLES[name]}


def schema_text(name: SchemaName) -> str:
    """Return the schema as the committed file has it."""
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def undescribed(model: type[BaseModel]) -> Iterator[str]:
    """Yield `Model.field` for every field at any depth without a description."""
    found = model.model_json_schema()
    parts: dict[str, dict[str, Any]] = {model.__name__: found, **found["$defs"]}
    for owner, part in parts.items():
        for field, value in properties(part).items():
            if not str(value.get("description", "")).strip():
                yield f"{owner}.{field}"


def properties(part: Mapping[str, Any]) -> Mapping[str, dict[str, Any]]:
    """Return the fields of a section of a schema, by name."""
    found: Mapping[str, dict[str, Any]] | None = part.get("properties")
    return found or {}


def _partial(part: Any) -> Any:
    """Return a schema without required fields; one of a union's kinds is any of them."""
    if isinstance(part, list):
        return [_partial(each) for each in cast("list[Any]", part)]
    if not isinstance(part, dict):
        return part
    values = cast("dict[str, Any]", part)
    is_object = "properties" in values
    return {
        ("anyOf" if key == "oneOf" else key): _partial(value)
        for key, value in values.items()
        if not (key == "discriminator" and "oneOf" in values)
        and not (key == "required" and is_object)
    }
