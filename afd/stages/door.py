"""Alias of afd.stages.execute for programs that name the module of old."""

from afd.stages.execute import execute, limit_threads

__all__ = ["execute", "limit_threads"]
