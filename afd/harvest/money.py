"""What an order costs: reserved before it is sent, settled by what the vendor says it used.

Whole micro-dollars: sums of a hundred thousand orders are exact, and a cap is a comparison of ints.
"""

from math import ceil

from afd.config import Price
from afd.teachers.remote import Usage

MICRO = 1_000_000


def micro(usd: float) -> int:
    """USD as whole micro-dollars, rounded up: never less than it is."""
    return ceil(round(usd * MICRO, 3))  # 0.1 * 1e6 must not become 100001


def shown(micro_usd: int) -> str:
    """For people."""
    return f"{micro_usd / MICRO:,.2f} USD"


def reservation(price: Price, duration_s: float) -> int:
    """The most that one order of `duration_s` seconds is expected to cost, in micro-dollars."""
    if price.usd_per_clip is not None:
        return micro(price.usd_per_clip)
    if price.usd_per_second is not None:
        return micro(price.usd_per_second * duration_s)
    return _tokens(price, price.tokens_per_clip or 0)


def cost(price: Price, usage: Usage | None, reserved: int, *, delivered: bool) -> int:
    """What an order has cost, in micro-dollars: by the vendor's usage where it tells one.

    Without a usage a delivered clip costs what was reserved for it; one that was refused, has
    failed or expired costs nothing, which is what vendors say of them.
    """
    if usage is not None:
        if usage.usd is not None:
            return micro(usage.usd)
        if usage.tokens is not None and price.usd_per_million_tokens is not None:
            return _tokens(price, usage.tokens)
        if usage.seconds is not None and price.usd_per_second is not None:
            return micro(price.usd_per_second * usage.seconds)
    return reserved if delivered else 0


def _tokens(price: Price, num_tokens: int) -> int:
    return micro((price.usd_per_million_tokens or 0.0) * num_tokens / 1_000_000)
