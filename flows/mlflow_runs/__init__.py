"""MLflow record of a campaign: for display alone, no decision reads it."""
