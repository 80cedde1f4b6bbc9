"""Reference page of params, made from their schema: every field with type, bounds and meaning."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from afd.config.schema import SchemaName, properties, schema

HEAD = """# Params, field by field

Made by `afd params reference -o docs/params.md` from the schema; do not edit it.
A campaign is one YAML file (`params/*.yaml`), with overlays laid over it and single values over
both; where it runs is another file (`params/cluster/*.yaml`). `afd params show FILE` prints every
value with its source. Fields without a default must be written: a campaign is its values.

Editors that know JSON Schema complete and check these files: each begins with
`# yaml-language-server: $schema=...`, and `afd params schema` writes the schema.
"""
BOUNDS = (
    ("minimum", "\u2265 {}"), ("exclusiveMinimum", "> {}"), ("maximum", "\u2264 {}"),
    ("exclusiveMaximum", "< {}"), ("multipleOf", "multiple of {}"),
    ("minLength", "of {} or more letters"), ("maxLength", "of at most {} letters"),
)  # fmt: skip


def reference() -> str:
    """Return the page, in Markdown."""
    parts = [HEAD]
    for name, title in (("params", "A campaign"), ("cluster", "A cluster")):
        found = schema(cast("SchemaName", name))
        parts.append(f"## {title}\n")
        parts.append(_section("", found))
        for owner in _in_order(found):
            parts.append(_section(owner, found["$defs"][owner]))
    return "\n".join(parts).rstrip() + "\n"


def _in_order(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sections as a reader meets them, each once."""
    open_names, done = [*_references(properties(found))], set[str]()
    while open_names:
        name = open_names.pop(0)
        if name not in done:
            done.add(name)
            yield name
            open_names = [*_references(properties(found["$defs"][name])), *open_names]


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        values = cast("dict[str, Any]", part)
        if isinstance(ref := values.get("$ref"), str):
            yield ref.rpartition("/")[2]
        for key, value in values.items():
            is_tag = key == "discriminator" and "propertyName" in value  # of a union, no field
            if not is_tag:
                yield from _references(value)
    elif isinstance(part, list):
        for value in cast("list[Any]", part):
            yield from _references(value)


def _section(owner: str, part: Mapping[str, Any]) -> str:
    text = _cell(str(part.get("description", ""))) if owner else ""
    lines = [f"### {owner}\n"] if owner else []
    lines += [f"{text}\n"] if text else []
    lines += ["| field | values | default | meaning |", "|---|---|---|---|"]
    required: list[str] = part.get("required") or []
    for field, value in properties(part).items():
        default = "" if field in required else _default(value)
        about = _cell(str(value.get("description", "")))
        lines.append(f"| `{field}` | {_values(value)} | {default} | {about} |")
    return "\n".join(lines) + "\n"


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    if isinstance(default, dict | list):
        return "its own" if default else "`[]`"
    return "`null`" if default is None else f"`{str(default).lower()}`"


def _values(value: Mapping[str, Any]) -> str:
    """Return the kinds and bounds of a value."""
    if "$ref" in value:
        name = str(value["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in value:
            kinds: list[dict[str, Any]] = value[key]
            return ", ".join(dict.fromkeys(_values(each) for each in kinds))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        choices: list[Any] = value["enum"]
        return ", ".join(f"`{each}`" for each in choices)
    kind = str(value.get("type", "any"))
    if kind == "array":
        items: dict[str, Any] = value["items"] if "items" in value else value["prefixItems"][0]
        count = f"{value['maxItems']} of " if "maxItems" in value else ""
        return f"list: {count}{_values(items)}"
    bounds = [text.format(value[key]) for key, text in BOUNDS if key in value]
    named = {"integer": "whole number", "string": "text"}.get(kind, kind)
    return f"{named} {', '.join(bounds)}" if bounds else named


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
