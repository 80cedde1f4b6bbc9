"""Video files and frames: decode, encode, the canonical form, inspection, contact sheets."""
