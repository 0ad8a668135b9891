"""The published PAM50-normalised tables as a cohort: every group mean as pandas finds it in the CSVs."""

import tarfile

import numpy as np
import pandas as pd
import pytest

from cohort_engine.engine.importing import import_morphometry
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.frame import run_query
from cohort_engine.store.verify import verify
from cohort_engine.template import load_template

pytestmark = pytest.mark.real

STUDIES = {"spine-generic_multi-subject": 203, "UCLA_LA5c": 254}


@pytest.fixture(scope="module")
def make_cohort(real_data, tmp_path_factory):
    """Factory: the store of a study, and its tables as one frame straight from the archive."""
    template = load_template("PAM50", path=real_data / "PAM50")
    folder = real_data / "morphometrics"

    def make(study):
        url = str(tmp_path_factory.mktemp("import") / "cohort.zarr")
        archive = folder / f"spinal_cord_{study}.tar.xz"
        report = import_morphometry(archive, url, participants=folder / f"{study}_participants.tsv", template=template)
        with tarfile.open(archive) as tar:
            frames = {m.name.split("/")[-1].split("_")[0]: pd.read_csv(tar.extractfile(m)) for m in tar if m.name.endswith(".csv")}
        return url, report, pd.concat(frames, names=["participant_id", None]).reset_index(0)

    return make


@pytest.mark.parametrize("study", STUDIES)
def test_every_table_is_imported(make_cohort, real_data, study):
    url, report, frame = make_cohort(study)
    assert report.subjects == STUDIES[study]
    assert verify(url) == []
    people = pd.read_csv(real_data / "morphometrics" / f"{study}_participants.tsv", sep="\t")
    frame = frame.merge(people, on="participant_id")

    neck = frame[frame["VertLevel"].isin([2, 3])]
    by = ["sex", "manufacturer"] if "manufacturer" in people else ["sex", "pathology"]
    subjects = neck.groupby([*by, "participant_id"])["MEAN(area)"].mean()
    expected = subjects.groupby(by).agg(["mean", "std", "count"])
    found = run_query(url, f"area level=C2:C3 by={','.join(by)}").set_index(by)
    print(found.round(2).to_string())
    assert found["n"].to_dict() == expected["count"].to_dict()
    for ours, theirs in (("mean", "mean"), ("sd", "std")):
        np.testing.assert_allclose(found[ours].loc[expected.index], expected[theirs], atol=1e-6, rtol=0)

    with open_cohort(url) as ds:
        names = ds["participant_id"].to_numpy()
        by_level = frame.groupby(["participant_id", "VertLevel"])["MEAN(area)"].mean().unstack().loc[names]
        np.testing.assert_allclose(ds["area"].sel(level=["C2", "C5", "T1"]), by_level[[2, 5, 8]], atol=1e-9, equal_nan=True)
        ap, rl, ecc = (ds[f"profile_{m}"].to_numpy() for m in ("diameter_ap_ellipse", "diameter_rl", "eccentricity"))
        known = np.isfinite(ap) & (ap < rl)
        off = np.sqrt(1 - (ap[known] / rl[known]) ** 2) - ecc[known]
        assert np.median(np.abs(off)) < 1e-3  # so it is the axis of the ellipse


def test_a_damaged_archive(real_data, tmp_path):
    from cohort_engine.errors import InputError

    folder = real_data / "morphometrics"
    cut = tmp_path / "cut.tar.xz"
    cut.write_bytes((folder / "spinal_cord_UCLA_LA5c.tar.xz").read_bytes()[:200_000])
    template = load_template("PAM50", path=real_data / "PAM50")
    with pytest.raises(InputError, match="morphometry table"):
        import_morphometry(cut, str(tmp_path / "s.zarr"), participants=folder / "UCLA_LA5c_participants.tsv", template=template)
    assert not (tmp_path / "s.zarr").exists()
