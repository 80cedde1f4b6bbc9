"""Console of commands: a terminal's width, no cut line anywhere else, every text literal."""

import sys

from rich.console import Console

UNCUT = 10_000  # columns: tables are as wide as what is in them


def console(otherwise: int | None = UNCUT, *, soft_wrap: bool = False) -> Console:
    """Return a console on stdout, as wide as the terminal, or `otherwise` in a file or a pipe.

    Text is no markup: a path may have [/] in it.
    """
    width = None if sys.stdout.isatty() else otherwise
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)
