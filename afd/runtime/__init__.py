"""Execution of stages: whole, in parts or by ranks, with restart after a kill."""
