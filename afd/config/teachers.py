"""Who is asked for videos, and how: one model a kind.

What is asked (provider, exact model, parameters, sizes) is the identity of a clip. How it is
reached and paid (`access`) is circumstance: it may change in the middle of a campaign, and nothing
is paid again because a key was renamed or a budget was raised.
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

from afd.config.students import WhiteBoxParams
from afd.config.values import Count, Frozen, Listed, NonNegative, Positive, Share
from afd.config.world import LawsParams, LookParams


def _said(value: object) -> object:
    """YAML 1.1 reads a bare yes as true, and `dvc exp run -S` takes the quotes away."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


Permission = Annotated[Literal["yes", "no", "unknown"], BeforeValidator(_said)]
Provider = Literal["ark", "veo", "openai_videos", "replicate", "fal", "kling"]
MODEL = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$"
# Upper case: a key that was pasted here instead of the name of its variable is refused.
VARIABLE = r"^[A-Z][A-Z0-9_]{1,63}$"
HOST = re.compile(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*")


def _iso_date(value: str) -> str:
    date.fromisoformat(value)  # its ValueError says what is wrong
    return value


def _reachable(value: str) -> str:
    """https anywhere, http only on this machine; nothing secret and nothing that would be lost."""
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


class SimulatorTeacher(Frozen):
    """The embedded teacher: a rigid-body simulator that answers with a finished mp4."""

    kind: Literal["simulator"]
    laws: LawsParams
    look: LookParams
    size: Annotated[int, Field(ge=16, le=512, multiple_of=16)]  # px of the mp4, a side
    clips_per_prompt: Count  # paid once each; rounds reuse them
    training_permitted: Permission  # by the teacher's terms
    # Only for update.objective distribution_matching. Left out of dumps when null.
    white_box: WhiteBoxParams | None = Field(default=None, exclude_if=lambda value: value is None)


class Terms(Frozen):
    """Where the teacher's terms of use were read, and when."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=500)]
    date: Day


class Statement(Frozen):
    """What a person says of the terms of clips that are there."""

    training_permitted: Permission
    terms: Terms


class Price(Frozen):
    """What a clip costs, by exactly one measure, and the day the price was looked up.

    An estimate before anything is sent; what the vendor bills (its usage) replaces it afterwards.
    """

    usd_per_clip: NonNegative | None = None
    usd_per_second: NonNegative | None = None  # of the clip as asked for
    usd_per_million_tokens: NonNegative | None = None
    tokens_per_clip: Count | None = None  # no clip takes more: what a task reserves of the budget
    date: Day

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


class Access(Frozen):
    """How a remote teacher is reached and paid. Circumstance: nothing here is a clip's identity."""

    base_url: Url
    key_variable: Annotated[str, Field(pattern=VARIABLE)]  # NAME of the environment variable
    price: Price
    budget_usd: NonNegative  # spent + reserved never exceed it, over the whole store and provider
    in_flight: Annotated[int, Field(ge=1, le=1000)]  # tasks at the vendor at a time
    requests_per_minute: Annotated[float, Field(gt=0, le=60_000)]  # of any kind but downloads
    deadline_min: Annotated[float, Field(gt=0, le=7 * 24 * 60)]  # of one task, from its creation
    video_hosts: Listed[tuple[Host, ...]]  # videos may come from here; [] is the host of base_url
    min_clip_share: Share  # a round with fewer of its prompts answered stops and says why


class Size(Frozen):
    """Pixels."""

    width: Annotated[int, Field(ge=16, le=8192)]
    height: Annotated[int, Field(ge=16, le=8192)]


class RemoteTeacher(Frozen):
    """A paid API or a server of one's own: create, poll, fetch (afd/teachers/remote.py)."""

    kind: Literal["remote"]
    provider: Provider
    model: Annotated[str, Field(pattern=MODEL)]  # exact, dated where the vendor dates it
    parameters: dict[str, JsonValue]  # sent as they are, in the vendor's own words
    duration_s: Positive
    fps: Positive
    size: Size
    seeded: bool  # whether a seed is sent: some vendors refuse one
    clips_per_prompt: Count
    # Another rate, size, length or model than asked: the canonical path makes it fit, as everything
    # (and it is recorded), or it is put aside.
    on_mismatch: Literal["resample", "quarantine"]
    num_retries: Annotated[int, Field(ge=0, le=10)]  # of a refused output, each with a new seed
    training_permitted: Permission
    terms: Terms
    laws: LawsParams | None = None  # of the world it films, where evaluate can know them
    access: Access


class FolderTeacher(Frozen):
    """Finished videos with captions, imported once into the store under a name."""

    kind: Literal["folder"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    path: str | None  # imported from here where a clip is missing; circumstance
    clips_per_prompt: Count
    training_permitted: Permission
    terms: Terms
    laws: LawsParams | None = None
    min_clip_share: Share  # circumstance, as for a remote teacher


class DiffusersTeacher(Frozen):
    """Any text-to-video pipeline of diffusers on this disk: computed here, a clip a part."""

    kind: Literal["diffusers"]
    pipeline: Annotated[str, Field(min_length=1)]  # a folder, or a name in the local hub cache
    parameters: dict[str, JsonValue]  # handed to the pipeline's call, in its own words
    dtype: Literal["float32", "bfloat16"]
    size: Size
    num_frames: Count
    fps: Count
    max_prompt_tokens: Count  # by the pipeline's own tokenizer; a longer prompt is refused
    clips_per_prompt: Count
    training_permitted: Permission
    terms: Terms
    laws: LawsParams | None = None

    @field_validator("parameters")
    @classmethod
    def _theirs_alone(cls, parameters: dict[str, JsonValue]) -> dict[str, JsonValue]:
        taken = sorted(parameters.keys() & OWN_PARAMETERS)
        if taken:
            raise ValueError(f"must not hold {', '.join(taken)}: those are set from other fields")
        return parameters


# What a pipeline is called with by AFD itself.
OWN_PARAMETERS = {
    "prompt", "height", "width", "num_frames", "generator", "output_type", "return_dict",
    "num_videos_per_prompt", "latents",
}  # fmt: skip
Teacher = Annotated[
    SimulatorTeacher | RemoteTeacher | FolderTeacher | DiffusersTeacher,
    Field(discriminator="kind"),
]
# Of a clip: how its teacher is reached and paid, and what else learned from it.
CIRCUMSTANCE = ("access", "path", "min_clip_share", "white_box")


def semantic_teacher(teacher: Any) -> Any:
    """A teacher's values (as dumped) without what changes none of its clips."""
    if not isinstance(teacher, dict):
        return teacher
    values = cast("dict[str, Any]", teacher)
    return {key: value for key, value in values.items() if key not in CIRCUMSTANCE}
