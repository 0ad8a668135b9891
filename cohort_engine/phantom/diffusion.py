"""A diffusion series of a simulated subject: the cord of its MT images, in an echo-planar scan with all that goes wrong in one.

What a voxel shows is the mean of the signals of what lies in it, so partial volume weighs by signal; tensors lie along the axis of the cord.
Content is moved by motion, distortion and eddy currents before it is scanned; no finished image is interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.io.volume import Volume, decode_voxels, encode_volume
from cohort_engine.phantom import images
from cohort_engine.phantom.anatomy import Anatomy, neck
from cohort_engine.phantom.compression import Patient
from cohort_engine.phantom.epi import DwiImperfection, Field, draw_dropped, draw_eddy, draw_field, draw_motion, positions, scanned
from cohort_engine.phantom.images import CORD, Signal, Texture
from cohort_engine.phantom.protocol import B800, DwiProtocol, fsl_texts, gradients, sidecar
from cohort_engine.phantom.subject import GROUPS, PATIENT, Body, axial_grid, draw_body, stack_grid
from cohort_engine.phantom.tensors import B0, BASE_MD, NODES, Diffusion, draw_diffusion, node_weights
from cohort_engine.phantom.tissue import FLUID, WHITE, regional_truth
from cohort_engine.template.base import Template
from cohort_engine.template.levels import LevelRange
from cohort_engine.template.packing import Grid

SPLIT = 3
"""Cells per voxel edge in the plane, on which the cord is rendered."""
MARGIN = 3.0
"""What is rendered reaches this far beyond what motion and distortion bring into view, mm."""
PLAIN = "b0"
"""Channel without diffusion weighting."""


@dataclass(frozen=True, eq=False)
class DwiTruth:
    """What is true about a diffusion series.

    Attributes
    ----------
    diffusion : Diffusion
        FA and MD of each label along the cord.
    levels, regions : tuple of str
    fa, md : (level, region) float64
        Weighted mean of the true FA and MD (um2/ms) of the labels: no partial volume.
    shifts : (t, z, 2) float64
        How far each slice's content lies from its place, mm along the first two (RAS+) axes.
    jumped, dropped : (t, z) bool
        Slices of volumes in which the subject was elsewhere, and slices that lost their signal.
    displacement : (x, y, z) float64
        Distortion d along the second array axis, mm: what belongs to a voxel p is found at p + d, with 1 / (1 + dd/dp) of its signal.
    eddy : (t, 3) float64
        Further displacement along the same axis: mm, and mm per mm along and across it from the middle of the image.
    mask : Volume
        Cord, undistorted and at its place (uint8).
    template_map : (voxel, 3) float32
        Scanner position of each packed template voxel, RAS+ mm.
    """

    diffusion: Diffusion
    levels: tuple[str, ...]
    regions: tuple[str, ...]
    fa: NDArray[np.float64]
    md: NDArray[np.float64]
    shifts: NDArray[np.float64]
    jumped: NDArray[np.bool_]
    dropped: NDArray[np.bool_]
    displacement: NDArray[np.float64]
    eddy: NDArray[np.float64]
    mask: Volume
    template_map: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DwiScan:
    """A diffusion series, as read from its files.

    Attributes
    ----------
    series : Volume
        (x, y, z, t) int16, RAS+ order; stored in the order of the protocol.
    bval, bvec : str
        Texts of the files, as FSL has them.
    reverse : Volume, optional
        (x, y, z) int16: an image without diffusion weighting and with the opposite phase encoding.
    json, reverse_json : mapping
        Sidecars.
    bvals : (t,) float64
        s/mm2
    directions : (t, 3) float64
        Unit vectors in the scanner's RAS+ frame; zeros of b0.
    truth : DwiTruth
    """

    series: Volume
    bval: str
    bvec: str
    reverse: Volume | None
    json: Mapping[str, Any]
    reverse_json: Mapping[str, Any]
    bvals: NDArray[np.float64]
    directions: NDArray[np.float64]
    truth: DwiTruth


def make_dwi(
    template: Template, *, group: str = PATIENT, number: int = 0, seed: int = 0, site: int = 0, severity: float | None = None,
    patient: Patient | None = None, protocol: DwiProtocol = B800, imperfection: DwiImperfection = DwiImperfection(),  # noqa: B008 (frozen)
    reverse: bool = False,
) -> DwiScan:  # fmt: skip
    """Simulate the diffusion series of the subject that `make_subject` makes of the same arguments.

    Parameters
    ----------
    template, group, number, seed, site, severity, patient : as in `make_subject`
    protocol : DwiProtocol
    imperfection : DwiImperfection
        Anatomy, tissue, grid and directions do not depend on it.
    reverse : bool
        Make the image with the opposite phase encoding, too.

    Returns
    -------
    DwiScan

    Examples
    --------
    >>> from dataclasses import replace
    >>> from cohort_engine.phantom.protocol import DTI_STUDY
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> cord = parametric_cord(spacing=1.0, top="C4", bottom="C5")
    >>> scan = make_dwi(cord, group="HC", protocol=replace(DTI_STUDY, slices=2))
    >>> scan.series.data.shape, scan.bval.split()[:2], len(scan.bvec.splitlines())
    ((128, 128, 2, 16), ['0', '600'], 3)
    """
    body = draw_body(template, group=group, number=number, seed=seed, site=site, severity=severity, patient=patient)
    streams = SeedSequence(seed, spawn_key=(5, GROUPS.index(group), number)).spawn(6)
    tissue, scan = _tissue(template, body, protocol, imperfection, streams[0]), [np.random.default_rng(s) for s in streams[1:]]
    voxel = (*protocol.voxel, protocol.thickness + protocol.gap)
    grid = axial_grid(template, body.anatomy, protocol.plane, voxel, scan[0], slices=protocol.slices)
    return _scan(template, tissue, grid, protocol, imperfection, scan[1:], reverse=reverse)


def make_stacks(
    template: Template, stacks: int, *, group: str = PATIENT, number: int = 0, seed: int = 0, site: int = 0, severity: float | None = None,
    patient: Patient | None = None, protocol: DwiProtocol, imperfection: DwiImperfection = DwiImperfection(),  # noqa: B008 (frozen)
) -> list[DwiScan]:  # fmt: skip
    """Simulate the same subject scanned in several stacks, from the top down, each across the cord at its middle, as radiographers plan them.

    Their middles lie evenly from the top of C2 to the middle of T1; each has the slices of the protocol, and motion and noise of its own. Other
    parameters as of `make_dwi`.
    """
    body = draw_body(template, group=group, number=number, seed=seed, site=site, severity=severity, patient=patient)
    key = (5, GROUPS.index(group), number)
    tissue = _tissue(template, body, protocol, imperfection, SeedSequence(seed, spawn_key=key).spawn(1)[0])
    voxel = (*protocol.voxel, protocol.thickness + protocol.gap)
    low, high = neck(template)
    low = min(low, template.landmarks[schema.BODY].get(schema.level_number("T1"), low))
    scans = []
    for stack in range(stacks):
        rng = [np.random.default_rng(s) for s in SeedSequence(seed, spawn_key=(*key, stack)).spawn(5)]
        grid = stack_grid(body.anatomy, high - (stack + 0.5) / stacks * (high - low), protocol.plane, voxel, rng[0], slices=protocol.slices or 1)
        scans.append(_scan(template, tissue, grid, protocol, imperfection, rng[1:], reverse=False))
    return scans


class _Tissue(NamedTuple):
    anatomy: Anatomy
    diffusion: Diffusion
    section: images.Section


def _tissue(template: Template, body: Body, protocol: DwiProtocol, imperfection: DwiImperfection, stream: SeedSequence) -> _Tissue:
    """Draw what is scanned, and mix its signals on the template."""
    offsets = {"fa_offset": protocol.fa_offset, "md_factor": protocol.md_factor}
    diffusion = draw_diffusion(template, body.anatomy, np.random.default_rng(stream), age=body.age, **offsets)
    return _Tissue(body.anatomy, diffusion, _section(template, diffusion, body.anatomy, protocol.b / 1000, imperfection.rim))


def _scan(
    template: Template, tissue: _Tissue, grid: Grid, protocol: DwiProtocol, imperfection: DwiImperfection, rng: Sequence[Generator], *, reverse: bool
) -> DwiScan:  # fmt: skip
    """Scan on a grid; generators of what the surroundings look like, of motion, of the field and of noise."""
    anatomy, diffusion, section = tissue
    look_rng, motion_rng, field_rng, noise_rng = rng
    voxel = (*protocol.voxel, protocol.thickness + protocol.gap)
    texture, receive = Texture.draw(look_rng, wavelength=9.0), images.bias_field(grid, look_rng, imperfection.bias)
    bvals, directions = gradients(protocol)
    shifts, jumped = draw_motion(len(bvals), grid.shape[2], voxel[2], motion_rng, imperfection)
    kept = draw_dropped(bvals > 0, grid.shape[2], motion_rng, imperfection.dropped)
    eddy = draw_eddy(directions, motion_rng, imperfection.eddy)
    aside = motion_rng.normal(0, 0.3 * imperfection.drift, 2)
    field = draw_field(grid.shape[2], voxel[2], field_rng, imperfection.distortion)

    reach = [np.abs(shifts[..., 0]).max(), np.abs(shifts[..., 1]).max() + imperfection.distortion + 3 * imperfection.eddy]
    margin = int(np.ceil((reach[0] + MARGIN) / voxel[0])), int(np.ceil((reach[1] + MARGIN) / voxel[1]))
    weightings = {name: 0.0 if name == PLAIN else protocol.b / 1000 for name in (PLAIN, *_nodes())}
    fine = images.render_fine(
        section, anatomy, texture, template.landmarks["disc"], _widened(grid, margin), weightings, split=SPLIT, thickness=protocol.thickness
    )
    scanner = _Scanner(grid, margin, field)
    weights = node_weights((directions @ _tangents(anatomy, grid).T) ** 2).astype(np.float32)
    seen = np.empty((*grid.shape, len(bvals)), np.float32)
    nodes = np.stack([fine[name] for name in _nodes()])
    for k in range(grid.shape[2]):
        weighted = np.tensordot(weights[:, k], nodes[..., k], axes=1)
        for t in range(len(bvals)):
            plane = weighted[t] if bvals[t] > 0 else fine[PLAIN][:, :, k]
            seen[:, :, k, t] = kept[t, k] * scanner.scan(plane, k, shifts[t, k], eddy=eddy[t])
    sigma = B0[WHITE] / imperfection.snr

    def measured(still: NDArray[np.float32]) -> Volume:
        noise = sigma * noise_rng.normal(size=(2, *still.shape)) if np.isfinite(sigma) and sigma > 0 else np.zeros((2, 1, 1, 1, 1))
        data, affine = _reconstructed(still * receive[..., None] + noise[0] + 1j * noise[1], grid, protocol)
        return Volume(np.rint(np.abs(data)).astype(np.int16), affine)

    series = _as_stored(measured(seen), protocol.axes)
    back = None
    if reverse:
        planes = [scanner.scan(fine[PLAIN][:, :, k], k, aside, sign=-1.0) for k in range(grid.shape[2])]
        turned = measured(np.stack(planes, axis=-1)[..., None])
        back = _as_stored(Volume(turned.data[..., 0], turned.affine), protocol.axes)
    rest = np.stack([scanner.scan(fine[CORD][:, :, k], k, np.zeros(2), sign=0.0) for k in range(grid.shape[2])], axis=-1)
    cord, affine = _reconstructed(rest[..., None], grid, protocol)
    mask = _as_stored(Volume((cord[..., 0].real >= 0.5).astype(np.uint8), affine), protocol.axes)
    levels, regions = tuple(LevelRange.parse(name) for name in template.levels), template.atlas.regions
    truth = DwiTruth(
        diffusion, template.levels, tuple(r.name for r in regions), regional_truth(template, diffusion.fa, levels, regions),
        regional_truth(template, diffusion.md, levels, regions), shifts, jumped, kept < 1, field.at(*_centres(mask.grid, grid)), eddy, mask,
        anatomy.world(template.packing.xyz).astype(np.float32),
    )  # fmt: skip
    texts = fsl_texts(bvals, directions, series)
    return DwiScan(series, *texts, back, sidecar(protocol), sidecar(protocol, reverse=True), bvals, directions, truth)


class _Scanner:
    """Scans slices of one grid: what is at rest on a finer and wider one is moved, and averaged over voxels."""

    def __init__(self, grid: Grid, margin: tuple[int, int], field: Field) -> None:
        self.grid, self.margin = grid, margin
        size = grid.spacing[:2]
        self.x = positions(grid.shape[0], size[0], split=SPLIT, margin=margin[0])
        cells = positions(grid.shape[1], size[1], split=SPLIT, margin=margin[1])
        self.edges = np.append(cells, 2 * cells[-1] - cells[-2]) - (cells[1] - cells[0]) / 2
        self.warp = field.at(self.x, self.edges)

    def scan(
        self, plane: NDArray[np.float32], slice_: int, shift: NDArray[np.float64], *, eddy: NDArray[np.float64] | None = None, sign: float = 1.0
    ) -> NDArray[np.float32]:
        """Scan a plane, moved by `shift` (2,) mm and by the distortion of its slice times `sign`."""
        moved = shift[1] + sign * self.warp[:, :, slice_]
        if eddy is not None:
            moved = moved + eddy[0] + eddy[1] * self.edges + eddy[2] * self.x[:, None]
        if (moved == moved[:1]).all():
            moved = moved[:1]
        x, y, _ = self.grid.spacing
        return scanned(plane, moved, float(shift[0]), (float(x), float(y)), self.grid.shape[:2], split=SPLIT, margin=self.margin)


def _nodes() -> tuple[str, ...]:
    return tuple(f"node {k}" for k in range(len(NODES)))


def _section(template: Template, diffusion: Diffusion, anatomy: Anatomy, b: float, rim: float) -> images.Section:
    """Signals without diffusion weighting, and with it at each angle of `NODES` between gradient and cord."""
    plain = Signal(diffusion.b0, B0[WHITE], B0[FLUID])
    free = float(np.exp(-b * BASE_MD[FLUID]))
    weighted = {name: plain._replace(ratio=diffusion.left(b, node), fluid_ratio=free) for name, node in zip(_nodes(), NODES, strict=True)}
    return images.mixed(template, {PLAIN: plain, **weighted}, anatomy, rim=rim)


def _widened(grid: Grid, margin: tuple[int, int]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :2] @ margin
    return Grid((grid.shape[0] + 2 * margin[0], grid.shape[1] + 2 * margin[1], grid.shape[2]), affine)


def _tangents(anatomy: Anatomy, grid: Grid) -> NDArray[np.float64]:
    """Axis (z, 3) of the cord in the middle of each slice, RAS+."""
    middle = [[(grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2, k] for k in range(grid.shape[2])]
    z = anatomy.template(grid.world(np.array(middle)))[:, 2]
    tangent = np.stack([np.interp(z, anatomy.z, anatomy.tangent[:, axis]) for axis in range(3)], axis=-1)
    return np.asarray(tangent / np.linalg.norm(tangent, axis=1, keepdims=True))


def _centres(grid: Grid, acquired: Grid) -> list[NDArray[np.float64]]:
    """Voxel centres along x and y, mm from the middle of the acquired image; the first voxel of both grids is at the same place."""
    first = [positions(n, size)[0] for n, size in zip(acquired.shape[:2], acquired.spacing[:2], strict=True)]
    return [start + np.arange(n) * size for start, n, size in zip(first, grid.shape[:2], grid.spacing[:2], strict=True)]


def _reconstructed(data: NDArray[Any], grid: Grid, protocol: DwiProtocol) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Interpolate a complex image (x, y, z, t) to the scanner's matrix by zeros around k-space; the image and its affine."""
    affine = np.array(grid.affine, np.float64)
    if protocol.matrix is None:
        return data, affine
    space, out = np.fft.fftshift(np.fft.fft2(data, axes=(0, 1)), axes=(0, 1)), np.zeros((*protocol.matrix, *data.shape[2:]), complex)
    low = [new // 2 - old // 2 for new, old in zip(protocol.matrix, data.shape[:2], strict=True)]
    out[low[0] : low[0] + data.shape[0], low[1] : low[1] + data.shape[1]] = space
    scale = np.array(protocol.matrix) / data.shape[:2]
    affine[:3, :2] /= scale
    return np.fft.ifft2(np.fft.ifftshift(out, axes=(0, 1)), axes=(0, 1)) * scale.prod(), affine


def _as_stored(volume: Volume, axes: str) -> Volume:
    """Return the volume as if it had been read from a file with these axes."""
    file = reoriented(volume, axes)
    return Volume(volume.data, volume.affine, decode_voxels(encode_volume(file), what="simulated image").stored)


def reoriented(volume: Volume, axes: str) -> Volume:
    """Return the same image with other axes on disk."""
    turn = nib.orientations.ornt_transform(nib.orientations.io_orientation(volume.affine), nib.orientations.axcodes2ornt(axes))
    data = np.ascontiguousarray(nib.orientations.apply_orientation(volume.data, turn))
    return Volume(data, volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.data.shape[:3]))
