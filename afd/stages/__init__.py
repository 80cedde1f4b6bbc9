"""The nine stages: each reads artifacts, computes, and writes exactly one artifact."""
