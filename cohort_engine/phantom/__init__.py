"""Simulated studies with a known truth, written as BIDS."""
