"""A cohort from folders in the Spinal Cord Toolbox's layout, made of a simulated study: the round trip, and folders that are broken on purpose."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import xarray as xr

import cohort_engine
from cohort_engine.config import Config, parse_config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.io.bids import index_study
from cohort_engine.io.volume import read_volume, write_volume
from cohort_engine.mapping.native import dense_positions, native_atlas
from cohort_engine.mapping.template_map import TemplateMap
from cohort_engine.phantom.study import simulate
from cohort_engine.quality.vocabulary import QUALITY_STAGE
from cohort_engine.reduce.sums import LevelSums
from cohort_engine.single.register import TO_IMAGE, TO_TEMPLATE, write_registration
from cohort_engine.stages.base import SOURCES, StageInput
from cohort_engine.stages.choose import stages_of
from cohort_engine.stages.mtr import mtr_image
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_subject
from cohort_engine.template import load_template

pytestmark = pytest.mark.slow
STAGES = {
    "fit": {"deformable": False}, "mtr": {"coregister": "none"}, "shape": {"source": "t2w"},
    "reduce": {"native": "integral", "estimators": ["wa", "map"]}, "segment": {"enabled": False}, "levels": {"enabled": False},
}  # fmt: skip
SAME = ["mtr_wa", "mtr_wa_std", "mtr_wa_n", "mtr_map", "mtr_map_se"]


def config(root: Path, source: str, store: str) -> Config:
    data = {"source": source, "bids": str(root / source), "store": str(root / store)}
    return parse_config({"data": data, "template": {"name": "parametric"}, "compute": {"cluster": "synchronous"}, "stages": STAGES})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bids``, a simulated control; ``bids.zarr``, its cohort; ``sct``, a folder with the same registration in the toolbox's layout.

    The atlas of the toolbox has no rim (`mapping.rim`), so that of the cohort has none either.
    """
    folder, template = tmp_path_factory.mktemp("both"), load_template("parametric")
    simulate(folder / "bids", template=template, patients=0, controls=1, seed=3)
    with patch.dict(native_atlas.__kwdefaults__, rim=0.0):
        report = build(config(folder, "bids", "bids.zarr"))
    assert report.exit_code == 0, report.failures.to_string()
    files = {role: str(f) for role, f in index_study(str(folder / "bids")).files.loc[0].items() if f}
    out = folder / "sct" / "sub-HC001"
    (out / "mt").mkdir(parents=True)
    (out / "t2").mkdir()
    shutil.copy(folder / "bids/participants.tsv", folder / "sct")
    fitted = TemplateMap(dense_positions(read_subject(report.url, 0, "fit/mt"), template), {})
    write_registration(out / "mt", fitted, template, read_volume(files["mt_mask"], what="mask"))
    params = {"coregister": "none", "low_signal": 0.05, "fit.seed": 1}
    write_volume(out / "mt/mtr.nii.gz", mtr_image(StageInput(files, {}, params, template, lambda path: np.zeros(0))).volume)
    for role, name in (("mt_mask", "mt/mt1_seg"), ("t2w_mask", "t2/t2_seg"), ("t2w_landmarks", "t2/t2_seg_labeled_discs")):
        shutil.copy(files[role], out / f"{name}.nii.gz")
    return folder


def table(store: Path, space: str) -> xr.Dataset:
    return xr.open_zarr(str(store), group=f"tables/{space}", zarr_format=3, consolidated=False).load()


def apart(a: Any, b: Any) -> np.ndarray:
    """Absolute differences where both have a value."""
    difference = np.abs(np.asarray(a, float) - np.asarray(b, float))
    return difference[np.isfinite(difference)]


def same_native_cells(here: str, there: str) -> None:
    """Weights are the same images; a slice at the border of two levels goes to one or the other (middle of the cord here, label there)."""
    a, b = (table(Path(s), "native").isel(subject=0) for s in (here, there))
    seen = np.flatnonzero((a.mtr_wa_n.sel(region="spinal cord") > 0).to_numpy())
    agree = [i for i in seen if np.isclose(a.mtr_wa_n.sel(region="spinal cord")[i], b.mtr_wa_n.sel(region="spinal cord")[i], rtol=1e-5)]
    assert len(seen) - len(agree) <= 2
    assert len(agree) >= 5
    for name in SAME:
        assert apart(a[name][agree], b[name][agree]).max() < 1e-3


