"""Restoring: quarantined clips that a later policy accepts, and lost notes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from afd.clips import quarantine
from afd.clips.library import DIGITS, StoredClip, add_file, clip_paths, content_digests
from afd.clips.packs import folders_with_keys
from afd.clips.quarantine import Entry
from afd.clips.requests import first_sample, folder_spec, order_seed
from afd.clips.shard_tables import read_columns
from afd.harvest.budget import MICRO
from afd.harvest.ledger import Ledger
from afd.harvest.order import OrderRow
from afd.prompts import Prompt
from afd.store import Store, StoreError, disk_errors, write_json
from afd.video.inspection import Inspectors, ValidClip


def revalidate(store: Store) -> tuple[list[Entry], list[Entry]]:
    """Inspect the quarantine again; return (restored, still unsound).

    A sound clip that differs from its order is restored: its quarantine was a policy of the
    teacher, and this call is another policy. Errors: StoreError.
    """
    facts: dict[str, dict[str, object]] = {}
    digests = content_digests(clip_paths(store))
    with Ledger(store.root) as ledger, Inspectors(1) as inspectors:

        def problem_of(entry: Entry) -> str | None:
            result = inspectors.inspect(entry.path)
            if not isinstance(result, ValidClip):
                return result.reason
            facts[entry.sha256] = asdict(result.facts)
            return None

        def restore(entry: Entry) -> None:
            """Store the clip under each of its orders; the last one takes the file itself."""
            about = [note | facts[entry.sha256] for note in entry.provenance if "key" in note]
            for number, record in enumerate(about):
                note = _placed(record, entry.sha256[:DIGITS], digests)
                file = entry.path
                if number + 1 < len(about):
                    file = _linked(entry.path, entry.path.with_suffix(f".{number}.mp4"))
                add_file(store, str(note["key"]), file, note)
                _mark_verified(ledger, str(note["key"]))

        return quarantine.revalidate(store, problem_of, restore)


def _placed(note: dict[str, Any], digest: str, digests: dict[str, str]) -> dict[str, Any]:
    """Return the note of an imported video with its new sample number.

    A quarantined video has no number of its own: later sound ones took the first numbers.
    """
    if note.get("provider") != "folder":
        return note
    prompt = Prompt(str(note["prompt_id"]), str(note["prompt"]), "train", note.get("category"))
    request, key = first_sample(folder_spec(str(note["model"])), prompt, digest, digests)
    digests[key] = digest
    return note | {"key": key, "sample": request.sample}


def mend_notes(store: Store) -> int:
    """Write missing and unreadable notes anew; return their number.

    The source is a pack or a round's shard, which hold the whole note, else the ledger, which lacks
    the terms: training stays refused until `afd harvest permit`. An unreadable note stays beside
    the new one as `*.broken`. Raises StoreError.
    """
    lost = {key: path for key, path in clip_paths(store).items() if not _has_record(key, path)}
    if not lost:
        return 0
    known: dict[str, Mapping[str, Any]] = {}
    for folder in folders_with_keys(store):
        rows = read_columns(folder, "key", "provenance")
        records = {row["key"]: row["provenance"] for row in rows if row.get("provenance")}
        known |= {key: json.loads(records[key]) for key in lost.keys() & records.keys()}
    num_mended = 0
    with Ledger(store.root) as ledger, disk_errors(store.root):
        for key, path in lost.items():
            about = known.get(key) or next(
                (_as_note(ledger, row) for row in ledger.rows("key = ?", (key,))), None
            )
            if about:
                note = StoredClip(key, path).note
                if note.exists():
                    note.rename(note.with_suffix(".broken"))
                write_json(note, dict(about))
                num_mended += 1
    return num_mended


def _has_record(key: str, path: Path) -> bool:
    try:
        return StoredClip(key, path).provenance.get("key") == key
    except StoreError:
        return False


def _as_note(ledger: Ledger, row: OrderRow) -> dict[str, Any]:
    """Return a note from the ledger's row of a clip."""
    spec = ledger.spec(row.spec_id)
    return {
        "key": row.key,
        "prompt": row.prompt,
        "prompt_id": row.prompt_id,
        "category": row.category,
        "provider": row.provider,
        "model": row.model,
        "parameters": spec.parameters,
        "asked": {"duration_s": spec.duration_s, "fps": spec.fps, "size": spec.size},
        "sample": row.sample,
        "attempt": row.attempt,
        "seed": order_seed(row.request_id, row.attempt) if spec.seeded else None,
        "returned_seed": row.returned_seed,
        "task_id": row.task_id,
        "cost_usd": row.spent / MICRO,
        "training_permitted": "unknown",
        "written_from": "ledger",
        **json.loads(row.facts or "{}"),
    }


def _mark_verified(ledger: Ledger, key: str) -> None:
    """Mark the order as verified if this store's ledger has it."""
    for row in ledger.rows("key = ? AND state = 'quarantined'", (key,)):
        ledger.move(row.key, "verified", by_hand=True, reason="out of quarantine")


def _linked(source: Path, target: Path) -> Path:
    target.unlink(missing_ok=True)
    target.hardlink_to(source)
    return target
