"""Students: causal few-step generators behind one protocol."""
