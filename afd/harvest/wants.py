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
from afd.data.prompts import Prompt, prompts_of_round
from afd.fingerprint import fingerprint
from afd.teachers.remote import Order

SEED_BITS = 31  # vendors take a signed 32-bit number


@dataclass(frozen=True, slots=True)
class Asked:
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
class Want:
    """One sample of one prompt; `slot` names it whatever happens to its orders."""

    slot: str
    prompt_id: str
    prompt: str
    category: str | None
    sample: int


def asked_of(teacher: RemoteTeacher | FolderTeacher) -> Asked:
    """Of a campaign's params: a folder is a provider whose model is its name."""
    if isinstance(teacher, FolderTeacher):
        return asked_of_folder(teacher.name)
    size = (teacher.size.width, teacher.size.height)
    return Asked(
        teacher.provider,
        teacher.model,
        dict(teacher.parameters),
        teacher.duration_s,
        teacher.fps,
        size,
        teacher.seeded,
    )


def asked_of_folder(name: str) -> Asked:
    """Of the clips that were imported under this name."""
    return Asked("folder", name, {}, None, None, None, seeded=False)


def first_sample(
    asked: Asked, prompt: Prompt, digest: str, digests: Mapping[str, str]
) -> tuple[Want, str]:
    """The want that a film of this content answers, and its key: its own, or the first free one.

    `digests` holds the contents that stand under keys already.
    """
    sample = 0
    while True:
        found = want(asked.digest, prompt, sample)
        key = key_of(found.slot, 0, seeded=asked.seeded)
        if digests.get(key) in (None, digest):
            return found, key
        sample += 1


def want(asked_digest: str, prompt: Prompt, sample: int) -> Want:
    """The want of one sample of `prompt`."""
    slot = _sha(asked_digest, prompt.text, str(sample))
    return Want(slot, prompt.id, prompt.text, prompt.category, sample)


def key_of(slot: str, attempt: int, *, seeded: bool) -> str:
    """The request key of one attempt: `slot` holds provider, model, prompt, parameters, sample."""
    return _sha(slot, str(attempt), str(seed_of(slot, attempt) if seeded else None))


def seed_of(slot: str, attempt: int) -> int:
    """The seed that this attempt asks for: the want and the number of the attempt decide it."""
    return int(_sha("seed", slot, str(attempt))[:16], 16) >> (64 - SEED_BITS)


def order_of(slot: str, prompt: str, attempt: int, asked: Asked) -> Order:
    """What an adapter is handed."""
    return Order(
        key=key_of(slot, attempt, seeded=asked.seeded),
        prompt=prompt,
        seed=seed_of(slot, attempt) if asked.seeded else None,
        model=asked.model,
        parameters=asked.parameters,
        duration_s=asked.duration_s,
        fps=asked.fps,
        size=asked.size,
    )


def wants_of_request(
    params: dict[str, Any], teacher: RemoteTeacher | FolderTeacher, prompts: Sequence[Prompt]
) -> list[Want]:
    """A want for every prompt of a harvest request (afd/runtime/request.py), in its order.

    The n-th time a prompt comes up it shows its n-th sample, then the first again.
    """
    split, num_prompts = params["split"], int(params["num_prompts"])
    round_index = int(params["round_index"])
    chosen = prompts_of_round(prompts, split, num_prompts, int(params["seed"]), round_index)
    size = sum(prompt.split == split for prompt in prompts)
    digest, first = asked_of(teacher).digest, round_index * num_prompts
    return [
        want(digest, prompt, (first + number) // size % teacher.clips_per_prompt)
        for number, prompt in enumerate(chosen)
    ]


def distinct(wants: Iterable[Want]) -> Iterator[Want]:
    """Every want once: what is wanted twice is paid once."""
    seen: set[str] = set()
    for one in wants:
        if one.slot not in seen:
            seen.add(one.slot)
            yield one


def _sha(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
