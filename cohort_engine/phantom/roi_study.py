"""Patients of the DTI study (doi 10.3390/diagnostics13050817), simulated: slices with the regions that raters draw in them.

Twelve slices in three stacks from C2 to T1, cords compressed in all grades, scanned with the study's protocol, corrected for motion and fitted as
real ones are. Raters draw on the true anatomy of each slice where motion correction has put it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import Landmarks, level_axis
from cohort_engine.cord.segment import segment
from cohort_engine.io.gradients import gradients_of
from cohort_engine.mapping.fractions import atlas_columns, native_fractions, scatter
from cohort_engine.mapping.template_map import fit_template_map
from cohort_engine.phantom.anatomy import Anatomy
from cohort_engine.phantom.compression import Inside, draw_patient
from cohort_engine.phantom.diffusion import DwiScan, make_stacks
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.images import INSIDE, Section, average_over
from cohort_engine.phantom.protocol import DTI_STUDY
from cohort_engine.phantom.rater import Rater, raters
from cohort_engine.phantom.subject import PATIENT, draw_body
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.rois.cores import cores, depth, parts_of, sizes
from cohort_engine.rois.slices import RoiSlices, joined
from cohort_engine.single.dti import tensor_image
from cohort_engine.single.moco import correct, mean_of
from cohort_engine.single.process import in_processes
from cohort_engine.template.base import Template, cut
from cohort_engine.template.packing import FloatArray

STACKS, IN_STACK = 3, 4
PIXELS: Final = 128
"""A side of an image of the study."""
GRADES = {"mild": 0.4, "moderate": 0.4, "severe": 0.2}
"""Grade of compression -> share of the patients."""
SHIFT, TURN, SCALE = 0.25, 4.0, 0.08
"""Standard deviations of what the inside of a cord has of its own against its outline: mm, degrees, and of factors of its size. Grey matter of the
template, brought in by the outline, then has a Dice of 0.82 with theirs before
errors of the outline; on T2* scans it was 0.74 with what people drew (``tests/real/test_refine.py``)."""
SNR, SNR_SPREAD = 20.0, 0.2
"""Median over patients of the signal-to-noise ratio of white matter without diffusion weighting, and the spread of its logarithm."""
USABLE = 1059 / 1068
"""Share of slices that the study could use."""
MARGIN = 20.0
"""Tensors are fitted so far around the cord, mm; beyond, maps are NaN."""
RATERS = 2
"""So many people share the patients; each region is drawn again by another of them."""
RATERS_SEED = 0
"""The same people draw in every set of patients."""
DISC_ERROR = 1.0
"""Of discs labelled in another image of the session, along the cord, mm."""
HALF, ROOM = 0.5, 4
MEAN = "mean of the corrected diffusion series"
SCHOOL = 0.4
"""How far all of them draw a region aside of the atlas's core, alike on both sides, mm (standard deviation). Five people drew the corticospinal
tracts 0.6 and 0.8 mm farther inwards than the atlas has them, and 0.2 mm farther forward; the dorsal columns within 0.1 mm
(``tests/real/test_raters.py``)."""
UNSURE = 0.5
"""How much more chance does where the cord is pressed to half: the drawing of a fully compressed slice is 1 + this as uncertain."""


def make_roi_slices(
    template: Template, *, patients: int, seed: int, first: int = 0, size: int = PIXELS, progress: Callable[[int], None] | None = None,
    workers: int = 1,
) -> RoiSlices:  # fmt: skip
    """Simulate patients of the study, and the regions that raters draw.

    Parameters
    ----------
    template : Template
        Anatomy of the patients.
    patients : int
        How many.
    seed : int
        A patient is the same whatever else is simulated: it depends on its number and the seed.
    first : int
        Number of the first patient.
    size : int
        Pixels a side that are kept, around the middle of the image.
    progress : callable, optional
        Told how many patients are done.
    workers : int
        Processes.

    Returns
    -------
    RoiSlices
        About 12 slices a patient, from the top down, of 128 x 128 pixels of 0.625 mm; images b0, FA, MD, AD, RD (um2/ms), those of the tensor NaN
        beyond 20 mm from the cord. Cord, `prior` and `atlas` are by segmentation of the mean image and by registration, not from the truth.
    """
    made = []
    neck = cut(template, "C1", "T2")
    for patient in in_processes(partial(make_patient, neck, seed), range(first, first + patients), workers):
        made.append(patient.middle(size))
        if progress is not None:
            progress(len(made))
    return joined(made)


def make_patient(template: Template, seed: int, number: int) -> RoiSlices:
    """Simulate one patient of the study."""
    own, draw, lose, mark = (np.random.default_rng(s) for s in SeedSequence(seed, spawn_key=(7, number)).spawn(4))
    grade = str(own.choice(list(GRADES), p=list(GRADES.values())))
    patient = replace(draw_patient(grade, own), inside=draw_inside(own))
    imperfection = DwiImperfection(snr=float(SNR * np.exp(own.normal(0, SNR_SPREAD))))
    who: dict[str, Any] = {"group": PATIENT, "number": number, "seed": seed, "patient": patient}
    anatomy = draw_body(template, **who, site=0, severity=None).anatomy
    scans = make_stacks(template, STACKS, **who, protocol=replace(DTI_STUDY, slices=IN_STACK), imperfection=imperfection)
    section = part_section(template)
    people = study_raters()
    turn = int(own.integers(RATERS))
    hands = people[turn], people[(turn + 1) % RATERS]
    discs = labelled_discs(template, anatomy, mark)
    stacks = []
    for top, scan in zip(range(0, STACKS * IN_STACK, IN_STACK), scans, strict=True):
        spacing = np.asarray(scan.series.grid.spacing[:2], np.float64)
        found = processed(scan, template, discs)
        drawn, again = _drawn(scan, found.apart, anatomy, section, hands, draw)
        images = {name: _downwards(image).astype(np.float32) for name, image in found.images.items()}
        count = found.cord.shape[-1]
        stacks.append(RoiSlices(
            images, _downwards(drawn), _downwards(found.cord), np.full(count, number), top + np.arange(count), spacing,
            prior=_downwards(found.prior), again=_downwards(again), atlas=_downwards(_cores(found.prior, spacing)),
        ))  # fmt: skip
    slices = joined(stacks)
    usable = lose.random(len(slices)) < USABLE
    return slices.at(usable & slices.cord.any((1, 2)))


def _downwards(array: NDArray[Any]) -> NDArray[Any]:
    """Slices, along the last axis upwards, as the first axis downwards."""
    return np.ascontiguousarray(np.moveaxis(array[..., ::-1], -1, 0))


def study_raters() -> list[Rater]:
    """Who draws, in whatever patients: people who learned it together. The published areas are what they draw on average.

    Examples
    --------
    >>> [rater.place.shape for rater in study_raters()], bool(abs(sum(rater.size for rater in study_raters())).max() < 1e-9)
    ([(8, 2), (8, 2)], True)
    """
    people = raters(RATERS, np.array(schema.OTHER_SIDE), seed=RATERS_SEED)
    usual = np.mean([rater.size for rater in people], axis=0)
    taught = np.random.default_rng(SeedSequence(RATERS_SEED, spawn_key=(RATERS, 0))).normal(0, SCHOOL, (len(schema.PARTS), 2))
    school = np.concatenate([taught * side for side in ([1, 1], [-1, 1])])
    return [replace(rater, size=rater.size - usual, place=rater.place + school) for rater in people]


def draw_inside(rng: Generator) -> Inside:
    """Draw how the inside of a patient's cord lies against its outline, see `SHIFT`."""
    (right, front), turn, (width, depth_) = rng.normal(0, SHIFT, 2), float(rng.normal(0, TURN)), 1 + rng.normal(0, SCALE, 2)
    return Inside((float(right), float(front)), turn, (float(width), float(depth_)))


