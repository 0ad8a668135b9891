"""Reading and writing: volumes, BIDS studies, the cohort store."""
