"""Import of a folder of finished videos: the same rows and files as for paid clips.

A folder is a teacher whose model is its name. A caption's sound videos become its samples in the
order of the folder, and keep their numbers: a second import changes nothing, new videos get the
next numbers. Numbers are given after the inspection: each caption with a sound video has a
sample 0.
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
from afd.harvest.context import incoming
from afd.harvest.folder.captions import Split
from afd.harvest.folder.reading import (
    FolderClip,
    FolderError,
    leaks,
    read_folder,
    several_captions,
    share_out,
)
from afd.harvest.inspect_clip import ClipInspector
from afd.harvest.ledger import Ledger
from afd.harvest.provenance import InspectionResult
from afd.prompts import Prompt, prompt_id
from afd.store import Store, disk_errors

AT_ONCE = 64  # clips in inspection


@dataclass
class ImportResult:
    """Result of an import."""

    num_new: int = 0
    num_known: int = 0
    num_duplicates: int = 0  # the same bytes under the same caption
    num_restated: int = 0  # known clips with new terms
    ambivalent: list[list[str]] = field(
        default_factory=list[list[str]]
    )  # one content, several captions
    refused: dict[str, str] = field(default_factory=dict[str, str])  # name -> reason
    prompts: dict[str, Prompt] = field(default_factory=dict[str, Prompt])  # that have a clip

    num_clips: Counter[str] = field(default_factory=Counter[str])  # by caption

    @property
    def fewest_clips(self) -> int:
        """The smallest number of clips of a caption: the largest clips_per_prompt."""
        return min(self.num_clips.values(), default=1)

    def takes(self, prompt: Prompt) -> None:
        """Count a clip of this prompt."""
        self.prompts.setdefault(prompt.text, prompt)
        self.num_clips[prompt.text] += 1


@dataclass
class _New:
    """A video that the library lacks."""

    clip: FolderClip
    prompt: Prompt
    verdict: InspectionResult | None = None

    @property
    def is_sound(self) -> bool:
        return self.verdict is not None and self.verdict.problem is None


@dataclass(frozen=True)
class _Known:
    """A video of the folder that the library has."""

    clip: FolderClip
    prompt: Prompt
    stored: StoredClip


def import_folder(
    store: Store,
    teacher: FolderTeacher,
    on_change: Callable[[int, int], None] | None = None,
    *,
    restating: bool = False,
    sharing: bool = False,
    num_held_out: int | None = None,
) -> ImportResult:
    """Copy each sound clip of the folder into the library; the folder stays unchanged.

    `restating`: the terms also apply to clips of earlier imports (set for a person's command, never
    for params of a campaign). `sharing`: every prompt gets a split (reading.share_out).
    Raises FolderError with all problems of the whole folder at once, StoreError.
    """
    done = ImportResult()
    if teacher.path is None:
        return done
    root, spec = Path(teacher.path), teacher_spec(teacher)
    folder = read_folder(root)
    if sharing:
        folder = share_out(root, folder, num_held_out)
    done.num_duplicates = folder.num_duplicates
    done.refused |= {misread.name: misread.reason for misread in folder.refused}
    with disk_errors(store.root):
        stored = clip_paths(store)
        new, known = _sorted(spec, folder.clips, stored)
        asyncio.run(_inspect_all(new, on_change))
        sound = [*_contents(new), *_stored_contents(known)]
        if problems := leaks(sound):  # before any clip is stored
            raise FolderError(root, problems)
        alike = several_captions((name, content, caption) for name, _, content, caption in sound)
        seen = {name for names in folder.ambivalent for name in names}
        done.ambivalent = folder.ambivalent + [some for some in alike if not seen & set(some)]
        done.num_known = len(known)
        for one in known:
            done.takes(one.prompt)
            done.num_restated += restating and update_statement(one.stored, _statement(teacher))
        digests = content_digests(stored)
        with Ledger(store.root) as ledger:
            for one in sorted(new, key=lambda one: not one.is_sound):  # unsound ones last
                digest = one.clip.sha256[:DIGITS]
                request, key = first_sample(spec, one.prompt, digest, digests)
                digests[key] = digest
                _import_clip(store, ledger, teacher, spec, one, request, done)
    return done


def _sorted(
    spec: TeacherSpec, clips: Sequence[FolderClip], stored: dict[str, Path]
) -> tuple[list[_New], list[_Known]]:
    """Return the videos that the library lacks, and those that it has."""
    digests = content_digests(stored)
    new: list[_New] = []
    known: list[_Known] = []
    for clip in clips:
        prompt = Prompt(prompt_id(clip.caption), clip.caption, clip.split or "train", clip.category)
        mine = clip.sha256[:DIGITS]
        _, key = first_sample(spec, prompt, mine, digests)
        if key in stored:
            known.append(_Known(clip, prompt, StoredClip(key, stored[key])))
        elif key not in digests:
            digests[key] = mine
            new.append(_New(clip, prompt))
    return new, known


async def _inspect_all(new: Sequence[_New], on_change: Callable[[int, int], None] | None) -> None:
    with ClipInspector() as inspect:
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            verdicts = await asyncio.gather(*(inspect(one.clip.path) for one in some))
            for one, verdict in zip(some, verdicts, strict=True):
                one.verdict = verdict
            if on_change is not None:
                on_change(start + len(some), len(new))


def _contents(new: Sequence[_New]) -> Iterator[tuple[str, Split | None, str, str]]:
    """Yield (name, split, decoded content, caption) of the sound videos."""
    for one in new:
        if one.verdict is not None and one.is_sound:
            content = str(one.verdict.facts["content_sha256"])
            yield one.clip.name, one.clip.split, content, one.clip.caption


def _stored_contents(known: Sequence[_Known]) -> Iterator[tuple[str, Split | None, str, str]]:
    """Yield the same for earlier imports, from their notes. Raises StoreError if unreadable."""
    for one in known:
        if content := one.stored.provenance.get("content_sha256"):
            yield one.clip.name, one.clip.split, str(content), one.clip.caption


def _import_clip(
    store: Store,
    ledger: Ledger,
    teacher: FolderTeacher,
    spec: TeacherSpec,
    one: _New,
    request: ClipRequest,
    done: ImportResult,
) -> None:
    """Copy a video into the library, or the quarantine with its reason; add its row."""
    assert one.verdict is not None
    clip, key = one.clip, order_key(request.request_id, 0, seeded=spec.seeded)
    file = incoming(store) / f"{key}.{clip.sha256[:DIGITS]}.mp4"
    _copy(clip.path, file)
    about = {
        "key": key,
        "prompt": clip.caption,
        "prompt_id": request.prompt_id,
        "category": clip.category,
        "provider": spec.provider,
        "model": spec.model,
        "sample": request.sample,
        "original": clip.name,
        "cost_usd": 0.0,
        **_statement(teacher),
        **one.verdict.facts,
    }
    if one.verdict.problem is not None:
        entry = quarantine.put(store, file, one.verdict.problem, about)
        done.refused[clip.name] = f"{one.verdict.problem} ({entry.description})"
        return
    add_file(store, key, file, about)
    ledger.add_delivered(spec, request, json.dumps(one.verdict.facts))
    done.num_new += 1
    done.takes(one.prompt)


def _statement(teacher: FolderTeacher) -> dict[str, Any]:
    """Return the permission and terms as fields of a note."""
    terms = teacher.terms.model_dump(mode="json")
    return {"training_permitted": teacher.training_permitted, "terms": terms}


def _copy(source: Path, target: Path) -> None:
    """Copy a file to the library's disk, complete and synced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with source.open("rb") as read, part.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
    part.rename(target)
