"""Reader of a folder of finished videos with captions; its content is not trusted.

    folder = read_folder(Path("videos"))
    folder.clips      videos that can be imported: file, caption, sha256
    folder.refused    videos that cannot, each with its reason

Names are data: links that lead out, devices, pipes, control characters, names that differ in case
or in the spelling of an accent alone are refused one by one. Faults of the whole (no captions,
two layouts, a clip in train and held-out) raise FolderError with all faults.
"""

import hashlib
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from afd.errors import InputError
from afd.harvest.folder.captions import (
    VIDEO_SUFFIXES,
    Captioned,
    LayoutError,
    Misread,
    Split,
    leads_out,
    read_captions,
)
from afd.prompts import split_by_hash

MAX_FILES = 5_000_000
MAX_LISTED = 20  # problems in an error's text
LEAST_HELD_OUT = 2  # an interval over prompts needs two
_BLOCK = 1 << 20


class FolderError(InputError):
    """Problems that keep a folder from its import, all at once."""

    def __init__(self, root: Path, problems: list[str]) -> None:
        self.problems = tuple(problems)
        lines = [f"  - {problem}" for problem in problems[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            lines.append(f"  ... and {len(problems) - MAX_LISTED} more")
        super().__init__(
            f"{root}: {len(problems)} problem(s), nothing was imported\n" + "\n".join(lines)
        )


@dataclass(frozen=True)
class FolderClip:
    """A video to import; afd.video.inspection decodes it later."""

    path: Path  # of the plain file, links resolved
    name: str  # inside the folder
    caption: str
    split: Split | None
    category: str | None
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Folder:
    """Content of a folder."""

    clips: tuple[FolderClip, ...]  # in the order of the layout, each (file, caption) once
    refused: tuple[Misread, ...]
    num_duplicates: int  # rows with the bytes and caption of an earlier row

    @property
    def ambivalent(self) -> list[list[str]]:
        """Groups of file names with equal bytes and different captions."""
        return several_captions((clip.name, clip.sha256, clip.caption) for clip in self.clips)


def read_folder(root: Path) -> Folder:
    """Read captions and files of `root`. Raises FolderError with all problems of the whole."""
    try:
        return _read_folder(root)
    except OSError as error:
        reason = f"{error.filename or root} cannot be read: {error.strerror or error}"
        raise FolderError(root, [reason]) from error


def _read_folder(root: Path) -> Folder:
    if not root.is_dir():
        raise FolderError(root, ["not a folder"])
    root = root.resolve()
    refused: list[Misread] = []
    videos = _videos(root, refused)
    present, unusable = set(videos), {misread.name for misread in refused}
    rows: list[Captioned] = []
    try:
        for row in read_captions(root, videos):
            if isinstance(row, Misread):
                refused.append(row)
            elif problem := name_problem(row.name):
                refused.append(Misread(row.name, problem))
            elif PurePosixPath(row.name).as_posix() in present:
                rows.append(row)
            elif row.name not in unusable:
                refused.append(Misread(row.name, "it is not in the folder"))
    except LayoutError as error:
        raise FolderError(root, [str(error)]) from error
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashing leaves the interpreter's lock
        looked = threads.map(partial(_look, root), rows)
        found: list[FolderClip] = []
        for row in looked:
            found.append(row) if isinstance(row, FolderClip) else refused.append(row)
    clips = {(clip.sha256, clip.caption): clip for clip in reversed(found)}
    unique = tuple(reversed(clips.values()))
    if problems := leaks((clip.name, clip.split, clip.sha256, clip.caption) for clip in unique):
        raise FolderError(root, problems)
    return Folder(unique, tuple(refused), len(found) - len(unique))


def share_out(root: Path, folder: Folder, num_held_out: int | None) -> Folder:
    """Return the folder with a split for each clip: the layout's, else by its caption's hash.

    `num_held_out` captions are held out (None: a fifth of them, at least two); the choice depends
    on the set of captions alone. Raises FolderError with all problems at once.
    """
    captions = list(dict.fromkeys(clip.caption for clip in folder.clips))
    splits: dict[str, Split] = {clip.caption: clip.split for clip in folder.clips if clip.split}
    problems: list[str] = []
    if splits and num_held_out is not None:
        problems.append("the captions have splits of their own: leave --held-out out")
    if splits:
        problems += [
            f"caption {caption[:80]!r} has no split while others have one; write train or held_out"
            for caption in captions
            if caption not in splits
        ]
        problems += [
            f"no caption is {split}: a campaign needs both"
            for split in ("train", "held_out")
            if split not in splits.values()
        ]
    else:
        num_wanted = (
            max(LEAST_HELD_OUT, len(captions) // 5) if num_held_out is None else num_held_out
        )
        if not 0 < num_wanted < len(captions):
            problems += _too_few(len(captions), num_held_out, folder.refused)
        else:
            hashed = split_by_hash(captions, num_wanted)
            splits = {
                one.text: "held_out" if one.split == "held_out" else "train" for one in hashed
            }
    if not problems:
        clips = tuple(replace(clip, split=splits[clip.caption]) for clip in folder.clips)
        problems = leaks((clip.name, clip.split, clip.sha256, clip.caption) for clip in clips)
        if not problems:
            return replace(folder, clips=clips)
    raise FolderError(root, problems)


def _too_few(
    num_captions: int, num_held_out: int | None, refused: Sequence[Misread]
) -> Iterator[str]:
    """Yield the problem of too few captions for two splits, and all unusable videos."""
    held_out = LEAST_HELD_OUT if num_held_out is None else num_held_out
    noun = "caption" if num_captions == 1 else "captions"
    yield (
        f"{num_captions} usable {noun}, {max(1, held_out) + 1} are needed: {max(1, held_out)} "
        "held out and at least one to train on (--held-out)"
    )
    yield from (f"{one.name}: {one.reason}" for one in refused)


def several_captions(clips: Iterable[tuple[str, str, str]]) -> list[list[str]]:
    """Return groups of names with equal content and different captions.

    Each clip is (name, content, caption).
    """
    contents: dict[str, dict[str, str]] = defaultdict(dict)
    for name, content, caption in clips:
        contents[content].setdefault(caption, name)
    return [sorted(by.values()) for by in contents.values() if len(by) > 1]


def leaks(clips: Iterable[tuple[str, Split | None, str, str]]) -> list[str]:
    """Return the contents and captions that are in both train and held-out.

    Each clip is (name, split, content, caption).

    `content` may be the sha256 of the file or, after inspection, of the decoded planes.
    """
    contents: dict[str, dict[Split, str]] = defaultdict(dict)
    captions: dict[str, dict[Split, str]] = defaultdict(dict)
    for name, split, content, caption in clips:
        if split is not None:
            contents[content].setdefault(split, name)
            captions[caption].setdefault(split, name)
    problems = [
        f"{by['train']!r} (train) and {by['held_out']!r} (held-out) show the same; remove one"
        for by in contents.values()
        if len(by) == 2
    ]
    problems += [
        f"caption {caption[:80]!r} is train ({by['train']!r}) and held-out ({by['held_out']!r})"
        for caption, by in captions.items()
        if len(by) == 2
    ]
    return problems


def _videos(root: Path, refused: list[Misread]) -> list[str]:
    """Return the names of the videos below `root`, sorted, without hidden files."""
    names: list[str] = []

    def unread(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        if name == ".":
            raise error
        refused.append(Misread(name, f"a folder that cannot be read: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=unread):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        for name in folders:
            if (Path(folder) / name).is_symlink():
                refused.append(Misread((inside / name).as_posix(), "a folder that is a link"))
        for file in files:
            if not file.startswith(".") and file.lower().endswith(VIDEO_SUFFIXES):
                names.append((inside / file).as_posix())
        if len(names) > MAX_FILES:
            raise FolderError(root, [f"more than {MAX_FILES} videos; split the folder"])
    sound: list[str] = []
    for twins in _alike(names):
        if len(twins) > 1:
            listed = ", ".join(map(repr, twins))
            refused += [
                Misread(name, f"differs only in case or accents: {listed}") for name in twins
            ]
        elif problem := name_problem(twins[0]):
            refused.append(Misread(twins[0], problem))
        else:
            sound.append(twins[0])
    return sorted(sound)


def _alike(names: list[str]) -> Iterator[list[str]]:
    """Yield groups of names that some file system treats as equal."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[unicodedata.normalize("NFC", name).casefold()].append(name)
    yield from groups.values()


def name_problem(name: str) -> str | None:
    """Return the fault of a file's name inside the folder, or None."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8; rename it"
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        return "must be a path inside the folder, with / and without .."
    if any(unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp") for sign in name):
        return "control or invisible characters in its name; rename it"
    return None


def _look(root: Path, row: Captioned) -> FolderClip | Misread:
    """Hash the plain file of a row."""
    try:
        path = (root / row.name).resolve(strict=True)
        if leads_out(root, path):
            return Misread(row.name, "a link that leads out of the folder; copy the file")
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            return Misread(row.name, "not a plain file")
        digest, num_bytes = hashlib.sha256(), 0
        with os.fdopen(number, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                num_bytes += len(block)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        return Misread(row.name, f"cannot be read: {error}")
    return FolderClip(
        path, row.name, row.caption, row.split, row.category, digest.hexdigest(), num_bytes
    )
