"""On-Policy Adversarial Flow Distillation (arXiv:2605.26105): the method. Knows no service.

import afd
afd.load_student("runs/demo", round=7)("a sentence", seed=1)  # docs/sampling.md
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afd.sampling.student import load as load_student

__all__ = ["load_student"]


def __getattr__(name: str) -> Any:
    """Import what costs seconds (torch) only when it is used."""
    if name == "load_student":
        from afd.sampling.student import load

        return load
    raise AttributeError(f"module 'afd' has no attribute {name!r}")
