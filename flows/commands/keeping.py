"""What `afd harvest` does about files: verify, import, pack."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
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
from afd.store import Store, StoreError, write_atomic
from afd.world.sentences import is_sentence
from flows.command_text import command
from flows.commands.exit_codes import ExitCode

MAX_LISTED = 50


def _existing(root: Path) -> Store:
    """The store that stands there. Raises StoreError where none does."""
    if not root.is_dir():
        raise StoreError(f"{root}: there is no such folder; name the store with --store")
    return Store(root.resolve())


def verify_store(root: Path, *, revalidate: bool, mend: bool = False) -> int:
    """Everything paid against its hash; 0 when it is whole."""
    store, console = _existing(root), Console()
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
    """The commands for clips that are not there: out of packs, or ordered once more."""
    clips = [one.path for one in found.of("missing") if one.path.suffix == ".mp4"]
    gone = {path.name.partition(".")[0] for path in clips if path.is_relative_to(store.clips)}
    try:
        packed = gone & shards_by_key(store).keys() if gone else set[str]()
    except StoreError:  # told above, by its path: nobody knows yet what is lost
        return
    if packed:
        yield f"{len(packed)} of them stand in packs or shards:"
        yield command("harvest", "pack", "--unpack", store=root)
    lost = sorted(key[:12] for key in gone & set(verified_keys(store)) - packed)
    if lost:
        yield "what is lost for good is ordered, and paid, once more by"
        yield command("harvest", "resolve", *lost[:MAX_LISTED], "--lost", store=root)


def verified_keys(store: Store) -> list[str]:
    """Keys of the orders that the ledger calls verified."""
    if not ledger_path(store.root).exists():
        return []
    with Ledger(store.root) as ledger:
        return [row["key"] for row in ledger.query("SELECT key FROM orders WHERE state='verified'")]


@dataclass(frozen=True)
class Importing:
    """A folder, and what a person says about it."""

    folder: Path
    name: str
    permitted: str
    terms: Mapping[str, str]
    prompts: Path | None = None  # written: the captions as a prompts file
    held_out: int | None = None
    overlay: Path | None = None  # written: this teacher and its prompts, to lay over params

    def teacher(self) -> FolderTeacher:
        """Raises ParamsError with everything that is wrong."""
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


def import_videos(asked: Importing, root: Path) -> None:
    """A folder of finished videos as a teacher of that name. Raises FolderError, ParamsError."""
    teacher = asked.teacher()
    store, console = Store(root.resolve()), Console()
    with console.status("reading the folder") as status:

        def tell(done: int, total: int) -> None:
            status.update(f"{done} of {total} videos judged")

        done = import_folder(
            store,
            teacher,
            tell,
            restating=True,
            sharing=asked.prompts is not None,
            num_held_out=asked.held_out,
        )
    _tell_imported(console.print, done)
    if teacher.training_permitted != "yes":
        console.print(
            f"training_permitted is {teacher.training_permitted}: training on them is refused",
            soft_wrap=True,
        )
    if asked.prompts is not None:
        _write_prompts(asked, asked.prompts, teacher, done, root)
    if packs.worth_packing(len(clip_paths(store))):
        pack_command = command("harvest", "pack", store=root)
        console.print(f"that many files are slow for DVC: `{pack_command}`", soft_wrap=True)


def _write_prompts(
    asked: Importing, file: Path, teacher: FolderTeacher, done: ImportResult, root: Path
) -> None:
    """The prompts file, and the overlay that makes a campaign of it."""
    console = Console()
    prompts = list(done.prompts.values())
    write_atomic(file, to_jsonl(prompts))
    splits = Counter(prompt.split for prompt in prompts)
    shares = ", ".join(f"{number} {split}" for split, number in sorted(splits.items()))
    console.print(f"{len(prompts)} captions in {file}: {shares}", soft_wrap=True)
    if asked.overlay is not None:
        write_atomic(asked.overlay, _overlay(file, teacher, done, splits).encode())
        is_pocket = all(is_sentence(prompt.text) for prompt in prompts)
        student = "pocket" if is_pocket else "self_forcing"  # a fresh one reads its grammar only
        chosen = ("--params", f"params/{student}.yaml", "--overlay", str(asked.overlay))
        told = command("campaign", "--name", teacher.name, *chosen, store=root)
        console.print(told, soft_wrap=True, highlight=False)


def _overlay(file: Path, teacher: FolderTeacher, done: ImportResult, splits: Counter[str]) -> str:
    """YAML over any campaign's params: the teacher, its prompts, and films of any length."""
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
    """A statement about all clips of a source. Raises ParamsError, PermitError, StoreError."""
    values = {"training_permitted": permitted, "terms": dict(terms)}
    said = validate(Statement, values, "afd harvest permit")
    num_changed = permit(_existing(root), source, said.training_permitted, said.terms)
    Console().print(
        f"{source}: {num_changed} records changed, training_permitted is {permitted}",
        soft_wrap=True,
        highlight=False,
    )


def _tell_imported(say: Callable[..., None], done: ImportResult) -> None:
    doubled = f", {done.num_duplicates} twice in the folder" if done.num_duplicates else ""
    say(f"{done.num_new} clips imported, {done.num_known} were there{doubled}")
    if done.num_restated:
        say(f"{done.num_restated} of those have other terms now")
    if done.ambivalent:
        alike = Table("the same film under several captions: which one is right?")
        for names in done.ambivalent[:MAX_LISTED]:
            alike.add_row(Text(", ".join(map(_quoted, names))))
        say(alike)
        if len(done.ambivalent) > MAX_LISTED:
            say(f"... and {len(done.ambivalent) - MAX_LISTED} more")
    if done.refused:
        table = Table("not used", "why")
        for name, reason in list(done.refused.items())[:MAX_LISTED]:
            table.add_row(Text(_quoted(name)), Text(_quoted(reason)))
        say(table)
        if len(done.refused) > MAX_LISTED:
            say(f"... and {len(done.refused) - MAX_LISTED} more")


def _quoted(told: str) -> str:
    """A name as it is, or quoted where it would steer a terminal or is no UTF-8."""
    return told if told.isprintable() else repr(told)


def pack_store(clips_per_shard: int, root: Path, *, unpack: bool) -> None:
    """Clips into tar shards, or out of them."""
    store, console = _existing(root), Console()
    if unpack:
        console.print(f"{packs.unpack(store)} clips back in {store.clips}", soft_wrap=True)
        return
    done = packs.pack(store, clips_per_shard)
    said = f"{done.num_clips} clips into {len(done.folders)} packs, {done.num_before} were packed"
    console.print(said)
    for folder in done.folders:
        console.print(str(folder), soft_wrap=True, highlight=False)
    if done.folders:
        reads = command("harvest", "pack", "--unpack", store=root)
        console.print(f"`dvc add {root}/packs` keeps them; `{reads}` reads them", soft_wrap=True)
