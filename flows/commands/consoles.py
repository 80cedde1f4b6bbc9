"""Console of commands: a terminal's width, and no cut line anywhere else."""

import sys

from rich.console import Console

UNCUT = 10_000  # columns: tables are as wide as what is in them


def console() -> Console:
    """Return a console on stdout that wraps for a terminal alone."""
    return Console(width=None if sys.stdout.isatty() else UNCUT, highlight=False)
