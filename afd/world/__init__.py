"""The pocket world: sentences, the scenes they describe, their physics and how they look."""
