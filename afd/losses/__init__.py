"""Losses: each returns (loss, metrics); none calls backward(). Metrics are detached scalars, named without their stage."""
