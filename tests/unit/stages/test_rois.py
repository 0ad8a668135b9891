"""Regions drawn inside the cord, on a few voxels: who drew them, what is kept, and what queries say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import Config, parse_config
from cohort_engine.errors import CohortWarning, GeometryError, InputError, MissingInputError, UnknownNameError
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.frame import run_query
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.rois import train
from cohort_engine.rois.cores import parts_of
from cohort_engine.single.roi_slices import slices_of_store
from cohort_engine.stages.base import StageInput
from cohort_engine.stages.choose import stages_of, to_make
from cohort_engine.stages.rois import rois_methods, run_rois
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.records import write_made
from cohort_engine.store.verify import verify
from cohort_engine.template.base import Template
from cohort_engine.template.parametric import parametric_cord
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

    def call(files: dict[str, Any], affine: Any = None, template: Template = tiny_template, **params: Any) -> StageInput:
        place, shape = template.grid.affine, template.grid.shape
        tensor, mask = np.ones((*shape, len(CHANNELS)), np.float32), np.zeros(shape, np.float32)
        mask[tuple(template.packing.ijk.T)] = 1
        if template is tiny_template:
            tensor[..., CHANNELS.index("fa")], tensor[..., CHANNELS.index("fa_se")] = FA, ERROR
            tensor[1, 1, 1, CHANNELS.index("reliable")] = 0
        places = {}
        for role, data in ({"dwi_tensor": tensor, "dwi_mask": mask, "dwi_mean": mask} | files).items():
            if isinstance(data, str):
                (tmp_path / role).write_text(data)
                places[role] = str(tmp_path / role)
                continue
            places[role] = str(tmp_path / f"{role}.nii.gz")
            write_volume(places[role], Volume(np.asarray(data), place if role not in files or affine is None else affine))
        load = {"fit/dwi": template.packing.xyz}.__getitem__
        return StageInput(places, {}, {**stage().params, **params}, template, load)

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
    single = {role: np.equal(NUMBERS, i) for role, i in (("dwi_roildc", 1), ("dwi_roirdc", 5))}
    np.testing.assert_array_equal(stage().run(make(single))["rois/number"], NUMBERS[1:5, 1:2])


def test_a_voxel_in_two_masks_is_in_none(make):
    with pytest.warns(CohortWarning, match="1 voxels lie in two masks"):
        made = stage().run(make({"dwi_roildc": NUMBERS == 1, "dwi_roirdc": np.roll(NUMBERS == 5, -2, axis=0)}))
    assert np.count_nonzero(made["rois/number"]) == 3


# --- drawn here -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def level() -> Template:
    return parametric_cord(spacing=1.0, top="C4", bottom="C4")


def where(made: dict[str, Any]) -> dict[str, np.ndarray]:
    """Middle (RAS+, mm) of each region."""
    box, place = made["rois/number"], made["rois/place"]
    return {name: place[:, :3] @ np.argwhere(box == i).mean(axis=0) + place[:, 3] for i, name in enumerate(schema.ROIS, 1)}


def test_cores_of_the_atlas_lie_in_their_parts(make, level):
    made = stage().run(make({}, template=level, source="atlas"))
    at = where(made)
    assert schema.ROI_SOURCES[int(made["rois/source"])] == "atlas"
    for part in schema.PARTS:
        assert at[f"left {part}"][0] < at[f"right {part}"][0]
    assert at["left ventral column"][1] > at["left grey matter"][1] > at["left dorsal column"][1]
    assert at["left lateral column"][0] < at["left grey matter"][0] - 1
    assert 20 < float(made["qc/rois_area"]) < 60
    assert made["tables/drawn/fa_wa"].shape == (1, 8)
    np.testing.assert_allclose(made["tables/drawn/fa_wa"], 1)


def test_a_network_sees_maps_and_atlas_of_the_slices_with_cord(make, level, monkeypatch):
    """Without diffusion weighting the signal is 7: the mean of the first and the last volume."""
    seen: list[Any] = []

    class Network:
        def predict(self, slices):
            seen.append(slices)
            return np.where(slices.prior > 0.5, 0.9, 0.0)

        def masks(self, slices, heat):
            return heat > 0.5

    monkeypatch.setattr(train, "load_rois", lambda weights, **_: seen.append(weights) or Network())
    series = np.broadcast_to(np.array([6, *[1] * 6, 8], np.float32), (*level.grid.shape, 8))
    directions = np.vstack([np.zeros(8), np.zeros(8), [0, *[1] * 6, 0]])
    text = "\n".join(" ".join(f"{v:g}" for v in row) for row in directions)
    files = {"dwi_moco": series, "dwi": series, "dwi_bval": "0 800 800 800 800 800 800 0", "dwi_bvec": text}
    made = run_rois(make(files, template=level, source="network"), weights="own")
    assert seen[0] == "own"
    assert {n: float(image[seen[1].cord].mean()) for n, image in seen[1].images.items()} == {"b0": 7, "fa": 1, "md": 1, "ad": 1, "rd": 1}
    assert len(seen[1]) == level.grid.shape[2]
    assert schema.ROI_SOURCES[int(made["rois/source"])] == "network"
    assert set(np.unique(made["rois/number"])) == set(range(9))


def test_another_network_makes_another_key_and_no_path_is_kept(tmp_path):
    keys = []
    for content in (b"one", b"two"):
        (tmp_path / "own.safetensors").write_bytes(content)
        chosen = parse_config({
            "data": {"bids": "b", "store": "s"},
            "stages": {"metrics": ["fa"], "rois": {"source": "network", "weights": str(tmp_path / "own.safetensors")}},
        })  # fmt: skip
        keys.append(next(s for s in stages_of(chosen) if s.name == "rois").recipe("t").hash)
        assert "own" not in str(chosen.science())
    assert len(set(keys)) == 2


# --- to train networks on ------------------------------------------------------------------------------------------------
def test_slices_of_a_store_are_those_that_people_drew_on(make, level, tmp_path):
    """The first subject's regions are drawn by hand, where the second has the atlas."""
    url = str(tmp_path / "store.zarr")
    store = HandMadeStore.lay_out(config(url), level, pd.DataFrame({"participant_id": ["a", "b"]}), names=["fa", "rois", "fit_dwi"])
    at = np.array(level.grid.shape) // 2
    numbers = np.zeros(level.grid.shape, np.uint8)
    numbers[at[0], at[1], 3], numbers[at[0] + 1, at[1], 5] = 2, 8
    tensor = np.random.default_rng(1).random((*level.grid.shape, len(CHANNELS))).astype(np.float32)
    for row, (files, source) in enumerate((({"dwi_rois": numbers}, "manual"), ({}, "atlas"))):
        store.write(row, {**stage().run(make(files, template=level, source=source)), "fit/dwi": level.packing.xyz})
        write_made(url, row, "dwi_tensor", Volume(tensor, level.grid.affine))
    found = slices_of_store(url, level, images=("b0", "md"))
    assert found.position.tolist() == [3, 5]
    assert np.argwhere(found.drawn).tolist() == [[0, 1, at[0], at[1]], [1, 7, at[0] + 1, at[1]]]
    for name, channel in (("b0", "s0"), ("md", "md")):
        np.testing.assert_allclose(found.images[name][1], tensor[:, :, 5, CHANNELS.index(channel)], atol=1e-6)
    assert found.prior is not None
    assert found.prior[:, 0].sum() > 0
    inside = np.zeros(level.grid.shape, bool)
    inside[tuple(level.packing.ijk.T)] = parts_of(level).sum(axis=0) >= 0.5
    assert np.mean(found.cord == inside[:, :, [3, 5]].transpose(2, 0, 1)) > 0.97
    with pytest.raises(UnknownNameError, match="image of a tensor"):
        slices_of_store(url, level, images=("t1",))


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


