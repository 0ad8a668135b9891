"""Sphinx: ``make docs`` builds the pages; a warning is an error."""

from __future__ import annotations

from cohort_engine import __version__

project = "cohort_engine"
author = "The developers of cohort_engine"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "cohort_engine"
html_static_path: list[str] = []
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
napoleon_google_docstring = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
