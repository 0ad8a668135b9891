"""Units as figures and pages write them."""

from __future__ import annotations

from cohort_engine.schema.diffusion import DIFFUSIVITY

SCALE_WORDS = {"percent": "%", "mm2": "mm²", "1": "", "degree": "°", DIFFUSIVITY: "µm²/ms"}


def scale(units: str, *, difference: bool = False) -> str:
    """Write a unit as figures do.

    Examples
    --------
    >>> scale("percent"), scale("percent", difference=True), scale("mm2"), scale("1")
    ('%', 'percentage points', 'mm²', '')
    """
    return "percentage points" if difference and units == "percent" else SCALE_WORDS.get(units, units)


def with_unit(words: str, unit: str) -> str:
    """``area (mm²)``, or the words alone where there is no unit."""
    return f"{words} ({unit})" if unit else words
