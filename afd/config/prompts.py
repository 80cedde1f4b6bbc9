"""Params of a campaign's prompts: their source and their splits."""

from typing import Annotated, Literal

from pydantic import Field

from afd.config.values import Count, Section


class Splits(Section):
    """Sizes of the splits; prompts without a split of their own get one by hash.

    Prompts that are neither held out nor for tuning are for training; `num_train` of them take
    part in rounds (null: all) and the others are spare, for the warm start alone.
    """

    num_held_out: Count
    """Prompts for claims, 1 or more; never trained on."""
    num_tuning: Annotated[int, Field(ge=0)]
    """Prompts on which settings are chosen, 0 or more; claims are never made on them."""
    num_train: Count | None
    """Prompts that take part in rounds, 1 or more; null: all that are left."""


class GrammarPrompts(Splits):
    """Every sentence of the pocket world's grammar, split by hash."""

    kind: Literal["grammar"]
    """All sentences of the pocket world's grammar."""


class FilePrompts(Splits):
    """Sentences of a JSONL file: one object a line with `text` and, if you like, `split`."""

    kind: Literal["file"]
    """Sentences of a file."""
    path: str
    """JSONL file: an object a line with text and, optionally, split. Its content is identity."""


Prompts = Annotated[GrammarPrompts | FilePrompts, Field(discriminator="kind")]
