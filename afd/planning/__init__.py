"""Cost of a campaign by arithmetic, before anything is spent. Imports no torch."""
