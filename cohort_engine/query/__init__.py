"""Asking a cohort: the xarray accessor and tidy frames."""
