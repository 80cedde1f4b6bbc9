"""Permission to train on a clip, by its own record and not by the params of its teacher.

The record is the note beside a clip in the library, or the shard's row for a clip that only a shard
has. Without a statement the permission is `unknown`, which is not yes.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from afd.artifacts import Artifact
from afd.clips.library import StoredClip, clip_paths
from afd.clips.lookup import find_clips
from afd.clips.requests import ClipRequest, teacher_spec
from afd.clips.shard_tables import read_columns
from afd.config import FolderTeacher, RemoteTeacher
from afd.config.teachers import Permission, Terms
from afd.errors import InputError
from afd.store import Store, disk_errors

HAVE_RECORDS = ("remote", "folder")  # kinds of teachers; the others film here, by params alone


class NotPermittedError(InputError):
    """Training on these clips is not permitted; the text names clip, source and cure."""


class PermitError(InputError):
    """A statement names a source of which the store has no clip."""


@dataclass(frozen=True)
class ClipRecord:
    """The provenance of one clip, read for its permission."""

    key: str
    about: Mapping[str, Any]

    @property
    def permitted(self) -> str:
        return str(self.about.get("training_permitted") or "unknown")

    @property
    def source(self) -> str:
        """Provider and model, or `folder` and name."""
        return f"{self.about.get('provider', '?')}/{self.about.get('model', '?')}"

    @property
    def terms(self) -> str:
        """The URL of the terms and the date on which they were read."""
        found = self.about.get("terms")
        if not isinstance(found, dict):
            return "no terms"
        terms = cast("dict[str, Any]", found)
        return f"{terms.get('url')}, read on {terms.get('date')}"


def refuse_clips(store: Store, clips: Artifact) -> None:
    """Raise NotPermittedError unless every clip of this shard may be trained on, by its record."""
    if clips.manifest.params["teacher"]["kind"] in HAVE_RECORDS:
        _refuse(store, _of_shard(store, clips.path))


def refuse_requests(
    store: Store, teacher: RemoteTeacher | FolderTeacher, requests: Sequence[ClipRequest]
) -> None:
    """Raise NotPermittedError unless the stored clips of these requests may be trained on."""
    _refuse(store, records(store, teacher, requests))


def records(
    store: Store, teacher: RemoteTeacher | FolderTeacher, requests: Sequence[ClipRequest]
) -> Iterator[ClipRecord]:
    """Yield the record of each request that has a clip."""
    by_shard: dict[Path, dict[str, ClipRecord]] = {}
    for answer in find_clips(store, teacher_spec(teacher), requests).values():
        if answer.file is not None:
            yield ClipRecord(answer.key, StoredClip(answer.key, answer.file).provenance)
        elif answer.shard is not None:
            if answer.shard not in by_shard:
                found = _of_shard(store, answer.shard)
                by_shard[answer.shard] = {record.key: record for record in found}
            yield by_shard[answer.shard][answer.key]


def permit(store: Store, source: str, permitted: Permission, terms: Terms) -> int:
    """Write a permission into the records of all clips of `source`; return the number changed.

    `source` is provider/model, as `Record.source` and errors name it.
    Raises PermitError, StoreError.
    """
    statement = {
        "training_permitted": permitted,
        "terms": terms.model_dump(mode="json"),
        "stated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    known: set[str] = set()
    num_found = num_changed = 0
    with disk_errors(store.root):
        for key, path in clip_paths(store).items():
            clip = StoredClip(key, path)
            found = ClipRecord(key, clip.provenance).source
            known.add(found)
            if found == source:
                num_found += 1
                num_changed += update_statement(clip, statement)
    if not num_found:
        others = ", ".join(sorted(known - {"?/?"})) or "none"
        raise PermitError(
            f"{source}: {store.clips} has no clip of it; there are: {others}. Of a clone that has "
            "packs and shards only, `afd harvest pack --unpack` first"
        )
    return num_changed


def update_statement(clip: StoredClip, statement: Mapping[str, Any]) -> bool:
    """Write a statement into a clip's record; return True if the record changed."""
    about = clip.provenance
    if all(about.get(name) == statement[name] for name in ("training_permitted", "terms")):
        return False
    return clip.restate(statement)


def _refuse(store: Store, found: Iterable[ClipRecord]) -> None:
    forbidden = [record for record in found if record.permitted != "yes"]
    if not forbidden:
        return
    first, sources = forbidden[0], sorted({record.source for record in forbidden})
    others = f" and {len(forbidden) - 1} more" if len(forbidden) > 1 else ""
    is_usual = store.root.resolve() == Path("store").resolve()
    where = "" if is_usual else f" --store {shlex.quote(str(store.root))}"
    cures = "\n".join(
        f"  afd harvest permit {source} --permitted yes --terms-url URL --terms-date DAY{where}"
        for source in sources
    )
    raise NotPermittedError(
        f"clip {first.key[:12]} of {first.source}{others}: its own record says "
        f"training_permitted: {first.permitted} ({first.terms}), whatever "
        "teacher.training_permitted of params says. Training on it is refused; all clips are kept. "
        f"Once the terms of its source have been read and allow it, type\n{cures}"
    )


def _of_shard(store: Store, folder: Path) -> Iterator[ClipRecord]:
    """Yield a record for each row; the library's note, if there is one, is newer and wins."""
    for row in read_columns(folder, "key", "provenance"):
        key, text = str(row.get("key") or ""), row.get("provenance")
        about: Any = json.loads(text) if text else {}
        for note in sorted((store.clips / key[:2]).glob(f"{key}.*.mp4")) if key else ():
            about = StoredClip(key, note).provenance or about
        yield ClipRecord(key, cast("dict[str, Any]", about) if isinstance(about, dict) else {})
