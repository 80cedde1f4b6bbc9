"""Orchestration: the only place that knows Prefect, submitit, MLflow and DVC. Imports no torch."""
