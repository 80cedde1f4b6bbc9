"""What a campaign will cost, by arithmetic alone, before anything is spent. No torch."""
