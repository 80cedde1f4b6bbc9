"""Prompts: sentences with an id and a split, composed from the grammar or read from JSONL.

Prompts are hostile until checked: they come from files that people and programs wrote, and go to
vendors, terminals and HTML. Text is data and stays literal: `${oc.env:KEY}` inside a prompt is
five funny words, never looked up.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from afd import seeds
from afd.errors import InputError
from afd.world.sentences import all_sentences

Split = Literal["train", "spare", "tuning", "held_out"]

MAX_CHARACTERS = 2000  # twice what the longest vendor limit known to us accepts in one prompt
MAX_FILE_BYTES = 256 * 2**20
MAX_PROBLEMS = 50  # shown; the rest is counted
_JOINERS = "\u200c\u200d"  # Persian and Indic spelling, and emoji, need them


@dataclass(frozen=True)
class Prompt:
    """One prompt. `id` is the head of the sha256 of its text: equal text, equal prompt."""

    id: str
    text: str
    split: Split
    category: str | None = None  # what refusals are counted by


class PromptsError(InputError):
    """Everything that is wrong with a set of prompts, one line a problem: file:line: rule."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = list(problems[:MAX_PROBLEMS])
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"... and {len(problems) - MAX_PROBLEMS} more")
        super().__init__(
            f"{len(problems)} problem(s) in the prompts, none was used\n"
            + "\n".join(f"  - {problem}" for problem in lines)
        )


