"""The real stages on a simulated study: its own truth comes back, and a subject with swapped images is told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cohort_engine
from cohort_engine.config import Config, parse_config
from cohort_engine.engine.build import build
from cohort_engine.errors import InputError, UnknownNameError
from cohort_engine.io.bids import index_study
from cohort_engine.io.places import exists
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.mapping.template_map import sample
from cohort_engine.phantom.study import simulate
from cohort_engine.single.warp import Subject, warp_images
from cohort_engine.stages.choose import stages_of
from cohort_engine.store.layout import open_root
from cohort_engine.store.people import find_rows
from cohort_engine.store.records import made_url
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_rows
from cohort_engine.template import load_template


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom")
    simulate(root / "bids", template=load_template("parametric"), patients=1, controls=1, seed=3)
    return root


PLAIN: dict[str, object] = {"fit": {"deformable": False}, "reduce": {"spaces": ["template"]}}


def config(root: Path, *, stages: dict[str, object] = PLAIN, **data: object) -> Config:
    return parse_config(
        {
            "data": {"bids": str(root / "bids"), "store": str(root / "study.zarr")} | data,
            "template": {"name": "parametric"},
            "compute": {"cluster": "synchronous"},
            "stages": stages,
        }
    )


def test_the_truth_comes_back(study: Path) -> None:
    report = build(config(study))
    assert report.exit_code == 0, report.failures.to_string()
    ds = cohort_engine.open_cohort(str(study / "study.zarr"))
    assert (ds["mt_dice"] > 0.85).all()
    truth = pd.read_csv(study / "bids/derivatives/truth/truth.tsv", sep="\t").query("level == 'C3' and region == 'white matter'")
    found = ds.cohort.tract("mtr", "white matter", level="C3").to_numpy().ravel()
    assert found == pytest.approx(truth.set_index("participant_id").wa.loc[ds.participant_id.to_numpy()].to_numpy(), abs=2)


def test_a_map_of_the_store_brings_images_over(study: Path, tmp_path: Path) -> None:
    """The template's cord lies on the subject's mask, and MT-on in the template is what the map samples; whose map is not there is told."""
    build(config(study))
    store, template = str(study / "study.zarr"), load_template("parametric")
    anat = study / "bids" / "sub-HC001" / "anat"
    on, mask = next(anat.glob("*mt-on_MTS.nii.gz")), next((study / "bids").rglob("sub-HC001*mt-on_MTS_label-SC_seg.nii.gz"))
    write_volume(tmp_path / "cord.nii.gz", Volume(np.asarray(template.cord, np.float32), np.asarray(template.block_grid.affine, float)))
    who = Subject("HC001", "mt")
    warp_images([tmp_path / "cord.nii.gz"], store, tmp_path / "there.nii.gz", to="image", onto=on, subject=who)
    ours, drawn = (read_volume(p, what="cord").data > 0.5 for p in (tmp_path / "there.nii.gz", mask))
    assert 2 * (ours & drawn).sum() / (ours.sum() + drawn.sum()) > 0.85
    (done,) = warp_images([on], store, tmp_path / "on.nii.gz", to="template", interpolation="linear", subject=who)
    assert (done.file, done.interpolation) == ("on.nii.gz", "linear")
    row = find_rows(store, "HC001")[0]
    positions = read_rows(open_root(store), "fit/mt", slice(row, row + 1))[0]
    image = read_volume(on, what="image")
    i, j, k = (template.packing.ijk.astype(int) - np.asarray(template.corner)).T
    found = read_volume(tmp_path / "on.nii.gz", what="image").data[i, j, k]
    np.testing.assert_allclose(found, sample(image.data, image.affine, positions), rtol=1e-5, equal_nan=True)
    for subject, to, kind in ((Subject("HC001", "t2s"), "template", UnknownNameError), (Subject("HC9", "mt"), "template", UnknownNameError),
                              (who, None, InputError), (who, "image", InputError)):  # fmt: skip
        with pytest.raises(kind):
            warp_images([on], store, tmp_path / "none.nii.gz", to=to, subject=subject)


def test_grey_matter_guides_the_map_where_it_is_asked_for(study: Path, tmp_path: Path) -> None:
    """Every subject's image is looked at: the stage reads it, its key knows the networks, and the store says how well the insides agree."""
    pytest.importorskip("torch")
    plain = config(study)
    fit = plain.stages.fit.model_copy(update={"deformable": True, "grey": True, "contrasts": ("mt",)})
    data = plain.data.model_copy(update={"store": str(tmp_path / "grey.zarr")})
    guided = plain.model_copy(update={"data": data, "stages": plain.stages.model_copy(update={"fit": fit, "metrics": ()})})
    (stage,) = (s for s in stages_of(guided) if s.name == "fit_mt")
    assert set(stage.roles) == {"mt_mask", "mt_on"}
    assert "weights" in stage.params
    assert "weights" not in next(s for s in stages_of(plain) if s.name == "fit_mt").params
    report = build(guided)
    assert report.exit_code == 0, report.failures.to_string()
    assert (cohort_engine.open_cohort(str(tmp_path / "grey.zarr"))["mt_grey_dice"] > 0.6).all()


