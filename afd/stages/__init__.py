"""Stages: each reads artifacts, computes, and leaves exactly one artifact. They never call each other."""
