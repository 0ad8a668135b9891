"""cohort_engine: spinal-cord quantitative MRI for whole cohorts, as arrays in template space.

>>> import cohort_engine
>>> cohort_engine.__version__.count(".")
2
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cohort_engine.engine.build import build as build
    from cohort_engine.query.accessor import open_cohort as open_cohort

_PUBLIC = {"open_cohort": "cohort_engine.query.accessor", "build": "cohort_engine.engine.build"}


def __getattr__(name: str) -> Any:
    """Load the public functions when first asked for: importing the package stays cheap."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
