"""Cohort statistics as plain functions of arrays."""
