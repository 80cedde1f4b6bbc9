"""Runtime of the stages: a stage runs whole, in parts or by ranks, and goes on after a kill."""