def part_section(template: Template) -> Section:
    """Shares of the parts on the template's block, one channel each."""
    at = tuple((template.packing.ijk.astype(int) - np.asarray(template.corner)).T)
    channels = {}
    for name, values in zip(schema.ROIS, parts_of(template), strict=True):
        channels[name] = np.zeros(template.cord.shape, np.float32)
        channels[name][at] = values
    channels[INSIDE] = np.sum(list(channels.values()), axis=0, dtype=np.float32)
    return Section(template.block_grid, channels)


class _Stack(NamedTuple):
    """A stack as processed: images and cord (x, y, z), parts by registration (roi, x, y, z), and how far off each slice lies (z, 2), mm."""

    images: dict[str, NDArray[np.float32]]
    cord: NDArray[np.bool_]
    prior: NDArray[np.float32]
    apart: NDArray[np.float64]


def processed(scan: DwiScan, template: Template, discs: Landmarks) -> _Stack:
    """Correct, segment, fit and register a stack as a real one, knowing nothing of its truth."""
    told = gradients_of(scan.bval, scan.bvec, scan.series)
    found = correct(scan.series, told)
    cord = segment(np.nan_to_num(found.mean.data), found.mean.affine, what=MEAN).mask > 0
    tensor, _ = tensor_image(found.series, told, found.mean.with_data(cord.astype(np.uint8)), margin_mm=MARGIN)
    images = {schema.B0_IMAGE: mean_of(found.series.data, told.b0)}
    images |= {name: tensor.data[..., CHANNELS.index(name)] for name in (schema.FA, schema.MD, schema.AD, schema.RD)}
    prior = registered(template, cord, found.mean.affine, discs)
    return _Stack(images, cord, prior, np.median(scan.truth.shifts - found.motion.shifts, axis=0))


