"""Evaluation: metrics, statistics, alarms, targets, the report and results of the ablations."""
