"""Discriminators: prompt and clip in, one score out."""
