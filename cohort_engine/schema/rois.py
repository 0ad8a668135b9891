"""Regions of interest drawn inside the cord on diffusion images: left and right dorsal, lateral and ventral columns and grey matter."""

from __future__ import annotations

from typing import Final

ROI: Final = "roi"
"""Dimension of masks of regions, in the order of `ROIS`."""
SIDES: Final = ("left", "right")
PARTS: Final = ("dorsal column", "lateral column", "ventral column", "grey matter")
ROIS: Final[tuple[str, ...]] = tuple(f"{side} {part}" for side in SIDES for part in PARTS)
"""The order of the DTI study (doi 10.3390/diagnostics13050817)."""
ROI_REGION: Final = "ROI {}"
"""Name of such a region in tables, beside those of the atlas."""
OTHER_SIDE: Final[tuple[int, ...]] = tuple((i + len(PARTS)) % len(ROIS) for i in range(len(ROIS)))
"""Index of the same part on the other side."""
B0_IMAGE: Final = "b0"
"""Mean of the volumes without diffusion weighting."""
