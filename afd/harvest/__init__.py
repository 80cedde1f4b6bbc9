"""Paid orders of teacher clips: each clip is paid once, even after kills and lost answers."""
