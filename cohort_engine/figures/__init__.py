"""Drawings: tables of an analysis go in, figures with captions come out."""
