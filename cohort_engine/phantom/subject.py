"""One simulated subject: images, masks, landmarks and clinical scores, with everything that is true about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.io.volume import Volume
from cohort_engine.mapping.template_map import sample
from cohort_engine.phantom import images
from cohort_engine.phantom.anatomy import Anatomy, draw_anatomy, neck, neck_slices
from cohort_engine.phantom.compression import Deformity, MaskFaults, Patient, given_mask
from cohort_engine.phantom.head import Head, draw_head
from cohort_engine.phantom.images import Texture
from cohort_engine.phantom.tissue import MT_OFF, T2W, WHITE, Tissue, cord_area, draw_tissue, native_voxels, regional_truth
from cohort_engine.qmri.mt import cord_floor, mtr
from cohort_engine.reduce.maps import weighted_average
from cohort_engine.reduce.operator import Operator
from cohort_engine.template.base import Template
from cohort_engine.template.levels import LevelRange
from cohort_engine.template.packing import FloatArray, Grid

PATIENT, CONTROL = "DCM", "HC"
GROUPS = (PATIENT, CONTROL)
T2W_MASK, MT_MASK, T2W_LANDMARKS = (
    schema.role(schema.T2W, schema.MASK), schema.role(schema.MT, schema.MASK), schema.role(schema.T2W, schema.LANDMARKS),
)  # fmt: skip
LOW_SIGNAL = 0.05
TILT = (1.5, 0.7, 1.0)
"""How far slices are turned against the cord, and about it, degrees (standard deviation)."""
OFF_MIDDLE = (2.0, 4.0, 1.0)
"""How far the middle of a stack lies from the cord, right, front and up, mm (standard deviation)."""
MT_PLANE = (64.0, 64.0)
"""Field of view of the MT images, mm."""
MOTOR, SENSORY = ("lateral corticospinal tract",), ("fasciculus cuneatus", "fasciculus gracilis")
CLINICAL = {"mjoa": "points", "dexterity": "s", "grip": "kg", "balance": "cm"}
"""Score -> unit: modified JOA, pegboard time, grip strength, sway."""


@dataclass(frozen=True)
class Protocol:
    """How a site scans.

    Attributes
    ----------
    site : str
    mtr_offset : float
        Percentage points that this scanner adds.
    t2w_voxel : float
        Isotropic voxel size, mm.
    mt_voxel : tuple of float
        In-plane voxel size and slice thickness, mm.
    t2w_axes, mt_axes : str
        Axis codes on disk (``"PSR"``).
    """

    site: str
    mtr_offset: float
    t2w_voxel: float
    mt_voxel: tuple[float, float]
    t2w_axes: str
    mt_axes: str


@dataclass(frozen=True)
class Imperfection:
    """What spoils the scans; zero is perfect.

    Attributes
    ----------
    snr : float
        Signal-to-noise ratio of white matter in MT-off; infinity for none.
    drift, jitter : float
        Smooth and slice-to-slice in-plane motion between MT-on and MT-off, mm.
    bias : float
        Strength of the receive field.
    mask_jitter : float
        Wobble of the mask's border: cord fraction that counts as cord is ``0.5 +- mask_jitter``.
    rim : float
        How far outside the masks, and outside the template's cord, the tissue ends, mm. In real scans masks that people drew end 0.2 mm, the
        template's cord 0.3 mm inside the half height of the cord's edge (``tests/real/test_border.py``).
    """

    snr: float = 60.0
    drift: float = 0.6
    jitter: float = 0.08
    bias: float = 0.12
    mask_jitter: float = 0.08
    rim: float = 0.25


PERFECT = Imperfection(snr=np.inf, drift=0.0, jitter=0.0, bias=0.0, mask_jitter=0.0, rim=0.0)


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true about a subject.

    Attributes
    ----------
    anatomy, tissue : Anatomy, Tissue
    template_map : (voxel, 3) float32
        Scanner position of each packed template voxel, RAS+ mm.
    shifts : (z, 2) float64
        In-plane displacement of MT-off against MT-on, mm along the first two (RAS+) axes of the slab.
    mtr : Volume
        Native MTR without noise and motion; NaN where there is no signal.
    masks : {role: Volume}
        Good cord masks, where those of the subject may be spoilt.
    levels, regions : tuple of str
    raw : (level, region) float64
        Weighted mean of the true MTR of the labels: no partial volume.
    wa, coverage : (level, region) float32
        The weighted average that a perfect registration gives on `mtr`, and how much of the cell the slab covers.
    native_voxels : (level, region) float64
        Volume of the cell over the volume of an MT voxel.
    csa : (level,) float64
        Area of the cord across its axis, mm2.
    """

    anatomy: Anatomy
    tissue: Tissue
    template_map: NDArray[np.float32]
    shifts: NDArray[np.float64]
    mtr: Volume
    masks: Mapping[str, Volume]
    levels: tuple[str, ...]
    regions: tuple[str, ...]
    raw: NDArray[np.float64]
    wa: NDArray[np.float32]
    coverage: NDArray[np.float32]
    native_voxels: NDArray[np.float64]
    csa: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subject:
    """A simulated subject.

    Attributes
    ----------
    images : {role: Volume}
        Scans (int16), cord masks and disc landmarks (uint8), in RAS+ order.
    covariates : mapping
        group, age, sex, site and the scores of `CLINICAL`.
    protocol : Protocol
    truth : Truth
    """

    images: Mapping[str, Volume]
    covariates: Mapping[str, str | float]
    protocol: Protocol
    truth: Truth


