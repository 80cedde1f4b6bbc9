"""What a campaign wants of a teacher, clip by clip, and the name of every order it may take.

A want is one sample of one prompt. Its orders are its attempts: the first, and one more for every
refused output that is tried again. An order's key is the hash of provider, exact model, prompt,
parameters, seed, sample and attempt; nothing of who asks, where, or what it may cost enters it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afd.config import FolderTeacher, RemoteTeacher
from afd.fingerprint import fingerprint
from afd.prompts import Prompt, prompts_of_round

SEED_BITS = 31  # vendors take a signed 32-bit number


@dataclass(frozen=True, slots=True)
class TeacherSpec:
    """What is asked of whom, the same for every clip; `digest` is its identity."""

    provider: str
    model: str
    parameters: dict[str, Any]
    duration_s: float | None
    fps: float | None
    size: tuple[int, int] | None
    seeded: bool

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        return fingerprint({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """One sample of one prompt; `slot` names it whatever happens to its orders."""

    slot: str
    prompt_id: str
    prompt: str
    category: str | None
    sample: int


def teacher_spec(teacher: RemoteTeacher | FolderTeacher) -> TeacherSpec:
    """Of a campaign's params: a folder is a provider whose model is its name."""
    if isinstance(teacher, FolderTeacher):
        return folder_spec(teacher.name)
    size = (teacher.size.width, teacher.size.height)
    return TeacherSpec(
        teacher.provider,
        teacher.model,
        dict(teacher.parameters),
        teacher.duration_s,
        teacher.fps,
        size,
        teacher.seeded,
    )


def folder_spec(name: str) -> TeacherSpec:
    """Of the clips that were imported under this name."""
    return TeacherSpec("folder", name, {}, None, None, None, seeded=False)


def first_sample(
    asked: TeacherSpec, prompt: Prompt, digest: str, digests: Mapping[str, str]
) -> tuple[ClipRequest, str]:
    """The want that a film of this content answers, and its key: its own, or the first free one.

    `digests` holds the contents that stand under keys already.
    """
    sample = 0
    while True:
        found = clip_request(asked.digest, prompt, sample)
        key = order_key(found.slot, 0, seeded=asked.seeded)
        if digests.get(key) in (None, digest):
            return found, key
        sample += 1


def clip_request(asked_digest: str, prompt: Prompt, sample: int) -> ClipRequest:
    """The want of one sample of `prompt`."""
    slot = _sha(asked_digest, prompt.text, str(sample))
    return ClipRequest(slot, prompt.id, prompt.text, prompt.category, sample)


def order_key(slot: str, attempt: int, *, seeded: bool) -> str:
    """The request key of one attempt: `slot` holds provider, model, prompt, parameters, sample."""
    return _sha(slot, str(attempt), str(order_seed(slot, attempt) if seeded else None))


def order_seed(slot: str, attempt: int) -> int:
    """The seed that this attempt asks for: the want and the number of the attempt decide it."""
    return int(_sha("seed", slot, str(attempt))[:16], 16) >> (64 - SEED_BITS)


def round_requests(
    params: dict[str, Any], teacher: RemoteTeacher | FolderTeacher, prompts: Sequence[Prompt]
) -> list[ClipRequest]:
    """A want for every prompt of a harvest request (afd/runtime/request.py), in its order.

    The n-th time a prompt comes up it shows its n-th sample, then the first again.
    """
    split, num_prompts = params["split"], int(params["num_prompts"])
    round_index = int(params["round_index"])
    chosen = prompts_of_round(prompts, split, num_prompts, int(params["seed"]), round_index)
    size = sum(prompt.split == split for prompt in prompts)
    digest, first = teacher_spec(teacher).digest, round_index * num_prompts
    return [
        clip_request(digest, prompt, (first + number) // size % teacher.clips_per_prompt)
        for number, prompt in enumerate(chosen)
    ]


def distinct(wants: Iterable[ClipRequest]) -> Iterator[ClipRequest]:
    """Every want once: what is wanted twice is paid once."""
    seen: set[str] = set()
    for one in wants:
        if one.slot not in seen:
            seen.add(one.slot)
            yield one


def _sha(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