# --- the round trip -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def both_warps(root: Path) -> BuildReport:
    return build(config(root, "sct", "both.zarr"))


@pytest.fixture(scope="module")
def one_warp(root: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(root / "sct", folder / "sct")
    (folder / "sct/sub-HC001/mt" / TO_TEMPLATE).unlink()
    return build(config(folder, "sct", "one.zarr"))


def test_the_store_has_the_same_arrays(root: Path, both_warps: BuildReport) -> None:
    assert both_warps.exit_code == 0, both_warps.failures.to_string()
    assert verify(both_warps.url) == []
    arrays = [
        {str(p.parent.relative_to(s)) for p in Path(s).rglob("zarr.json") if "subjects" not in p.parts} for s in (root / "bids.zarr", both_warps.url)
    ]
    assert arrays[1] - arrays[0] == {"qc/mt_inverse_residual", "qc/mt_label_dice"}
    assert arrays[0] == arrays[1] - {"qc/mt_inverse_residual", "qc/mt_label_dice"}
    assert set(build(config(root, "bids", "bids.zarr")).counts) == set(both_warps.counts)


def test_what_the_toolbox_left_is_judged(root: Path, both_warps: BuildReport) -> None:
    """By the MTR image, since there is no MT-on: its tissues, the mask, levels, and how the map bends; and what depends on a slice that jumps."""
    own, theirs = (cohort_engine.open_cohort(s).load() for s in (str(root / "bids.zarr"), both_warps.url))
    assert float(theirs["usable"][0]) > 0.8
    assert float(theirs["mt_white_below_grey"][0]) > 0.8
    assert float(theirs["mt_explained"][0]) > 0.5
    for name in ("mt_centre_jump", "mt_area_step", "mt_bend_min", "mt_bend_max", "mt_outline", "other_mask_dice", "level_spacing"):
        assert float(theirs[name][0]) == pytest.approx(float(own[name][0]), abs=0.02), name
    assert np.isnan(theirs["pair_shift"][0])


@pytest.mark.parametrize("source", ["bids", "sct"])
def test_what_depends_on_a_slice_that_jumps(root: Path, both_warps: BuildReport, tmp_path: Path, source: str) -> None:
    """The mask of a slice lies 5 mm beside: it is named, and without the sums that are stored of it, its level is what the other slices say."""
    store = both_warps.url if source == "sct" else str(root / "bids.zarr")
    asked = config(root, source, "none.zarr")
    stage = next(s for s in stages_of(asked) if s.name == QUALITY_STAGE)
    study = SOURCES[source].index(asked.data.bids)
    files = stage.select({role: str(f) for role, f in study.files.loc[0].items() if f})
    mask = read_volume(files["mt_mask"], what="mask")
    jumped = mask.data.copy()
    middle = int(np.flatnonzero(jumped.any(axis=(0, 1))).mean())
    jumped[:, :, middle] = np.roll(jumped[:, :, middle], 6, axis=0)
    files["mt_mask"] = str(tmp_path / "mask.nii.gz")
    write_volume(files["mt_mask"], mask.with_data(jumped))
    kinds = dict.fromkeys(("t2w_landmarks",), "disc")
    found = stage.run(StageInput(files, kinds, stage.params, load_template("parametric"), lambda path: read_subject(store, 0, path)))
    template = load_template("parametric")
    packed = found["tables/native/mtr_doubtful"]
    levels = np.flatnonzero(np.isfinite(packed).any(axis=1))
    assert re.search(rf"slices {middle} \([^)]*the mask jumps", str(found["qc/doubtful"]))
    assert float(found["qc/doubtful_slices"]) >= 1
    assert 0 < float(found["qc/largest_doubt"]) < 20
    labels = len(template.atlas.labels)
    whole, some = (LevelSums.unpack(p, labels) for p in (read_subject(store, 0, "tables/native/mtr_sums"), np.nan_to_num(packed)))
    rest = whole.without(some)
    assert (rest.count[levels] > 0).all()
    assert (rest.count[levels] < whole.count[levels]).all()
    assert np.linalg.eigvalsh(rest.gram[levels]).min() > -1e-9


def test_both_warps_give_everything_back(root: Path, both_warps: BuildReport) -> None:
    """The warp to the template holds the map itself, float32 displacements: what is left is their rounding."""
    here, there = (str(root / "bids.zarr"), both_warps.url)
    maps = [read_subject(s, 0, "fit/mt") for s in (here, there)]
    lost = np.isfinite(maps[0][:, 0]).sum() - np.isfinite(maps[1][:, 0]).sum()
    assert 0 <= lost < 0.01 * np.isfinite(maps[0][:, 0]).sum()  # half a slice beyond the mask, counted along the cord or in slices
    assert apart(*maps).max() < 1e-4
    assert apart(*(read_subject(s, 0, "maps/mtr") for s in (here, there))).max() < 1e-3
    same_native_cells(here, there)
    assert apart(*(table(Path(s), "template").mtr_wa for s in (here, there))).max() < 0.01
    for path in ("profiles/area", "tables/shape/area", "tables/shape/angle_ap"):
        np.testing.assert_array_equal(*(read_subject(s, 0, path) for s in (here, there)))


def test_one_warp_is_turned_round(root: Path, one_warp: BuildReport) -> None:
    """On 0.9 x 0.9 x 5 mm voxels a warp is linear between voxels: the chord of a slice misses the cord's bend by up to a few tenths of a mm."""
    assert one_warp.exit_code == 0, one_warp.failures.to_string()
    here, there = (str(root / "bids.zarr"), one_warp.url)
    distance = np.linalg.norm(read_subject(here, 0, "fit/mt") - read_subject(there, 0, "fit/mt"), axis=1)
    distance = distance[np.isfinite(distance)]
    cells = apart(*(table(Path(s), "template").mtr_wa for s in (here, there)))
    figures = f"position: median {np.median(distance):.3f}, 99 % {np.percentile(distance, 99):.3f} mm; "
    figures += f"cells: mean {cells.mean():.3f}, largest {cells.max():.2f}"
    print(figures)
    assert np.median(distance) < 0.1, figures
    assert np.percentile(distance, 99) < 0.4, figures
    assert cells.mean() < 0.3, figures
    same_native_cells(here, there)


def test_quality_tells_how_it_was_made(both_warps: BuildReport, one_warp: BuildReport) -> None:
    both, one = (cohort_engine.open_cohort(r.url).isel(subject=0) for r in (both_warps, one_warp))
    assert float(one["mt_inverse_residual"]) < 0.02
    assert float(both["mt_inverse_residual"]) < 0.3
    for ds in (both, one):
        assert float(ds["mt_label_dice"]) > 0.98
        assert float(ds["mt_dice"]) > 0.9
        assert np.isnan(float(ds["mt_jacobian_min"]))
        assert 0.3 < float(ds["mt_cord_coverage"]) <= 1


def test_levels_beyond_the_image_are_missing(both_warps: BuildReport) -> None:
    native = table(Path(both_warps.url), "native").isel(subject=0)
    absent = native.sel(level=["T9", "T12"]) if "T9" in native.level.to_numpy() else native.isel(level=[-1])
    assert np.isnan(absent.mtr_wa).all()
    assert (absent.mtr_wa_coverage == 0).all()


def test_the_same_again_is_cached_and_a_changed_label_is_not(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "sct", tmp_path / "sct")
    study = config(tmp_path, "sct", "s.zarr")
    assert build(study).exit_code == 0
    assert all(c["cached"] == 1 for c in build(study).counts.values())
    label = next((tmp_path / "sct").rglob("*_atlas_03.nii.gz"))
    image = nib.load(label)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 0.5, image.affine), label)
    counts = build(study).counts
    assert counts["mtr_native"]["done"] == 1
    assert counts["shape"]["cached"] == 1


