"""Cost of an order: reserved before it is sent, corrected by the vendor's reported usage.

Whole micro-dollars: sums of a hundred thousand orders are exact, and a cap is a comparison of ints.
"""

from math import ceil

from afd.config import Price
from afd.teachers.vendors.protocol import Usage

MICRO = 1_000_000


def to_micro_usd(usd: float) -> int:
    """Return USD as whole micro-dollars, rounded up."""
    return ceil(round(usd * MICRO, 3))  # 0.1 * 1e6 must not become 100001


def format_usd(micro_usd: int) -> str:
    """Return an amount as text, in USD with two decimals."""
    return f"{micro_usd / MICRO:,.2f} USD"


def reservation(price: Price, duration_s: float) -> int:
    """Return the highest expected cost of an order of `duration_s` seconds, in micro-dollars."""
    if price.usd_per_clip is not None:
        return to_micro_usd(price.usd_per_clip)
    if price.usd_per_second is not None:
        return to_micro_usd(price.usd_per_second * duration_s)
    return _tokens(price, price.tokens_per_clip or 0)


def cost(price: Price, usage: Usage | None, reserved: int, *, delivered: bool) -> int:
    """Return the cost of an order in micro-dollars, by the vendor's usage if it reports one.

    Without a usage a delivered clip costs its reservation; a refused, failed or expired order costs
    nothing, as vendors document.
    """
    if usage is not None:
        if usage.usd is not None:
            return to_micro_usd(usage.usd)
        if usage.tokens is not None and price.usd_per_million_tokens is not None:
            return _tokens(price, usage.tokens)
        if usage.seconds is not None and price.usd_per_second is not None:
            return to_micro_usd(price.usd_per_second * usage.seconds)
    return reserved if delivered else 0


def cost_of_film(price: Price, spent: int, film_s: float) -> int:
    """Return the cost of a delivered film whose vendor reports no usage, in micro-dollars.

    A vendor whose model has a default length of its own bills that length, not the ordered one.
    """
    if price.usd_per_second is None:
        return spent
    return max(spent, to_micro_usd(price.usd_per_second * film_s))


def _tokens(price: Price, num_tokens: int) -> int:
    return to_micro_usd((price.usd_per_million_tokens or 0.0) * num_tokens / 1_000_000)
