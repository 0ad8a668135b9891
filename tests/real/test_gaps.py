"""A healthy T2w mask with three slices emptied, as a patient's is at the compression: shape, the map of MT, results of the Spinal Cord Toolbox."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cohort_engine.config import parse_config
from cohort_engine.cord.centreline import centreline_from_mask, slice_arc
from cohort_engine.engine.build import build
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.query.accessor import open_cohort
from cohort_engine.single.fit import fit_cord
from cohort_engine.single.morphometry import shape
from cohort_engine.single.reading import read_landmarks
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real

ANAT = "dcm_ou/sub-HC003U/ses-spinalcord/anat"
GONE = (118, 119, 120)
"""Slices of 0.8 mm in the middle of the neck."""
MASKS = (
    "errsm_11/t2/t2_manual_segmentation",
    "errsm_18/t2/t2_manual_segmentation",
    "errsm_23/t2/t2_manual_segmentation",
    "errsm_18/gre/segmentation_binary",
)


@pytest.fixture(scope="module")
def t2w(real_data: Path) -> Path:
    return real_data / ANAT / "T2w" / "sub-HC003U_ses-spinalcord_T2w_seg.nii.gz"


@pytest.fixture(scope="module")
def gap(t2w: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    mask = read_volume(t2w, what="mask")
    data = mask.data.copy()
    data[:, :, list(GONE)] = 0
    out = tmp_path_factory.mktemp("gap") / t2w.name
    write_volume(out, Volume(data.astype(np.uint8), mask.affine))
    return out


def test_the_other_slices_are_measured_as_before(t2w: Path, gap: Path, pam50: Template) -> None:
    discs = t2w.with_name(t2w.name.replace("seg", "seg_labeled_discs"))
    found = shape(gap, discs, template=pam50)
    before, after = (t.frame().set_index("Slice (I->S)") for t in (shape(t2w, discs, template=pam50), found))
    names = [str(k) for k in GONE]
    assert after.index.tolist() == before.index.tolist()
    assert after.loc[names, "MEAN(area)"].isna().all()
    assert any("not measured: 118-120" in text for text in found.notes)
    rest = after.drop(names)
    off = (rest["MEAN(area)"] / before.drop(names)["MEAN(area)"] - 1).abs()
    print(f"area of the other slices: largest change {100 * off.max():.3f} %; SE of the centreline {after.loc['119', 'SE(centreline)']:.3f} mm")
    assert off.max() < 0.001
    assert after["VertLevel"].tolist() == before["VertLevel"].tolist()


def test_the_map_of_mt_is_the_same(real_data: Path, t2w: Path, gap: Path, pam50: Template) -> None:
    mt = read_volume(real_data / ANAT / "MTS" / "sub-HC003U_ses-spinalcord_acq-MTon_MTS_seg.nii.gz", what="mask")
    marks = read_landmarks(t2w.with_name(t2w.name.replace("seg", "seg_labeled_discs")))
    whole, bridged = (fit_cord(mt, marks, pam50, labelled=read_volume(p, what="mask"), deformable=False).packed(pam50) for p in (t2w, gap))
    both = np.isfinite(whole[:, 0]) & np.isfinite(bridged[:, 0])
    assert both.sum() > 0.999 * np.isfinite(whole[:, 0]).sum()
    moved = np.linalg.norm(whole[both] - bridged[both], axis=1)
    print(f"template map of MT: moved by {moved.mean():.4f} mm, at most {moved.max():.3f} mm")
    assert moved.max() < 0.1


def test_results_of_the_toolbox_with_a_gap_in_the_mask(real_data: Path, gap: Path, pam50: Template, tmp_path: Path) -> None:
    source = tmp_path / "study" / "sub-HC003U"
    shutil.copytree(real_data / "dcm_ou/sub-HC003U", source)
    (tmp_path / "study" / "participants.tsv").write_text("participant_id\tgroup\nsub-HC003U\tHC\n")
    shutil.copyfile(gap, next(source.rglob(gap.name)))
    config = {
        "data": {"source": "sct", "bids": str(tmp_path / "study"), "store": str(tmp_path / "study.zarr")},
        "template": {"name": "PAM50", "path": str(real_data / "PAM50")},
        "compute": {"cluster": "synchronous"},
        "stages": {"reduce": {"spaces": ["template"], "estimators": ["wa"]}, "shape": {"source": "t2w"}},
    }
    report = build(parse_config(config))
    assert report.failures.empty, report.failures.to_string()
    store = open_cohort(report.url).isel(subject=0)
    assert np.isfinite(store["mtr_wa"].sel(level=["C3", "C4", "C5"])).any("region").all()
    area = store["profile_area"].to_numpy()
    measured = np.flatnonzero(np.isfinite(area))
    lost = np.setdiff1d(np.arange(measured[0], measured[-1]), measured)
    print(f"template slices without area: {lost.tolist()}, in level {set(store['z_level'].to_numpy()[lost].tolist())}")
    assert 3 <= len(lost) <= 8  # half a millimetre each


@pytest.mark.parametrize("name", MASKS)
def test_the_error_of_the_centreline_is_of_the_right_size(real_data: Path, name: str) -> None:
    """Slices are taken out all along a real mask: how far the curve moves there, over its standard error (root mean square)."""
    mask = read_volume(real_data / f"{name}.nii.gz", what="mask")
    affine = np.asarray(mask.affine, float)
    whole = centreline_from_mask(mask.data, affine, what="mask")
    slices = np.flatnonzero((mask.data >= 0.5).any(axis=(0, 1)))
    step = float(np.linalg.norm(affine[:3, 2]))
    for gap in (3.0, 10.0, 20.0, 40.0):
        n = max(1, round(gap / step))
        ratio = []
        for first in range(4, len(slices) - n - 4, max(1, len(slices) // 8)):
            data = mask.data.copy()
            data[:, :, slices[first : first + n]] = 0
            line = centreline_from_mask(data, affine, what="mask")
            arc = slice_arc(line, affine, np.array([slices[first] + (n - 1) / 2]))
            ratio.append(float((whole.project(line.position(arc))[1] / line.standard_error(arc))[0]))
        size = float(np.sqrt(np.mean(np.square(ratio)))) if ratio else np.nan
        print(f"{name} gap {n * step:4.1f} mm: {size:.2f}")
        assert not size > 3
