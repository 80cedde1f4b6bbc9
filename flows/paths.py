"""Folders and names of campaigns, and the params that each was started with."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from afd.config import Params
from afd.config.teachers import (
    DiffusersTeacher,
    FolderTeacher,
    PluginTeacher,
    RemoteTeacher,
    SimulatorTeacher,
)
from afd.fingerprint import fingerprint
from afd.params import ParamsError, validate
from afd.runtime.identity import contents, semantic
from afd.store import StoreError, disk_errors, write_atomic, write_json
from afd.yaml_files import UnreadableYamlError, read_yaml
from flows import record_files
from flows.command_text import RUNS, STORE

# Read once: MLflow's library writes this variable when it is used, and a process may run campaigns
# of several folders.
MLFLOW_SERVER = os.environ.get("MLFLOW_TRACKING_URI")
CONTENTS = "contents.json"  # sha256 of the files that params name, by field
KERNEL = (("/", "proc"), ("/", "sys"))
MAX_DIFFERENCES = 12  # listed; another family of students differs in 59 fields


@dataclass(frozen=True)
class CampaignPaths:
    """Folders of a campaign."""

    runs: Path = RUNS
    store: Path = STORE

    def tracking_uri(self, chosen: str | None = None, *, make: bool = True) -> str:
        """MLflow: the server that the cluster's params have chosen, else the one that
        MLFLOW_TRACKING_URI names, else a database of this folder's, whose folder is made."""
        if chosen or MLFLOW_SERVER:
            return chosen or MLFLOW_SERVER or ""
        if make:
            self.mlflow_database.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{self.mlflow_database}"

    @property
    def mlflow_database(self) -> Path:
        """The database of this folder's MLflow; nothing is made."""
        return (self.runs / ".services" / "mlflow").resolve() / "mlflow.db"


def refuse_unusable(paths: CampaignPaths) -> None:
    """Raise StoreError for folders that can never hold a campaign, before anything is made."""
    for option, place in (("--runs", paths.runs), ("--store", paths.store)):
        at = place.resolve()
        while not at.exists():
            at = at.parent
        if not at.is_dir():
            raise StoreError(f"{option} {place}: {at} is a file; choose a folder")
        if at.parts[:2] in KERNEL or not os.access(at, os.W_OK):
            raise StoreError(f"{option} {place}: {at} cannot be written; choose another folder")


def campaign_folder(name: str, paths: CampaignPaths) -> Path:
    """runs/<name>; raises ParamsError for a name that is no plain folder name."""
    allowed = name.replace("-", "").replace("_", "").replace(".", "")
    if not allowed.isascii() or not allowed.isalnum() or name.startswith(".") or len(name) > 64:
        problem = (
            f"{name!r}: a campaign's name is 1 to 64 of a-z, A-Z, 0-9, '-', '_' "
            "and '.'; it does not begin with '.' and has a letter or digit"
        )
        raise ParamsError("NAME", [problem])
    return (paths.runs / name).resolve()


def teacher_name(params: Params) -> str:
    """Return the name of the teacher."""
    match params.teacher:
        case RemoteTeacher(provider=provider, model=model):
            return f"{provider}-{model}"
        case FolderTeacher(name=name):
            return name
        case DiffusersTeacher(pipeline=pipeline):
            return Path(pipeline).name
        case PluginTeacher(factory=factory):
            return factory.partition(":")[0]
        case SimulatorTeacher():
            return "simulator"


def saved_params(folder: Path) -> Params | None:
    """Return the params a campaign was started with, None before its start."""
    file = folder / "params.yaml"
    try:
        values = read_yaml(file)
    except FileNotFoundError:
        return None
    except UnreadableYamlError as error:
        raise ParamsError(str(file), [str(error)]) from None
    return validate(Params, values, str(file))


def save_params(folder: Path, params: Params) -> None:
    """Write the params, and the sha256 of every file that they name, when a campaign is started.

    Later only circumstance may change (what changes no artifact: paths, memory, how the teacher is
    reached and paid), and is written. Raises ParamsError naming every other field.
    """
    found = refuse_other_params(folder, params)
    if found is None:
        return
    values = params.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    with disk_errors(folder):
        write_json(folder / CONTENTS, found)
        write_atomic(folder / "params.yaml", text.encode())


def refuse_other_params(folder: Path, params: Params) -> dict[str, str | None] | None:
    """Return the contents to keep beside `params`; None where these params are kept already.

    Raises ParamsError naming every field in which a campaign of this name has other params.
    """
    before = saved_params(folder)
    if before == params:
        return None
    found = contents(params)
    if before is not None:
        known = _saved_contents(folder, before)
        if differing := _identity_differences(before, known, params, found):
            left = len(differing) - MAX_DIFFERENCES
            more = [f"and {left} other fields differ"] if left > 0 else []
            raise ParamsError(
                str(folder / "params.yaml"),
                [
                    *(f"{path}: the campaign has {was!r}, not {new!r}"
                      for path, was, new in differing[:MAX_DIFFERENCES]),
                    *more,
                    "a campaign keeps its params: drop what differs; or choose another NAME, "
                    "which reuses everything that the store has of it; or add --set-aside to "
                    "`afd campaign`: the earlier campaign is renamed and loses nothing",
                ],
            )  # fmt: skip
        found = known | found
    return found


def set_aside(folder: Path, params: Params) -> Path | None:
    """Rename a campaign that was started with other params, so that its name is free; gives where
    it went, None where nothing stood in the way.

    Whoever reproduces a pipeline changes params and keeps names. Nothing is lost: records, DVC
    pointers and MLflow ids move with the folder, artifacts stay in the store.
    """
    before = saved_params(folder)
    if before is None or before == params:
        return None
    known = _saved_contents(folder, before)
    if not _identity_differences(before, known, params, contents(params)):
        return None
    identity = semantic(before.model_dump(mode="json")) | {"content": known}
    stem = f"{folder.name[:48]}-{fingerprint(identity)[:8]}"
    others = (folder.with_name(f"{stem}-{number}") for number in range(2, 10_000))
    free = next(name for name in (folder.with_name(stem), *others) if not name.exists())
    with disk_errors(folder.parent):
        folder.rename(free)
    return free


def _saved_contents(folder: Path, before: Params) -> dict[str, str | None]:
    """Return the contents at the start of the campaign; older campaigns did not save them."""
    try:
        return record_files.read_record(folder / CONTENTS, record_files.CONTENTS)
    except FileNotFoundError:
        return contents(before)


def _identity_differences(
    before: Params, known: dict[str, str | None], params: Params, found: dict[str, str | None]
) -> list[tuple[str, Any, Any]]:
    """Return differences in identity, as (dotted path, old, new); files by their content."""
    old, new = (semantic(each.model_dump(mode="json")) for each in (before, params))
    both = sorted(known.keys() & found.keys())
    changed = [(field, known[field], found[field]) for field in both]
    return _differences(old, new) + [
        (field, was and f"content {was[:16]}", now and f"content {now[:16]}")
        for field, was, now in changed
        if was != now
    ]


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return leaves that differ, as (dotted path, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        return [
            found
            for key in sorted({*before, *after})
            for found in _differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [(path, old, new)]
