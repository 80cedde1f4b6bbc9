"""File commands of `afd harvest`: verify, import, permit, pack."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from afd.clips import packs, verify
from afd.clips.library import clip_paths
from afd.clips.lookup import shards_by_key
from afd.clips.permission import permit
from afd.config import FolderTeacher
from afd.config.teachers import Statement
from afd.harvest import restore
from afd.harvest.folder.importing import ImportResult, import_folder
from afd.harvest.ledger import Ledger
from afd.harvest.schema import ledger_path
from afd.params import ParamsError, validate
from afd.prompts import to_jsonl
from afd.runtime.outcome import RefusedError
from afd.store import Store, StoreError, write_atomic
from afd.world.sentences import is_sentence
from flows.command_text import command
from flows.commands.consoles import console as stdout_console
from flows.commands.exit_codes import ExitCode

MAX_LISTED = 50


def _existing(root: Path) -> Store:
    """Return the store in `root`; raises StoreError where there is no such folder."""
    if not root.is_dir():
        raise StoreError(f"{root}: there is no such folder; name the store with --store")
    return Store(root.resolve())


def verify_store(root: Path, *, revalidate: bool, mend: bool = False) -> int:
    """Check every paid clip against its hash; return 0 where the store is whole, else 3."""
    store, console = _existing(root), stdout_console(None)
    if mend:
        console.print(f"{restore.mend_notes(store)} notes written anew")
    if revalidate:
        restored, remaining = restore.revalidate(store)
        console.print(f"{len(restored)} clips out of quarantine, {len(remaining)} stay")
    found = verify.verify(store, verified_keys(store))
    size = f"{found.num_files} files, {found.num_bytes / 1e6:,.1f} MB"
    console.print(f"{size} read; {found.num_aside} in quarantine")
    if found.is_whole:
        console.print("the store is whole")
        return ExitCode.DONE
    table = Table("", "file", "what is wrong")
    for finding in found.findings[:MAX_LISTED]:
        path = Text(_quoted(str(finding.path)), overflow="fold")
        table.add_row(finding.kind, path, Text(finding.what))
    console.print(table)
    more = len(found.findings) - MAX_LISTED
    if more > 0:
        console.print(f"... and {more} more")
    console.print(
        "nothing was changed: move aside what is wrong, then restore it and what is missing with "
        "`dvc pull` or from a backup; "
        f"notes are written anew by `{command('harvest', 'verify', '--mend', store=root)}`",
        soft_wrap=True,
    )
    for line in _ways_back(store, found, root):
        console.print(line, soft_wrap=True, highlight=False)
    return ExitCode.DAMAGED


def _ways_back(store: Store, found: verify.VerifyReport, root: Path) -> Iterator[str]:
    """Yield the commands that bring missing clips back: out of packs, or ordered once more."""
    clips = [one.path for one in found.of("missing") if one.path.suffix == ".mp4"]
    gone = {path.name.partition(".")[0] for path in clips if path.is_relative_to(store.clips)}
    try:
        packed = gone & shards_by_key(store).keys() if gone else set[str]()
    except StoreError:  # printed above, by its path: the loss is not known yet
        return
    if packed:
        yield f"{len(packed)} of them stand in packs or shards:"
        yield command("harvest", "pack", "--unpack", store=root)
    lost = sorted(key[:12] for key in gone & set(verified_keys(store)) - packed)
    if lost:
        yield "what is lost for good is ordered, and paid, once more by"
        yield command("harvest", "resolve", *lost[:MAX_LISTED], "--lost", store=root)


def verified_keys(store: Store) -> list[str]:
    """Return the keys of verified orders."""
    if not ledger_path(store.root).exists():
        return []
    with Ledger(store.root) as ledger:
        return [row["key"] for row in ledger.query("SELECT key FROM orders WHERE state='verified'")]


@dataclass(frozen=True)
class Importing:
    """A folder of videos with its terms, as typed on the command line."""

    folder: Path
    name: str
    permitted: str
    terms: Mapping[str, str]
    prompts: Path | None = None  # written: the captions as a prompts file
    held_out: int | None = None
    overlay: Path | None = None  # written: this teacher and its prompts, to lay over params

    def teacher(self) -> FolderTeacher:
        """Return the folder as a teacher; raises ParamsError with everything that is wrong."""
        values: dict[str, Any] = {
            "kind": "folder",
            "name": self.name,
            "path": str(self.folder),
            "clips_per_prompt": 1,
            "training_permitted": self.permitted,
            "terms": dict(self.terms),
            "min_clip_share": 0.0,
        }
        teacher = validate(FolderTeacher, values, "afd harvest import")
        if self.prompts is None and (self.held_out is not None or self.overlay is not None):
            raise ParamsError(
                "afd harvest import",
                ["--held-out and --overlay are about a prompts file: add --prompts prompts.jsonl"],
            )
        return teacher


def import_videos(importing: Importing, root: Path) -> None:
    """Import a folder of finished videos as a teacher; raises FolderError, ParamsError."""
    teacher = importing.teacher()
    store, console = Store(root.resolve()), stdout_console(None)
    with console.status("reading the folder") as status:

        def show_progress(done: int, total: int) -> None:
            status.update(f"{done} of {total} videos judged")

        done = import_folder(
            store,
            teacher,
            show_progress,
            restating=True,
            sharing=importing.prompts is not None,
            num_held_out=importing.held_out,
        )
    _print_imported(console.print, done)
    if not done.num_new + done.num_known:
        raise RefusedError(
            f"{importing.folder}: no video could be used, nothing was imported; correct what "
            "the table says and run the same command again"
        )
    if teacher.training_permitted != "yes":
        console.print(
            f"training_permitted is {teacher.training_permitted}: training on them is refused",
            soft_wrap=True,
        )
    if importing.prompts is not None:
        _write_prompts(importing, importing.prompts, teacher, done, root)
    if packs.worth_packing(len(clip_paths(store))):
        pack_command = command("harvest", "pack", store=root)
        console.print(f"that many files are slow for DVC: `{pack_command}`", soft_wrap=True)


def _write_prompts(
    importing: Importing, file: Path, teacher: FolderTeacher, done: ImportResult, root: Path
) -> None:
    """Write the prompts file, and the overlay that makes a campaign of it."""
    console = stdout_console(None)
    prompts = list(done.prompts.values())
    write_atomic(file, to_jsonl(prompts))
    splits = Counter(prompt.split for prompt in prompts)
    shares = ", ".join(f"{number} {split}" for split, number in sorted(splits.items()))
    console.print(f"{len(prompts)} captions in {file}: {shares}", soft_wrap=True)
    if importing.overlay is not None:
        write_atomic(importing.overlay, _overlay(file, teacher, done, splits).encode())
        is_pocket = all(is_sentence(prompt.text) for prompt in prompts)
        student = "pocket" if is_pocket else "self_forcing"  # a fresh one reads its grammar only
        chosen = ("--params", f"params/{student}.yaml", "--overlay", str(importing.overlay))
        text = command("campaign", teacher.name, *chosen, store=root)
        console.print(text, soft_wrap=True, highlight=False)


def _overlay(file: Path, teacher: FolderTeacher, done: ImportResult, splits: Counter[str]) -> str:
    """Return YAML over any campaign's params: the teacher, its prompts, clips of any length."""
    values = teacher.model_dump(mode="json", exclude_none=True)
    num_held_out = max(2, splits["held_out"])
    laid: dict[str, Any] = {
        "teacher": values | {"path": None, "clips_per_prompt": done.fewest_clips},
        "prompts": {
            "kind": "file",
            "path": str(file),
            "num_held_out": num_held_out,
            "num_tuning": 0,
            "num_train": None,
        },
        "canonical": {"longer": "middle", "shorter": "hold", "aspect": "crop"},
        "evaluate": {"num_prompts": num_held_out, "round_num_prompts": num_held_out},
    }
    return "# Written by `afd harvest import`; correct it as you like.\n" + yaml.safe_dump(
        laid, sort_keys=False, allow_unicode=True
    )


