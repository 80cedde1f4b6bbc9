"""What MLflow keeps of a campaign. It shows and never decides."""
