"""JSON files of runs/ beside the rounds: read only in the shape in which they were written.

They are for people and for going on, so anybody may have edited or cut one.
"""

from pathlib import Path
from typing import Any, NotRequired, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from afd.store import StoreError

Shape = TypeVar("Shape")
_MORE = ConfigDict(extra="allow")


class _Alarm(TypedDict):
    __pydantic_config__ = _MORE  # pyright: ignore[reportGeneralTypeIssues]
    name: str
    action: str
    gauge: str
    value: float
    limit: float


class _Decision(TypedDict):
    __pydantic_config__ = _MORE  # pyright: ignore[reportGeneralTypeIssues]
    round: int
    ends: str | None
    alarms: list[_Alarm]
    changes: list[str]


class _Target(TypedDict):
    __pydantic_config__ = _MORE  # pyright: ignore[reportGeneralTypeIssues]
    name: str
    verdict: str
    value: float | None
    limit: float | None
    rule: str


class _Summary(TypedDict):
    __pydantic_config__ = _MORE  # pyright: ignore[reportGeneralTypeIssues]
    metrics: dict[str, dict[str, Any]]
    targets: NotRequired[list[_Target]]
    num_prompts: NotRequired[int | None]
    noise_seeds: NotRequired[list[int]]


class _Steps(TypedDict):
    __pydantic_config__ = _MORE  # pyright: ignore[reportGeneralTypeIssues]
    done: int
    total: int


class _Rounds(TypedDict):
    rounds: list[int]


CONTENTS = TypeAdapter(dict[str, str | None])
DECISION = TypeAdapter(_Decision)
ACKNOWLEDGED = TypeAdapter(_Rounds)
SUMMARY = TypeAdapter(_Summary)
STEPS = TypeAdapter(_Steps)


def known_record(file: Path, shape: TypeAdapter[Shape]) -> Shape | None:
    """Return the content; None for a file that is missing, cut short or of another shape."""
    try:
        return shape.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def read_record(file: Path, shape: TypeAdapter[Shape]) -> Shape:
    """Return the content of a file that the campaign leaves.

    Raises StoreError for one of another shape, FileNotFoundError.
    """
    try:
        return shape.validate_json(file.read_bytes())
    except ValidationError:
        raise StoreError(f"{file}: damaged; remove it and run the same command again") from None
