"""Prompts as tensors: one protocol, the pocket world's words, UMT5, and what was kept of it."""
