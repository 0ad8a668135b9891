"""What other tools read: maps on the template grid, and the label folder."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import sparse

from cohort_engine.errors import AlignmentError, GeometryError, InputError
from cohort_engine.io.export import INFO, TISSUES, atlas_info, write_label_folder, write_map
from cohort_engine.io.volume import Volume, read_volume
from cohort_engine.template.pam50 import parse_info
from cohort_engine.template.parametric import parametric_cord

SHAPE = (3, 4, 2)
AFFINE = np.array([[0.9, 0, 0, -10], [0, 0.9, 0, -20], [0, 0, 5, 7], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def template():
    return parametric_cord(spacing=2.0)


@pytest.fixture
def native(template):
    """Weights that say which label they are: label i is (i + 1) / 100 in voxel i % 24."""

    def make(n=None, **change):
        n = len(template.atlas.labels) if n is None else n
        weights = np.zeros((n, np.prod(SHAPE)), np.float32)
        weights[np.arange(n), np.arange(n) % weights.shape[1]] = (np.arange(n) + 1) / 100
        images = {name: np.full(SHAPE, 0.5) for name in ("wm", "gm", "csf")} | {"cord": np.ones(SHAPE), "levels": np.full(SHAPE, 3)}
        return {"weights": sparse.csr_array(weights), "image": Volume(np.zeros(SHAPE), AFFINE), **images, **change}

    return make


def read_sct(info: str) -> dict[str, list[tuple[str, ...]]]:
    """Read the file by the line shapes its readers insist on."""
    shapes = {
        "IndivLabels": r"^(\d+), (.*), (\S+)$", "CombinedLabels": r"^(\d+), (.*), ([\d:,]+)$", "MAPLabels": r"^(.*), ([\d:,]+)$",
    }  # fmt: skip
    out: dict[str, list[tuple[str, ...]]] = {}
    keyword = ""
    for line in filter(None, info.splitlines()):
        if match := re.match(r"^# Keyword=(IndivLabels|CombinedLabels|MAPLabels)\s*(.*)$", line):
            keyword = match[1]
        elif not line.startswith("#"):
            out.setdefault(keyword, []).append(re.match(shapes[keyword], line).groups())
    return out


def test_map_comes_back_voxel_by_voxel(template, tmp_path):
    values = np.arange(len(template.packing), dtype=np.float64)
    values[5] = np.nan
    write_map(tmp_path / "mtr.nii.gz", template, values)
    image = read_volume(tmp_path / "mtr.nii.gz", what="map")
    assert image.data.shape == template.grid.shape
    np.testing.assert_allclose(image.affine, template.grid.affine, atol=1e-5)
    np.testing.assert_array_equal(template.packing.pack(image.data), values)
    assert np.isfinite(image.data).sum() == len(values) - 1


def test_map_of_another_template_is_refused(template, tmp_path):
    with pytest.raises(AlignmentError):
        write_map(tmp_path / "mtr.nii.gz", template, np.zeros(3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dense", [False, True])
def test_label_folder_reads_back(template, tmp_path, native, dense):
    given = native()
    weights = given["weights"]
    if dense:
        given["weights"] = (weights[[i]].toarray().reshape(SHAPE) for i in range(weights.shape[0]))
    write_label_folder(tmp_path, template=template, **given)

    info = read_sct((tmp_path / "label/atlas" / INFO).read_text())
    assert [name for _, name, _ in info["IndivLabels"]] == list(template.atlas.labels)
    for number, _, file in info["IndivLabels"]:
        image = read_volume(tmp_path / "label/atlas" / file, what="atlas")
        np.testing.assert_allclose(image.data.ravel(), weights[[int(number)]].toarray()[0])
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)

    images = {int(n): file for n, _, file in read_sct((tmp_path / "label/template" / INFO).read_text())["IndivLabels"]}
    assert images.keys() == {n for n, _ in TISSUES.values()}
    assert (read_volume(tmp_path / "label/template" / images[7], what="levels", dtype=np.uint8).data == 3).all()
    assert (read_volume(tmp_path / "label/template" / images[5], what="grey matter").data == 0.5).all()


def test_atlas_info_says_what_the_atlas_says(template):
    assert parse_info(atlas_info(template)) == (template.atlas.labels, dict(template.atlas.unions), dict(template.atlas.clusters))
    info = read_sct(atlas_info(template))
    assert ("51", "white matter", "0:29") in info["CombinedLabels"]
    assert ("gray matter", "30:35") in info["MAPLabels"]


@pytest.mark.parametrize(("n", "found"), [(36, "36"), (38, "more")])
def test_one_image_a_label(template, tmp_path, native, n, found):
    with pytest.raises(GeometryError, match=f"37 label images, found {found}"):
        write_label_folder(tmp_path, template=template, **native(n))
    assert not list(tmp_path.rglob(INFO))


def test_images_of_another_grid(template, tmp_path, native):
    with pytest.raises(GeometryError, match="native gm"):
        write_label_folder(tmp_path, template=template, **native(gm=np.zeros((2, 2, 2))))
    with pytest.raises(GeometryError, match="weights of 24 voxels, found 23"):
        write_label_folder(tmp_path, template=template, **native(weights=sparse.csr_array(np.zeros((37, 23)))))


def test_missing_weight_is_zero_not_nan(template, tmp_path, native):
    with pytest.raises(InputError, match="native wm: expected finite numbers"):
        write_label_folder(tmp_path, template=template, **native(wm=np.full(SHAPE, np.nan)))


def test_failed_rewrite_does_not_look_whole(template, tmp_path, native):
    write_label_folder(tmp_path, template=template, **native())
    with pytest.raises(GeometryError):
        write_label_folder(tmp_path, template=template, **native(3))
    assert not list(tmp_path.rglob(INFO))
