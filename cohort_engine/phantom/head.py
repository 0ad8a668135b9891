"""What lies above the neck in a simulated T2w image: skull base, cisterns, cerebellum, and the brain stem that widens to the pons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import expit

from cohort_engine.template.packing import FloatArray

FLUID, MARROW, CORTEX, MEDULLA = 1000.0, 420.0, 60.0, 350.0
"""T2w signals."""
LOWEST = -12.0
"""Nothing of the head lies lower than this, mm above the top of C1."""
FORAMEN = 4.0
"""Here (mm above the top of C1) the template's cord has given way to the brain stem."""
CANAL = (6.5, 8.0)
"""Front and back of the canal at the top of C1, mm from the middle of the cord."""
CORD = (5.7, 4.1)
"""Half-diameters of the cord there, right to left and front to back, mm."""
WIDTH = 17.0
"""Half the breadth of the posterior fossa at its entrance, mm."""


@dataclass(frozen=True)
class Head:
    """One subject's head, and how much of it was scanned. Heights are mm above the top of C1.

    Attributes
    ----------
    reach : float
        Upper end of the T2w image.
    mask_end : float
        Where whoever drew the cord stopped.
    basion, opisthion : float
        Heights of the front and back border of the foramen magnum.
    clivus, occiput : float
        Slopes of the skull base in front and behind, mm per mm of height.
    thick : (2,) tuple of float
        Clivus and occipital bone, mm.
    flare : float
        How much the canal widens behind C1, mm per mm.
    junction, pons : float
        Height of the pontomedullary junction, and how far the pons stands out in front, mm.
    cerebellum : (2,) tuple of float
        Height of its lower end (the tonsils), and its distance behind the middle of the brain stem, mm.
    brain : float
        T2w signal.
    tip : float
        How far the tip of the dens lies below the top of C1, mm.
    arch : float
        How far the middle of the arches of C1 lies below its top, mm.
    seam : float
        How clear the remnant of the disc between dens and body of C2 is, 0 to 1.
    """

    reach: float
    mask_end: float
    basion: float
    opisthion: float
    clivus: float
    occiput: float
    thick: tuple[float, float]
    flare: float
    junction: float
    pons: float
    cerebellum: tuple[float, float]
    brain: float
    tip: float
    arch: float
    seam: float


def draw_head(rng: Generator) -> Head:
    """Draw a head.

    Examples
    --------
    >>> head = draw_head(np.random.default_rng(0))
    >>> bool(12 < head.reach < 45 and head.basion < head.junction)
    True
    """
    u = rng.uniform
    return Head(
        reach=u(15, 42), mask_end=u(-4, 20), basion=u(-1, 6), opisthion=u(-2, 6), clivus=u(0.35, 0.95), occiput=u(0.8, 2.2),
        thick=(u(7, 13), u(4, 9)), flare=u(0.1, 0.4), junction=u(18, 30), pons=u(5, 11), cerebellum=(u(1, 12), u(7, 12)), brain=u(330, 520),
        tip=u(1, 6.5), arch=u(6.5, 11), seam=u(0.3, 1.0) * float(u() < 0.45),
    )  # fmt: skip


def soft(distance: FloatArray, width: float = 0.67) -> NDArray[np.float64]:
    """1 where the distance to the edge (mm, inside positive) is large; `width` mm for most of the change."""
    return np.asarray(expit(distance * (2 / width)))


def given_way(high: FloatArray) -> NDArray[np.float64]:
    """How far the template's cord has given way to the brain stem at heights (mm above the top of C1).

    Examples
    --------
    >>> given_way(np.array([-4.0, 4.0, 12.0])).round(3).tolist()
    [0.0, 0.5, 1.0]
    """
    return soft(high - FORAMEN, 2.0)


def draw_over(
    image: FloatArray, x: FloatArray, y: FloatArray, high: FloatArray, texture: FloatArray, head: Head, size: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the head over what surrounds the cord.

    Parameters
    ----------
    image : (n,) array
        T2w signal so far.
    x, y, high : (n,) arrays
        Place: mm to the right and in front of the middle of the cord, mm above the top of C1.
    texture : (n,) array
        Random field of unit variance.
    head : Head
    size : pair of float
        This subject's cord over the template's, right to left and front to back.

    Returns
    -------
    image : (n,) array
    stem : (n,) array
        Part of the voxel that is brain stem, 0 to 1.
    """
    above = np.maximum(high, 0.0)
    rise = np.clip((high - LOWEST) / 24.0, 0.0, 1.0) * 24.0
    front = CANAL[0] + 1 + np.maximum(high - head.basion, 0.0) * head.clivus
    back = CANAL[1] + head.flare * rise + np.maximum(high - head.opisthion, 0.0) * head.occiput
    aside = WIDTH + above - np.abs(x)

    def over(cover: FloatArray, value: FloatArray | float) -> None:
        nonlocal image
        image = image + cover * (value - image)

    for slab, end in (
        (np.minimum(y - front, front + head.thick[0] - y), high - head.basion + 4),
        (np.minimum(-y - back, back + head.thick[1] + y), high - head.opisthion + 4),
    ):
        bone = np.minimum(np.minimum(slab, end), aside)
        over(soft(bone + 1.3), CORTEX)
        over(soft(bone), MARROW * (1 + 0.1 * texture))
    edge = np.minimum(np.minimum(front - y, y + back), 10.0 - np.abs(x) + above)
    over(soft(edge + 1.2) * soft(high), CORTEX)
    over(soft(edge) * soft(high - LOWEST), FLUID * (1 + 0.06 * texture))
    lobe = np.minimum(np.minimum(-y - head.cerebellum[1], y + back - 2.5), np.minimum(high - head.cerebellum[0], aside - 3))
    over(soft(lobe), np.where(texture > 0.8, 0.6 * head.brain + 0.4 * FLUID, head.brain))
    widened = np.clip(high / 30.0, 0.0, 1.0)
    bulge = head.pons * soft(high - head.junction, 4.0)
    half = CORD[1] * size[1]
    depth = half + np.where(y > 0, 4.5 * widened + bulge, 2.5 * widened)
    breadth = CORD[0] * size[0] + 5.0 * widened + 0.7 * bulge
    radius = np.hypot(x / breadth, y / depth)
    inner = np.minimum((1 - radius) * np.minimum(depth, breadth), edge - 0.6)
    stem = soft(inner)
    over(stem, (MEDULLA + (head.brain - MEDULLA) * 0.5 * widened) * (1 + 0.04 * texture))
    return np.asarray(image), stem
