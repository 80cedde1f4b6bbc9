"""Stages: each reads artifacts, computes, and leaves exactly one. They never call each other."""
