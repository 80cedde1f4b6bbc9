"""Requests for teacher clips, and the keys of the orders that fulfil them.

A request is one sample of one prompt. Its orders are its attempts: the first, and one more for each
refused output that is tried again. An order's key is the hash of provider, exact model, prompt,
parameters, seed, sample and attempt. The campaign, the store and the price do not enter it.
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
    """Provider, model and parameters that all clips of a teacher share."""

    provider: str
    model: str
    parameters: dict[str, Any]
    duration_s: float | None
    fps: float | None
    size: tuple[int, int] | None
    seeded: bool

    @property
    def digest(self) -> str:
        """The sha256 of all fields: the identity of the teacher."""
        return fingerprint({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """One sample of one prompt; all its orders share `request_id`."""

    request_id: str
    prompt_id: str
    prompt: str
    category: str | None
    sample: int


def teacher_spec(teacher: RemoteTeacher | FolderTeacher) -> TeacherSpec:
    """Return the spec of a campaign's teacher; a folder is a provider whose model is its name."""
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
    """Return the spec of the clips that were imported under this name."""
    return TeacherSpec("folder", name, {}, None, None, None, seeded=False)


def first_sample(
    spec: TeacherSpec, prompt: Prompt, digest: str, digests: Mapping[str, str]
) -> tuple[ClipRequest, str]:
    """Return the request that a video of this content fulfils, and its key.

    The request is the first sample whose key is free or already has this content. `digests` maps
    the stored keys to the contents of their clips.
    """
    sample = 0
    while True:
        found = clip_request(spec.digest, prompt, sample)
        key = order_key(found.request_id, 0, seeded=spec.seeded)
        if digests.get(key) in (None, digest):
            return found, key
        sample += 1


def clip_request(spec_digest: str, prompt: Prompt, sample: int) -> ClipRequest:
    """Return the request for one sample of `prompt`."""
    request_id = _sha(spec_digest, prompt.text, str(sample))
    return ClipRequest(request_id, prompt.id, prompt.text, prompt.category, sample)


def order_key(request_id: str, attempt: int, *, seeded: bool) -> str:
    """Return the order key of one attempt.

    `request_id` is the hash of provider, model, prompt, parameters and sample.
    """
    return _sha(request_id, str(attempt), str(order_seed(request_id, attempt) if seeded else None))


def order_seed(request_id: str, attempt: int) -> int:
    """Return the seed of an attempt, derived from the request and the attempt's number."""
    return int(_sha("seed", request_id, str(attempt))[:16], 16) >> (64 - SEED_BITS)


def round_requests(
    params: dict[str, Any], teacher: RemoteTeacher | FolderTeacher, prompts: Sequence[Prompt]
) -> list[ClipRequest]:
    """Return a clip request for each prompt of a harvest stage's request (afd/runtime/request.py).

    A prompt's n-th use requests its n-th sample; after the last sample comes the first again.
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


def distinct(requests: Iterable[ClipRequest]) -> Iterator[ClipRequest]:
    """Yield each request once: a clip that is requested twice is paid once."""
    seen: set[str] = set()
    for one in requests:
        if one.request_id not in seen:
            seen.add(one.request_id)
            yield one


def _sha(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
