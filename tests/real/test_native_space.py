"""Native space by our own template map on a real subject, against the values that SCT's registration and extraction gave."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.io.volume import Volume, read_volume
from cohort_engine.mapping.native import native_atlas
from cohort_engine.mapping.template_map import fit_template_map, sample
from cohort_engine.qmri.mt import mtr
from cohort_engine.reduce.native import reduce_group, signal_weights
from cohort_engine.single.fit import by_image
from cohort_engine.template.pam50 import load_pam50

pytestmark = pytest.mark.real
PREFIX = "sub-HC003U_ses-spinalcord_"


@pytest.fixture(scope="module")
def template(real_data: Path):
    return load_pam50(real_data / "PAM50")


@pytest.fixture(scope="module")
def anat(real_data: Path) -> Path:
    return real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat"


@pytest.fixture(scope="module")
def image(anat: Path) -> tuple[Volume, np.ndarray]:
    """MTR in percent, and MT-off; MT-off brought onto MT-on by the stored warp (ITK: mm, LPS), cubic."""
    folder, prefix = anat / "MTS", f"{PREFIX}acq-"
    on, off = (nib.as_closest_canonical(nib.load(folder / f"{prefix}{k}_MTS.nii.gz")) for k in ("MTon", "MToff"))
    warp = np.asarray(nib.load(folder / f"warp_{prefix}MToff_MTS2{prefix}MTon_MTS.nii.gz").dataobj)[:, :, :, 0] * [-1, -1, 1]
    warp[np.abs(warp) > 1e3] = 0
    world = nib.affines.apply_affine(on.affine, np.stack(np.meshgrid(*map(np.arange, on.shape), indexing="ij"), -1)) + warp
    moved = map_coordinates(off.get_fdata(), np.moveaxis(nib.affines.apply_affine(np.linalg.inv(off.affine), world), -1, 0), order=3, mode="nearest")
    return Volume(mtr(moved, on.get_fdata(), floor=0.0)[0], on.affine), moved


@pytest.fixture(scope="module")
def positions(anat: Path, template):
    cord = read_volume(anat / f"MTS/{PREFIX}acq-MTon_MTS_seg.nii.gz", what="cord mask")
    t2w = read_volume(anat / f"T2w/{PREFIX}T2w_seg.nii.gz", what="cord mask of T2w")
    points = read_volume(anat / f"T2w/{PREFIX}T2w_seg_labeled_discs.nii.gz", what="discs", dtype=np.int32)
    landmarks = landmarks_from_labels(points.data, points.affine, kind="disc", what="discs")
    levels = level_axis(centreline_from_mask(t2w.data, t2w.affine, what="cord mask of T2w"), landmarks, template)
    own = centreline_from_mask(cord.data, cord.affine, what="cord mask")
    fitted = fit_template_map(cord.data, cord.affine, transfer(levels, own), template, likely=True, what="cord mask")
    on = read_volume(anat / f"MTS/{PREFIX}acq-MTon_MTS.nii.gz", what="MT-on image")
    return {"mask": fitted.packed(template), "refined": by_image(fitted, on, cord, template).packed(template)}


def published(folder: Path, regions: dict[str, object]) -> list[dict[str, str]]:
    """Last run of each table whose region the template knows by that name."""
    tables = (list(csv.DictReader(path.read_text().splitlines())) for path in sorted(folder.glob("*.csv")))
    return [rows[-1] for rows in tables if rows and rows[-1].get("MAP()") and rows[-1]["Label"].lower() in regions]


def slices(text: str) -> list[int]:
    ends = [[int(n) for n in part.split(":")] for part in text.replace(";", ",").split(",")]
    return [k for e in ends for k in range(e[0], e[-1] + 1)]


@pytest.mark.parametrize(
    ("by", "how", "mean", "largest", "like"),
    [
        ("mask", "interpolate", 0.75, 4.5, 0.98), ("mask", "signal", 0.8, 4.8, 0.96),
        ("refined", "interpolate", 1.5, 6.0, 0.9), ("refined", "signal", 1.3, 4.8, 0.9),
    ],
)  # fmt: skip
def test_map_against_published_values(anat: Path, template, image: tuple[Volume, np.ndarray], positions, by, how, mean, largest, like) -> None:
    """Hold what was reached. SCT's way, weights at voxel centres: 0.31 points apart (bias -0.01). Ours: 0.69 (bias -0.12).

    Our way is integrated weights as shares of the signal, tissue reaching beyond the atlas' border: cells are larger by design. Simulated cords with
    the true map come out 0.1 points too high with it, and 0.6 too low with weights at voxel centres (`tests/benchmarks/test_native_space.py`).
    """
    volume, off = image
    atlas = native_atlas(positions[by], template, volume.affine, volume.data.shape, how="integral" if how == "signal" else how)
    regions, clusters = {r.name.lower(): r for r in template.atlas.regions}, tuple(template.atlas.clusters.values())
    values = volume.data.reshape(-1)[atlas.voxel].astype(float)
    places = np.stack(np.unravel_index(atlas.voxel, volume.data.shape), axis=-1)
    weights = signal_weights(atlas.weights, off.reshape(-1)[atlas.voxel], places[:, 2], clusters) if how == "signal" else atlas.weights
    pairs = []
    for row in published(anat / "MTS", regions):
        some = np.isin(places[:, 2], slices(row["Slice (I->S)"]))
        members = [regions[row["Label"].lower()].members]
        cells = reduce_group(values[some], weights[:, some], members, clusters, estimator="map", places=places[some])
        pairs.append((float(row["MAP()"]), cells.value[0], cells.se[0], float(row["Size [vox]"]), atlas.weights[list(members[0])][:, some].sum()))
    theirs, ours, se, their_size, our_size = np.array(pairs).T
    error = ours - theirs
    ratio = our_size.sum() / their_size.sum()
    figures = (
        f"{by}, {how}: {len(error)} values, mean |difference| {np.abs(error).mean():.3f}, largest {np.abs(error).max():.2f}, "
        f"bias {error.mean():+.3f}, r {np.corrcoef(theirs, ours)[0, 1]:.3f}, "
        f"within 1.96 se {np.mean(np.abs(error) <= 1.96 * se):.2f}, size ratio {ratio:.3f}, "
        f"cells {np.percentile(our_size / their_size, [5, 50, 95]).round(3)}"
    )
    print(figures)
    assert len(error) == 51
    assert np.abs(error).mean() < mean, figures
    assert np.abs(error).max() < largest, figures
    assert np.corrcoef(theirs, ours)[0, 1] > like, figures
    assert ratio == pytest.approx(1 if how == "interpolate" else 1.13, abs=0.04), figures  # tissue reaches beyond the atlas' border in our way


def test_the_default_value_is_nearer_to_published_ones_than_those_in_template_space(anat: Path, template, image, positions) -> None:
    """Of the same slices: native `map`, as a store answers by default, and `wa` and `map` of the map sampled in the template."""
    volume, off = image
    regions, clusters = {r.name.lower(): r for r in template.atlas.regions}, tuple(template.atlas.clusters.values())
    xyz = positions["mask"]
    atlas = native_atlas(xyz, template, volume.affine, volume.data.shape)
    places = np.stack(np.unravel_index(atlas.voxel, volume.data.shape), axis=-1)
    values = volume.data.reshape(-1)[atlas.voxel].astype(float)
    native = values, signal_weights(atlas.weights, off.reshape(-1)[atlas.voxel], places[:, 2], clusters), places[:, 2]
    seen = np.isfinite(xyz).all(axis=1)
    packed = sample(volume.data, volume.affine, xyz[seen]).astype(float)
    at = np.rint(volume.grid.voxel(xyz[seen].astype(float))[:, 2]).astype(int)
    there = packed, template.atlas.weights.toarray()[:, seen].astype(float), at
    errors: dict[str, list[float]] = {"native map": [], "template map": [], "template wa": []}
    for row in published(anat / "MTS", regions):
        for name, (y, w, z) in {"native map": native, "template map": there, "template wa": there}.items():
            some = np.isin(z, slices(row["Slice (I->S)"]))
            members = [regions[row["Label"].lower()].members]
            found = reduce_group(y[some], w[:, some], members, clusters, estimator=name.split()[1]).value[0]
            errors[name].append(found - float(row["MAP()"]))
    print("\n" + "\n".join(f"{name}: mean |difference| {np.abs(e).mean():.2f}, bias {np.mean(e):+.2f}" for name, e in errors.items()))
    size = {name: np.abs(e).mean() for name, e in errors.items()}
    assert size["native map"] < 1.6 < size["template map"] < size["template wa"]
