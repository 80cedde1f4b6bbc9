"""States of an order and their transitions, as one pure function.

    planned -> submitting -> submitted -> running -> succeeded -> downloaded -> verified
                  |             (and unknown: a state that the adapter's table lacks)
                  +-> ambiguous: the POST may have been sent, and its effect is unknown
    ends: verified, quarantined, refused_input, refused_output, failed_final, expired,
          expired_unrecoverable, stalled, cancelled, lost

An end is final: one more try is a new order (another attempt, another key). Two ends may still
improve without a new payment: a stalled task that the vendor finishes after all, and a quarantined
clip that a later policy accepts.
"""

from typing import Literal, get_args

from afd.errors import InputError

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
OWNED: tuple[OrderState, ...] = (*AT_VENDOR, "succeeded", "downloaded")  # a process works on it
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
    "ambiguous": ("submitted", "planned"),  # found in a listing, or a person resolved it
    "submitted": _SEEN_BY_A_POLL,
    "running": _SEEN_BY_A_POLL,
    "unknown": _SEEN_BY_A_POLL,
    "succeeded": ("downloaded", "quarantined", "expired_unrecoverable"),
    "downloaded": ("verified", "quarantined", "succeeded"),  # succeeded: its file is gone
    "stalled": _VENDOR_ENDS,
    "quarantined": ("verified",),
    "verified": ("lost",),  # a person found that the file is gone for good
    "refused_input": (),
    "refused_output": (),
    "failed_final": (),
    "expired": (),
    "expired_unrecoverable": (),
    "cancelled": (),
    "lost": (),
}


class TransitionError(InputError):
    """An order cannot go from its state to the requested one."""


def next_state(state: OrderState, target: OrderState) -> OrderState:
    """Return the state after a move from `state` to `target`; a repeated move changes nothing.

    Raises TransitionError if `target` may not follow: an end never regresses.
    """
    if target == state:
        return state
    if target not in MAY_FOLLOW[state]:
        may = ", ".join(MAY_FOLLOW[state]) or "nothing"
        raise TransitionError(f"an order that is {state} cannot become {target} (may: {may})")
    return target


def may_follow(state: OrderState, target: OrderState) -> bool:
    """Return True if a move from `state` to `target` is allowed and is a change."""
    return target != state and target in MAY_FOLLOW[state]
