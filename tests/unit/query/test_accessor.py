"""Questions to a cohort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from cohort_engine.errors import StoreError, UnknownNameError
from cohort_engine.io.volume import read_volume
from cohort_engine.query import accessor
from cohort_engine.query.accessor import open_cohort

NAN = np.nan
MakeCohort = Callable[..., str]
LEFT = "WM left lateral corticospinal tract"


def subject(c2: float, c3: float) -> list[float]:
    return [c3] * 4 + [c2] * 4


def test_opening_reads_no_map(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([subject(20, 10)] * 3, group=["HC", "DCM", "DCM"], age=[50, NAN, 60]))
    assert dict(ds.sizes) | {"subject": 3, "voxel": 8, "level": 2, "region": 5} == dict(ds.sizes)
    assert all(dask.is_dask_collection(ds[n].data) for n in ("mtr", "mtr_wa", "mtr_wa_coverage", "mtr_cord_median", "x_mm"))
    assert ds.group.values.tolist() == ["HC", "DCM", "DCM"]
    assert ds.level.values.tolist() == ["C2", "C3"]
    assert ds.mtr.attrs["units"] == "percent"
    assert ds.attrs["template_name"] == "tiny"
    assert ds.attrs["finalised"]
    assert ds.stages_status.dims == ("subject", "stage")
    assert set(ds.coords) >= {"participant_id", "session_id", "group", "age", "voxel_level", "i", "z_mm", "level", "region", "stage", "subject"}


def test_reading_one_subject_reads_one_row(make_cohort: MakeCohort, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = open_cohort(make_cohort([subject(i, i) for i in range(70)]))
    keys = []
    plain = accessor.StoredArray.__getitem__
    monkeypatch.setattr(accessor.StoredArray, "__getitem__", lambda self, key: keys.append((self.path, key)) or plain(self, key))
    assert ds.mtr[65].values.tolist() == [65] * 8
    [(path, key)] = keys
    assert path == "maps/mtr"
    assert np.zeros((70, 8))[key].shape in {(8,), (1, 8)}


def test_a_covariate_may_be_called_anything(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([subject(20, 10)], weight=[70.0], level=["novice"], n=[3], mtr=["?"], region=["Wales"]))
    assert ds.weight.item() == 70
    assert [ds[f"subjects_{n}"].item() for n in ("level", "n", "mtr", "region")] == ["novice", 3, "?", "Wales"]
    assert ds.cohort.frame("mtr", "white matter", "C2").subjects_region.tolist() == ["Wales"]


def test_a_newer_format_is_refused(make_cohort: MakeCohort) -> None:
    url = make_cohort([subject(20, 10)])
    zarr.open_group(url, mode="r+", use_consolidated=False).attrs["format_version"] = "99"
    with pytest.raises(StoreError, match="expected format version 2, found format version 99"):
        open_cohort(url)


def test_a_place_without_a_cohort(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a cohort store"):
        open_cohort(tmp_path / "nothing.zarr")


def test_people_who_withdrew_are_gone_and_the_others_keep_their_row(make_cohort: MakeCohort) -> None:
    from cohort_engine.store.withdrawal import withdraw

    url = make_cohort([subject(1, 1), subject(2, 2), subject(3, 3)])
    withdraw(url, 1)
    ds = open_cohort(url)
    assert ds.participant_id.values.tolist() == ["sub-01", "sub-03"]
    assert ds.cohort.row("sub-03") == 2
    assert ds.cohort.tract("mtr", "white matter", "C2").values.tolist() == [1, 3]


# --- tract ------------------------------------------------------------------------------------------------------------
def test_the_sentence_of_the_design(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([subject(20, 10), subject(30, 20), subject(40, 20)], group=["HC", "DCM", "DCM"]))
    out = ds.cohort.tract("mtr", "lateral corticospinal tract", level="C2:C3").groupby("group").mean()
    assert dict(zip(out.group.values, out.values, strict=True)) == {"DCM": 27.5, "HC": 15}
    assert out.attrs["units"] == "percent"


def test_one_pooled_and_several_levels(make_cohort: MakeCohort) -> None:
    tract = open_cohort(make_cohort([subject(20, 10)])).cohort.tract
    assert tract("mtr", LEFT, "C2").values.tolist() == [20]
    assert tract("mtr", LEFT, "C2:C3").values.tolist() == [15]
    assert tract("mtr", LEFT, "all").values.tolist() == [15]
    for levels in ("C3,C2", ["C3", "C2"]):
        assert tract("mtr", LEFT, levels).values.tolist() == [[10, 20]]
        assert tract("mtr", LEFT, levels).level.values.tolist() == ["C3", "C2"]
    assert tract("mtr", LEFT).values.tolist() == [[20, 10]]
    assert tract("mtr", LEFT, ["C2", "C2:C3"]).values.tolist() == [[20, 15]]


def test_the_choice_travels_with_the_values(make_cohort: MakeCohort) -> None:
    out = open_cohort(make_cohort([subject(20, 10)])).cohort.tract("mtr", "left lateral corticospinal tract", "c2:c3")
    assert (out.name, out.level.item(), out.region.item(), out.dims) == ("mtr", "C2:C3", LEFT, ("subject",))
    assert out.attrs["long_name"] == "magnetization transfer ratio"
    assert (out.attrs["estimator"], out.attrs["min_coverage"]) == ("wa", 0.75)


def test_full_gives_spread_and_support(make_cohort: MakeCohort) -> None:
    out = open_cohort(make_cohort([subject(20, 10)])).cohort.tract("mtr", LEFT, "C2:C3", full=True)
    assert {k: v.values.item() for k, v in out.data_vars.items()} == {"value": 15, "std": 5, "n": 3, "coverage": 1}


def test_several_regions_get_an_axis(make_cohort: MakeCohort) -> None:
    out = open_cohort(make_cohort([subject(20, 10)])).cohort.tract("mtr", ["white matter", f"{LEFT} + GM left ventral horn"], "C2")
    assert out.dims == ("subject", "region")
    assert out.values.tolist() == [[20, 20]]


def test_cells_of_the_table_are_not_computed_again(make_cohort: MakeCohort) -> None:
    url = make_cohort([subject(20, 10)])
    zarr.open_group(url, mode="r+", use_consolidated=False)["tables/template/mtr_wa"][:] = 77
    tract = open_cohort(url).cohort.tract
    assert tract("mtr", LEFT, "C2").values.item() == 77
    assert tract("mtr", LEFT, "C2:C3").values.item() == 15
    assert tract("mtr", LEFT, "C2", min_coverage=0.5).values.item() == 20  # the table has NaN where this limit has numbers


def test_tables_of_an_open_store_are_not_trusted(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([subject(20, 10)], close=False))
    assert not ds.attrs["finalised"]
    assert np.isnan(ds.mtr_wa.values).all()
    assert ds.cohort.tract("mtr", LEFT, "C2").values.item() == 20


@pytest.mark.parametrize(("limit", "expected"), [(None, 20.0), (0.75, 20.0), (0.8, NAN), (0.5, 20.0)])
def test_coverage_limits(make_cohort: MakeCohort, limit: float | None, expected: float) -> None:
    """The horn and the tracts: three of four soft voxels are left of the cord."""
    ds = open_cohort(make_cohort([[10] * 4 + [NAN, 20, 20, 20]]))
    out = ds.cohort.tract("mtr", "spinal cord", "C2", min_coverage=limit, full=True)
    np.testing.assert_equal(out.value.values.item(), expected)
    assert (out.coverage.values.item(), out.n.values.item()) == (0.75, 3)


def test_names_that_nobody_knows(make_cohort: MakeCohort) -> None:
    cohort = open_cohort(make_cohort([subject(20, 10)])).cohort
    with pytest.raises(UnknownNameError, match=r"Did you mean .*corticospinal"):
        cohort.tract("mtr", "latral corticospinal tract")
    with pytest.raises(UnknownNameError, match=r"'C4'\. Did you mean 'C"):
        cohort.tract("mtr", LEFT, "C4")
    with pytest.raises(UnknownNameError, match=r"'mt'\. Did you mean 'mtr'"):
        cohort.tract("mt", LEFT)
    with pytest.raises(UnknownNameError, match="a known estimator, found 'mode'"):
        cohort.tract("mtr", LEFT, estimator="mode")


def test_what_there_is(make_cohort: MakeCohort) -> None:
    cohort = open_cohort(make_cohort([subject(20, 10)])).cohort
    assert (cohort.levels, cohort.metrics, len(cohort.regions), cohort.min_coverage) == (["C2", "C3"], ["mtr"], 5, 0.75)


# --- subjects and images ----------------------------------------------------------------------------------------------
def test_subjects_by_name(make_cohort: MakeCohort) -> None:
    url = make_cohort([subject(1, 1), subject(2, 2), subject(3, 3)], session_id=["", "", "ses-02"])
    cohort = open_cohort(url).cohort
    assert cohort.row("sub-02") == 1
    assert cohort.subject("sub-03", session="ses-02").mtr.values[0] == 3
    with pytest.raises(UnknownNameError, match=r"Did you mean .*'sub-03'"):
        cohort.row("sub-3")
    with pytest.raises(UnknownNameError, match=r"a known session, found 'ses-1'\. Did you mean 'ses-02'"):
        cohort.row("sub-03", session="ses-1")
    with pytest.raises(UnknownNameError, match="a known row, found '7'"):
        cohort.unpack("mtr", 7)


def test_two_sessions_need_a_choice(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([subject(1, 1), subject(2, 2)], session_id=["ses-01", "ses-02"]))
    ds = ds.assign_coords(participant_id=("subject", np.array(["sub-01", "sub-01"], object)))
    with pytest.raises(StoreError, match="expected one subject, found 2 sessions: ses-01, ses-02"):
        ds.cohort.row("sub-01")
    assert ds.cohort.row("sub-01", session="ses-02") == 1


def test_unpack_puts_voxels_where_the_template_has_them(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([[1, 2, 3, 4, 5, 6, 7, 8], [NAN, 4, 5, 6, 7, 8, 9, 10]]))
    image = ds.cohort.unpack("mtr", "sub-01")
    assert image.dims == ("i", "j", "k")
    assert image.shape == (6, 3, 2)
    assert image.values[1:5, 1].T.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert np.isfinite(image.values).sum() == 8
    assert (image.attrs["affine"] @ [1, 1, 0, 1]).tolist() == [-0.5, -1.5, 40, 1]
    assert ds.cohort.unpack("mtr").values[1:5, 1, 0].tolist() == [1, 3, 4, 5]
    assert ds.isel(subject=[1]).cohort.unpack("mtr").values[2, 1, 0] == 4
    with pytest.raises(UnknownNameError, match=r"a known map, found 'mtr_wa'\. Did you mean 'mtr'"):
        ds.cohort.unpack("mtr_wa", 0)


def test_to_nifti_and_back(make_cohort: MakeCohort, tmp_path: Path) -> None:
    ds = open_cohort(make_cohort([[1, 2, 3, 4, 5, 6, 7, 8]]))
    volume = read_volume(ds.cohort.to_nifti("mtr", tmp_path / "mtr.nii.gz", "sub-01"), what="map")
    image = ds.cohort.unpack("mtr", 0)
    np.testing.assert_array_equal(volume.data, image.values)
    np.testing.assert_allclose(volume.affine, image.attrs["affine"])


def test_a_map_that_nobody_has_averages_to_nan(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([None, None]))
    assert np.isnan(ds.cohort.unpack("mtr").values).all()


def test_any_array_of_voxels_is_an_image(make_cohort: MakeCohort, tmp_path: Path) -> None:
    """Only maps of the store could be written: a t-statistic of each voxel had to be packed by hand."""
    ds = open_cohort(make_cohort([[1, 2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8, 9, 10]]))
    mean = ds.mtr.mean("subject")
    np.testing.assert_array_equal(ds.cohort.unpack(mean), ds.cohort.unpack("mtr"))
    statistic = (ds.mtr.mean("subject") / ds.mtr.std("subject")).rename("t").compute()
    image = ds.cohort.unpack(statistic)
    assert (image.name, image.values[1:5, 1, 0].tolist()) == ("t", [2, 3, 4, 5])
    assert ds.cohort.unpack(ds.mtr * 2, "sub-02").values[1, 1, 0] == 6
    np.testing.assert_array_equal(read_volume(ds.cohort.to_nifti(statistic, tmp_path / "t.nii.gz"), what="map").data, image.values)
    for wrong in (mean.isel(voxel=slice(4)), ds.mtr_wa.isel(subject=0)):
        with pytest.raises(StoreError, match="one value for each of the 8 voxels, found"):
            ds.cohort.unpack(wrong)


def test_answers_are_numbers(make_cohort: MakeCohort) -> None:
    """``ds.cohort.tract(...).groupby("group").mean()`` printed a dask array where a reader looks for numbers."""
    ds = open_cohort(make_cohort([subject(20, 10), subject(30, 20)], group=["HC", "DCM"]))
    for level in ("C2", "C2:C3"):
        out = ds.cohort.tract("mtr", LEFT, level)
        assert isinstance(out.data, np.ndarray)
        assert "dask" not in repr(out.groupby("group").mean())


def test_a_question_in_the_words_of_the_command_line(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([subject(20, 10)] * 3, group=["HC", "DCM", "DCM"]))
    asked = ds.cohort.query("mtr tract='white matter' by=group")
    assert dict(zip(asked["group"], asked["n"], strict=True)) == {"HC": 1, "DCM": 2}


def test_a_notebook_shows_the_cohort_and_runs_nothing_of_it(make_cohort: MakeCohort) -> None:
    text = open_cohort(make_cohort([subject(20, 10)], site=["<script>"])).cohort._repr_html_()
    assert "<caption>cohort of 1 subjects" in text
    assert "<th>sites</th><td>&lt;script&gt; 1</td>" in text


def test_a_cohort_says_what_is_in_it(make_cohort: MakeCohort) -> None:
    """It printed ``<CohortAccessor object at 0x7f...>``."""
    text = repr(open_cohort(make_cohort([subject(20, 10)] * 3, group=["HC", "DCM", "DCM"], site=["a", "a", ""])).cohort)
    lines = dict(line.split(maxsplit=1) for line in text.splitlines()[1:])
    assert text.startswith("cohort of 3 subjects, template tiny 1")
    assert (lines["groups"], lines["sites"]) == ("DCM 2, HC 1", "none 1, a 2")
    assert (lines["metrics"], lines["template"], lines["native"], lines["levels"]) == ("mtr (percent)", "tables wa", "tables   wa", "C2 C3")
    assert lines["values"] == "mtr is wa in template space"
    assert lines["regions"].startswith("5: WM left lateral corticospinal tract")
    assert lines["state"].startswith("finalised 2")
    assert "not finalised" in repr(open_cohort(make_cohort([subject(20, 10)], close=False)).cohort)


def test_one_subject_is_asked_like_many(make_cohort: MakeCohort) -> None:
    one = open_cohort(make_cohort([subject(20, 10), subject(30, 20)])).cohort.subject("sub-02")
    assert one.cohort.tract("mtr", LEFT, "C2").item() == 30
    assert one.cohort.tract("mtr", LEFT, "C2:C3").item() == 25


def test_an_opened_cohort_travels(make_cohort: MakeCohort) -> None:
    import pickle

    ds = open_cohort(make_cohort([subject(20, 10)]))
    xr.testing.assert_identical(pickle.loads(pickle.dumps(ds)).mtr.compute(), ds.mtr.compute())
