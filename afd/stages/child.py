"""Alias that pickles of submitted workers name: `afd.stages.child.Job`."""

from afd.runtime.child import Job

__all__ = ["Job"]
