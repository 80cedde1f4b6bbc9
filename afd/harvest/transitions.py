"""The life of one order, as one pure function: which state may follow which.

    planned -> submitting -> submitted -> running -> succeeded -> downloaded -> verified
                  |             (and unknown: a word of the vendor's that we do not know)
                  +-> ambiguous: the POST was sent, or may have been, and nobody knows what it did
    ends: verified, quarantined, refused_input, refused_output, failed_final, expired,
          expired_unrecoverable, stalled, cancelled, lost

An end never goes back to work: asking once more is a new order (another attempt, another key).
Two ends may still turn out better, with what was paid already: a stalled task that the vendor
finishes after all, and a quarantined clip that a later policy takes.
"""

from typing import Literal, get_args

OrderState = Literal[
    "planned",
    "submitting",
    "ambiguous",
    "submitted",
    "running",
    "unknown",
    "succeeded",
    "downloaded",
    "verified",
    "quarantined",
    "refused_input",
    "refused_output",
    "failed_final",
    "expired",
    "expired_unrecoverable",
    "stalled",
    "cancelled",
    "lost",
]
STATES: tuple[OrderState, ...] = get_args(OrderState)
AT_VENDOR: tuple[OrderState, ...] = ("submitting", "submitted", "running", "unknown")
OWNED: tuple[OrderState, ...] = (*AT_VENDOR, "succeeded", "downloaded")  # somebody works on it
WITHOUT_CLIP: tuple[OrderState, ...] = (
    "quarantined",
    "refused_input",
    "refused_output",
    "failed_final",
    "expired",
    "expired_unrecoverable",
    "stalled",
    "cancelled",
    "lost",
)
ENDS: tuple[OrderState, ...] = ("verified", *WITHOUT_CLIP)

_VENDOR_ENDS: tuple[OrderState, ...] = (
    "succeeded",
    "refused_input",
    "refused_output",
    "failed_final",
    "expired",
    "cancelled",
)
_SEEN_BY_A_POLL: tuple[OrderState, ...] = (
    "submitted", "running", "unknown", "stalled", *_VENDOR_ENDS,
)  # fmt: skip
MAY_FOLLOW: dict[OrderState, tuple[OrderState, ...]] = {
    "planned": ("submitting",),
    # Back to planned only when surely nothing was created.
    "submitting": ("submitted", "ambiguous", "planned", "refused_input", "failed_final"),
    "ambiguous": ("submitted", "planned"),  # found, or a person knows
    "submitted": _SEEN_BY_A_POLL,
    "running": _SEEN_BY_A_POLL,
    "unknown": _SEEN_BY_A_POLL,
    "succeeded": ("downloaded", "quarantined", "expired_unrecoverable"),
    "downloaded": ("verified", "quarantined", "succeeded"),  # succeeded: its file is gone
    "stalled": _VENDOR_ENDS,
    "quarantined": ("verified",),
    "verified": ("lost",),  # a person says that the file is gone for good
    "refused_input": (),
    "refused_output": (),
    "failed_final": (),
    "expired": (),
    "expired_unrecoverable": (),
    "cancelled": (),
    "lost": (),
}


class TransitionError(ValueError):
    """An order cannot go from the state it is in to the one that was asked for."""


def after(state: OrderState, wanted: OrderState) -> OrderState:
    """The state of an order in `state` that is told `wanted`: an event told twice changes nothing.

    Raises TransitionError where `wanted` may not follow: an end never regresses.
    """
    if wanted == state:
        return state
    if wanted not in MAY_FOLLOW[state]:
        may = ", ".join(MAY_FOLLOW[state]) or "nothing"
        raise TransitionError(f"an order that is {state} cannot become {wanted} (may: {may})")
    return wanted


def follows(state: OrderState, wanted: OrderState) -> bool:
    """Whether `after` accepts it and it is a change."""
    return wanted != state and wanted in MAY_FOLLOW[state]
