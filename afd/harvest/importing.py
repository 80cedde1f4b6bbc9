"""A folder of finished videos into the store: the same rows and files as clips that were paid.

A folder is a teacher whose model is its name. A caption's sound videos become its samples in the
order of the folder, and keep their numbers: importing again changes nothing, what is new comes
behind. Numbers are given after judging: every caption that has a sound video has a sample 0.
"""

import asyncio
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afd.clips import quarantine
from afd.clips.library import DIGITS, StoredClip, add_file, clip_paths, content_digests
from afd.clips.permission import update_statement
from afd.clips.requests import ClipRequest, TeacherSpec, first_sample, order_key, teacher_spec
from afd.config import FolderTeacher
from afd.harvest.captions import Split
from afd.harvest.desk import incoming
from afd.harvest.folder import (
    FolderClip,
    FolderError,
    leaks,
    read_folder,
    several_captions,
    share_out,
)
from afd.harvest.judging import Judge
from afd.harvest.ledger import Ledger
from afd.harvest.provenance import Verdict
from afd.prompts import Prompt, prompt_id
from afd.store import Store, told

AT_ONCE = 64  # clips that wait for their judges


@dataclass
class Imported:
    """What became of a folder's videos."""

    num_new: int = 0
    num_known: int = 0
    num_duplicates: int = 0  # the same bytes under the same caption
    num_restated: int = 0  # known ones whose terms are others now
    ambivalent: list[list[str]] = field(
        default_factory=list[list[str]]
    )  # one film, several captions
    refused: dict[str, str] = field(default_factory=dict[str, str])  # name -> why it is not used
    prompts: dict[str, Prompt] = field(default_factory=dict[str, Prompt])  # that have a clip

    num_clips: Counter[str] = field(default_factory=Counter[str])  # by caption

    @property
    def fewest_clips(self) -> int:
        """That any caption has: what a campaign can ask for of each prompt."""
        return min(self.num_clips.values(), default=1)

    def takes(self, prompt: Prompt) -> None:
        """A clip of this prompt is in the vault."""
        self.prompts.setdefault(prompt.text, prompt)
        self.num_clips[prompt.text] += 1


@dataclass
class _New:
    """A video that the vault does not hold."""

    clip: FolderClip
    prompt: Prompt
    verdict: Verdict | None = None

    @property
    def is_sound(self) -> bool:
        return self.verdict is not None and self.verdict.problem is None


@dataclass(frozen=True)
class _Known:
    """A video of the folder that the vault holds."""

    clip: FolderClip
    prompt: Prompt
    kept: StoredClip


def import_folder(
    store: Store,
    teacher: FolderTeacher,
    on_change: Callable[[int, int], None] | None = None,
    *,
    restating: bool = False,
    sharing: bool = False,
    num_held_out: int | None = None,
) -> Imported:
    """Every sound clip of the folder into the vault; the folder stays as it is.

    `restating`: a person says what the terms are, also of clips that were imported before; params
    of a campaign never do. `sharing`: every prompt gets a split (afd.harvest.folder.share_out).
    Raises FolderError with all problems of the whole folder at once, StoreError.
    """
    done = Imported()
    if teacher.path is None:
        return done
    root, asked = Path(teacher.path), teacher_spec(teacher)
    folder = read_folder(root)
    if sharing:
        folder = share_out(root, folder, num_held_out)
    done.num_duplicates = folder.num_duplicates
    done.refused |= {misread.name: misread.reason for misread in folder.refused}
    with told(store.root):
        in_vault = clip_paths(store)
        new, known = _sorted(asked, folder.clips, in_vault)
        asyncio.run(_judge(new, on_change))
        sound = [*_contents(new), *_kept_contents(known)]
        if problems := leaks(sound):  # before anything is kept
            raise FolderError(root, problems)
        alike = several_captions((name, content, caption) for name, _, content, caption in sound)
        seen = {name for names in folder.ambivalent for name in names}
        done.ambivalent = folder.ambivalent + [some for some in alike if not seen & set(some)]
        done.num_known = len(known)
        for one in known:
            done.takes(one.prompt)
            done.num_restated += restating and update_statement(one.kept, _statement(teacher))
        digests = content_digests(in_vault)
        with Ledger(store.root) as ledger:
            for one in sorted(new, key=lambda one: not one.is_sound):  # the unsound come behind
                digest = one.clip.sha256[:DIGITS]
                wanted, key = first_sample(asked, one.prompt, digest, digests)
                digests[key] = digest
                _take(store, ledger, teacher, asked, one, wanted, done)
    return done