def site_protocol(site: int, seed: int) -> Protocol:
    """Draw the protocol of a site; it depends on nothing but the site's number and the seed."""
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=(2, site)))
    axes = (("PSR", "RAS"), ("LAS", "LAS"), ("RAS", "LAS"))[site % 3]
    offset = float(rng.normal(0, 1.5))
    return Protocol(f"site{site + 1}", offset, (1.0, 0.8)[site % 2], (0.9, 5.0), *axes)


class Body(NamedTuple):
    """A subject before anything is scanned, and the generators of what comes next: the person, the scan, its noise, the head."""

    protocol: Protocol
    anatomy: Anatomy
    tissue: Tissue
    age: float
    person_rng: Generator
    scan_rng: Generator
    noise_rng: Generator
    head_rng: Generator


def draw_body(
    template: Template, *, group: str, number: int, seed: int, site: int, severity: float | None, patient: Patient | None
) -> Body:  # fmt: skip
    """Draw the subject of which `make_subject` and `diffusion.make_dwi` make scans; parameters as of `make_subject`."""
    stream = SeedSequence(seed, spawn_key=(GROUPS.index(group), number))
    shape_rng, tissue_rng, person_rng, scan_rng, noise_rng, head_rng = (np.random.default_rng(s) for s in stream.spawn(6))
    protocol = site_protocol(site, seed)
    ill = group == PATIENT
    drawn = float(person_rng.uniform(0.25, 1.0))
    severity = patient.severity if patient is not None else (drawn if ill else 0.0) if severity is None else severity
    age = float(np.clip(person_rng.normal(*((57, 10) if ill else (50, 12))), 22, 82).round())
    anatomy = draw_anatomy(template, shape_rng, severity=severity, patient=patient).moved(scan_rng.normal(0, [4, 8, 15]))
    tissue = draw_tissue(template, anatomy, tissue_rng, age=age, site_offset=protocol.mtr_offset)
    return Body(protocol, anatomy, tissue, age, person_rng, scan_rng, noise_rng, head_rng)