def test_another_source_is_another_cohort(root: Path) -> None:
    assert config(root, "bids", "x").science_hash != config(root, "sct", "x").science_hash
    assert (
        config(root, "bids", "x").science_hash
        == parse_config({"data": {"bids": "", "store": ""}, "template": {"name": "parametric"}, "stages": STAGES}).science_hash
    )


# --- MTR from MT-on and a stored warp ---------------------------------------------------------------------------------
@pytest.mark.parametrize("stored", ["warp", "moved"])
def test_mt_off_as_the_toolbox_left_it(root: Path, tmp_path: Path, stored: str) -> None:
    """MT-off lies half a voxel to the left, and the stored warp (or the stored image) knows it."""
    shutil.copytree(root / "sct", tmp_path / "sct")
    mt = tmp_path / "sct/sub-HC001/mt"
    (mt / "mtr.nii.gz").unlink()
    files = index_study(str(root / "bids")).files.loc[0]
    on, off = (read_volume(str(files[r]), what=r) for r in ("mt_on", "mt_off"))
    shift = 0.5 * float(on.grid.spacing[0])
    affine = off.affine.copy()
    affine[0, 3] -= shift
    shutil.copy(str(files["mt_on"]), mt / "mt1.nii.gz")
    if stored == "warp":
        nib.save(nib.Nifti1Image(off.data, affine), mt / "mt0.nii.gz")
        field = np.zeros((*on.data.shape, 1, 3), np.float32)
        field[..., 0] = shift  # LPS: to the left is positive
        nib.save(nib.Nifti1Image(field, on.affine), mt / "warp_mt02mt1.nii.gz")
    else:
        shutil.copy(str(files["mt_off"]), mt / "mt0_reg.nii.gz")
    report = build(config(tmp_path, "sct", "s.zarr"))
    assert report.exit_code == 0, report.failures.to_string()
    difference = apart(*(read_subject(s, 0, "maps/mtr") for s in (str(root / "bids.zarr"), report.url)))
    assert np.percentile(difference, 99) < 1e-3
    moved = float(cohort_engine.open_cohort(report.url)["mtr_shift_max"][0])
    assert moved == pytest.approx(shift) if stored == "warp" else np.isnan(moved)


