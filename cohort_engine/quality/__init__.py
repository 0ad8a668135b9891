"""Quality that can fail: numbers that are no comparison with what was fitted, and one probability that a subject's values are usable."""
