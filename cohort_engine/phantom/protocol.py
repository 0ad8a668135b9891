"""How a site scans diffusion: gradients, voxels, orientation on disk, and the files that say so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import SeedSequence
from numpy.typing import NDArray

from cohort_engine.io.volume import Volume

AXES = ("LAS", "RAS", "LPS")
"""Axis codes on disk; sites take turns."""
GOLDEN = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class DwiProtocol:
    """How a site scans diffusion.

    Attributes
    ----------
    b : float
        s/mm2, of one shell.
    directions : int
    b0_at : tuple of int
        Places of the volumes without diffusion weighting in the series.
    plane : pair of float
        Field of view, mm.
    voxel : pair of float
        As acquired, in the plane, mm.
    thickness, gap : float
        Of the slices, mm.
    matrix : pair of int, optional
        The scanner's own interpolation in the plane (zeros around k-space); by default none.
    slices : int, optional
        By default as many as the neck needs.
    axes : str
        Axis codes on disk.
    readout : float
        Total readout time, s.
    fa_offset, md_factor : float
        What this scanner adds to FA, and multiplies MD with.
    """

    b: float = 800.0
    directions: int = 30
    b0_at: tuple[int, ...] = (0, 31, 32, 33, 34)
    plane: tuple[float, float] = (86.4, 32.4)
    voxel: tuple[float, float] = (0.9, 0.9)
    thickness: float = 5.0
    gap: float = 0.0
    matrix: tuple[int, int] | None = None
    slices: int | None = None
    axes: str = "LAS"
    readout: float = 0.0349
    fa_offset: float = 0.0
    md_factor: float = 1.0


B800 = DwiProtocol()
"""30 directions and 5 b0, 0.9 x 0.9 x 5 mm, a narrow field of view."""
DTI_STUDY = DwiProtocol(
    b=600.0, directions=15, b0_at=(0,), plane=(80.0, 80.0), voxel=(1.0, 1.25), thickness=7.0, gap=2.2, matrix=(128, 128), readout=0.05
)
"""Scans of the DTI study (doi 10.3390/diagnostics13050817): 15 directions, one b0, 0.63 mm in the plane as reconstructed."""


def site_dwi(site: int, seed: int, protocol: DwiProtocol = B800) -> DwiProtocol:
    """Return the protocol as a site has it: axes on disk, and what its scanner does to FA and MD (1.5 percent).

    Examples
    --------
    >>> [site_dwi(site, 0).axes for site in range(3)]
    ['LAS', 'RAS', 'LPS']
    """
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=(6, site)))
    return replace(protocol, axes=AXES[site % len(AXES)], fa_offset=float(rng.normal(0, 0.01)), md_factor=float(np.exp(rng.normal(0, 0.015))))


def gradients(protocol: DwiProtocol) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make b-values (t,) and directions (t, 3): a spiral over half a sphere, every other one turned round, in mixed order; zeros of b0.

    Examples
    --------
    >>> bvals, directions = gradients(B800)
    >>> scatter = directions.T @ directions / 30  # even: a third along each axis
    >>> len(bvals), bool(abs(np.linalg.eigvalsh(scatter) - 1 / 3).max() < 0.05)
    (35, True)
    """
    i = np.argsort(np.arange(protocol.directions) * GOLDEN % 1)
    z = (i + 0.5) / protocol.directions
    angle = i * GOLDEN
    spiral = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=-1) * (1 - 2 * (i % 2))[:, None]
    volumes = protocol.directions + len(protocol.b0_at)
    weighted = np.setdiff1d(np.arange(volumes), protocol.b0_at)
    bvals, directions = np.zeros(volumes), np.zeros((volumes, 3))
    bvals[weighted], directions[weighted] = protocol.b, spiral
    return bvals, directions


def fsl_texts(bvals: NDArray[np.float64], directions: NDArray[np.float64], series: Volume) -> tuple[str, str]:
    r"""Write b-values and directions (RAS+) as FSL has them: along the axes of the file, the first turned round where its determinant is positive.

    Examples
    --------
    >>> from cohort_engine.io.volume import decode_voxels, encode_volume
    >>> one = decode_voxels(encode_volume(Volume(np.zeros((1, 1, 1), np.uint8), np.eye(4))), what="image")
    >>> fsl_texts(np.array([800.0]), np.array([[0.6, 0.0, 0.8]]), one)
    ('800\n', '-0.6\n0\n0.8\n')
    """
    affine = series.affine if series.stored is None else series.stored.affine
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = directions @ axes
    if np.linalg.det(axes) > 0:
        along[:, 0] *= -1
    rows = [" ".join(f"{v + 0.0:.7g}" for v in np.where(np.abs(row) < 1e-12, 0.0, row)) for row in along.T]
    return " ".join(f"{b:g}" for b in bvals) + "\n", "\n".join(rows) + "\n"


def sidecar(protocol: DwiProtocol, *, reverse: bool = False) -> dict[str, Any]:
    """Sidecar of a series, or of the image with the opposite phase encoding: front to back, and back to front.

    Examples
    --------
    >>> sidecar(B800)["PhaseEncodingDirection"], sidecar(B800, reverse=True)["PhaseEncodingDirection"]
    ('j-', 'j')
    """
    forwards = ("A" in protocol.axes) == reverse
    axis = "ijk"[next(k for k, code in enumerate(protocol.axes) if code in "AP")]
    return {
        "Manufacturer": "Simulated", "MagneticFieldStrength": 3, "PhaseEncodingDirection": axis + ("" if forwards else "-"),
        "TotalReadoutTime": protocol.readout, "SliceThickness": protocol.thickness, "SpacingBetweenSlices": protocol.thickness + protocol.gap,
    }  # fmt: skip
