"""Student families: one row each, with the capabilities that other rooms depend on.

A new family is a params model in students.py and a row here; pyright names a missing row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

FamilyName = Literal["causal_wan", "self_forcing", "causal_forcing", "anyflow_far"]
FAMILY_NAMES: tuple[FamilyName, ...] = get_args(FamilyName)


@dataclass(frozen=True, kw_only=True)
class StudentFamily:
    """Capabilities of a student family."""

    is_published: bool  # starts from files and trains a LoRA; else from a warm start, all weights
    has_vae: bool  # Wan's: 4 frames and 8 px a latent; else fixed patches
    open_vocabulary: bool  # UMT5 and the empty prompt of guidance; else the pocket world's grammar
    extends_rollouts: bool  # clips longer than in training (evaluate.horizon)
    replays_chains: bool  # many sampling chains at once (reverse_chain, generator and others)
    has_original_layout: bool  # can be exported under the original Wan's names


def student_family(name: FamilyName) -> StudentFamily:
    """Return the row of a family."""
    match name:
        case "causal_wan":
            return StudentFamily(
                is_published=False,
                has_vae=False,
                open_vocabulary=False,
                extends_rollouts=True,
                replays_chains=True,
                has_original_layout=False,
            )
        case "self_forcing" | "causal_forcing":
            return StudentFamily(
                is_published=True,
                has_vae=True,
                open_vocabulary=True,
                extends_rollouts=False,
                replays_chains=False,
                has_original_layout=True,
            )
        case "anyflow_far":
            return StudentFamily(
                is_published=True,
                has_vae=True,
                open_vocabulary=True,
                extends_rollouts=False,
                replays_chains=False,
                has_original_layout=False,
            )


def families_with(capability: Callable[[StudentFamily], bool]) -> str:
    """Return the names of the families with a capability, for a message."""
    return " or ".join(name for name in FAMILY_NAMES if capability(student_family(name)))