# --- broken folders -----------------------------------------------------------------------------------------------------
def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj, np.float32)), image.affine if affine is None else affine), path)


def scaled(*factor: float) -> Callable[[Path], None]:
    return lambda mt: rewrite(mt / TO_IMAGE, lambda f: np.where(np.abs(f) < 1e4, f * np.asarray(factor, np.float32), f))


def shifted(mt: Path) -> np.ndarray:
    affine = nib.load(mt / "mtr.nii.gz").affine.copy()
    affine[:3, 3] += [2.0, 0, 0]
    return affine


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_inside(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1000]))


def rename_label(mt: Path) -> None:
    info = mt / "label/atlas/info_label.txt"
    info.write_text(info.read_text().replace("WM left fasciculus gracilis", "WM left gracile fascicle"))


def drop_last_label(mt: Path) -> None:
    info = mt / "label/atlas/info_label.txt"
    lines = info.read_text().splitlines()
    info.write_text("\n".join(line for line in lines if not line.startswith("36, ")).replace("CSF, 36", "CSF, 35"))


BROKEN: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "ras": (scaled(-1, -1, 1), "fit_mt", "InputError", "numbers that fit as RAS in place of LPS"),
    "voxels": (scaled(1 / 0.9, 1 / 0.9, 1 / 5), "fit_mt", "InputError", "numbers that fit as voxels in place of mm"),
    "metres": (scaled(*[1e-3] * 3), "fit_mt", "InputError", "numbers that fit as metres in place of mm"),
    "none": (lambda mt: (mt / TO_IMAGE).unlink(), "fit_mt", "MissingInputError", "no warp from the template to the MT image"),
    "image": (lambda mt: shutil.copy(mt / "mtr.nii.gz", mt / TO_IMAGE), "fit_mt", "InputError", "displacements of shape"),
    "short": (lambda mt: halve(mt / TO_IMAGE), "fit_mt", "InputError", "ends early"),
    "inside": (lambda mt: cut_inside(mt / TO_IMAGE), "fit_mt", "InputError", "found fewer"),
    "two": (lambda mt: shutil.copy(mt / TO_IMAGE, mt / "warp_template2mt1.nii.gz"), "fit_mt", "InputError", "found 2"),
    "stale": (lambda mt: rewrite(mt / TO_TEMPLATE, lambda f: f + np.float32([0, 0, 6])), "fit_mt", "InputError", "mm between the two"),
    "outside": (lambda mt: rewrite(mt / TO_IMAGE, lambda f: np.full_like(f, 3.4e38)), "fit_mt", "InputError", "found Dice 0.00"),
    "grid": (lambda mt: rewrite(mt / "mtr.nii.gz", lambda d: d, shifted(mt)), "mtr", "GeometryError", "up to 2.00 mm away"),
    "nan": (lambda mt: rewrite(mt / "mtr.nii.gz", lambda d: d * np.nan), "mtr", "InputError", "only zeros or NaN"),
    "label": (lambda mt: next(mt.glob("label/atlas/*_07.nii.gz")).unlink(), "mtr_native", "MissingInputError", "1 absent: parametric_atlas_07"),
    "levels": (lambda mt: next(mt.glob("label/template/*_levels.nii.gz")).unlink(), "mtr_native", "MissingInputError", "found none"),
    "info": (lambda mt: (mt / "label/atlas/info_label.txt").unlink(), "mtr_native", "MissingInputError", "info_label.txt"),
    "unlabelled": (lambda mt: shutil.rmtree(mt / "label"), "mtr_native", "MissingInputError", "no label folder of the MT image"),
    "names": (rename_label, "mtr_native", "TemplateError", "found 37, 1 of them with another name"),
    "fewer": (drop_last_label, "mtr_native", "TemplateError", "found 36"),
}
"""Name -> what is done to the folder ``mt``, the stage that refuses, the kind of error, and words of its message."""


