"""Import of a folder of finished videos with captions."""
