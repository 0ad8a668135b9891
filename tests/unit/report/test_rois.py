"""The page of the DTI study: tables that can be worked out by hand, and a page that holds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.errors import StorageError
from cohort_engine.report.page import Image
from cohort_engine.report.roi_page import Evaluation, write_evaluation
from cohort_engine.report.roi_tables import (
    ATLAS,
    PUBLISHED,
    RATER,
    beside_published,
    differences,
    icc_matrix,
    judged,
    method_table,
    over_regions,
    read_results,
    region_table,
    settings_of,
    shown_slices,
    size_table,
    slice_table,
)
from cohort_engine.rois.slices import RoiSlices

SPOTS = [(6, 5), (3, 10), (6, 16), (7, 10), (17, 5), (20, 10), (17, 16), (16, 10)]
"""Corners of 3 x 3 pixels, left at low x."""


def squares(n: int, shift: int = 0) -> np.ndarray:
    out = np.zeros((n, 8, 26, 22), bool)
    for r, (x, y) in enumerate(SPOTS):
        out[:, r, x : x + 3, y + shift : y + 3 + shift] = True
    return out


@pytest.fixture
def slices() -> RoiSlices:
    """Four patients of three slices; FA is 0.3 to 0.63 by slice, with a little of its own in each region."""
    rng, drawn = np.random.default_rng(0), squares(12)
    fa = np.full((12, 26, 22), 0.2) + 0.03 * np.arange(12)[:, None, None]
    fa += (drawn * rng.uniform(0.1, 0.2, (12, 8, 1, 1))).sum(axis=1)
    cord = np.zeros(fa.shape, bool)
    cord[:, 2:24, 4:20] = True
    return RoiSlices(
        {schema.B0_IMAGE: (1000 * fa).astype(np.float32), schema.FA: fa.astype(np.float32)}, drawn, cord, np.repeat(np.arange(4), 3),
        np.tile(np.arange(3), 4), np.array([0.5, 0.5]), again=squares(12, 1), atlas=squares(12, 2),
    )  # fmt: skip


def test_methods_beside_rater_and_atlas(slices: RoiSlices) -> None:
    """A shift by one of three rows leaves two thirds, by two one third."""
    methods = judged(slices, {"perfect": (slices.drawn, {})})
    assert [m.name for m in methods] == ["perfect", ATLAS, RATER]
    table = method_table(region_table(methods, resamples=50)).set_index("method")
    assert table["dice"].tolist() == pytest.approx([1, 1 / 3, 2 / 3])
    assert table["icc"]["perfect"] == pytest.approx(1)
    assert table["error"]["perfect"] == 0


def test_the_published_table_is_in_the_order_of_the_regions(slices: RoiSlices) -> None:
    table = beside_published(region_table(judged(slices, {"perfect": (slices.drawn, {})}), resamples=50), "perfect").set_index("region")
    assert list(table.index) == list(schema.ROIS)
    assert table.loc["left dorsal column", ["dice", "published_dice", "published_scs_net_error_percent"]].tolist() == [1, 0.69, 10.14]
    assert table.loc["right lateral column", ["published_error_percent", "published_scs_net_error_percent"]].tolist() == [10, 4.6]


def test_what_was_published_agrees_with_itself() -> None:
    """Outliers overlap nowhere: Dice with them is Dice without them times the share of the others."""
    known = PUBLISHED.dropna()
    assert known["dice"].to_numpy() == pytest.approx((known["dice_without_outliers"] * (1 - known["outliers"])).to_numpy(), abs=0.012)


def test_differences_are_paired(slices: RoiSlices) -> None:
    perfect, atlas, rater = judged(slices, {"perfect": (slices.drawn, {})})
    found = differences(perfect, rater)
    assert found["dice_difference"].tolist() == pytest.approx([1 / 3] * 8)
    assert found[["dice_low", "dice_high"]].to_numpy() == pytest.approx(1 / 3)  # the same in every slice: no spread
    assert (differences(atlas, rater)["dice_difference"] < 0).all()


def test_the_matrix_crosses_found_with_drawn_regions(slices: RoiSlices) -> None:
    """Found regions are the other side's drawn ones: agreement lies off the diagonal."""
    swapped = judged(slices, {"swapped": (slices.drawn[:, list(schema.OTHER_SIDE)], {})})[0]
    matrix = icc_matrix(swapped.scores)
    for i, other in enumerate(schema.OTHER_SIDE):
        assert matrix[i, other] == pytest.approx(1)
        assert matrix[i, i] < 0.999
    assert swapped.scores.wrong_side.tolist() == [1] * 8