ROUNDED = "rounded"
"""A folder in which another tool wrote headers with three decimals."""


@pytest.fixture(scope="module")
def broken(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildReport, list[str]]:
    folder = tmp_path_factory.mktemp("broken")
    head, line = (root / "bids/participants.tsv").read_text().splitlines()
    names = [*BROKEN, "well", "unmasked", ROUNDED]
    for name in names:
        shutil.copytree(root / "sct/sub-HC001", folder / f"sct/sub-{name}")
        if name in BROKEN:
            BROKEN[name][0](folder / f"sct/sub-{name}/mt")
    (folder / "sct/sub-unmasked/mt/mt1_seg.nii.gz").unlink()
    for name in ("mtr", "mt1_seg", TO_IMAGE.removesuffix(".nii.gz")):
        path = folder / f"sct/sub-{ROUNDED}/mt/{name}.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine.round(3)), path)
    (folder / "sct/participants.tsv").write_text("\n".join([head, *(line.replace("sub-HC001", f"sub-{n}") for n in names)]) + "\n")
    report = build(config(folder, "sct", "s.zarr"))
    return report, sorted(names)


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_folder_is_told(broken: tuple[BuildReport, list[str]], name: str) -> None:
    report, _ = broken
    _, stage, kind, words = BROKEN[name]
    entries = [e for e in report.entries if report.names[e.subject] == f"sub-{name}"]
    assert [e.stage for e in entries] == [stage]
    assert entries[0].kind == kind
    assert words in entries[0].message
    assert entries[0].remedy
    assert "sub-" not in entries[0].message + entries[0].remedy


def test_the_others_finish(broken: tuple[BuildReport, list[str]]) -> None:
    report, names = broken
    assert report.exit_code == 1
    assert report.counts["shape"]["done"] == len(names)
    assert report.counts["mtr_native"]["done"] == 3
    for name in ("sub-well", f"sub-{ROUNDED}", "sub-unmasked"):
        row = next(i for i, n in report.names.items() if n == name)
        assert np.isfinite(read_subject(report.url, row, "maps/mtr")).any()
        assert np.isfinite(read_subject(report.url, row, "tables/native/mtr_map")).any()
    assert np.isnan(read_subject(report.url, row, "qc/mt_dice"))
    assert verify(report.url) == []


def test_a_level_that_the_labels_do_not_reach(root: Path, tmp_path: Path) -> None:
    """Where the image ends inside a level, the cell is empty and its coverage says how much is there."""
    shutil.copytree(root / "sct", tmp_path / "sct")
    mt = tmp_path / "sct/sub-HC001/mt"
    (mt / TO_TEMPLATE).unlink()
    rewrite(mt / "mt1_seg.nii.gz", lambda d: np.where(np.arange(d.shape[2]) < d.shape[2] // 2, d, 0))
    report = build(config(tmp_path, "sct", "s.zarr"))
    assert report.exit_code == 0, report.failures.to_string()
    half, whole = (table(Path(s), "native").isel(subject=0) for s in (report.url, root / "bids.zarr"))
    covered = [d.mtr_wa_coverage.sel(region="white matter") for d in (half, whole)]
    gone = (covered[0] < 0.75) & (covered[1] >= 0.75)
    assert gone.any()
    assert np.isnan(half.mtr_wa.sel(region="white matter")[gone]).all()
    assert np.isfinite(half.mtr_wa.sel(region="white matter")[covered[0] >= 0.75]).all()
