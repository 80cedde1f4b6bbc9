"""Prefect's server, and the runs that it shows of a campaign."""
