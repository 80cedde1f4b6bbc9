"""Out of quarantine what a later policy takes, judged again; and notes that were lost."""

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
from afd.harvest.ledger import Ledger
from afd.harvest.money import MICRO
from afd.harvest.rows import Row
from afd.prompts import Prompt
from afd.store import Store, StoreError, told, write_json
from afd.video.inspection import Inspectors, Sound


def revalidate(store: Store) -> tuple[list[Entry], list[Entry]]:
    """Judge everything again: (restored, still unsound).

    A clip that was put aside for being other than asked is sound now: laying it aside was a policy
    of its teacher, and asking for this is another one. Errors: StoreError.
    """
    facts: dict[str, dict[str, object]] = {}
    digests = content_digests(clip_paths(store))
    with Ledger(store.root) as ledger, Inspectors(1) as inspectors:

        def problem_of(entry: Entry) -> str | None:
            said = inspectors.inspect(entry.path)
            if not isinstance(said, Sound):
                return said.reason
            facts[entry.sha256] = asdict(said.facts)
            return None

        def restore(entry: Entry) -> None:
            """Under every order that was answered with these bytes; the last one takes the file."""
            about = [note | facts[entry.sha256] for note in entry.provenance if "key" in note]
            for number, said in enumerate(about):
                note = _placed(said, entry.sha256[:DIGITS], digests)
                file = entry.path
                if number + 1 < len(about):
                    file = _linked(entry.path, entry.path.with_suffix(f".{number}.mp4"))
                add_file(store, str(note["key"]), file, note)
                _tell(ledger, str(note["key"]))

        return quarantine.revalidate(store, problem_of, restore)


def _placed(note: dict[str, Any], digest: str, digests: dict[str, str]) -> dict[str, Any]:
    """The note of an imported film, with the sample that it is from now on.

    What is put aside has no number of its own: sound ones that came later took the first.
    """
    if note.get("provider") != "folder":
        return note
    prompt = Prompt(str(note["prompt_id"]), str(note["prompt"]), "train", note.get("category"))
    wanted, key = first_sample(folder_spec(str(note["model"])), prompt, digest, digests)
    digests[key] = digest
    return note | {"key": key, "sample": wanted.sample}


def mend_notes(store: Store) -> int:
    """Notes that are missing or cannot be read, written anew: how many.

    From a pack or a round's shard, which hold the whole note; else from the ledger, which does not
    know the terms: training stays refused until `afd harvest permit` says them. A broken one stays
    beside it as `*.broken`. Raises StoreError.
    """
    lost = {key: path for key, path in clip_paths(store).items() if not _says_what_it_is(key, path)}
    if not lost:
        return 0
    known: dict[str, Mapping[str, Any]] = {}
    for folder in folders_with_keys(store):
        rows = read_columns(folder, "key", "provenance")
        said = {row["key"]: row["provenance"] for row in rows if row.get("provenance")}
        known |= {key: json.loads(said[key]) for key in lost.keys() & said.keys()}
    num_mended = 0
    with Ledger(store.root) as ledger, told(store.root):
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


def _says_what_it_is(key: str, path: Path) -> bool:
    try:
        return StoredClip(key, path).provenance.get("key") == key
    except StoreError:
        return False


def _as_note(ledger: Ledger, row: Row) -> dict[str, Any]:
    """What the ledger knows of a clip."""
    asked = ledger.asked(row.asked)
    return {
        "key": row.key,
        "prompt": row.prompt,
        "prompt_id": row.prompt_id,
        "category": row.category,
        "provider": row.provider,
        "model": row.model,
        "parameters": asked.parameters,
        "asked": {"duration_s": asked.duration_s, "fps": asked.fps, "size": asked.size},
        "sample": row.sample,
        "attempt": row.attempt,
        "seed": order_seed(row.slot, row.attempt) if asked.seeded else None,
        "returned_seed": row.returned_seed,
        "task_id": row.task_id,
        "cost_usd": row.spent / MICRO,
        "training_permitted": "unknown",
        "written_from": "ledger",
        **json.loads(row.facts or "{}"),
    }


def _tell(ledger: Ledger, key: str) -> None:
    """The ledger's row, where the clip was ordered here."""
    for row in ledger.rows("key = ? AND state = 'quarantined'", (key,)):
        ledger.move(row.key, "verified", by_hand=True, reason="out of quarantine")


def _linked(source: Path, target: Path) -> Path:
    target.unlink(missing_ok=True)
    target.hardlink_to(source)
    return target
