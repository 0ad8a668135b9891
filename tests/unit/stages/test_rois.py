"""Regions drawn inside the cord, on a few voxels: who drew them, what is kept, and what queries say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import Config, parse_config
from cohort_engine.errors import CohortWarning, GeometryError, InputError, MissingInputError
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.frame import run_query
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.stages.base import StageInput
from cohort_engine.stages.choose import stages_of, to_make
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.verify import verify
from cohort_engine.template.base import Template
from cohort_engine.testing import HandMadeStore

LEFT, RIGHT = "ROI left dorsal column", "ROI right dorsal column"
SHAPE = (6, 3, 2)
FA = np.full(SHAPE, 0.5, np.float32)
FA[1, 1, 0], FA[2, 1, 0], FA[2, 1, 1] = 0.4, 0.6, 0.9
ERROR = 0.03
NUMBERS = np.zeros(SHAPE, np.float32)
NUMBERS[1:3, 1, 0] = 1  # left dorsal column in C3, 0.4 and 0.6
NUMBERS[4, 1, 0] = 5  # right dorsal column in C3, 0.5
NUMBERS[1:3, 1, 1] = 1  # in C2, 0.5 and 0.9: of the first nothing can be relied on


def config(url: str = "s", source: str = "manual") -> Config:
    stages = {"metrics": ["fa"], "rois": {"source": source}, "segment": {"enabled": False}, "levels": {"enabled": False}}
    return parse_config({"data": {"bids": "b", "store": url}, "stages": stages})


def stage(source: str = "manual") -> Any:
    return next(s for s in stages_of(config(source=source)) if s.name == "rois")


@pytest.fixture
def make(tmp_path: Path, tiny_template: Template):
    """Inputs of the stage: an image on the template's own voxels, whose map is the template itself."""

    def call(files: dict[str, Any], affine: Any = None, **params: Any) -> StageInput:
        place = tiny_template.grid.affine
        tensor = np.full((*SHAPE, len(CHANNELS)), np.nan, np.float32)
        tensor[..., CHANNELS.index("fa")], tensor[..., CHANNELS.index("fa_se")], tensor[..., CHANNELS.index("reliable")] = FA, ERROR, 1
        tensor[1, 1, 1, CHANNELS.index("reliable")] = 0
        mask = np.zeros(SHAPE, np.float32)
        mask[1:5, 1] = 1
        places = {}
        for role, data in ({"dwi_tensor": tensor, "dwi_mask": mask, "dwi_mean": mask} | files).items():
            places[role] = str(tmp_path / f"{role}.nii.gz")
            write_volume(places[role], Volume(np.asarray(data), place if role not in files or affine is None else affine))
        load = {"fit/dwi": tiny_template.packing.xyz}.__getitem__
        return StageInput(places, {}, {**stage().params, **params}, tiny_template, load)

    return call


def cell(made: dict[str, Any], name: str, level: str, roi: int) -> float:
    return float(made[f"tables/drawn/{name}"][["C2", "C3"].index(level), roi])


# --- the stage ------------------------------------------------------------------------------------------------------------
def test_there_is_none_unless_it_is_asked_for():
    names = [s.name for s in stages_of(parse_config({"data": {"bids": "b", "store": "s"}, "stages": {"metrics": ["fa"]}}))]
    assert "fa" in names
    assert "rois" not in names
    assert "fa" not in stage().needs


def test_manual_masks_are_none_that_anybody_makes():
    files = dict.fromkeys(("dwi", "dwi_bval", "dwi_bvec", "t2w", "t2w_mask", "t2w_landmarks"), "x")
    assert not {r for r in to_make(files, stages_of(config())) if "roi" in r}


def test_value_is_the_mean_over_the_reliable_voxels_of_each_level(make):
    made = stage().run(make({"dwi_rois": NUMBERS}))
    assert cell(made, "fa_wa", "C3", 0) == pytest.approx(0.5)
    assert cell(made, "fa_wa_std", "C3", 0) == pytest.approx(0.1)
    assert (cell(made, "fa_wa_n", "C3", 0), cell(made, "fa_wa_coverage", "C3", 0)) == (2, 1)
    assert cell(made, "fa_wa", "C2", 0) == pytest.approx(0.9)
    assert (cell(made, "fa_wa_n", "C2", 0), cell(made, "fa_wa_coverage", "C2", 0)) == (1, 0.5)
    assert cell(made, "fa_map_noise", "C3", 0) == pytest.approx(ERROR / np.sqrt(2))
    assert np.isnan(cell(made, "fa_wa", "C2", 4))
    assert (cell(made, "fa_wa_n", "C2", 4), cell(made, "fa_wa_coverage", "C2", 4)) == (0, 0)
    for name in ("fa_map", "fa_wa"):
        assert cell(made, name, "C3", 4) == pytest.approx(0.5)