def permit_training(source: str, permitted: str, terms: Mapping[str, str], root: Path) -> None:
    """State the terms of all clips of a source; raises ParamsError, PermitError, StoreError."""
    values = {"training_permitted": permitted, "terms": dict(terms)}
    statement = validate(Statement, values, "afd harvest permit")
    num_changed = permit(_existing(root), source, statement.training_permitted, statement.terms)
    stdout_console(None).print(
        f"{source}: {num_changed} records changed, training_permitted is {permitted}",
        soft_wrap=True,
        highlight=False,
    )


def _print_imported(write: Callable[..., None], done: ImportResult) -> None:
    doubled = f", {done.num_duplicates} twice in the folder" if done.num_duplicates else ""
    write(f"{done.num_new} clips imported, {done.num_known} were there{doubled}")
    if done.num_restated:
        write(f"{done.num_restated} of those have other terms now")
    if done.ambivalent:
        alike = Table("the same film under several captions: which one is right?")
        for names in done.ambivalent[:MAX_LISTED]:
            alike.add_row(Text(", ".join(map(_quoted, names))))
        write(alike)
        if len(done.ambivalent) > MAX_LISTED:
            write(f"... and {len(done.ambivalent) - MAX_LISTED} more")
    if done.refused:
        table = Table("not used", "why")
        for name, reason in list(done.refused.items())[:MAX_LISTED]:
            table.add_row(Text(_quoted(name)), Text(_quoted(reason)))
        write(table)
        if len(done.refused) > MAX_LISTED:
            write(f"... and {len(done.refused) - MAX_LISTED} more")


def _quoted(text: str) -> str:
    """Return a name, quoted where it has control characters or is no UTF-8."""
    return text if text.isprintable() else repr(text)


def pack_store(clips_per_shard: int, root: Path, *, unpack: bool) -> None:
    """Pack clips into tar shards, or unpack them."""
    store, console = _existing(root), stdout_console(None)
    if unpack:
        console.print(f"{packs.unpack(store)} clips back in {store.clips}", soft_wrap=True)
        return
    done = packs.pack(store, clips_per_shard)
    line = f"{done.num_clips} clips into {len(done.folders)} packs, {done.num_before} were packed"
    console.print(line)
    for folder in done.folders:
        console.print(str(folder), soft_wrap=True, highlight=False)
    if done.folders:
        reads = command("harvest", "pack", "--unpack", store=root)
        console.print(f"`dvc add {root}/packs` keeps them; `{reads}` reads them", soft_wrap=True)
