"""Diffusion of simulated tissue: FA and MD of every label along the cord, what age and disease do to them, what a gradient leaves of a signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cohort_engine.phantom.anatomy import Anatomy
from cohort_engine.phantom.tissue import FLUID, GREY, WHITE, Damage, clusters, grid_heights, lesion, tract_of
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray

BASE_FA = {WHITE: 0.74, GREY: 0.46, FLUID: 0.0}
"""Of a healthy adult of 50. White matter at C2 to C5 is given as 0.65 to 0.85, by partial volume and method; drawn regions as 0.69 (Bosma 2012)."""
BASE_MD = {WHITE: 0.95, GREY: 0.92, FLUID: 3.0}
"""um2/ms; white matter 0.93 (Bosma 2012), free water at body temperature 3."""
B0 = {WHITE: 1800.0, GREY: 1950.0, FLUID: 2600.0}
"""Signal without diffusion weighting, in echo-planar images."""
TRACT_FA = {
    "fasciculus gracilis": 0.03, "fasciculus cuneatus": 0.03, "lateral corticospinal tract": 0.02, "ventral corticospinal tract": -0.06,
    "spino-olivary tract": -0.05, "ventral reticulospinal tract": -0.04,
}  # fmt: skip
"""How a tract differs from white matter."""
AGE_SLOPE = -0.0023
"""FA a year; with the spread between subjects, FA and age correlate by about -0.45 over a study (Wang 2014: -0.47 to -0.73)."""
SUBJECT_FA, TRACT_SPREAD, SUBJECT_MD = 0.045, 0.02, 0.06
"""Standard deviations between subjects, of a tract within a subject, and of MD (um2/ms). Between people FA varies by 5 to 10 percent."""

FA_DAMAGE = {
    "lateral corticospinal tract": Damage(0.17, 0.060, 0.10),
    "fasciculus cuneatus": Damage(0.16, 0.076, 0.04),
    "fasciculus gracilis": Damage(0.16, 0.076, 0.04),
    "spinal lemniscus": Damage(0.12, 0.05, 0.03),
}
"""Loss of FA at severity 1. Published for patients (mean severity 0.6): effect size -1.52 at the compression and -0.83 at C2-C3
(doi 10.1371/journal.pone.0117707); dorsal columns -7.9 and lateral ones -6.2 percent at C2-C3 (doi 10.1089/neu.2021.0389)."""
FA_OTHER = {WHITE: Damage(0.12, 0.034, 0.03), GREY: Damage(0.07, 0.015, 0.015)}
MD_RISE = Damage(0.13, 0.03, 0.03)
"""Rise of MD at severity 1, um2/ms: effect size 1.09 at the compression (doi 10.1371/journal.pone.0117707)."""
OWN_COURSE, OWN_TRACT = 0.25, 0.2
"""How far, in logarithms, the loss of FA and MD of a subject and of its tracts departs from that of MTR."""
NODES = (1 - np.cos(np.pi * (np.arange(5) + 0.5) / 5)) / 2
"""Squared cosines of the angle between gradient and fibres at which signals are mixed: in between a polynomial is exact to 1e-4."""


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Diffusion of one subject on the template: tensors symmetric about the axis of the cord.

    Attributes
    ----------
    fa, md : (label, z) float64
        True FA and MD (um2/ms) of each atlas label at each z of the template grid.
    loss : (label, z) float64
        FA that the disease took away; already taken off `fa`.
    b0 : (label,) float64
        Signal without diffusion weighting.
    """

    fa: FloatArray
    md: FloatArray
    loss: FloatArray
    b0: FloatArray

    def left(self, b: float, squared_cosine: float) -> FloatArray:
        """Return the part (label, z) of the signal that a gradient leaves, of strength `b` (ms/um2) and at this angle to the cord's axis.

        ``exp(-b (RD + (AD - RD) cos^2))``.
        """
        axial, radial = diffusivities(self.fa, self.md)
        return np.exp(-b * (radial + (axial - radial) * squared_cosine))