def make_subject(
    template: Template, *, group: str = PATIENT, number: int = 0, seed: int = 0, site: int = 0, severity: float | None = None,
    imperfection: Imperfection = Imperfection(), patient: Patient | None = None, mt_thickness: float | None = None,
) -> Subject:  # fmt: skip
    """Simulate one subject.

    Parameters
    ----------
    template : Template
    group : str
        `PATIENT` (``"DCM"``) or `CONTROL` (``"HC"``).
    number, seed : int
        The subject is the same whatever else is simulated: it depends on group, number and seed only (and on the site's protocol).
    site : int
    severity : float, optional
        Compression, 0 to 1; by default drawn from 0.25 to 1 for patients, and 0 for controls.
    imperfection : Imperfection
    patient : Patient, optional
        A compressed cord and the masks that others made of it, in place of `severity`: `compression.draw_patient`.
    mt_thickness : float, optional
        Of the slices of the MT images, mm; by default the protocol's.

    Returns
    -------
    Subject

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> subject = make_subject(parametric_cord(spacing=1.0, top="C4", bottom="C6"), group="HC", imperfection=PERFECT)
    >>> sorted(subject.images)
    ['mt_mask', 'mt_off', 'mt_on', 't2w', 't2w_landmarks', 't2w_mask']
    >>> truth, cord = subject.truth, subject.truth.regions.index("spinal cord")
    >>> bool((truth.wa < truth.raw)[:, cord].all())  # voxels at the rim hold CSF, whose MTR is low
    True
    """
    body = draw_body(template, group=group, number=number, seed=seed, site=site, severity=severity, patient=patient)
    protocol, anatomy, tissue, age, person_rng, scan_rng, noise_rng, head_rng = body
    if mt_thickness is not None:
        protocol = replace(protocol, mt_voxel=(protocol.mt_voxel[0], mt_thickness))
    head = draw_head(head_rng) if 1 in template.landmarks[schema.DISC] else None
    whole, shifts, perfect = _scan(template, anatomy, tissue, head, protocol, imperfection, scan_rng, noise_rng)
    covariates: dict[str, str | float] = {schema.GROUP: group, schema.AGE: age, schema.SITE: protocol.site}
    covariates |= _person(template, tissue, age, person_rng)
    scans, faults = whole, (MaskFaults() if patient is None else patient.masks)
    if faults != MaskFaults() and anatomy.deformity is not None:
        fault_rng = np.random.default_rng(SeedSequence(seed, spawn_key=(3, GROUPS.index(group), number)))
        given = {role: _given(whole[role], anatomy, anatomy.deformity, faults, fault_rng) for role in (MT_MASK, T2W_MASK)}
        scans = whole | given
    true_masks = {role: whole[role] for role in (MT_MASK, T2W_MASK)}
    return Subject(scans, covariates, protocol, _truth(template, anatomy, tissue, shifts, perfect, true_masks))


def _scan(
    template: Template,
    anatomy: Anatomy,
    tissue: Tissue,
    head: Head | None,
    protocol: Protocol,
    imperfection: Imperfection,
    rng: Generator,
    noise: Generator,
) -> tuple[dict[str, Volume], NDArray[np.float64], Volume]:
    """Make images by role, the shifts, and the perfect MTR."""
    section, texture = images.section(template, tissue, anatomy, rim=imperfection.rim), Texture.draw(rng, wavelength=9.0)
    wobble = Texture.draw(rng, wavelength=7.0)
    discs = template.landmarks[schema.DISC]
    voxel = (protocol.mt_voxel[0], *protocol.mt_voxel)
    mt_grid, t2w_grid = axial_grid(template, anatomy, MT_PLANE, voxel, rng), _t2w_grid(template, anatomy, head, protocol, rng)
    shifts = images.smooth_shifts(mt_grid.shape[2], protocol.mt_voxel[1], rng, drift=imperfection.drift, jitter=imperfection.jitter)
    still = images.render(section, anatomy, texture, discs, mt_grid, (images.ON, images.OFF, images.CORD))
    moved = still
    if shifts.any():
        moved = images.render(section, anatomy, texture, discs, mt_grid, (images.OFF,), shifts=shifts)
    t2w = images.render(section, anatomy, texture, discs, t2w_grid, (images.T2, images.CORD), head=head)
    receive, t2w_receive = images.bias_field(mt_grid, rng, imperfection.bias), images.bias_field(t2w_grid, rng, 2 * imperfection.bias)
    sigma = MT_OFF[WHITE] / imperfection.snr
    scans = {
        schema.MT_ON: _magnitude(still[images.ON] * receive, sigma, noise, mt_grid),
        schema.MT_OFF: _magnitude(moved[images.OFF] * receive, sigma, noise, mt_grid),
        schema.T2W: _magnitude(t2w[images.T2] * t2w_receive, 2 * T2W[WHITE] / imperfection.snr, noise, t2w_grid),
        MT_MASK: _mask(still[images.CORD], mt_grid, wobble, imperfection.mask_jitter),
        T2W_MASK: _mask(t2w[images.CORD], t2w_grid, wobble, imperfection.mask_jitter),
        T2W_LANDMARKS: _landmarks(discs, anatomy, t2w_grid),
    }
    off, on = still[images.OFF], still[images.ON]
    value, _ = mtr(off, on, floor=cord_floor(off, still[images.CORD], LOW_SIGNAL))
    return scans, shifts, Volume(value, _affine(mt_grid))


def _affine(grid: Grid) -> NDArray[np.float64]:
    return np.asarray(grid.affine, np.float64)


