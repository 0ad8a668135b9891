"""Diffusion: roles of its files, and what is kept of the motion of each volume and slice."""

from __future__ import annotations

from typing import Final

DWI: Final = "dwi"
"""The series of volumes as it was scanned, and the contrast whose image is the mean of its diffusion-weighted volumes."""
DWI_BVAL, DWI_BVEC, DWI_JSON = "dwi_bval", "dwi_bvec", "dwi_json"
DWI_REVERSE = "dwi_reverse"
"""An image of the same slices with the opposite phase encoding."""
DWI_MOCO = "dwi_moco"
"""The series after correction of motion and distortion: NaN where a slice of a volume was lost."""
DWI_MEAN = "dwi_mean"
"""Mean of its diffusion-weighted volumes."""
DWI_TENSOR = "dwi_tensor"
"""What the tensor fit gives, one channel each (x, y, z, channel)."""

FA: Final = "fa"
MD: Final = "md"
AD: Final = "ad"
RD: Final = "rd"
S0 = "s0"
DIFFUSIVITY = "um2/ms"
"""Unit of MD, AD and RD: 1 um2/ms is 1e-3 mm2/s."""