def test_a_repaired_swap_is_built_and_nobody_else_again(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "bids", tmp_path / "bids")
    on, off = (next((tmp_path / "bids" / "sub-HC001" / "anat").glob(f"*mt-{state}*.nii.gz")) for state in ("on", "off"))
    right = on.read_bytes(), off.read_bytes()
    on.write_bytes(right[1])
    off.write_bytes(right[0])
    report = build(config(tmp_path))
    assert [(e.subject, e.stage, e.kind) for e in report.entries] == [(1, "mtr", "InputError")]
    on.write_bytes(right[0])
    off.write_bytes(right[1])
    report = build(config(tmp_path))
    assert report.exit_code == 0
    counts = {s: (c["done"], c["cached"]) for s, c in report.counts.items() if not c["not_needed"]}
    assert counts == {"fit_mt": (1, 1), "mtr": (1, 1), "quality": (1, 1)}  # the map knows the MT-on image
    import cohort_engine

    assert np.isfinite(cohort_engine.open_cohort(str(tmp_path / "study.zarr"))["mtr"].isel(subject=1)).any()


def test_morphometry_alone(study: Path, tmp_path: Path) -> None:
    """The phantom's cord is an ellipse of known diameters; a subject without landmarks lacks an input, and that is all."""
    import cohort_engine

    shutil.copytree(study / "bids", tmp_path / "bids")
    for path in (tmp_path / "bids").rglob("sub-HC001*T2w_label-discs*"):
        path.unlink()
    report = build(config(tmp_path, stages={"metrics": [], "shape": {"source": "t2w"}, "levels": {"enabled": False}}))
    assert [(e.subject, e.stage, e.status) for e in report.entries] == [(1, "shape", "missing_input")]
    assert verify(str(tmp_path / "study.zarr")) == []
    ds = cohort_engine.open_cohort(str(tmp_path / "study.zarr"))
    assert np.isfinite(ds["area"].sel(level="C3")).to_numpy().tolist() == [True, False]
    cells = ds.isel(subject=0).sel(level="C3")
    assert float(cells["area"]) == pytest.approx(np.pi / 4 * float(cells["diameter_ap_ellipse"] * cells["diameter_rl"]), rel=0.03)
    assert float(cells["slices"]) > 10


def test_from_images_alone(study: Path, tmp_path: Path) -> None:
    """Neither masks nor landmarks: masks are made; levels are right or asked for, and who was asked about and answered is built too."""
    import cohort_engine

    shutil.copytree(study / "bids", tmp_path / "bids", ignore=shutil.ignore_patterns("labels"))
    report = build(config(tmp_path))
    assert {(e.stage, e.kind) for e in report.entries} <= {("levels_t2w", "LevelError")}
    names, url = index_study(str(study / "bids")).subjects["participant_id"], report.url
    asked = [e.subject for e in report.entries]
    assert len(asked) < 2
    for row in asked:
        place = f"bids/derivatives/labels/{names[row]}/anat"
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(next((study / place).glob("*T2w_label-discs*")), tmp_path / place)
    report = build(config(tmp_path))
    assert report.exit_code == 0, report.failures.to_string()
    assert report.counts["segment_mt"]["cached"] == report.counts["segment_t2w"]["cached"] == 2
    assert (report.counts["levels_t2w"]["not_needed"], report.counts["mtr"]["done"]) == (len(asked), len(asked))
    assert verify(url) == []
    ds = cohort_engine.open_cohort(url)
    assert (ds["mt_dice"] > 0.85).all()
    for row, name in enumerate(names):
        labels = study / f"bids/derivatives/labels/{name}/anat"
        for role, pattern in (("mt_mask", "*mt-on*SC_seg*"), ("t2w_mask", "*T2w_label-SC_seg*")):
            made, true = (read_volume(p, what=role).data > 0 for p in (made_url(url, row, role), next(labels.glob(pattern))))
            assert 2 * (made & true).sum() / (made.sum() + true.sum()) > 0.88, (role, name)
        if row not in asked:
            found, true = (read_volume(p, what="discs") for p in (made_url(url, row, "t2w_landmarks"), next(labels.glob("*discs*"))))
            both = set(np.unique(found.data)) & set(np.unique(true.data)) - {0}
            assert len(both) >= 3
            for n in both:
                heights = [v.grid.world(np.argwhere(v.data == n).astype(float))[0, 2] for v in (found, true)]
                assert abs(heights[0] - heights[1]) < 4, (name, n)