def test_what_is_kept_is_a_box_of_numbers_its_place_and_who_drew(make, tiny_template):
    made = stage().run(make({"dwi_rois": NUMBERS}))
    np.testing.assert_array_equal(made["rois/number"], NUMBERS[1:5, 1:2])
    np.testing.assert_allclose(made["rois/place"][:, 3], tiny_template.grid.world(np.array([1.0, 1.0, 0.0])))
    assert schema.ROI_SOURCES[int(made["rois/source"])] == "manual"
    assert float(made["qc/rois_absent"]) == pytest.approx(13 / 16)
    assert float(made["qc/rois_area"]) == pytest.approx(2.5 * 0.25)
    assert float(made["qc/rois_unreliable"]) == pytest.approx(1 / 5)


def test_masks_of_single_regions_are_the_same(make):
    single = {role: i == NUMBERS for role, i in (("dwi_roildc", 1), ("dwi_roirdc", 5))}
    np.testing.assert_array_equal(stage().run(make(single))["rois/number"], NUMBERS[1:5, 1:2])


def test_a_voxel_in_two_masks_is_in_none(make):
    with pytest.warns(CohortWarning, match="1 voxels lie in two masks"):
        made = stage().run(make({"dwi_roildc": NUMBERS == 1, "dwi_roirdc": np.roll(NUMBERS == 5, -2, axis=0)}))
    assert np.count_nonzero(made["rois/number"]) == 3


# --- bad input ------------------------------------------------------------------------------------------------------------
def test_masks_on_another_grid(make):
    with pytest.raises(GeometryError, match="regions drawn in the diffusion series: expected the grid of the diffusion series"):
        stage().run(make({"dwi_rois": NUMBERS}, affine=np.diag([2.0, 2, 2, 1])))


@pytest.mark.parametrize(("numbers", "found"), [(NUMBERS + 4, "also 9"), (NUMBERS * 0, "only zeros"), (NUMBERS * np.nan, "only zeros")])
def test_another_number_of_classes(make, numbers, found):
    with pytest.raises(InputError, match=found):
        stage().run(make({"dwi_rois": numbers}))


def test_nobody_drew_and_nobody_is_to_draw(make):
    with pytest.raises(MissingInputError, match=r"expected masks of the regions, found none.*stages.rois.source"):
        stage().run(make({}))


# --- as regions like others -----------------------------------------------------------------------------------------------
@pytest.fixture
def cohort(make, tmp_path: Path, tiny_template: Template) -> str:
    """Two subjects, the second without regions; FA 0.5 everywhere in template space."""
    url = str(tmp_path / "store.zarr")
    store = HandMadeStore.lay_out(config(url), tiny_template, pd.DataFrame({"participant_id": ["a", "b"]}), names=["fa", "rois"])
    template = {"maps/fa": np.full(8, 0.5, np.float32), "maps/fa_se": np.full(8, 0.01, np.float32), "qc/fa_shared": np.float32(1)}
    store.write(0, {**stage().run(make({"dwi_rois": NUMBERS})), **template})
    store.write(1, template)
    finalise(url, tabulate=lambda: tabulate(url), allow_missing=True)
    return url


def test_the_store_is_whole(cohort):
    assert [str(p) for p in verify(cohort)] == []


@pytest.mark.parametrize(
    ("text", "value", "n"),
    [
        (f"fa tract='{LEFT}' level=C3", 0.5, 2),
        (f"fa tract='{LEFT}' level=C3 estimator=wa", 0.5, 2),
        (f"fa tract='{LEFT}' level=C2:C3", (0.5 + 0.9) / 2, 3),
        (f"fa tract='{LEFT}' level=C2:C3 estimator=wa", (0.4 + 0.6 + 0.9) / 3, 3),
        ("fa tract='ROI dorsal column' level=C3 estimator=wa", 0.5, 3),
        (f"fa tract='{LEFT} + {RIGHT}' level=C3 estimator=wa", 0.5, 3),
        (f"fa tract='{LEFT}' level=C3 space=template", np.nan, 0),
        (f"fa tract='{RIGHT}' level=C2", np.nan, 0),
    ],
)
def test_a_query_answers_a_drawn_region(cohort, text, value, n):
    quick = run_query(cohort, text)
    slow = run_query(open_cohort(cohort), text)
    for found in (quick, slow):
        assert found["value"].tolist()[0] == pytest.approx(value, nan_ok=True)
        assert np.isnan(found["value"].tolist()[1])
        assert found["n"].tolist()[0] == pytest.approx(n)


def test_regions_of_a_metric_are_those_of_the_atlas_and_those_drawn(cohort, tiny_template):
    own = [r.name for r in tiny_template.atlas.regions]
    cells = open_cohort(cohort).cohort.table("fa", estimator="wa")
    assert cells["region"].to_numpy().tolist() == [*own, *(schema.ROI_REGION.format(r) for r in schema.ROIS)]
    assert open_cohort(cohort, space="template").cohort.table("fa", estimator="wa")["region"].to_numpy().tolist() == own
    white = cells["value"].sel(region="white matter", level="C3").to_numpy()
    np.testing.assert_allclose(white, 0.5)
    assert cells["value"].sel(region=LEFT, level="C3").to_numpy()[0] == pytest.approx(0.5)


def test_a_sum_of_a_tract_and_a_drawn_region_is_refused(cohort):
    with pytest.raises(InputError, match="expected a sum of regions of the atlas, or of drawn ones"):
        run_query(cohort, f"fa tract='white matter + {LEFT}' level=C3")
