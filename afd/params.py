"""Loading of params: OmegaConf composes, pydantic validates, one error names all problems."""

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from afd.config import Frozen, Params
from afd.config.messages import TAGS, describe, place_of
from afd.config.rules import broken_rules
from afd.config.secrets import is_secret
from afd.errors import InputError
from afd.shipped import shipped, shipped_names
from afd.yaml_files import UnreadableYamlError, plain_values, read_yaml, yaml_problem

Model = TypeVar("Model", bound=Frozen)
OVERLAY_LACKS = 7  # sections of a campaign, of 15: no half-written params lack as many


class ParamsError(InputError):
    """Problems of a params file, one line for each: field, rule, value, cure."""

    def __init__(
        self, source: str, problems: Sequence[str], texts: Sequence[str] | None = None
    ) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in texts or problems)
        super().__init__(f"{source}: {len(problems)} problem(s), nothing was started\n{lines}")


def load_params(
    model: type[Model], path: Path, overlays: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> Model:
    """Compose `path`, the overlays over it and dotted `key=value` overrides; validate as `model`.

    Raises ParamsError naming every bad field at once.
    """
    source = " + ".join(map(str, [path, *overlays]))
    option = "--set" if model is Params else "--set-cluster"
    merged: dict[Any, Any] = {}
    for file in [path, *overlays]:
        laid = _read(file)
        if issubclass(model, Params) and file == path:
            _refuse_overlay(path, laid)
        merged = _merged(_without_replaced(merged, laid), laid)
    if overrides:
        merged = _merged(merged, _dotlist(overrides, option))
    try:
        return validate(model, merged, source)
    except ParamsError as error:
        raise _as_typed(error.problems, source, overrides, option) from None


def sources(
    path: Path, overlays: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> dict[str, str]:
    """Return the last source of every dotted field that a file, an overlay or a --set writes."""
    found: dict[str, str] = {}
    for file in [path, *overlays]:
        found |= dict.fromkeys(_leaves(_read(file)), str(file))
    if overrides:
        found |= dict.fromkeys(_leaves(_dotlist(overrides, "--set")), "--set")
    return found


def _leaves(values: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted fields of everything that is no section."""
    if isinstance(values, dict) and values:
        for key, value in cast("dict[str, Any]", values).items():
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    elif path:
        yield path


def _refuse_overlay(path: Path, values: dict[Any, Any]) -> None:
    """Raise ParamsError for a file with some of a campaign's sections alone: an overlay."""
    names = {str(name) for name in values}
    required = {name for name, field in Params.model_fields.items() if field.is_required()}
    if names and names <= Params.model_fields.keys() and len(required - names) > OVERLAY_LACKS:
        problem = (
            f"this looks like an overlay, it has {', '.join(sorted(names))} alone: lay it over "
            f"whole params, e.g. --params params/pocket.yaml --overlay {path}"
        )
        raise ParamsError(str(path), [problem])


def _as_typed(
    problems: Sequence[str], source: str, overrides: Sequence[str], option: str
) -> "ParamsError":
    """Return the error with every problem of a --set under its own text."""
    typed = {item.partition("=")[0].strip(): item for item in overrides}
    named: list[str] = []
    num_typed = 0
    for problem in problems:
        field = problem.partition(":")[0]
        item = next((typed[key] for key in typed if f"{field}.".startswith(f"{key}.")), None)
        if item is None:
            named.append(problem)
            continue
        num_typed += 1
        key, _, value = item.partition("=")
        # The value may be a pasted key: it is repeated only where the problem shows it.
        text = item if value and value in problem else key
        named.append(f"{option} {text}: {problem}")
    if num_typed == len(problems):
        source = option
    elif num_typed:
        source = f"{source} + {option}"
    return ParamsError(source, problems, named)


def validate(model: type[Model], values: Any, source: str) -> Model:
    """Return `values` as a `model`; raises ParamsError with every problem."""
    problems = list(_refuse_text(values))
    try:
        result = model.model_validate(values)
    except ValidationError as error:
        details = error.errors()
        problems += [describe(model, detail) for detail in details]
        if model is Params:
            problems += _between_sound_fields(values, [place_of(model, d).parts for d in details])
        raise ParamsError(source, problems) from None
    if problems:
        raise ParamsError(source, problems)
    return result


def secret_fields(path: Path) -> list[str]:
    """Return the fields of a YAML file that look like secrets; [] where it cannot be read."""
    try:
        values = _read(path)
    except ParamsError:
        return []
    return [problem.partition(":")[0] for problem in _refuse_text(values) if "a secret" in problem]


def _read(named: Path) -> dict[Any, Any]:
    path = shipped(named)
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        beside = shipped_names(path.parent)
        hint = f"; {path.parent} has {', '.join(beside)}" if beside else ""
        raise ParamsError(str(path), [f"there is no such file{hint}"]) from None
    except UnreadableYamlError as error:
        raise ParamsError(str(path), [str(error)]) from None
    if isinstance(values, list):
        raise ParamsError(str(path), ["must be a mapping of fields, got a list"])
    return values


def _merged(below: dict[Any, Any], laid: dict[Any, Any]) -> dict[Any, Any]:
    """Return `laid` over `below`: sections field by field, anything else replaced."""
    merged = dict(below)
    for name, value in laid.items():
        mine = merged.get(name)
        both = isinstance(mine, dict) and isinstance(value, dict)
        merged[name] = _merged(cast("dict[Any, Any]", mine), value) if both else value
    return merged


def _without_replaced(below: dict[Any, Any], laid: dict[Any, Any]) -> dict[Any, Any]:
    """Return `below` without the sections whose kind `laid` changes: their fields differ."""

    def is_replaced(name: Any) -> bool:
        mine, theirs = below[name], laid.get(name)
        if not isinstance(mine, dict) or not isinstance(theirs, dict):
            return False
        kinds = [(mine.get(tag), theirs.get(tag)) for tag in TAGS]
        return any(kind is not None and was not in (None, kind) for was, kind in kinds)

    return {name: below[name] for name in below if not is_replaced(name)}


def _dotlist(overrides: Sequence[str], option: str) -> dict[Any, Any]:
    wrong = [item for item in overrides if "=" not in item]
    if wrong:
        problems = [f"{item!r}: write it as dotted.field=value" for item in wrong]
        raise ParamsError(option, problems)
    try:
        return plain_values(OmegaConf.from_dotlist(list(overrides)))
    except (YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        raise ParamsError(option, [yaml_problem(error)]) from None


def _refuse_text(values: Any, path: str = "") -> list[str]:
    """Return problems of texts: interpolations, which read variables, and pasted keys."""
    if isinstance(values, dict):
        return [p for k, v in values.items() for p in _refuse_text(v, f"{path}.{k}".lstrip("."))]
    if isinstance(values, list):
        return [p for i, v in enumerate(values) for p in _refuse_text(v, f"{path}[{i}]")]
    if isinstance(values, str) and "${" in values:
        return [f"{path}: interpolation is not allowed, got {values!r}; write the literal value"]
    if isinstance(values, str) and is_secret(path, values):
        return [
            f"{path}: looks like a secret (not shown); "
            "write the NAME of the environment variable that holds it"
        ]
    return []


def _between_sound_fields(values: Any, unsound: Sequence[Sequence[str]]) -> list[str]:
    """Return broken rules over several fields of Params, where all their fields are valid."""

    def read(field: str) -> Any:
        place = field.split(".")
        if any(place[: len(wrong)] == list(wrong) for wrong in unsound):
            raise LookupError(field)
        return reduce(lambda at, name: at[name], place, values)

    if [] in [list(wrong) for wrong in unsound]:
        return []
    return broken_rules(read)