def objects(root: Path) -> int:
    files = (p for folder in ("study.zarr", "study.zarr.ledger") for p in (root / folder).rglob("*") if p.is_file())
    return sum(p.suffix != ".log" for p in files)


def test_a_subject_is_thirteen_objects_before_it_is_gathered(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From images alone, with native space and morphometry: eight records, three files that were made, template map and map."""
    shutil.copytree(study / "bids", tmp_path / "bids", ignore=shutil.ignore_patterns("labels"))
    for path in (study / "bids").rglob("*label-discs*"):  # the levels of these simulated images are not always certain
        place = tmp_path / path.relative_to(study)
        place.parent.mkdir(parents=True, exist_ok=True)
        labels = read_volume(path, what="discs")
        write_volume(place, Volume((labels.data * (labels.data == 5)).astype(np.uint8), labels.affine))
    wanted = {"fit": {"deformable": False}, "shape": {"source": "t2w"}}
    with monkeypatch.context() as patch:
        patch.setattr("cohort_engine.engine.build.close", lambda *_, **__: None)
        patch.setattr("cohort_engine.engine.build.gather", lambda *_, **__: None)
        counts = []
        for people in (["sub-HC001"], []):
            report = build(config(tmp_path, stages=wanted, include=people))
            assert report.exit_code == 0, report.failures.to_string()
            counts.append(objects(tmp_path))
    assert counts[1] - counts[0] == 13
    assert build(config(tmp_path, stages=wanted)).exit_code == 0
    assert not list((tmp_path / "study.zarr.ledger").rglob("*.record"))
    assert verify(str(tmp_path / "study.zarr")) == []


def test_one_landmark_names_the_discs_of_its_image(study: Path, tmp_path: Path) -> None:
    """A label file with one point names all discs; with two it stands as it is; with one between discs the subject fails."""
    shutil.copytree(study / "bids", tmp_path / "bids")
    path = next((tmp_path / "bids/derivatives/labels/sub-HC001").rglob("*T2w_label-discs*"))
    true = read_volume(path, what="discs")
    heights = {int(n): true.grid.world(np.argwhere(true.data == n).astype(float)).mean(axis=0)[2] for n in np.unique(true.data) if n}
    shown, row, url = config(tmp_path), 1, str(tmp_path / "study.zarr")

    write_volume(path, Volume((true.data * (true.data == 5)).astype(np.uint8), true.affine))
    report = build(shown)
    assert report.exit_code == 0, report.failures.to_string()
    assert report.counts["levels_t2w"]["done"] == 1
    found = read_volume(made_url(url, row, "t2w_landmarks"), what="discs")
    named = {int(n): found.grid.world(np.argwhere(found.data == n).astype(float))[0, 2] for n in np.unique(found.data) if n}
    assert {4, 5, 6, 7} <= named.keys()
    assert all(abs(named[n] - heights[n]) < 4 for n in named.keys() & heights.keys())

    write_volume(path, Volume((true.data * np.isin(true.data, (4, 7))).astype(np.uint8), true.affine))
    report = build(shown)
    assert report.exit_code == 0, report.failures.to_string()
    assert report.counts["levels_t2w"]["not_needed"] == 2
    assert not exists(made_url(url, row, "t2w_landmarks"))

    between = np.roll(true.data * (true.data == 5), -round(0.5 * (heights[5] - heights[6]) / true.grid.spacing[2]), axis=2)
    write_volume(path, Volume(between.astype(np.uint8), true.affine))
    report = build(shown)
    assert [(e.subject, e.stage, e.kind) for e in report.entries] == [(row, "levels_t2w", "LevelError")]
    assert report.counts["fit_mt"]["blocked"] == 1
