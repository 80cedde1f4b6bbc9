"""Prompts, clips, shards and the text encoder: the bytes that a campaign reads and writes."""
