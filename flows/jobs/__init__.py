"""Stages as processes and SLURM jobs: submitted, watched, judged, adopted and ended."""
