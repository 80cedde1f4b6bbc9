"""Identity part of params: values that change a result, and the content of every path.

Paths, access to a teacher and use of memory change no result and are left out. Imports no torch.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from afd.checkpoints import content_sha256 as weights_sha256
from afd.config import FilePrompts, Params, semantic_teacher
from afd.config.evaluators import semantic_evaluator
from afd.plugins import PluginError, source_sha256
from afd.runtime.outcome import RefusedError

# Paths of weights: their content is identity (params["content"]), their place is not.
WEIGHTS: dict[tuple[str, str], tuple[str, ...]] = {  # (section, field) -> entries of the folder
    ("student", "checkpoint"): (),
    ("student", "base"): (),
    ("student", "components"): ("vae", "text_encoder", "tokenizer"),
    ("discriminator", "backbone"): (),
    ("discriminator", "reward"): (),
    ("teacher", "pipeline"): (),
}
PLUGINS = ("discriminator", "teacher")  # sections that may name a function of another package
CIRCUMSTANCE = {  # section -> fields that change no result
    "prompts": ("path",),
    "update": ("memory",),
    "fit": ("max_skipped_steps",),
    **{section: tuple(f for s, f in WEIGHTS if s == section) for section, _ in WEIGHTS},
}


def content_sha256(path: str) -> str:
    """Return the sha256 of a prompts file; raises RefusedError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RefusedError(
            f"prompts.path: {path} cannot be read: {error.strerror}; write the path of a JSONL "
            "file, relative to where you type the command; nothing was started"
        ) from None


def semantic(params: dict[str, Any]) -> dict[str, Any]:
    """Return dumped `params` without the values that change no result."""
    if "teacher" in params:
        params = params | {"teacher": semantic_teacher(params["teacher"])}
    if "evaluators" in params:
        params = params | {"evaluators": [semantic_evaluator(e) for e in params["evaluators"]]}
    if isinstance(params.get("evaluate"), dict):  # of a whole campaign
        params = params | {"evaluate": semantic(params["evaluate"])}
    for section, fields in CIRCUMSTANCE.items():
        chosen: Any = params.get(section)
        if isinstance(chosen, dict):
            values = cast("dict[str, Any]", chosen)
            params = params | {section: {k: v for k, v in values.items() if k not in fields}}
    return params


def contents(params: Params) -> dict[str, str | None]:
    """Return the sha256 of the content at every path of a campaign's params, by dotted field.

    None where no path is set; a field whose path cannot be read now is left out.
    """
    values = params.model_dump(mode="json")
    paths: dict[str, tuple[str | None, tuple[str, ...]]] = {
        f"{section}.{field}": (values[section][field], parts)
        for (section, field), parts in WEIGHTS.items()
        if field in values[section]
    }
    if isinstance(params.prompts, FilePrompts):
        paths["prompts.path"] = params.prompts.path, ()
    for evaluator in params.evaluate.evaluators:
        paths[f"evaluate.evaluators.{evaluator.name}.weights"] = evaluator.weights, ()
    found: dict[str, str | None] = {}
    for field, (path, parts) in paths.items():
        with suppress(OSError):  # the stage that needs it reports the cure
            found[field] = None if path is None else weights_sha256(path, parts)
    with suppress(PluginError):
        found |= plugin_sources(values)
    return found


def content(params: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the sha256 of the content at every path and plugin in params, by dotted field.

    Raises RefusedError naming a field whose path does not exist, PluginError as plugin_sources.
    """
    found: dict[str, str] = {}
    for (section, field), parts in WEIGHTS.items():
        path = params.get(section, {}).get(field)
        if path is None:
            continue
        found[f"{section}.{field}"] = content_of(f"{section}.{field}", path, parts)
    found |= plugin_sources(params)
    return {"content": found} if found else {}


def plugin_sources(params: dict[str, Any]) -> dict[str, str]:
    """Return the sha256 of the source of every plugin in dumped params, by dotted field.

    Raises PluginError naming a field whose package is not installed.
    """
    named = {f"{name}.factory": params.get(name, {}).get("factory") for name in PLUGINS}
    return {field: source_sha256(field, name) for field, name in named.items() if name is not None}


def content_of(field: str, path: str, parts: tuple[str, ...] = ()) -> str:
    """Return the sha256 of the content at `path`; raises RefusedError naming the field."""
    try:
        return weights_sha256(path, parts)
    except OSError as error:
        raise RefusedError(
            f"{field}: {error.filename or path}: {error.strerror}. Nothing is downloaded: put the "
            f"weights there, on a disk that every node sees, or correct {field}; nothing was "
            "started"
        ) from None
