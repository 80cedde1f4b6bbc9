"""The library of teacher clips: requests, shards, packs, provenance, permission to train."""
