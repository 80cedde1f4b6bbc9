"""Losses: each returns (loss, metrics), detached scalars; none calls backward()."""