def prompt_id(text: str) -> str:
    return _digest(text)[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_text(text: str) -> str | None:
    """Return the problem of a prompt's text, or None.

    Control, format (bidirectional, zero width) and surrogate characters are refused: they hide text
    from people, and break terminals, logs and job scripts.
    """
    if not text.strip():
        return "text is empty; write a sentence or delete the line"
    if len(text) > MAX_CHARACTERS:
        return f"text has {len(text)} characters, at most {MAX_CHARACTERS}; shorten it"
    # None of these characters is printable: a printable text, nearly every prompt, is not searched.
    for place, character in enumerate("" if text.isprintable() else text):
        if character in _JOINERS:
            continue
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            return (
                f"text has the control character U+{ord(character):04X} at position {place + 1}; "
                "delete it or write a space"
            )
    if text != text.strip():
        return "text begins or ends with white space; delete it"
    return None


def split_by_hash(
    texts: Iterable[str], num_held_out: int, num_tuning: int = 0, num_train: int | None = None
) -> list[Prompt]:
    """`texts` as prompts in their order, split by rank of their sha256: first those held out, then
    those for tuning, then those for training, then the spare ones.

    The split of a text depends on the set and nothing else: not on order, seed or machine.
    Errors: PromptsError for duplicates, bad text, or a split that leaves one side empty.
    """
    listed = list(texts)
    problems = [f"prompt {n + 1}: {e}" for n, text in enumerate(listed) if (e := check_text(text))]
    problems += [f"prompt {n + 1}: same text as {first}" for n, first in _duplicates(listed)]
    reserved = num_held_out + num_tuning
    if num_held_out < 1 or reserved + (num_train or 1) > len(listed):
        tuning = f" + prompts.num_tuning {num_tuning}" if num_tuning else ""
        train = f", prompts.num_train {num_train}" if num_train else ""
        problems.append(
            f"prompts.num_held_out is {num_held_out}{tuning}{train}: it must leave at least one of "
            f"{len(listed)} prompts on each side"
        )
    if problems:
        raise PromptsError(problems)
    last = len(listed) if num_train is None else reserved + num_train
    shares: list[tuple[Split, int]] = [
        ("held_out", num_held_out), ("tuning", reserved), ("train", last), ("spare", len(listed)),
    ]  # fmt: skip
    split_of: dict[str, Split] = {
        text: next(split for split, end in shares if rank < end)
        for rank, text in enumerate(sorted(listed, key=_digest))
    }
    return [Prompt(prompt_id(text), text, split_of[text]) for text in listed]


def compose(num_held_out: int, num_tuning: int = 0, num_train: int | None = None) -> list[Prompt]:
    """Every sentence of the pocket world's grammar as a prompt, split by hash."""
    texts = (sentence.text for sentence in all_sentences())
    return split_by_hash(texts, num_held_out, num_tuning, num_train)


def _duplicates(texts: Sequence[str]) -> list[tuple[int, str]]:
    first: dict[str, int] = {}
    again: list[tuple[int, str]] = []
    for number, text in enumerate(texts):
        if text in first:
            again.append((number, f"prompt {first[text] + 1}"))
        else:
            first[text] = number
    return again


def to_jsonl(prompts: Sequence[Prompt]) -> bytes:
    """One object a line, keys in one order, UTF-8: equal prompts give equal bytes."""
    lines = [
        json.dumps(
            {"id": p.id, "text": p.text, "split": p.split}
            | ({"category": p.category} if p.category else {}),
            ensure_ascii=False,
        )
        for p in prompts
    ]
    return "".join(line + "\n" for line in lines).encode()


def read_jsonl(
    path: Path,
    num_held_out: int | None = None,
    num_tuning: int = 0,
    num_train: int | None = None,
) -> list[Prompt]:
    """Prompts of a JSONL file: a `text` a line and, if you like, `split`, `category` and `id`.

    Without any `split` in the file the split is by hash and `num_held_out` is needed; a file that
    gives some prompts a split must give all of them one.
    Errors: PromptsError with every problem at once as file:line, or when it is unreadable.
    """
    return parse_jsonl(read_bytes(path), str(path), num_held_out, num_tuning, num_train)


def read_bytes(path: Path) -> bytes:
    """Read a prompts file; raises PromptsError when it is too large or cannot be read."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PromptsError([f"{path}: {size} bytes, at most {MAX_FILE_BYTES}; split the file"])
        return path.read_bytes()
    except OSError as error:
        raise PromptsError([f"{path}: cannot be read: {error.strerror}"]) from None


def parse_jsonl(
    data: bytes,
    name: str,
    num_held_out: int | None = None,
    num_tuning: int = 0,
    num_train: int | None = None,
) -> list[Prompt]:
    """`read_jsonl` on bytes; `name` is what problems call the file."""
    problems: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        row = _row(line)
        if isinstance(row, str):
            problems.append(f"{name}:{number}: {row}")
        else:
            rows.append((number, row))
    first: dict[str, int] = {}
    for number, row in rows:
        text = row["text"]
        if text in first:
            problems.append(f"{name}:{number}: same text as line {first[text]}; delete one")
        first.setdefault(text, number)
    without = [number for number, row in rows if "split" not in row]
    if without and len(without) < len(rows):
        problems += [
            f"{name}:{n}: has no split while other lines have one; write train or held_out"
            for n in without
        ]
    elif without and num_held_out is None:
        problems.append(f"{name}: no line has a split; write one or set prompts.num_held_out")
    if not rows and not problems:
        problems.append(f'{name}: no prompts; write one object a line, {{"text": "..."}}')
    if problems:
        raise PromptsError(problems)
    if without and num_held_out is not None:
        categories = {row["text"]: row.get("category") for _, row in rows}
        texts = (row["text"] for _, row in rows)
        hashed = split_by_hash(texts, num_held_out, num_tuning, num_train)
        return [replace(prompt, category=categories[prompt.text]) for prompt in hashed]
    return [
        Prompt(prompt_id(row["text"]), row["text"], cast(Split, row["split"]), row.get("category"))
        for _, row in rows
    ]


def _row(line: bytes) -> dict[str, str] | str:
    """Return the object of one line, or its problem."""
    try:
        decoded = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start + 1}: 0x{line[error.start]:02X}); save it as UTF-8"
    if decoded.startswith("\ufeff"):
        return "begins with a byte order mark; save the file as UTF-8 without BOM"
    try:
        value: Any = json.loads(decoded, object_pairs_hook=_no_repeated_keys)
    except (ValueError, RecursionError) as error:
        return f'not JSON ({error}); write {{"text": "..."}}'
    return _check_row(value)


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"key {', '.join(repeated)} written twice")
    return dict(pairs)


def _check_row(value: Any) -> dict[str, str] | str:  # noqa: PLR0911 (one return a rule)
    if not isinstance(value, dict):
        return f'a {type(value).__name__}, not an object; write {{"text": "..."}}'
    row = cast(dict[str, Any], value)
    if unknown := sorted(set(row) - {"id", "text", "split", "category"}):
        return f"unknown key {', '.join(map(repr, unknown))}; known are id, text, split, category"
    if "text" not in row:
        return "no text; every line needs one"
    for key, entry in row.items():
        if not isinstance(entry, str):
            return f"{key} is a {type(entry).__name__}, not a string"
    if wrong := check_text(row["text"]):
        return wrong
    if wrong := check_text(row.get("category", "none")):
        return f"category: {wrong}"
    if "split" in row and row["split"] not in get_args(Split):
        *most, last = get_args(Split)
        return f"split is {row['split'][:40]!r}; write {', '.join(most)} or {last}"
    if "id" in row and row["id"] != prompt_id(row["text"]):
        return (
            f"id {row['id'][:40]!r} is not the id of this text, {prompt_id(row['text'])}: the text "
            "was changed; delete the id"
        )
    return row


def prompts_of_round(
    prompts: Sequence[Prompt], split: Split, num_prompts: int, seed: int, round_index: int
) -> list[Prompt]:
    """Return the prompts of one round, without repetition while the split lasts.

    The split is walked in one seeded order after another: over the rounds every prompt comes up
    equally often. Harvest and rollout both call this, so they agree without talking.
    """
    chosen = [prompt for prompt in prompts if prompt.split == split]
    if not chosen:
        raise PromptsError([f"no prompt is in the split {split}"])
    start = round_index * num_prompts
    drawn: list[Prompt] = []
    order: Sequence[int] | npt.NDArray[np.int64] = ()
    for number in range(start, start + num_prompts):
        turn, place = divmod(number, len(chosen))
        if number == start or place == 0:  # one shuffle a turn, not one a prompt
            order = seeds.numpy_generator(seed, "prompts", split, turn).permutation(len(chosen))
        drawn.append(chosen[int(order[place])])
    return drawn
