"""Regions inside the cord of two real people: where they lie, FA in them beside that of the atlas, and left beside right."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from sessions import ALONE, LABELS, SESSION, in_the_middle, link, made, make

from cohort_engine import schema
from cohort_engine.engine.build import BuildReport
from cohort_engine.figures.drawing import render
from cohort_engine.io.volume import Volume, decode_series, read_mask, read_raw, write_volume
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.query.accessor import open_cohort
from cohort_engine.report.roi_figures import draw_scan
from cohort_engine.rois.cores import UNIONS
from cohort_engine.single.rois import slices_of
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real

PEOPLE = ("sct_019", "errsm_23")
"""All whose diffusion series is among the scans."""
LEVELS = {"sct_019": ["C2", "C3", "C4", "C5"], "errsm_23": ["C2", "C3", "C4"]}
NAMES = [schema.ROI_REGION.format(r) for r in schema.ROIS]
NEAR = 0.06
"""How near FA of cores is to that of whole columns, which partial volume is taken out of: mean over the levels."""
SIDES = 0.06
"""How near left is to right."""


class Person(NamedTuple):
    name: str
    root: Path
    report: BuildReport


def built(root: Path, data: Path, source: str) -> BuildReport:
    report = make(root, data, {"metrics": ["fa", "md"], "rois": {"source": source}})
    assert report.exit_code == 0, report.failures.to_string()
    return report


@pytest.fixture(scope="module", params=PEOPLE)
def person(request: pytest.FixtureRequest, real_data: Path, pam50: Template, tmp_path_factory: pytest.TempPathFactory) -> Person:
    name = request.param
    root = tmp_path_factory.mktemp(name) / "study"
    if name == "sct_019":
        link(ALONE, real_data, root)
        in_the_middle(root, pam50)
    else:
        link({file: place for file, place in SESSION.items() if "MTS" not in file}, real_data, root)
        link(LABELS, real_data, root / "derivatives/labels")
    return Person(name, root, built(root, real_data, schema.ATLAS_ROIS))


def numbers_of(report: BuildReport) -> tuple[Volume, np.ndarray]:
    """Tensor image, and on its voxels the number of each region as the store has it."""
    tensor = decode_series(read_raw(made(report, schema.DWI_TENSOR), what="tensor"), what="tensor")
    ds = open_cohort(report.url)
    box, place = (ds[f"rois_{name}"].to_numpy()[0] for name in (schema.ROI_NUMBER, schema.ROI_PLACE))
    x, y, z = np.rint(np.linalg.solve(tensor.affine, np.append(place[:, 3], 1))[:3]).astype(int)
    out = np.zeros(tensor.data.shape[:3], np.uint8)
    out[x : x + box.shape[0], y : y + box.shape[1], z : z + box.shape[2]] = box
    return tensor, out


def fa_of(report: BuildReport, regions: list[str], levels: list[str]) -> pd.Series:
    """Mean over the levels of FA in each region."""
    cells = open_cohort(report.url).cohort.frame("fa", regions, levels)
    return cells.groupby("region", sort=False)["value"].mean()


def look(person: Person, source: str, folder: Path) -> pd.DataFrame:
    """Draw the regions, and print FA in them beside that of the atlas."""
    levels = LEVELS[person.name]
    tensor, numbers = numbers_of(person.report)
    cord = read_mask(made(person.report, schema.DWI_MASK), what="mask").data > 0.5
    images = {schema.B0_IMAGE: tensor.data[..., CHANNELS.index("s0")], schema.FA: tensor.data[..., CHANNELS.index("fa")]}
    slices, where = slices_of(images, cord, tensor.grid.spacing)
    masks = np.moveaxis(numbers[:, :, where] == np.arange(1, 9)[:, None, None, None], 3, 0)
    slices = slices.__class__(slices.images, masks, slices.cord, slices.patient, where, slices.spacing)
    picture = folder / f"{person.name}_{source}.png"
    picture.write_bytes(render(draw_scan(slices).figure, "png"))
    found, atlas = fa_of(person.report, NAMES, levels), fa_of(person.report, list(UNIONS.values()), levels)
    table = pd.DataFrame({
        side: [found[schema.ROI_REGION.format(f"{side} {part}")] for part in schema.PARTS] for side in schema.SIDES
    } | {"atlas": [atlas[UNIONS[part]] for part in schema.PARTS]}, index=list(schema.PARTS))  # fmt: skip
    table["left - right"] = table["left"] - table["right"]
    table["cores - atlas"] = table[["left", "right"]].mean(axis=1) - table["atlas"]
    print(f"\n{person.name}, {source}, FA over {levels[0]} to {levels[-1]}; picture: {picture}")
    print(table.round(3).to_string())
    return table


def test_cores_of_the_atlas(person: Person, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = look(person, schema.ATLAS_ROIS, tmp_path_factory.mktemp("pictures"))
    ds = open_cohort(person.report.url)
    size = ds["rois_number"].to_numpy()[0].size
    print(f"{size} bytes of masks; all eight {float(ds['rois_area'][0]):.1f} mm2; {100 * float(ds['rois_unreliable'][0]):.1f} % not reliable")
    assert size < 4000
    assert float(ds["rois_absent"][0]) == 0
    assert 30 < float(ds["rois_area"][0]) < 45
    assert table["cores - atlas"].abs().max() < NEAR
    assert table["left - right"].abs().max() < SIDES
    assert (table.loc["grey matter", ["left", "right"]] < table.drop("grey matter")[["left", "right"]].min()).all()


def test_what_people_drew_goes_first(person: Person, real_data: Path) -> None:
    """The cores, with left and right grey matter exchanged, as a file of the study."""
    before = open_cohort(person.report.url).cohort.frame("fa", NAMES, ["C3"]).set_index("region")["value"]
    tensor, numbers = numbers_of(person.report)
    drawn = np.array([0, 1, 2, 3, 8, 5, 6, 7, 4], np.uint8)[numbers]
    folder = person.root / "derivatives/labels/sub-1/dwi"
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(folder / "sub-1_dwi_label-ROI_dseg.nii.gz", tensor.with_data(drawn))
    report = built(person.root, real_data, schema.ATLAS_ROIS)
    assert {name for name, n in report.counts.items() if n["done"]} == {"rois"}
    ds = open_cohort(report.url)
    assert schema.ROI_SOURCES[int(ds["rois_source"][0])] == schema.MANUAL_ROIS
    after = ds.cohort.frame("fa", NAMES, ["C3"]).set_index("region")["value"]
    grey = ["ROI left grey matter", "ROI right grey matter"]
    np.testing.assert_allclose(after[grey], before[grey[::-1]], rtol=1e-5)
    np.testing.assert_allclose(after.drop(grey), before.drop(grey), rtol=1e-5)
    (folder / "sub-1_dwi_label-ROI_dseg.nii.gz").unlink()


def test_the_network(person: Person, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    report = built(person.root, real_data, schema.NETWORK_ROIS)
    table = look(Person(person.name, person.root, report), schema.NETWORK_ROIS, tmp_path_factory.mktemp("pictures"))
    assert float(open_cohort(report.url)["rois_absent"][0]) < 0.05
    assert table["cores - atlas"].abs().max() < 2 * NEAR
    assert table["left - right"].abs().max() < 2 * SIDES