def registered(template: Template, cord: NDArray[np.bool_], affine: FloatArray, discs: Landmarks) -> NDArray[np.float32]:
    """Share (roi, x, y, z) of each voxel that belongs to each part: the template's, brought in by the outline of the cord and the discs.

    Position, size and shape of each section are matched; a finer match of the outline moves the parts inside by less than they are uncertain.
    """
    from scipy import sparse

    levels = level_axis(centreline_from_mask(cord, affine, what=MEAN), discs, template)
    fitted = fit_template_map(cord, affine, levels, template, deformable=False, what=MEAN)
    fractions = native_fractions(fitted, template, affine, cord.shape, columns=atlas_columns(template))
    return np.asarray(scatter(fractions, template, sparse.csr_array(parts_of(template))).toarray().reshape(-1, *cord.shape), np.float32)


def labelled_discs(template: Template, anatomy: Anatomy, rng: Generator) -> Landmarks:
    """Discs of the neck as they are found in another image of the session."""
    places = {n: z + rng.normal(0, DISC_ERROR) for n, z in sorted(template.landmarks[schema.DISC].items()) if n > 1}
    z = np.array(list(places.values()))
    return Landmarks(schema.DISC, np.array(list(places)), anatomy.world(np.column_stack([anatomy.middle(z), z])))


def _drawn(
    scan: DwiScan, apart: NDArray[np.float64], anatomy: Anatomy, section: Section, hands: tuple[Rater, Rater], rng: Generator
) -> NDArray[np.bool_]:  # fmt: skip
    """Draw the regions of a stack on the true anatomy, where motion correction has put it: (hand, roi, x, y, z)."""
    grid = scan.series.grid
    shares = average_over(section, anatomy, grid, thickness=DTI_STUDY.thickness, shifts=apart)
    parts = np.stack([shares[name] for name in schema.ROIS])
    spacing = np.asarray(grid.spacing[:2], np.float64)
    middle = [[(grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2, k] for k in range(grid.shape[2])]
    z, press = anatomy.template(grid.world(np.array(middle)))[:, 2], anatomy.deformity
    unsure = 1 + np.zeros(len(z)) if press is None else 1 + 2 * UNSURE * press.bulge(z) * (1 - press.press.left)
    out = np.zeros((len(hands), *parts.shape), bool)
    for k in range(len(z)):
        window = around(parts[..., k].sum(0) > 0)
        here = parts[:, *window, k]
        below, inside = depth(here, spacing), here.sum(0) >= HALF
        room = own_side(below, inside)
        for masks, rater in zip(out, hands, strict=True):
            masks[:, *window, k] = rater.draw(below, room, sizes(below, spacing), spacing, rng, unsure=float(unsure[k]))
    return out


def _cores(prior: NDArray[np.float32], spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cores (roi, x, y, z) of registered parts."""
    out = np.zeros(prior.shape, bool)
    for k in range(prior.shape[-1]):
        there = prior[..., k].sum(0) > 0
        if there.any():
            window = around(there)
            out[:, *window, k] = cores(prior[:, *window, k], spacing)
    return out


def own_side(below: NDArray[np.float64], cord: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a region may be drawn (roi, x, y): in the cord, where some part of its own side is deeper than any of the other."""
    side = below.reshape(len(schema.SIDES), len(schema.PARTS), *cord.shape).max(1)
    return np.asarray(cord & np.repeat(side == side.max(0), len(schema.PARTS), axis=0))


def around(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Window with some room around what is inside."""
    used = np.argwhere(inside)
    (x, y), (right, front) = np.maximum(used.min(0) - ROOM, 0), used.max(0) + 1 + ROOM
    return slice(x, right), slice(y, front)
