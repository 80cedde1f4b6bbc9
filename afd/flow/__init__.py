"""Flow matching: the path between clean and noise, times on it, and the few-step solver."""
