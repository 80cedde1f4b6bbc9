"""Kinds of value that params are made of: strict, immutable, bounded."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Items = TypeVar("Items")
# YAML and JSON write a tuple as a list; what is inside stays strict.
Listed = Annotated[Items, Field(strict=False)]


def _frame_size(value: object) -> int | tuple[int, int]:
    match value:
        case int(side) if type(side) is int and _is_side(side):
            return side
        case [int(rows), int(columns)] if _is_side(rows) and _is_side(columns):
            return rows, columns
        case _:
            raise ValueError(f"must be a side of 8 to 4096 px, or [rows, columns], got {value!r}")


def _is_side(number: int) -> bool:
    return 8 <= number <= 4096


def _as_json(frame_size: int | tuple[int, int]) -> int | list[int]:
    return frame_size if isinstance(frame_size, int) else list(frame_size)


FrameSize = Annotated[
    int | tuple[int, int],
    PlainValidator(_frame_size, json_schema_input_type=int | tuple[int, int]),
    PlainSerializer(_as_json, when_used="json"),
]
"""Pixels: one side of a square, or [rows, columns]."""


def rows_and_columns(frame_size: int | Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a FrameSize, also of one from a request's JSON."""
    if isinstance(frame_size, int):
        return frame_size, frame_size
    rows, columns = frame_size
    return rows, columns


class Frozen(BaseModel):
    """Immutable, no unknown keys, no NaN, no silent conversion between kinds of value.

    An int is a float; "12" is no 12, true is no 1, and 2.0 is no int.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, strict=True
    )


class Section(Frozen):
    """A section of params: the docstring under a field is its description, with unit and bounds."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Range(Section):
    """A closed interval to draw from uniformly."""

    low: float
    """Least value, in the unit of the field."""
    high: float
    """Largest value, in the unit of the field; not below low."""

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low {self.low} must not exceed high {self.high}")
        return self


class NonNegativeRange(Range):
    """A range without negative values."""

    low: NonNegative
    """Least value, in the unit of the field; 0 or more."""
    high: NonNegative
    """Largest value, in the unit of the field; not below low."""


class ShareRange(Range):
    """A range within [0, 1]."""

    low: Share
    """Least value, 0 to 1."""
    high: Share
    """Largest value, 0 to 1; not below low."""
