"""Params of each kind of teacher.

Provider, exact model, parameters and sizes are the identity of a clip. Address, key, price and
budget (`access`) are circumstance: they may change in the middle of a campaign, and no clip is paid
again because a key was renamed or a budget was raised.
"""

import re
from datetime import date
from ipaddress import ip_address
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from afd.config.plugins import Plugin
from afd.config.students import WhiteBoxParams
from afd.config.values import Count, Listed, NonNegative, Positive, Section, Share
from afd.config.world import LawsParams, LookParams


def _yes_or_no(value: object) -> object:
    """Return yes for true and no for false.

    YAML 1.1 reads a bare yes as true, and `dvc exp run -S` takes the quotes away.
    """
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


Permission = Annotated[Literal["yes", "no", "unknown"], BeforeValidator(_yes_or_no)]
Provider = Literal[
    "ark", "openrouter", "gemini", "veo", "dashscope", "openai_videos", "replicate", "fal", "kling",
]  # fmt: skip
MODEL = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$"
# Upper case: a key that was pasted here instead of the name of its variable is refused.
VARIABLE = r"^[A-Z][A-Z0-9_]{1,63}$"
HOST = re.compile(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*")


def _iso_date(value: str) -> str:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise ValueError(f"must be a day, as in 2026-11-23, got {value!r}") from None
    return value


def _reachable(value: str) -> str:
    """Refuse an address other than https anywhere or http on this machine.

    A user or a query could hold a secret, and a fragment would be lost.
    """
    url = urlsplit(value)
    if url.username or url.password or url.query or url.fragment:
        raise ValueError(
            "must not carry a user, a query or a fragment; write scheme, host and path"
        )
    if not url.hostname or (url.scheme != "https" and not _is_here(url.scheme, url.hostname)):
        raise ValueError("must be https://host/path (http only for 127.0.0.1, ::1 and localhost)")
    return value.rstrip("/")


def _is_here(scheme: str, host: str) -> bool:
    try:
        return scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


def _host(value: str) -> str:
    if not HOST.fullmatch(value):
        raise ValueError("must be a host name in lower case, or *.domain for all below it")
    return value


Day = Annotated[str, AfterValidator(_iso_date)]  # 2026-11-23
Url = Annotated[str, AfterValidator(_reachable)]
Host = Annotated[str, AfterValidator(_host)]


class SimulatorTeacher(Section):
    """The embedded teacher: a rigid-body simulator that delivers finished mp4 files."""

    kind: Literal["simulator"]
    """The embedded rigid-body simulator."""
    laws: LawsParams
    """Motion in the teacher's world."""
    look: LookParams
    """Look of the teacher's world."""
    size: Annotated[int, Field(ge=16, le=512, multiple_of=16)]
    """Side of the mp4 in px, 16 to 512, a multiple of 16."""
    clips_per_prompt: Count
    """Clips of a prompt, 1 or more: paid once each, rounds reuse them."""
    training_permitted: Permission
    """The teacher's terms permit training on its clips; anything but "yes" is refused."""
    white_box: WhiteBoxParams | None = Field(default=None, exclude_if=lambda value: value is None)
    """A network trained on the teacher's clips; for objective distribution_matching alone.

    Left out of dumps when null.
    """


class Terms(Section):
    """Address of the teacher's terms of use, and the day on which they were read."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=500)]
    """Address of the terms of use, http(s), at most 500 characters."""
    date: Day
    """Day on which they were read: 2026-11-23."""


class Statement(Section):
    """Statement of a person on the terms of clips that are already there."""

    training_permitted: Permission
    """The terms permit training on the clips."""
    terms: Terms
    """Terms that say so."""


class Price(Section):
    """Price of a clip by exactly one measure, and the day on which it was looked up.

    The estimate before an order; the usage that the vendor bills replaces it afterwards.
    """

    usd_per_clip: NonNegative | None = None
    """USD of a clip, 0 or more."""
    usd_per_second: NonNegative | None = None
    """USD of a second of the clip as ordered, 0 or more."""
    usd_per_million_tokens: NonNegative | None = None
    """USD of a million tokens, 0 or more; goes with tokens_per_clip."""
    tokens_per_clip: Count | None = None
    """Most tokens of a clip, 1 or more: what a task reserves of the budget."""
    date: Day
    """Day on which the price was looked up: 2026-11-23."""

    @model_validator(mode="after")
    def _one_measure(self) -> "Price":
        measures = (self.usd_per_clip, self.usd_per_second, self.usd_per_million_tokens)
        if sum(measure is not None for measure in measures) != 1:
            raise ValueError(
                "write exactly one of usd_per_clip, usd_per_second and usd_per_million_tokens "
                "(0.0 for a teacher of your own)"
            )
        if (self.usd_per_million_tokens is None) != (self.tokens_per_clip is None):
            raise ValueError("tokens_per_clip goes with usd_per_million_tokens: write both")
        return self


class Access(Section):
    """Address, key, price and budget of a remote teacher.

    Circumstance: nothing here is part of a clip's identity.
    """

    base_url: Url
    """Address of the API: https anywhere, http on this machine alone."""
    key_variable: Annotated[str, Field(pattern=VARIABLE)]
    """NAME of the environment variable that holds the key."""
    price: Price
    """Price of a clip."""
    budget_usd: NonNegative
    """Most USD spent and reserved, over the whole store and provider, 0 or more."""
    in_flight: Annotated[int, Field(ge=1, le=1000)]
    """Tasks at the vendor at a time, 1 to 1000."""
    requests_per_minute: Annotated[float, Field(gt=0, le=60_000)]
    """Requests a minute of any kind but downloads, above 0 and at most 60000."""
    deadline_min: Annotated[float, Field(gt=0, le=7 * 24 * 60)]
    """Minutes of one task from its creation, above 0 and at most a week."""
    video_hosts: Listed[tuple[Host, ...]]
    """Hosts that videos may come from, *.domain allowed; []: the host of base_url."""
    min_clip_share: Share
    """Least share of a round's prompts with a clip, 0 to 1; with fewer the round stops."""


class Size(Section):
    """Frame size in px."""

    width: Annotated[int, Field(ge=16, le=8192)]
    """Width in px, 16 to 8192."""
    height: Annotated[int, Field(ge=16, le=8192)]
    """Height in px, 16 to 8192."""


class RemoteTeacher(Section):
    """A paid API or a server of one's own: create, poll, fetch (teachers/vendors/protocol.py)."""

    kind: Literal["remote"]
    """A paid API, or a server of your own."""
    provider: Provider
    """Protocol of the API."""
    model: Annotated[str, Field(pattern=MODEL)]
    """Exact model, dated where the vendor dates it."""
    parameters: dict[str, JsonValue]
    """Values that are sent as they are, in the vendor's own words."""
    duration_s: Positive
    """Length of a clip in seconds, above 0."""
    fps: Positive
    """Frames a second of a clip, above 0."""
    size: Size
    """Frame of a clip."""
    seeded: bool
    """A seed is sent; some vendors refuse one."""
    clips_per_prompt: Count
    """Clips of a prompt, 1 or more: paid once each, rounds reuse them."""
    on_mismatch: Literal["resample", "quarantine"]
    """Treatment of a clip of another rate, size, length or model: made to fit by the canonical
    path (and recorded), or put into quarantine."""
    num_retries: Annotated[int, Field(ge=0, le=10)]
    """New orders of a refused output, each with a new seed, 0 to 10."""
    training_permitted: Permission
    """The provider's terms permit training on its clips; anything but "yes" is refused."""
    terms: Terms
    """Terms that say so."""
    laws: LawsParams | None = None
    """Motion in the teacher's world where it is known; null: unknown."""
    access: Access
    """Address, key, price and budget. Circumstance: may change in the middle of a campaign."""


class FolderTeacher(Section):
    """Finished videos with captions, imported once into the store under a name."""

    kind: Literal["folder"]
    """Finished videos with captions."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name under which they were imported: letters, digits, '.', '_', '-', at most 64."""
    path: str | None
    """Folder from which a missing clip is imported; null: none. Circumstance."""
    clips_per_prompt: Count
    """Clips of a prompt, 1 or more."""
    training_permitted: Permission
    """The terms permit training on the clips; anything but "yes" is refused."""
    terms: Terms
    """Terms that say so."""
    laws: LawsParams | None = None
    """Motion in the clips' world where it is known; null: unknown."""
    min_clip_share: Share
    """Least share of a round's prompts that must have a clip, 0 to 1. Circumstance."""


class DiffusersTeacher(Section):
    """Any text-to-video pipeline of diffusers on this disk: computed here, a clip a part."""

    kind: Literal["diffusers"]
    """A text-to-video pipeline of diffusers on this disk."""
    pipeline: Annotated[str, Field(min_length=1)]
    """Folder of the pipeline, or a name in the local hub cache. Content is identity."""
    parameters: dict[str, JsonValue]
    """Values of the pipeline's call, in its own words."""
    dtype: Literal["float32", "bfloat16"]
    """Precision of the pipeline."""
    size: Size
    """Frame of a clip."""
    num_frames: Count
    """Frames of a clip, 1 or more."""
    fps: Count
    """Frames a second of a clip, 1 or more."""
    max_prompt_tokens: Count
    """Most tokens of a prompt by the pipeline's tokenizer, 1 or more; a longer one is refused."""
    clips_per_prompt: Count
    """Clips of a prompt, 1 or more."""
    training_permitted: Permission
    """The model's licence permits training on its clips; anything but "yes" is refused."""
    terms: Terms
    """Terms that say so."""
    laws: LawsParams | None = None
    """Motion in the teacher's world where it is known; null: unknown."""

    @field_validator("parameters")
    @classmethod
    def _not_reserved(cls, parameters: dict[str, JsonValue]) -> dict[str, JsonValue]:
        taken = sorted(parameters.keys() & RESERVED_PARAMETERS)
        if taken:
            raise ValueError(f"must not hold {', '.join(taken)}: those are set from other fields")
        return parameters


# Arguments that AFD itself passes to a pipeline.
RESERVED_PARAMETERS = {
    "prompt", "height", "width", "num_frames", "generator", "output_type", "return_dict",
    "num_videos_per_prompt", "latents",
}  # fmt: skip


class PluginTeacher(Plugin):
    """A local teacher of another package: computed here, a clip a part (docs/extending.md)."""

    kind: Literal["plugin"]
    """A local teacher of another package."""
    clips_per_prompt: Count
    """Clips of a prompt, 1 or more."""
    training_permitted: Permission
    """The model's licence permits training on its clips; anything but "yes" is refused."""
    terms: Terms
    """Terms that say so."""
    laws: LawsParams | None = None
    """Motion in the teacher's world where it is known; null: unknown."""


LocalTeacher = SimulatorTeacher | DiffusersTeacher | PluginTeacher
Teacher = Annotated[
    SimulatorTeacher | RemoteTeacher | FolderTeacher | DiffusersTeacher | PluginTeacher,
    Field(discriminator="kind"),
]
# Fields that change none of a teacher's clips.
CIRCUMSTANCE = ("access", "path", "min_clip_share", "white_box")


def semantic_teacher(teacher: Any) -> Any:
    """Return a teacher's values (as dumped) without those that change none of its clips."""
    if not isinstance(teacher, dict):
        return teacher
    values = cast("dict[str, Any]", teacher)
    return {key: value for key, value in values.items() if key not in CIRCUMSTANCE}