def _sorted(
    asked: TeacherSpec, clips: Sequence[FolderClip], in_vault: dict[str, Path]
) -> tuple[list[_New], list[_Known]]:
    """The videos that are not in the vault yet, and those that are."""
    digests = content_digests(in_vault)
    new: list[_New] = []
    known: list[_Known] = []
    for clip in clips:
        prompt = Prompt(prompt_id(clip.caption), clip.caption, clip.split or "train", clip.category)
        mine = clip.sha256[:DIGITS]
        _, key = first_sample(asked, prompt, mine, digests)
        if key in in_vault:
            known.append(_Known(clip, prompt, StoredClip(key, in_vault[key])))
        elif key not in digests:
            digests[key] = mine
            new.append(_New(clip, prompt))
    return new, known


async def _judge(new: Sequence[_New], on_change: Callable[[int, int], None] | None) -> None:
    with Judge() as judge:
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            verdicts = await asyncio.gather(*(judge(one.clip.path) for one in some))
            for one, verdict in zip(some, verdicts, strict=True):
                one.verdict = verdict
            if on_change is not None:
                on_change(start + len(some), len(new))


def _contents(new: Sequence[_New]) -> Iterator[tuple[str, Split | None, str, str]]:
    """(name, split, decoded content, caption) of what is sound."""
    for one in new:
        if one.verdict is not None and one.is_sound:
            content = str(one.verdict.facts["content_sha256"])
            yield one.clip.name, one.clip.split, content, one.clip.caption


def _kept_contents(known: Sequence[_Known]) -> Iterator[tuple[str, Split | None, str, str]]:
    """The same of what was imported before, by the notes. Raises StoreError for a broken one."""
    for one in known:
        if content := one.kept.provenance.get("content_sha256"):
            yield one.clip.name, one.clip.split, str(content), one.clip.caption


def _take(
    store: Store,
    ledger: Ledger,
    teacher: FolderTeacher,
    asked: TeacherSpec,
    one: _New,
    wanted: ClipRequest,
    done: Imported,
) -> None:
    """A copy into the vault, or into quarantine with its reason; then the ledger's row."""
    assert one.verdict is not None
    clip, key = one.clip, order_key(wanted.slot, 0, seeded=asked.seeded)
    file = incoming(store) / f"{key}.{clip.sha256[:DIGITS]}.mp4"
    _copy(clip.path, file)
    about = {
        "key": key,
        "prompt": clip.caption,
        "prompt_id": wanted.prompt_id,
        "category": clip.category,
        "provider": asked.provider,
        "model": asked.model,
        "sample": wanted.sample,
        "original": clip.name,
        "cost_usd": 0.0,
        **_statement(teacher),
        **one.verdict.facts,
    }
    if one.verdict.problem is not None:
        quarantine.put(store, file, one.verdict.problem, about)
        done.refused[clip.name] = one.verdict.problem
        return
    add_file(store, key, file, about)
    ledger.add_delivered(asked, wanted, json.dumps(one.verdict.facts))
    done.num_new += 1
    done.takes(one.prompt)


def _statement(teacher: FolderTeacher) -> dict[str, Any]:
    """What the terms say, as it stands in every note."""
    terms = teacher.terms.model_dump(mode="json")
    return {"training_permitted": teacher.training_permitted, "terms": terms}


def _copy(source: Path, target: Path) -> None:
    """A copy on the disk of the vault, whole and synced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with source.open("rb") as read, part.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
    part.rename(target)
