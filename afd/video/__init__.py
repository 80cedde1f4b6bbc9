"""Video files and frames: decoding, encoding, the canonical form, inspection, contact sheets."""
