"""Metrics of clips and of the discriminator's signal: pure functions of arrays."""