def test_sizes_in_mm2_and_shares(slices: RoiSlices) -> None:
    table = size_table(slices, judged(slices, {"perfect": (slices.drawn, {})})[0].scores)
    assert table["drawn_area"].tolist() == [9 * 0.25] * 8
    assert table["share"].tolist() == pytest.approx([9 / (26 * 22)] * 8)
    assert table["published_area"].sum() == pytest.approx(39.6, abs=0.1)


def test_every_slice_is_a_row(slices: RoiSlices) -> None:
    table = slice_table(judged(slices, {"perfect": (slices.drawn, {})}), slices)
    assert len(table) == 3 * 12 * 8
    row = table[(table["method"] == RATER) & (table["region"] == "right grey matter") & (table["patient"] == 2)].iloc[1]
    assert row[["position", "drawn_pixels", "pixels"]].tolist() == [1, 9, 9]
    assert row["drawn_mean"] == pytest.approx(slices.images[schema.FA][7, 16:19, 10:13].mean(), abs=1e-6)


def test_slices_to_look_at_are_the_best_the_middling_and_the_worst(slices: RoiSlices) -> None:
    masks = slices.drawn.copy()
    masks[3] = squares(1, 2)[0]
    masks[:2] = squares(2, 1)
    shown = shown_slices(judged(slices, {"some": (masks, {})})[0].scores, each=1)
    assert shown["worst"] == [3]
    assert shown["best"] == [11]


def line(net: str, seed: int, dice: float, wrong: list[float] | None = None) -> dict[str, object]:
    test = {"dice": [dice] * 8, "recall": [0.7] * 8, "wrong_side": wrong or [0.0] * 8, "error_percent": [7.0] * 8}
    return {"row": f"{net}{seed}", "net": net, "loss": "hybrid", "seed": seed, "test": test, "held_out": {"dice": [0.8] * 8}, "epochs": 5}


def test_results_of_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(json.dumps(x) for x in (line("VGG16", 1, 0.6), line("VGG16", 2, 0.5, [0.0] * 7 + [0.08]), line("ResNet50", 1, 0.4))))
    results = read_results(file)
    table = over_regions(results)
    assert table["dice"].tolist() == pytest.approx([0.6, 0.5, 0.4])
    assert table["wrong_side"].tolist() == pytest.approx([0, 0.08, 0])
    assert settings_of(table).tolist() == ["VGG16", "VGG16", "ResNet50"]  # the loss is the same everywhere
    file.write_text('{"net": "VGG16"}')
    with pytest.raises(StorageError, match=r"results\.jsonl"):
        read_results(file)


def test_the_page_holds_tables_figures_and_provenance(tmp_path: Path, slices: RoiSlices) -> None:
    slices = slices.at(np.array([0, 3, 7]))  # three slices to look at
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(json.dumps(line(net, seed, 0.6)) for net in ("VGG16", "ResNet50") for seed in (1, 2)))
    methods = judged(slices, {"<ours>": (slices.drawn, {"seed": 4}), "theirs": (squares(3, 1), {})})
    page = write_evaluation(Evaluation(slices, methods, read_results(file), ["All is simulated."], {"data_seed": 3}), tmp_path / "out")
    text = page.read_text()
    assert "&lt;ours&gt;" in text
    assert "<ours>" not in text
    assert "All is simulated." in text
    assert "0.54 ± 0.28" in text  # published, left grey matter
    assert text.count("data:image/") == 5
    assert "in 8 of 8 regions, in 8 with an interval over patients above 0" in text
    assert "http" not in text.replace("https://doi.org", "").replace("http-equiv", "").replace('xmlns="http', "")
    record = json.loads((tmp_path / "out/rois.json").read_text())
    assert record["data_seed"] == 3
    assert record["methods"]["<ours>"] == {"seed": 4}
    assert {p.name for p in (tmp_path / "out/csv").iterdir()} == {
        f"{n}.csv" for n in ("regions", "methods", "published", "sizes", "slices", "icc", "differences", "sweep", "sweep_regions")
    }
    assert pd.read_csv(tmp_path / "out/csv/differences.csv")["dice_difference"].tolist() == pytest.approx([1 / 3] * 8, abs=1e-5)


def test_a_method_that_finds_nothing_has_a_page(tmp_path: Path, slices: RoiSlices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohort_engine.report.roi_page.save_figure", lambda *_: Image("data:,", 1))
    slices = slices.at(np.array([0, 3, 7]))
    methods = judged(slices, {"empty": (np.zeros_like(slices.drawn), {})})
    text = write_evaluation(Evaluation(slices, methods), tmp_path).read_text()
    assert "It gives nothing in 100.0 % of the slices of its worst region." in text
