"""The text encoder for a student's sentences: what its start has encoded, else UMT5 itself."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from afd.config import is_published
from afd.sampling.errors import SamplingError
from afd.students.checkpoint import describe, load_encoder
from afd.text.encoder import TextEncoder

FOLDERS = ("text_encoder", "tokenizer")
TOLERANCE = 0.05  # of the size of an encoded prompt: bfloat16 on a GPU against float32 on a CPU


class Encoded:
    """A TextEncoder of some sentences that were encoded beforehand."""

    def __init__(self, known: TextEncoder, rows: dict[str, Tensor]) -> None:
        self.num_tokens, self.dim = known.num_tokens, known.dim
        self._known, self._rows = known, rows

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """[batch, num_tokens, dim]."""
        made = [
            self._rows[prompt] if prompt in self._rows else self._known([prompt])[0]
            for prompt in prompts
        ]
        return torch.stack(made)


def encoder_of(
    folder: Path, sentences: Sequence[str], components: Path | None = None, example: str = ""
) -> TextEncoder:
    """Return an encoder that can represent these sentences.

    A published student's start holds the prompts of its campaign; others go through UMT5, which is
    in memory only here. Raises SamplingError where it is not on this disk, or is another one.
    """
    known, params = load_encoder(folder), describe(folder).params
    if not is_published(params):
        return known
    from afd.text.cached import CachedText

    assert isinstance(known, CachedText)
    strange = sorted({sentence for sentence in sentences if not known.knows(sentence)})
    if not strange:
        return known
    place = Path(params.components) if components is None else components
    if missing := [name for name in FOLDERS if not (place / name).is_dir()]:
        option = "student.components of its campaign" if components is None else "--components"
        raise SamplingError(
            f"{strange[0]!r}: was not among the prompts that were encoded when this student was "
            f"started, and the text encoder for others is not here: {option} is {place}, without "
            f"{' and '.join(f'{name}/' for name in missing)}\n"
            "  put those folders of a Wan-Diffusers checkpoint on this disk and give their parent: "
            "--components DIR (components= in Python)"
            + (f"\n  needs none: {example!r}" if example else "")
        )
    from afd.text.umt5 import Umt5

    encoder = Umt5(place, known.num_tokens)
    _refuse_another(encoder, known, place)
    return Encoded(known, dict(zip(strange, encoder(strange), strict=True)))


def _refuse_another(encoder: TextEncoder, known: TextEncoder, place: Path) -> None:
    """Both encode the empty prompt: what differs is another encoder's."""
    ours = known([""])
    theirs = encoder([""]) if encoder.dim == known.dim else torch.zeros(0)
    if theirs.shape != ours.shape or (theirs - ours).norm() > TOLERANCE * ours.norm():
        raise SamplingError(
            f"{place}: its text encoder is not the one that this student was started with: the "
            "empty prompt comes out differently; give the folder of that one"
        )
