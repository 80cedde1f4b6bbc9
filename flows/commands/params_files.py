"""Params files for people: resolved values with their sources, schemas, a folder of one's own."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from afd.config import Cluster, Params
from afd.config.reference import reference
from afd.config.schema import SchemaName, schema_text
from afd.params import load_params, sources
from afd.runtime.outcome import RefusedError
from afd.shipped import shipped, shipped_folder
from afd.yaml_files import UnreadableYamlError, read_yaml
from flows.command_text import command, short_path
from flows.commands.json_output import print_document
from flows.commands.planning import refuse_unusable_prompts

MODELINE = "# yaml-language-server: $schema="
OWN = {"params.yaml": "params", "cluster.yaml": "cluster"}  # file of a folder -> its schema


def print_schema(name: SchemaName, output: Path | None) -> None:
    """Write a JSON Schema to a file, or to stdout."""
    _write(schema_text(name), output)


def print_reference(output: Path | None) -> None:
    """Write the reference page to a file, or to stdout."""
    _write(reference(), output)


def print_params(
    path: Path, overlays: Sequence[Path], overrides: Sequence[str], *, as_json: bool
) -> None:
    """Print every value of params, or of a cluster's file, with the file or option it is from.

    Raises what a start would: ParamsError, PromptsError, RefusedError.
    """
    model = Cluster if _is_cluster(path) else Params
    chosen = load_params(model, path, overlays, overrides)
    if isinstance(chosen, Params):
        refuse_unusable_prompts(chosen)
    values = chosen.model_dump(mode="json")
    known = sources(path, overlays, overrides)
    if as_json:
        print_document({"values": values, "sources": dict(_sourced(values, known))})
        return
    lines = list(_lines(values, known))
    width = max(len(line) for line, _ in lines if len(line) <= 60)
    for line, source in lines:
        sys.stdout.write(f"{line:<{width}}  # {source}\n" if source else f"{line}\n")


def make_own(folder: Path, template: str) -> None:
    """Write commented params, a cluster's file and their schemas into `folder`.

    Raises RefusedError for a template that is not there, and rather than overwrite a file.
    """
    shipped_files = shipped_folder()
    names = sorted(
        file.stem for file in shipped_files.glob("*.yaml") if "schema_version" in file.read_text()
    )
    if template not in names:
        raise RefusedError(f"--template {template}: write one of {', '.join(names)}")
    taken = [name for name in OWN if (folder / name).exists()]
    if taken:
        raise RefusedError(
            f"{folder} has {' and '.join(taken)}: nothing was written; choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, of in OWN.items():
            source = shipped_files / (
                f"{template}.yaml" if of == "params" else "cluster/local.yaml"
            )
            schema = f"{of}.schema.json"
            (folder / schema).write_text(schema_text(cast("SchemaName", of)))
            (folder / name).write_text(f"{MODELINE}{schema}\n{_without_modeline(source)}")
    except OSError as error:
        raise RefusedError(f"{folder}: {error.strerror}; choose another folder") from None
    params, cluster = (short_path(folder / name) for name in OWN)
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in folder.name)
    name = name.strip("-") or "mine"
    start = ("campaign", name, "--params", params, "--cluster", cluster)
    sys.stdout.write(
        f"{params}    the campaign: edit it (docs/params.md has every field)\n"
        f"{cluster}    where it runs\n"
        "next\n"
        f"  {command('plan', params)}\n"
        f"  {command(*start, '--dry-run')}\n"
        f"  {command(*start)}\n"
    )


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise RefusedError(f"-o {output}: {error.strerror}; choose another file") from None


def _without_modeline(source: Path) -> str:
    lines = source.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(MODELINE))


def _is_cluster(path: Path) -> bool:
    """Return whether a file is a cluster's: it alone has an executor."""
    try:
        values = read_yaml(shipped(path))
    except (FileNotFoundError, UnreadableYamlError):
        return False  # loading says what is wrong
    return isinstance(values, dict) and "executor" in values


def _lines(
    values: Mapping[str, Any], known: Mapping[str, str], path: str = "", depth: int = 0
) -> Iterator[tuple[str, str]]:
    """Yield YAML, a line a field, and the source of its value; "" for a section."""
    for name, value in values.items():
        field, indent = f"{path}.{name}".lstrip("."), "  " * depth
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _lines(cast("dict[str, Any]", value), known, field, depth + 1)
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
            flow = text.removesuffix("...\n").strip()
            yield f"{indent}{name}: {flow}", _source(field, known)


def _sourced(values: Mapping[str, Any], known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for field in _fields(values):
        yield field, _source(field, known)


def _fields(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        field = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _fields(cast("dict[str, Any]", value), field)
        else:
            yield field


def _source(field: str, known: Mapping[str, str]) -> str:
    return known.get(field, "default")