def _magnitude(image: FloatArray, sigma: float, rng: Generator, grid: Grid) -> Volume:
    return Volume(np.rint(images.rician(image, sigma, rng)).astype(np.int16), _affine(grid))


def _mask(cord: FloatArray, grid: Grid, wobble: Texture, jitter: float) -> Volume:
    limit = np.full(grid.shape, 0.5)
    near = cord > 0
    limit[near] += jitter * wobble.at(grid.world(np.argwhere(near).astype(float))).clip(-2, 2)
    return Volume((cord >= limit).astype(np.uint8), _affine(grid))


def _given(mask: Volume, anatomy: Anatomy, deformity: Deformity, faults: MaskFaults, rng: Generator) -> Volume:
    """Make of a mask one as others give it."""
    good, grid = mask.data > 0, mask.grid
    place = anatomy.template(grid.world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1).astype(float)))
    distance = np.stack([_signed(good[:, :, k]) for k in range(grid.shape[2])], axis=-1)
    return Volume(given_mask(good, anatomy.offset(place), place[..., 2], distance, deformity, faults, rng).astype(np.uint8), mask.affine)


def _signed(plane: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the border of a section, voxels, positive inside."""
    if not plane.any():
        return np.full(plane.shape, -np.inf)
    return np.asarray(np.where(plane, ndimage.distance_transform_edt(plane), -ndimage.distance_transform_edt(~plane)))


def _landmarks(discs: Mapping[int, float], anatomy: Anatomy, grid: Grid) -> Volume:
    """Mark each disc inside the image by one voxel, at the back of the disc."""
    labels = np.zeros(grid.shape, np.uint8)
    for number, z in discs.items():
        on_axis = anatomy.world(np.array([0.0, 0.0, z]))
        voxel = np.rint(grid.voxel(on_axis + 7.0 * _front(anatomy, z))).astype(int)
        if ((voxel >= 2) & (voxel < np.array(grid.shape) - 2)).all():
            labels[tuple(voxel)] = number
    return Volume(labels, _affine(grid))


def _front(anatomy: Anatomy, z: float) -> FloatArray:
    """Forward unit vector across the cord at template z."""
    i = int(np.clip(np.searchsorted(anatomy.z, z), 0, len(anatomy.z) - 1))
    return np.asarray(anatomy.e_y[i])


def _box(anatomy: Anatomy, middle: float, tilt: FloatArray, size: FloatArray, voxel: FloatArray) -> Grid:
    """Return a grid of `size` mm, centred on the cord at template z `middle`, its axes turned by `tilt` (radians about x, y, z)."""
    axes = np.eye(3)
    for axis, angle in enumerate(tilt):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
        axes = turn @ axes
    shape = np.maximum(np.ceil(size / voxel - 1e-6), 1).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * voxel
    x, y = (np.interp(middle, anatomy.z, anatomy.centre[:, k]) for k in (0, 1))
    affine[:3, 3] = anatomy.world(np.array([x, y, middle])) - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def axial_grid(
    template: Template, anatomy: Anatomy, plane: tuple[float, float], voxel: tuple[float, float, float], rng: Generator, *, slices: int | None = None
) -> Grid:  # fmt: skip
    """Axial slab of `plane` mm across the cord at mid-neck; if nothing else is said (`slices`), of the whole neck.

    It then ends a slice and a half beyond its ends: sampling needs voxel centres on both sides.
    """
    low, high = neck(template)
    middle = (low + high) / 2
    tilt = _across(anatomy, middle) + np.deg2rad(rng.normal(0, TILT))
    tangent = anatomy.tangent[int(np.searchsorted(anatomy.z, middle))]
    length = float(np.ptp(anatomy.world(np.array([[0, 0, low], [0, 0, high]])) @ tangent)) + 3 * voxel[2]
    return _box(anatomy, middle, tilt, np.array([*plane, length if slices is None else slices * voxel[2]]), np.array(voxel))


def stack_grid(
    anatomy: Anatomy, middle: float, plane: tuple[float, float], voxel: tuple[float, float, float], rng: Generator, *, slices: int
) -> Grid:  # fmt: skip
    """Stack of slices across the cord at template z `middle`, planned by hand: turned by a degree or so, and the cord some mm off its middle."""
    grid = _box(anatomy, middle, _across(anatomy, middle) + np.deg2rad(rng.normal(0, TILT)), np.array([*plane, slices * voxel[2]]), np.array(voxel))
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (rng.normal(0, OFF_MIDDLE) / np.array(voxel))
    return Grid(grid.shape, affine)


def _across(anatomy: Anatomy, z: float) -> NDArray[np.float64]:
    """Angles (radians about x, y, z) of slices across the cord at template z."""
    tangent = anatomy.tangent[int(np.searchsorted(anatomy.z, z))]
    return np.array([-np.arctan2(tangent[1], tangent[2]), np.arcsin(tangent[0]), 0.0])


def _t2w_grid(template: Template, anatomy: Anatomy, head: Head | None, protocol: Protocol, rng: Generator) -> Grid:
    """Sagittal slab that reaches 15 mm below the neck, and up into the head; or 15 mm beyond the neck where the template lacks C1."""
    low, high = neck(template)
    up = 15.0 if head is None else template.landmarks[schema.DISC][1] + head.reach - high
    length = float(np.ptp(anatomy.world(np.array([[0, 0, low], [0, 0, high]]))[:, 2])) + 15.0 + up
    tilt = np.deg2rad(rng.normal(0, [2.0, 1.0, 1.5]))
    return _box(anatomy, (low - 15.0 + high + up) / 2, tilt, np.array([46.0, 62.0, length]), np.full(3, protocol.t2w_voxel))


def _person(template: Template, tissue: Tissue, age: float, rng: Generator) -> dict[str, str | float]:
    """Sex and scores: what the lost MTR of the motor and sensory tracts of the neck costs, and noise."""
    scanned = neck_slices(template)

    def lost(tracts: tuple[str, ...]) -> float:
        rows = [i for i, name in enumerate(template.atlas.labels) if any(t in name for t in tracts) and "ventral corticospinal" not in name]
        return float(tissue.loss[rows][:, scanned].mean()) if rows else 0.0

    motor, sensory = lost(MOTOR), lost(SENSORY)
    sex = "M" if rng.random() < 0.5 else "F"
    return {schema.SEX: sex, **clinical_scores(motor, sensory, age=age, sex=sex, rng=rng)}


def clinical_scores(motor: float, sensory: float, *, age: float, sex: str, rng: Generator) -> dict[str, float]:
    """Scores of `CLINICAL`: what lost MTR costs, and noise.

    Parameters
    ----------
    motor, sensory : float
        Mean MTR that `MOTOR` and `SENSORY` tracts of the neck have lost, percentage points.
    age : float, year
    sex : str
        ``M`` or ``F``.
    rng : Generator
        Gives four numbers.

    Examples
    --------
    >>> healthy, ill = (clinical_scores(lost, lost, age=50, sex="M", rng=np.random.default_rng(0)) for lost in (0.0, 6.0))
    >>> healthy["mjoa"] > ill["mjoa"], healthy["grip"] > ill["grip"], healthy["dexterity"] < ill["dexterity"]
    (True, True, True)
    """
    noise = rng.normal(size=4)
    return {
        "mjoa": float(np.clip(np.rint(18 - 0.6 * (motor + sensory) + 0.8 * noise[0]), 0, 18)),
        "dexterity": round(float(19 + 0.12 * (age - 50) + 2.0 * motor + 1.8 * noise[1]), 2),
        "grip": round(float((44 if sex == "M" else 29) - 0.1 * (age - 50) - 2.2 * motor + 3.0 * noise[2]), 1),
        "balance": round(float(max(0.3, 1.2 + 0.35 * sensory + 0.25 * noise[3])), 2),
    }


def _truth(template: Template, anatomy: Anatomy, tissue: Tissue, shifts: NDArray[np.float64], perfect: Volume, masks: Mapping[str, Volume]) -> Truth:
    regions = template.atlas.regions
    levels = tuple(LevelRange.parse(name) for name in template.levels)
    operator = Operator.build(template.atlas, template.packing.level, levels, regions)
    xyz = anatomy.world(template.packing.xyz)
    cells = weighted_average(operator, sample(perfect.data, perfect.affine, xyz)[None])
    return Truth(
        anatomy, tissue, xyz.astype(np.float32), shifts, perfect, masks, template.levels, tuple(r.name for r in regions),
        regional_truth(template, tissue.mtr, levels, regions), cells[schema.VALUE][0], cells[schema.COVERAGE][0],
        native_voxels(template, anatomy, operator, float(np.prod(perfect.grid.spacing))), cord_area(template, anatomy, levels),
    )  # fmt: skip
