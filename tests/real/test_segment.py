"""The cord of real scans of every contrast against drawn masks: overlap, volume, border, centreline under stress, and the same person twice.

The networks have never seen a real image, and were not chosen on these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.grey import GreyMatter, grey_matter
from cohort_engine.cord.segment import ABSENT, BROKEN, PARTIAL, Segmentation, segment
from cohort_engine.io.volume import Volume, decode_series, read_volume

pytest.importorskip("torch")
pytestmark = [pytest.mark.real, pytest.mark.slow]

HC = "dcm_ou/sub-HC003U/ses-spinalcord/anat"
GM = "gm_challenge/{0}sub-{1}/anat/sub-{1}_run-1_T2starw{2}"
UNF = "unf01/{0}sub-unf01/anat/sub-unf01_{1}{2}"


@dataclass(frozen=True)
class Case:
    """Image and mask; the least Dice, which also says how well the drawn mask follows the image; the border's limit, voxels."""

    image: str
    mask: str
    dice: float
    border: float = 1.5


CASES = {
    "errsm_11 T2w": Case("errsm_11/t2/t2", "errsm_11/t2/t2_manual_segmentation", 0.9),
    "errsm_18 T2w": Case("errsm_18/t2/t2", "errsm_18/t2/t2_manual_segmentation", 0.89),
    "errsm_18 GRE": Case("errsm_18/gre/gre", "errsm_18/gre/segmentation_binary", 0.95),
    "errsm_23 T2w": Case("errsm_23/t2/t2", "errsm_23/t2/t2_manual_segmentation", 0.90),
    "errsm_23 MT on": Case("errsm_23/mt/mt1", "errsm_23/mt/mt_seg", 0.94),
    "errsm_23 MT off": Case("errsm_23/mt/mt0", "errsm_23/mt/mt_seg", 0.93),
    "HC003U T2*": Case(f"{HC}/T2star/sub-HC003U_ses-spinalcord_T2star", f"{HC}/T2star/sub-HC003U_ses-spinalcord_T2star_seg", 0.92),
    "HC003U MT on": Case(f"{HC}/MTS/sub-HC003U_ses-spinalcord_acq-MTon_MTS", f"{HC}/MTS/sub-HC003U_ses-spinalcord_acq-MTon_MTS_seg", 0.94),
    **{
        f"gm {s} T2*": Case(GM.format("", s, ""), GM.format("derivatives/labels/", s, "_seg-manual"), 0.94)
        for s in ("9418", "9584", "10062Ses1", "10062Ses2")
    },
    "mts_unf MT on": Case("mts_unf/sub-05/anat/sub-05_acq-MTon_MTS", "mts_unf/derivatives/labels/sub-05/anat/sub-05_acq-MTon_MTS_seg", 0.93),
    **{
        f"unf01 {c}": Case(UNF.format("", c, ""), UNF.format("derivatives/labels/", c, "_seg-manual"), *limits)
        for c, limits in (("T1w", (0.94,)), ("T2w", (0.90,)), ("T2star", (0.87,)))
    },
}
"""The three masks of unf01 are one mask, drawn on a grid of 1 mm: it leaves out the back of the cord that the T2* image shows."""

SPREAD = {"unf01": 9.0}
"""Person -> limit of the spread of areas where it is not 5 %: the back of the cord hardly shows in this T2* image of 1 mm, and is drawn too far."""

GREY = {
    "HC003U T2*": f"{HC}/T2star/sub-HC003U_ses-spinalcord_T2star_gmseg",
    **{f"gm {s} T2*": GM.format("derivatives/labels/", s, "_gmseg-manual") for s in ("9418", "9584", "10062Ses1", "10062Ses2")},
}
"""Images whose grey matter was drawn, the first by a program."""
SEVEN = ("amu7t/image", "amu7t/image_gm")
"""A 7 T image and its grey matter, by a program."""


SAME = {
    "errsm_18": ("errsm_18 T2w", "errsm_18 GRE"), "errsm_23": ("errsm_23 T2w", "errsm_23 MT on", "errsm_23 MT off"),
    "HC003U": ("HC003U T2*", "HC003U MT on"), "unf01": ("unf01 T1w", "unf01 T2w", "unf01 T2star"),
}  # fmt: skip
"""Person -> the images that share the scanner's frame."""


@cache
def load(path: Path) -> Volume:
    return read_volume(f"{path}.nii.gz", what="image")


@cache
def found(path: Path) -> Segmentation:
    volume = load(path)
    return segment(volume.data, volume.affine)


@cache
def inner(path: Path) -> GreyMatter:
    return grey_matter(load(path).data, load(path).affine, found(path).soft)