def diffusivities(fa: FloatArray, md: FloatArray) -> tuple[FloatArray, FloatArray]:
    """AD and RD of tensors with an axis of symmetry, from FA and MD.

    Examples
    --------
    >>> axial, radial = diffusivities(np.array(0.7), np.array(0.9))
    >>> mean, spread = (axial + 2 * radial) / 3, axial - radial
    >>> round(float(mean), 6), round(float(spread / np.sqrt(axial**2 + 2 * radial**2)), 6)
    (0.9, 0.7)
    """
    part = fa / np.sqrt(3 - 2 * fa**2)
    return md * (1 + 2 * part), md * (1 - part)


def draw_diffusion(
    template: Template, anatomy: Anatomy, rng: Generator, *, age: float, fa_offset: float = 0.0, md_factor: float = 1.0
) -> Diffusion:  # fmt: skip
    """Draw a subject's diffusion.

    Parameters
    ----------
    template : Template
    anatomy : Anatomy
        Says where the cord is compressed, and how much; MTR and FA suffer from the same compression, each in its own measure.
    rng : Generator
    age : float, year
    fa_offset, md_factor : float
        What this scanner adds to FA, and multiplies MD with, in every tissue but CSF.

    Returns
    -------
    Diffusion
        Base + tract + age + site + subject + subject x tract - damage, all smooth along z.

    Examples
    --------
    >>> from cohort_engine.phantom.anatomy import draw_anatomy
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> cord = parametric_cord(spacing=2.0, top="C3", bottom="C4")
    >>> anatomy = draw_anatomy(cord, np.random.default_rng(0), severity=0.0)
    >>> young, old = (draw_diffusion(cord, anatomy, np.random.default_rng(1), age=age) for age in (30, 60))
    >>> np.unique((young.fa - old.fa).round(6)).tolist()  # 0 in CSF
    [0.0, 0.069]
    """
    kind, z = clusters(template), grid_heights(template)
    at, above = lesion(z, anatomy)
    severity = anatomy.severity * np.exp(rng.normal(0, OWN_COURSE))
    common, thick = AGE_SLOPE * (age - 50) + fa_offset + rng.normal(0, SUBJECT_FA), md_factor + rng.normal(0, SUBJECT_MD) / BASE_MD[WHITE]
    wave = 0.008 * np.sin(2 * np.pi * (z / 110.0 + rng.uniform()))
    own, measure = rng.normal(0, TRACT_SPREAD, len(kind)), np.exp(rng.normal(0, OWN_TRACT, len(kind)))
    fa, md = np.zeros((len(kind), len(z))), np.full((len(kind), len(z)), BASE_MD[FLUID])
    loss = np.zeros_like(fa)
    for label, (name, tissue) in enumerate(zip(template.atlas.labels, kind, strict=True)):
        if tissue == FLUID:
            continue
        damage = FA_DAMAGE.get(tract_of(name, FA_DAMAGE), FA_OTHER[tissue])
        loss[label] = severity * measure[label] * damage.along(at, above)
        healthy = BASE_FA[tissue] + TRACT_FA.get(tract_of(name, TRACT_FA), 0.0) + common + own[label] + wave
        fa[label] = np.clip(healthy - loss[label], 0.05, 0.95)
        md[label] = BASE_MD[tissue] * thick + severity * measure[label] * MD_RISE.along(at, above)
    return Diffusion(fa, md, loss, np.array([B0[k] for k in kind]))


def node_weights(squared_cosine: FloatArray) -> NDArray[np.float64]:
    """Weights (..., node) that make, of the values at `NODES`, the value at each squared cosine (...).

    Examples
    --------
    >>> bool(abs(node_weights(np.array(0.3)) @ np.exp(-1.5 * NODES) - np.exp(-1.5 * 0.3)) < 1e-4)
    True
    """
    x = np.asarray(squared_cosine, float)[..., None]
    weights = [np.prod([(x[..., 0] - other) / (node - other) for other in NODES if other != node], axis=0) for node in NODES]
    return np.stack(weights, axis=-1)
