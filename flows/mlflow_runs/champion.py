"""Choice of the best student so far, a pure function behind MLflow's alias `champion`."""

import math
from collections.abc import Mapping

# Lower is better; the first that every evaluated student has decides.
DECIDING = ("trajectory_error_px",)


def choose_champion(scores: Mapping[int, Mapping[str, float | int | str | None]]) -> int | None:
    """Return the version with the lowest held-out trajectory error; of equals, the earliest.

    `scores`: version -> summary of its evaluation. A student without a finite value is no
    candidate; None when nobody is.
    """
    for name in DECIDING:
        values = {
            version: float(value)
            for version, summary in scores.items()
            if isinstance(value := summary.get(name), int | float) and math.isfinite(value)
        }
        if values:
            return min(values, key=lambda version: (values[version], version))
    return None
