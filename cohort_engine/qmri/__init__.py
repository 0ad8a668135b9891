"""Quantitative maps: plain arrays in, plain arrays out."""