def compare(ours: NDArray[np.bool_], drawn: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[float, float, float]:
    """Dice, volume bias (%), 95th percentile of the distance between borders (mm, in the plane); in the slices that were drawn."""
    ours = ours & drawn.any(axis=(0, 1))
    distances = []
    for a, b in ((ours[:, :, z], drawn[:, :, z]) for z in np.flatnonzero(drawn.any(axis=(0, 1)) & ours.any(axis=(0, 1)))):
        rims = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
        far = [ndimage.distance_transform_edt(~r, sampling=spacing[:2]) for r in rims]
        distances += [far[0][rims[1]], far[1][rims[0]]]
    dice = 2 * (ours & drawn).sum() / (ours.sum() + drawn.sum())
    return float(dice), 100 * (float(ours.sum()) / float(drawn.sum()) - 1), float(np.percentile(np.concatenate(distances), 95))


def drawn_centres(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    return slices, np.array([ndimage.center_of_mass(mask[:, :, z]) for z in slices]) * spacing[:2]


@pytest.mark.parametrize("name", CASES)
def test_overlap(name: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    ours, drawn = found(real_data / case.image), load(real_data / case.mask).data > 0.5
    spacing = load(real_data / case.image).grid.spacing
    dice, bias, border = compare(ours.mask, drawn, spacing)
    slices, centres = drawn_centres(drawn, spacing)
    off = np.hypot(ours.curve.x[slices] - centres[:, 0], ours.curve.y[slices] - centres[:, 1])
    with capsys.disabled():
        print(f"\n{name:16s} Dice {dice:.3f}  volume {bias:+5.1f} %  border {border:.2f} mm  centre {off.max():.1f} mm  {ours.flags}", end="")
    assert dice >= case.dice
    assert border <= max(case.border * spacing[:2].max(), 1.0)
    assert off.max() <= 3.0
    assert ABSENT not in ours.flags


def test_mean_overlap_and_volume(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        compare(found(real_data / c.image).mask, load(real_data / c.mask).data > 0.5, load(real_data / c.image).grid.spacing) for c in CASES.values()
    ]
    dice, bias, _ = np.mean(rows, axis=0)
    with capsys.disabled():
        print(f"\nmean Dice {dice:.3f}, mean volume bias {bias:+.1f} %", end="")
    assert dice >= 0.94
    assert abs(bias) <= 3.0


@pytest.mark.parametrize("name", [n for n in CASES if "errsm" in n and "T2w" in n and "11" not in n])
def test_an_older_automatic_mask_agrees_better_than_the_drawn_one(name: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PropSeg follows the same border; the drawn masks of these three scans are 7 % larger than it and coarse."""
    case = CASES[name]
    other = load(real_data / case.image.replace("t2/t2", "t2/t2_segmentation_PropSeg")).data > 0.5
    dice, bias, _ = compare(found(real_data / case.image).mask, other, load(real_data / case.image).grid.spacing)
    with capsys.disabled():
        print(f"\n{name:16s} with PropSeg: Dice {dice:.3f}  volume {bias:+5.1f} %", end="")
    assert dice >= 0.95


def decided(image: NDArray[np.float64], ours: NDArray[np.bool_], drawn: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Let the image decide where two masks of a slice differ: a voxel is cord where its value is nearer to that of the cord's inside than to that of
    its surroundings (medians, 1.2 mm inside both and 0.6 to 2.2 mm outside either). Where the masks agree nothing is judged, which flatters both.
    Empty where either region has fewer than three voxels.
    """
    inside = ndimage.distance_transform_edt(ours & drawn, sampling=spacing)
    outside = ndimage.distance_transform_edt(~(ours | drawn), sampling=spacing)
    core, ring = inside > 1.2, (outside > 0.6) & (outside < 2.2)
    if min(core.sum(), ring.sum()) < 3:
        return np.zeros_like(ours)
    nearer = np.abs(image - np.median(image[core])) < np.abs(image - np.median(image[ring]))
    return (ours & drawn) | ((ours ^ drawn) & nearer)


@pytest.mark.parametrize("name", [n for n in CASES if "T2w" in n or "unf01" in n])
def test_where_masks_differ_the_image_sides_with_ours(name: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The drawn masks of these six images are coarse: they themselves do not reach 0.96 against what the image decides, ours do."""
    image, drawn = load(real_data / CASES[name].image), load(real_data / CASES[name].mask).data > 0.5
    ours = found(real_data / CASES[name].image).mask
    judge = np.stack(
        [decided(image.data[:, :, z].astype(float), ours[:, :, z], drawn[:, :, z], image.grid.spacing[:2]) for z in range(drawn.shape[2])], axis=-1
    )
    judged = judge.any(axis=(0, 1))
    dice = [2 * float((m & judge)[:, :, judged].sum()) / float(m[:, :, judged].sum() + judge.sum()) for m in (ours, drawn)]
    with capsys.disabled():
        print(f"\n{name:16s} against what the image decides: ours {dice[0]:.3f}, drawn {dice[1]:.3f}", end="")
    assert dice[0] >= 0.96
    assert dice[0] > dice[1]


@pytest.mark.parametrize("name", CASES)
def test_centreline_with_blank_slices_and_noise(name: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """15 % of the slices are empty, and noise of a tenth of the cord's surroundings is added: every slice stays within 3 mm."""
    case, rng = CASES[name], np.random.default_rng(1)
    volume, drawn = load(real_data / case.image), load(real_data / case.mask).data > 0.5
    data = volume.data.clip(0)
    near = ndimage.binary_dilation(drawn, np.ones((3, 3, 1)), iterations=5)
    data = np.hypot(data + rng.normal(0, 0.1 * data[near].mean(), data.shape), rng.normal(0, 0.1 * data[near].mean(), data.shape))
    data[:, :, rng.choice(data.shape[2], round(0.15 * data.shape[2]), replace=False)] = 0
    curve = segment(data, volume.affine).curve
    slices, centres = drawn_centres(drawn, volume.grid.spacing)
    off = np.hypot(curve.x[slices] - centres[:, 0], curve.y[slices] - centres[:, 1])
    with capsys.disabled():
        print(f"\n{name:16s} worst slice {off.max():.1f} mm", end="")
    assert off.max() <= 3.0


HARD = {
    **{f"HC003U {c}": f"{HC}/MTS/sub-HC003U_ses-spinalcord_acq-{c}_MTS" for c in ("MToff", "T1w")},
    **{f"sct_019 {c}": f"sct_019/mt/{c}" for c in ("mt0", "t1w")},
    "mts_unf 05 MT off": "mts_unf/sub-05/anat/sub-05_acq-MToff_MTS",
    "errsm_23 b0": "errsm_23/dmri/dmri", "sct_019 b0": "sct_019/dmri/dmri",
}  # fmt: skip
"""Images in which single slices hardly show the cord; of diffusion series the mean of the first five (errsm_23) or last four volumes."""


def test_no_slice_is_lost_without_a_word(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 134 slices 32 were lost before slices were looked at again, and 7 are now: those are named."""
    lost = total = 0
    for name, path in HARD.items():
        if "b0" in name:
            whole = decode_series((real_data / f"{path}.nii.gz").read_bytes(), what="series")
            series, affine = whole.data, whole.affine
            here = segment((series[..., :5] if "errsm" in name else series[..., -4:]).mean(axis=-1), affine)
        else:
            here = found(real_data / path)
        depth = here.mask.shape[2]
        missing = np.setdiff1d(np.arange(depth), here.slices)
        lost, total = lost + len(missing), total + depth
        with capsys.disabled():
            print(f"\n{name:18s} {depth - len(missing)} of {depth} slices, without {missing.tolist()} {here.flags}", end="")
        named = np.concatenate([here.missing[BROKEN], here.missing[PARTIAL]])
        assert set(missing) == set(named)
        assert set(named) == set() or set(here.flags) & {BROKEN, PARTIAL}
    assert lost <= 8
    assert total == 134


@pytest.mark.parametrize("name", GREY)
def test_grey_matter(name: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The toolbox's network, trained on such scans, reaches 0.85 to 0.9; ours has seen none, and takes from each image what its grey values say."""
    ours, drawn = inner(real_data / CASES[name].image), load(real_data / GREY[name]).data > 0.5
    dice, bias, _ = compare(ours.soft >= 0.5, drawn, load(real_data / CASES[name].image).grid.spacing)
    with capsys.disabled():
        print(f"\n{name:16s} grey matter: Dice {dice:.3f}  volume {bias:+5.1f} %", end="")
    assert dice >= 0.81


def test_grey_matter_on_average_and_at_7_tesla(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(CASES[name].image, drawn) for name, drawn in GREY.items()] + [SEVEN]
    rows = [compare(inner(real_data / a).soft >= 0.5, load(real_data / b).data > 0.5, load(real_data / a).grid.spacing) for a, b in pairs]
    mean, seven, volume = float(np.mean([dice for dice, *_ in rows[:-1]])), rows[-1], float(np.mean([bias for _, bias, _ in rows]))
    with capsys.disabled():
        print(f"\ngrey matter: mean Dice of five T2* scans {mean:.3f}; 7 T: Dice {seven[0]:.3f}  volume {seven[1]:+5.1f} %", end="")
        print(f"; mean volume of all six {volume:+5.1f} %", end="")
    assert mean >= 0.85
    assert seven[0] >= 0.8
    assert abs(volume) <= 8
    assert abs(seven[1]) <= 8


def of_second_scan(image: NDArray[np.float32], cord: NDArray[np.bool_], drawn: NDArray[np.bool_], ours: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Voxels of grey matter inside the cord by the signal of an image by which neither mask was made, of the drawn mask, and of ours.

    In each slice a plane is fitted to white matter (two voxels from either mask), and what the inside of the cord has above it is divided by what the
    voxels have that both masks call grey: a sum over all voxels, so neither noise nor a threshold makes it larger.
    """
    total = np.zeros(3)
    for z in np.flatnonzero(drawn.any(axis=(0, 1))):
        inside, both = ndimage.binary_erosion(cord[:, :, z]), drawn[:, :, z] & ours[:, :, z]
        white = inside & ~ndimage.binary_dilation(drawn[:, :, z] | ours[:, :, z], iterations=2)
        if white.sum() < 15 or both.sum() < 8:
            continue
        middle = [i.mean() for i in np.nonzero(white)]
        plane = [np.ones(image.shape[:2]), *(i - m for i, m in zip(np.indices(image.shape[:2]), middle, strict=True))]
        level = np.linalg.lstsq(np.stack([p[white] for p in plane], axis=1), image[white, z], rcond=None)[0]
        above = image[:, :, z] - np.tensordot(level, np.stack(plane), 1)
        total += above[inside].sum() / above[both].mean(), (drawn[:, :, z] & inside).sum(), (ours[:, :, z] & inside).sum()
    return total


@pytest.mark.parametrize("who", ["9418", "9584", "10062Ses1", "10062Ses2"])
def test_the_amount_of_grey_matter_is_that_of_a_second_scan(who: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two noisy scans have a quarter less drawn grey matter than ours. The second run of the same session says which is right."""
    name = f"gm {who} T2*"
    second = np.asarray(load(real_data / CASES[name].image.replace("run-1", "run-2")).data, np.float32)
    cord, drawn = load(real_data / CASES[name].mask).data > 0.5, load(real_data / GREY[name]).data > 0.5
    signal, by_hand, own = of_second_scan(second, cord, drawn, inner(real_data / CASES[name].image).soft >= 0.5)
    with capsys.disabled():
        print(f"\n{name:16s} grey matter by the signal of run 2: {signal:.0f} voxels", end="")
        print(f"; drawn {by_hand / signal:.2f}, ours {own / signal:.2f} of it", end="")
    assert abs(own / signal - 1) <= 0.16
    if abs(own / by_hand - 1) > 0.1:
        assert abs(own - signal) < abs(by_hand - signal)


def test_grey_matter_is_seen_where_the_contrast_shows_it(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """T2* and MT images show it, the T1w image does not."""
    seen = {name: inner(real_data / case.image) for name, case in CASES.items()}
    with capsys.disabled():
        print("\ncontrast of grey matter: " + ", ".join(f"{name} {grey.contrast:+.1f}" for name, grey in seen.items()), end="")
    shows = {name for name, grey in seen.items() if grey.shown}
    assert shows >= {name for name in CASES if any(kind in name for kind in ("MT", "T2*", "GRE"))}
    assert not shows & {name for name in CASES if "T1w" in name}


@pytest.mark.parametrize("person", SAME)
def test_the_same_person_has_the_same_area_in_every_contrast(person: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Area at right angles to the cord, averaged over 20 mm along the scanner's z; mean over these levels of the spread over its mean."""
    profiles = [_areas(found(real_data / CASES[n].image)) for n in SAME[person]]
    low, high = max(z.min() for z, _ in profiles), min(z.max() for z, _ in profiles)
    edges = np.linspace(low, high, max(1, round((high - low) / 20)) + 1)
    levels = np.array([[a[(z >= p) & (z <= q)].mean() for p, q in pairwise(edges)] for z, a in profiles])
    spread = 100 * float((levels.std(axis=0, ddof=1) / levels.mean(axis=0)).mean())
    with capsys.disabled():
        print(f"\n{person:16s} {' '.join(f'{a:.1f}' for a in levels.mean(axis=1))} mm2, spread {spread:.1f} %", end="")
    assert spread <= SPREAD.get(person, 5.0)


def _areas(s: Segmentation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Height and area of each slice."""
    points = s.points[s.slices]
    tangent = np.gradient(points, axis=0) if len(points) > 1 else np.array([[0.0, 0.0, 1.0]])
    normal = np.cross(s.affine[:3, 0], s.affine[:3, 1])
    lean = np.abs(tangent @ normal) / np.linalg.norm(tangent, axis=1)
    area = s.soft[:, :, s.slices].sum(axis=(0, 1)) * lean
    return points[:, 2], area
