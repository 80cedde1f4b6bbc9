"""Remote teachers: one file per vendor over one protocol."""