ANSWERS = {
    f"fa tract='{LEFT}' level=C3": (0.5, 2),
    f"fa tract='{LEFT}' level=C3 estimator=wa": (0.5, 2),
    f"fa tract='{LEFT}' level=C2:C3": ((0.5 + 0.9) / 2, 3),
    f"fa tract='{LEFT}' level=C2:C3 estimator=wa": ((0.4 + 0.6 + 0.9) / 3, 3),
    "fa tract='ROI dorsal column' level=C3 estimator=wa": (0.5, 3),
    f"fa tract='{LEFT} + {RIGHT}' level=C3 estimator=wa": (0.5, 3),
    f"fa tract='{LEFT}' level=C3 space=template": (np.nan, 0),
    f"fa tract='{RIGHT}' level=C2": (np.nan, 0),
}


def test_queries_answer_drawn_regions(cohort):
    opened = open_cohort(cohort)
    for text, (value, n) in ANSWERS.items():
        for source in (cohort, opened):
            found = run_query(source, text)
            assert found["value"].tolist() == [pytest.approx(value, nan_ok=True), pytest.approx(np.nan, nan_ok=True)], text
            assert found["n"].tolist()[0] == pytest.approx(n), text


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


def test_the_methods_say_who_drew():
    science = config(source="atlas").science()
    text = rois_methods(science, frozenset({"fa"}))
    assert text.startswith("FA was averaged")
    assert "cores of these parts in the template" in text
    assert "unless they had been drawn by hand" in text
    assert rois_methods(config(source="off").science(), frozenset({"fa"})) == ""
