"""Where a campaign's sentences come from."""

from typing import Annotated, Literal

from pydantic import Field

from afd.config.values import Count, Section


class Splits(Section):
    """How prompts without a split of their own are shared out, by hash.

    What is neither held out nor for tuning is for training; of that, `num_train` take part in
    rounds (null: all) and the others are spare: the warm start alone sees them.
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
