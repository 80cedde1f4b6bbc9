"""Integrity check of all paid clips; one report with all findings.

    missing      a row without its file: of the ledger, a note or a shard's table; a clip's note
    unexpected   a file without its row
    wrong        a file whose bytes are not those that were stored; a note that cannot be read

The library, the quarantine and every shard are read completely, on several threads: hashing
releases the interpreter's lock. Training is safe without this check: each read compares the clip's
sha256.
"""

import hashlib
import os
import tarfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from afd.artifacts import MANIFEST
from afd.clips import packs, quarantine
from afd.clips.library import StoredClip
from afd.clips.shard_tables import read_columns
from afd.clips.shards import TABLE, TAR, ShardError, read_table
from afd.store import Store, StoreError

Kind = Literal["missing", "unexpected", "wrong"]
_BLOCK = 1 << 20
AT_ONCE = 4096  # files handed to the threads together: memory stays flat


@dataclass(frozen=True)
class Finding:
    """One fault of the store."""

    kind: Kind
    path: Path
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """Result of a check of the whole store."""

    findings: tuple[Finding, ...]
    num_files: int
    num_bytes: int
    num_aside: int  # in quarantine

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """Return the findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    @property
    def is_whole(self) -> bool:
        return not self.findings


Checked = tuple[list[Finding], int, int]  # findings, files, bytes


def verify(
    store: Store,
    verified: Collection[str] = (),
    num_threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Read and compare all paid clips.

    `verified` holds the keys of orders in the ledger's state verified: each must have its clip in
    the library or in a shard.
    """
    findings: list[Finding] = []
    num_files = num_bytes = 0
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as threads:
        for work in (_library(store), _aside(store), _shards(store)):
            for batch in _batches(work):
                for found, files, size in threads.map(_done, batch):
                    findings += found
                    num_files += files
                    num_bytes += size
                if on_progress:
                    on_progress(num_files)
    findings += _without_clip(store, verified)
    num_aside = sum(1 for _ in quarantine.folder(store).glob("*.bin"))
    return VerifyReport(tuple(findings), num_files, num_bytes, num_aside)


def _done(check: Callable[[], Checked]) -> Checked:
    return check()


def _batches(work: Iterator[Callable[[], Checked]]) -> Iterator[list[Callable[[], Checked]]]:
    batch: list[Callable[[], Checked]] = []
    for check in work:
        batch.append(check)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _library(store: Store) -> Iterator[Callable[[], Checked]]:
    """Yield a check of each file of clips/: notes without a clip, clips with another content."""
    for folder in sorted(store.clips.glob("*")):
        if not folder.is_dir():
            finding = Finding("unexpected", folder, "no clip of the vault")
            yield lambda finding=finding: ([finding], 1, 0)
            continue
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        for name in sorted(names):
            path = folder / name
            if path.suffix == ".mp4" and path.stem.count(".") == 1:
                yield lambda path=path: _with_note(path)
            elif path.suffix not in (".json", ".broken"):
                finding = Finding("unexpected", path, "no clip of the vault")
                yield lambda finding=finding: ([finding], 1, 0)
            elif path.suffix == ".json" and path.with_suffix(".mp4").name not in names:
                finding = Finding("missing", path.with_suffix(".mp4"), "its note stands alone")
                yield lambda finding=finding: ([finding], 1, 0)


def _aside(store: Store) -> Iterator[Callable[[], Checked]]:
    place = quarantine.folder(store)
    notes = {path.stem for path in place.glob("*.json")}
    files = {path.stem for path in place.glob("*.bin")}
    for stem in sorted(files & notes):
        yield lambda path=place / f"{stem}.bin": _put_aside(path)
    for stem in sorted(files - notes):
        finding = Finding("unexpected", place / f"{stem}.bin", "in quarantine without a note")
        yield lambda finding=finding: ([finding], 1, 0)
    for stem in sorted(notes - files):
        finding = Finding("missing", place / f"{stem}.bin", "put aside, but not there")
        yield lambda finding=finding: ([finding], 0, 0)


def _shards(store: Store) -> Iterator[Callable[[], Checked]]:
    finished = sorted(store.root.glob(f"teacher_clips/*/{MANIFEST}"))
    for folder in [*(path.parent for path in finished), *packs.pack_folders(store)]:
        yield lambda folder=folder: check_shard(folder)


def check_shard(folder: Path) -> Checked:
    """Compare a shard's table with its tar: each row needs its bytes, each member its row."""
    try:
        table = read_table(folder)
    except ShardError as error:
        return [Finding("missing", folder / TABLE, str(error))], 0, 0
    path, num_bytes = folder / TAR, 0
    findings: list[Finding] = []
    rows = cast("list[dict[str, Any]]", table.to_dict("records"))
    known = {str(row["member"]): row for row in rows}
    try:
        with path.open("rb") as file:
            for member, row in known.items():
                file.seek(int(row["offset"]))
                data = file.read(int(row["num_bytes"]))
                num_bytes += len(data)
                if len(data) < int(row["num_bytes"]):
                    findings.append(Finding("missing", path, f"member {member} is not all there"))
                elif hashlib.sha256(data).hexdigest() != row["sha256"]:
                    findings.append(Finding("wrong", path, f"member {member} has other bytes"))
        with tarfile.open(path) as tar:
            others = sorted(set(tar.getnames()) - set(known))
        findings += [Finding("unexpected", path, f"member {name} has no row") for name in others]
    except OSError as error:
        return [Finding("missing", path, error.strerror or str(error))], 0, num_bytes
    except tarfile.TarError as error:
        findings.append(Finding("wrong", path, f"no tar: {error}"))
    return findings, 2, num_bytes


def _with_note(path: Path) -> Checked:
    """Check a clip of the library and its note, which holds the permission to train."""
    findings, num_files, num_bytes = _hashed(path, path.stem.partition(".")[2])
    clip = StoredClip(path.stem.partition(".")[0], path)
    try:
        about = clip.provenance
    except StoreError:
        findings.append(Finding("wrong", clip.note, "no JSON object: nobody knows what it says"))
        return findings, num_files, num_bytes
    if not about:
        findings.append(Finding("missing", clip.note, "the clip stands without its note"))
    elif about.get("key") != clip.key:
        findings.append(Finding("wrong", clip.note, "it is about another clip"))
    return findings, num_files, num_bytes


def _put_aside(path: Path) -> Checked:
    findings, num_files, num_bytes = _hashed(path, path.stem)
    note = path.with_suffix(".json")
    try:
        quarantine.read(note)
    except StoreError:
        findings.append(Finding("wrong", note, "not a note of the quarantine"))
    return findings, num_files, num_bytes


def _hashed(path: Path, digest: str) -> Checked:
    """Check a file whose name holds the first digits of its sha256."""
    found, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
                size += len(block)
    except OSError as error:
        return [Finding("missing", path, error.strerror or str(error))], 0, size
    if not digest or not found.hexdigest().startswith(digest):
        return [Finding("wrong", path, "its bytes are not those of its name")], 1, size
    return [], 1, size


def _without_clip(store: Store, verified: Collection[str]) -> list[Finding]:
    if not verified:
        return []
    there = {path.name.partition(".")[0] for path in store.clips.glob("*/*.mp4")}
    for folder in [*store.root.glob("teacher_clips/*"), *packs.pack_folders(store)]:
        try:
            there |= {row["key"] for row in read_columns(folder, "key") if row}
        except StoreError:
            continue  # already a finding of check_shard
    return [
        Finding("missing", store.clips / key[:2] / f"{key}.*.mp4", "the ledger calls it verified")
        for key in sorted(set(verified) - there)
    ]
