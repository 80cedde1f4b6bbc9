"""Source of a campaign's params, beside them: runs/<name>/source.json.

The file that the campaign was started with, what was laid over it, and which values that changed.
For people alone: identity is in params.yaml.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from afd.config import Frozen, Params
from afd.params import ParamsError, load_params
from afd.store import write_atomic

FILE = "source.json"
CUT = 120  # letters of a value


class ParamsSource(Frozen):
    """The files and overrides of a start; `changed`: dotted field, value in the file, value now."""

    params: str
    overlays: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    changed: tuple[tuple[str, str, str], ...] | None = None  # None: the file alone is no params

    @classmethod
    def of(
        cls,
        params: str | Path,
        overlays: Sequence[str | Path],
        overrides: Sequence[str],
        chosen: Params,
    ) -> "ParamsSource":
        changed: tuple[tuple[str, str, str], ...] | None
        try:
            own = load_params(Params, Path(params)) if overlays or overrides else chosen
        except ParamsError:
            changed = None  # a base that only overlays complete
        else:
            before, now = (each.model_dump(mode="json") for each in (own, chosen))
            changed = tuple(_differences(before, now))
        files = tuple(str(file) for file in overlays)
        return cls(params=str(params), overlays=files, overrides=tuple(overrides), changed=changed)

    def __str__(self) -> str:
        return " + ".join((self.params, *self.overlays))

    def write(self, folder: Path) -> None:
        """Write it beside the params; a start that names its params again writes it again."""
        write_atomic(folder / FILE, self.model_dump_json().encode())


def params_source(
    params: str | Path | None,
    overlays: Sequence[str | Path],
    overrides: Sequence[str],
    chosen: Params,
) -> ParamsSource | None:
    """Return the source of a start; None without a file: a known campaign has its own."""
    return None if params is None else ParamsSource.of(params, overlays, overrides, chosen)


def read_source(folder: Path) -> ParamsSource | None:
    """Return the source; None for a campaign of an earlier version."""
    try:
        return ParamsSource.model_validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Leaves that differ, as (dotted field, old, new); sections of another kind leaf by leaf."""
    if isinstance(old, dict) or isinstance(new, dict):
        before = cast("dict[str, Any]", old) if isinstance(old, dict) else {}
        after = cast("dict[str, Any]", new) if isinstance(new, dict) else {}
        return [
            found
            for key in dict.fromkeys([*after, *before])
            for found in _differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [(path, _short(old), _short(new))]


def _short(value: Any) -> str:
    text = "\u2013" if value is None else str(value)
    return text if len(text) <= CUT else f"{text[:CUT]}\u2026"
