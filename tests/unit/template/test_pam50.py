"""PAM50 as an archive may bring it: a small stand-in is written in PAM50's layout, LAS, and read, broken, packed and served."""

from __future__ import annotations

import dataclasses
import gzip
import http.server
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohort_engine.errors import StorageError, TemplateError, UnknownNameError
from cohort_engine.template import load_template, pam50
from cohort_engine.template.base import Template
from cohort_engine.template.pam50 import Release, describe, install_pam50, load_heights, load_pam50, read_sparse
from cohort_engine.template.parametric import CLUSTERS, LABELS, UNIONS, parametric_cord

BROKEN = "atlas/PAM50_atlas_07.nii.gz"


def info_text() -> str:
    def span(rows: tuple[int, ...]) -> str:
        return f"{rows[0]}:{rows[-1]}" if len(rows) > 1 else str(rows[0])

    return "\n".join([
        "# White matter atlas", "# Keyword=IndivLabels (Please DO NOT change this line)", "# ID, name, file",
        *(f"{i}, {name}, PAM50_atlas_{i:02d}.nii.gz" for i, name in enumerate(LABELS)),
        "", "# Keyword=CombinedLabels (Please DO NOT change this line)", *(f"{50 + i}, {n}, {span(r)}" for i, (n, r) in enumerate(UNIONS.items())),
        "", "# Keyword=MAPLabels (Please DO NOT change this line)", *(f"{n}, {span(r)}" for n, r in CLUSTERS.items()),
    ])  # fmt: skip


def write_volume(path: Path, ras: np.ndarray, template: Template) -> None:
    """Store a RAS+ volume as PAM50 does: x from left to right is written backwards (LAS)."""
    affine = template.grid.affine.copy()
    affine[:3, 3] = template.grid.world(np.array([ras.shape[0] - 1, 0, 0]))
    affine[0, 0] *= -1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(ras[::-1], affine), path)


def write_pam50(folder: Path, template: Template) -> Path:
    for i in range(len(LABELS)):
        write_volume(
            folder / f"atlas/PAM50_atlas_{i:02d}.nii.gz", template.packing.unpack(template.atlas.weights[[i]].toarray()[0], fill=0), template
        )
    for name in ("cord", "wm", "gm", "csf"):
        write_volume(folder / f"template/PAM50_{name}.nii.gz", getattr(template, name), template)
    write_volume(folder / pam50.LEVELS, ((template.cord > 0) * template.slice_level).astype(np.uint8), template)
    for file, kind in ((pam50.DISCS, "disc"), (pam50.BODIES, "body")):
        points = np.zeros(template.grid.shape, np.uint8)
        middle = np.array(template.grid.shape) // 2
        points[middle[0], middle[1], 0] = 60
        for number, z in template.landmarks[kind].items():
            points[middle[0], middle[1], int(template.grid.voxel(np.array([0, 0, z]))[2])] = number
        write_volume(folder / file, points, template)
    (folder / pam50.INFO).write_text(info_text())
    return folder


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv(pam50.FOLDER_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def cord() -> Template:
    return parametric_cord(spacing=2.0, top="C3", bottom="C5")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, cord: Template) -> tuple[dict[str, bytes], Release]:
    folder = write_pam50(tmp_path_factory.mktemp("PAM50"), cord)
    release = describe(folder, version="test", url="")
    return {f: (folder / f).read_bytes() for f in release.files}, release


@pytest.fixture
def release(pristine: tuple[dict[str, bytes], Release]) -> Release:
    return pristine[1]


@pytest.fixture
def make_folder(tmp_path: Path, pristine: tuple[dict[str, bytes], Release]) -> Callable[..., Path]:
    """Make a stand-in folder; keyword `where` puts it deeper, as archives do."""

    def make(where: str = "") -> Path:
        for name, data in pristine[0].items():
            path = tmp_path / "source" / where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / "source"

    return make


@pytest.fixture
def make_zip(tmp_path: Path, make_folder: Callable[..., Path]) -> Callable[..., Path]:
    def make(where: str = "", extra: dict[str, str] | None = None) -> Path:
        folder = make_folder(where)
        with zipfile.ZipFile(tmp_path / "archive.zip", "w") as z:
            for path in folder.rglob("*"):
                z.write(path, path.relative_to(folder))
            for name, text in (extra or {}).items():
                z.writestr(name, text)
        return tmp_path / "archive.zip"

    return make


def caches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "cohort_engine").glob("*"))


# --- reading ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "AIL"])
def test_voxels_do_not_depend_on_the_stored_orientation(tmp_path, codes):
    ras = np.zeros((3, 4, 5), np.float32)
    ras[0, 1, 2], ras[2, 3, 4], ras[1, 1, 2] = 1, 2, 3
    image = nib.Nifti1Image(ras, np.diag([1.0, 2.0, 3.0, 1.0]))
    there = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    nib.save(image.as_reoriented(there), tmp_path / "v.nii.gz")
    v = read_sparse(tmp_path / "v.nii.gz")
    assert v.grid.shape == (3, 4, 5)
    assert v.ijk.tolist() == [[0, 1, 2], [1, 1, 2], [2, 3, 4]]
    assert v.value.tolist() == [1, 3, 2]
    np.testing.assert_allclose(v.grid.affine, np.diag([1.0, 2.0, 3.0, 1.0]))
    np.testing.assert_array_equal(v.dense(np.array([0, 1, 2]), (2, 1, 1)).ravel(), [1, 3])


def test_the_hash_sees_values_and_place_but_not_the_compression(tmp_path):
    ras = np.zeros((3, 3, 3), np.float32)
    ras[1, 1, 1] = 0.5

    def digest(data: np.ndarray, affine: np.ndarray, name: str) -> str:
        nib.save(nib.Nifti1Image(data, affine), tmp_path / name)
        return read_sparse(tmp_path / name).digest

    same, moved = np.eye(4), np.eye(4)
    moved[0, 3] = 0.01
    assert digest(ras, same, "a.nii.gz") == digest(ras.astype(np.float64), same, "a.nii")
    assert digest(ras, same, "a.nii.gz") != digest(ras, moved, "b.nii.gz")
    assert digest(ras, same, "a.nii.gz") != digest(ras * 1.001, same, "c.nii.gz")


def test_what_was_written_is_what_is_read(make_folder, release, cord):
    t = load_pam50(make_folder(), release=release)
    assert (t.name, t.version, t.levels) == ("PAM50", "test", ("C3", "C4", "C5"))
    np.testing.assert_array_equal(t.packing.ijk, cord.packing.ijk)
    np.testing.assert_array_equal(t.packing.level, cord.packing.level)
    np.testing.assert_allclose(t.packing.xyz, cord.packing.xyz, atol=1e-5)
    assert t.atlas.digest == cord.atlas.digest
    assert (t.atlas.labels, t.atlas.unions, t.atlas.clusters) == (LABELS, UNIONS, CLUSTERS)
    i, j, k = t.corner
    nx, ny, nz = t.cord.shape
    for name in ("cord", "wm", "gm", "csf"):
        np.testing.assert_array_equal(getattr(t, name), getattr(cord, name)[i : i + nx, j : j + ny, k : k + nz])
    x, y, z = (np.flatnonzero(t.cord.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
    assert (x[0], y[0], z[0], nz) == (5, 5, 0, cord.grid.shape[2])  # 10 mm of room at 2 mm, in x and y


def test_landmarks_are_world_millimetres_and_marks_below_the_spine_are_none(make_folder, release, cord):
    t = load_pam50(make_folder(), release=release)
    assert sorted(t.landmarks["disc"]) == [3, 4, 5, 6]
    assert sorted(t.landmarks["body"]) == [3, 4, 5]
    for kind in ("disc", "body"):
        for number, z in t.landmarks[kind].items():
            assert abs(z - cord.landmark_z(kind, number)) <= 2.0  # a point label lies on a voxel


@pytest.mark.parametrize("where", ["PAM50", "PAM50-r20250730", "PAM50-r20250730/PAM50"])
def test_a_folder_may_be_the_top_of_an_unpacked_archive(make_folder, release, where):
    assert load_pam50(make_folder(where), release=release).version == "test"


def test_argument_then_variable_then_installed_copy(make_folder, release, monkeypatch):
    with pytest.raises(TemplateError, match="template install"):
        load_pam50(release=release)
    install_pam50(make_folder(), release=release)
    assert load_pam50(release=release).version == "test"
    monkeypatch.setenv(pam50.FOLDER_VARIABLE, "/nowhere")
    with pytest.raises(TemplateError, match="none of them"):
        load_pam50(release=release)


# --- wrong files ------------------------------------------------------------------------------------------------------
def test_all_missing_files_are_named_at_once(make_folder, release):
    folder = make_folder()
    (folder / BROKEN).unlink()
    (folder / pam50.CSF).unlink()
    with pytest.raises(TemplateError, match=f"2 absent or not readable: {BROKEN}, {pam50.CSF}"):
        load_pam50(folder, release=release)


def test_a_truncated_file_is_named(make_folder, release):
    path = make_folder() / BROKEN
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TemplateError, match=f"{BROKEN}: expected a whole NIfTI volume"):
        load_pam50(path.parents[1], release=release)


def test_changed_content_is_named_with_both_hashes(make_folder, release, cord):
    folder = make_folder()
    write_volume(folder / BROKEN, np.ones(cord.grid.shape, np.float32), cord)
    with pytest.raises(TemplateError, match=f"{BROKEN}: expected content {release.files[BROKEN]} of PAM50 test, found content [0-9a-f]{{16}}"):
        load_pam50(folder, release=release)


def test_changed_label_names_are_noticed_but_line_ends_are_not(make_folder, release):
    info = make_folder() / pam50.INFO
    info.write_bytes(info.read_bytes().replace(b"\n", b"\r\n"))
    load_pam50(info.parents[1], release=release)
    info.write_text(info.read_text().replace("gracilis", "slender"))
    with pytest.raises(TemplateError, match="info_label"):
        load_pam50(info.parents[1], release=release)


def test_a_level_in_two_pieces_is_refused(make_folder, release, cord):
    folder = make_folder()
    levels = ((cord.cord > 0) * cord.slice_level).astype(np.uint8)
    levels[:, :, 0] = 4
    write_volume(folder / pam50.LEVELS, levels, cord)
    with pytest.raises(TemplateError, match="one run of slices"):
        load_pam50(folder, release=describe(folder, version="pieces", url=""))


# --- cache ------------------------------------------------------------------------------------------------------------
def test_the_second_load_reads_no_volume(make_folder, release, tmp_path, monkeypatch):
    folder = make_folder()
    first = load_pam50(folder, release=release)
    assert len(caches(tmp_path)) == 1
    monkeypatch.setattr(pam50, "read_sparse", None)
    assert load_pam50(folder, release=release).digest == first.digest


def test_heights_need_three_volumes(make_folder, release, monkeypatch):
    folder = make_folder()
    whole, read = load_pam50(folder, release=release), []
    monkeypatch.setattr(pam50, "read_sparse", lambda path: read.append(path.name) or read_sparse(path))
    heights = load_heights(folder, release=release)
    assert sorted(read) == sorted(f.rpartition("/")[2] for f in (pam50.LEVELS, pam50.DISCS, pam50.BODIES))
    assert heights.landmarks == whole.landmarks
    assert (heights.slice_level == whole.slice_level).all()


@pytest.mark.parametrize("harm", [lambda b: b[:-500], lambda b: b"", lambda b: b[:5000] + b"\x00\x01\x02\x03" + b[5004:]])
def test_a_corrupt_cache_is_made_anew(make_folder, release, tmp_path, harm):
    folder = make_folder()
    first = load_pam50(folder, release=release).digest
    (cache,) = caches(tmp_path)
    good = cache.read_bytes()
    cache.write_bytes(harm(good))
    assert load_pam50(folder, release=release).digest == first
    assert cache.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_no_error(make_folder, release, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_pam50(make_folder(), release=release).version == "test"


def test_a_disk_that_fills_leaves_no_half_cache(make_folder, release, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert load_pam50(make_folder(), release=release).version == "test"
    assert caches(tmp_path) == []


def test_a_cache_of_good_files_does_not_hide_bad_ones(make_folder, release):
    folder = make_folder()
    load_pam50(folder, release=release)
    (folder / BROKEN).write_bytes(gzip.compress(b"no image"))
    with pytest.raises(TemplateError, match=BROKEN):
        load_pam50(folder, release=release)


def test_an_installed_copy_brings_what_was_read_of_it(make_folder, release, tmp_path, monkeypatch):
    target = install_pam50(make_folder(), release=release)
    first = load_pam50(release=release).digest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    with monkeypatch.context() as patch:
        patch.setattr(pam50, "read_sparse", None)
        assert load_pam50(release=release).digest == first
    (packed,) = target.glob("PAM50-*.npz")
    packed.write_bytes(packed.read_bytes()[:-500])
    assert load_pam50(release=release).digest == first  # of the files
    (target / BROKEN).write_bytes(gzip.compress(b"no image"))
    with pytest.raises(TemplateError, match=BROKEN):
        load_pam50(release=release)


LOAD = """
import sys
from cohort_engine.template.pam50 import Release, describe, load_pam50
print(load_pam50(sys.argv[1], release=describe(sys.argv[1], version="test", url="")).digest)
"""


def test_processes_that_load_at_once(make_folder, release, tmp_path):
    folder = make_folder()
    running = [subprocess.Popen([sys.executable, "-c", LOAD, str(folder)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = [process.communicate(timeout=120)[0] for process in running]
    assert len(set(found)) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(caches(tmp_path)) == 1
    assert load_pam50(folder, release=release).digest == found[0].strip()


# --- installing -------------------------------------------------------------------------------------------------------
def test_install_from_a_folder_takes_the_needed_files_only(make_folder, release, tmp_path):
    folder = make_folder()
    (folder / "template" / "PAM50_t2.nii.gz").write_bytes(b"large")
    target = install_pam50(folder, target=tmp_path / "here", release=release)
    (packed,) = target.glob("PAM50-*.npz")
    assert {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} == {*release.files, packed.name}
    assert [p.name for p in tmp_path.glob(".PAM50*")] == []


@pytest.mark.parametrize("where", ["", "PAM50", "PAM50-r20250730", "a/PAM50"])
def test_install_from_a_zip(make_zip, release, tmp_path, where):
    archive = make_zip(where, extra={"../escaped.txt": "outside", "/tmp/escaped.txt": "outside"})
    target = install_pam50(archive, release=release)
    assert target == tmp_path / "share" / "cohort_engine" / "PAM50"
    assert load_pam50(release=release).version == "test"
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, "1000000000" if keyword == "Content-Length" and self.path.endswith("?cut") else value)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_install_by_url_and_the_release_knows_its_own(make_zip, release, serve):
    make_zip("PAM50")
    release = dataclasses.replace(release, url=f"{serve}/archive.zip")
    target = install_pam50(release=release)
    assert load_pam50(release=release).version == "test"
    assert install_pam50(release=dataclasses.replace(release, url="http://127.0.0.1:9/no")) == target  # whole: nothing is fetched


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/archive.zip", "{serve}/absent.zip", "{serve}/archive.zip?cut", "nonsense://x"])
def test_an_unreachable_url_installs_nothing(make_zip, release, serve, tmp_path, url):
    make_zip()
    with pytest.raises(StorageError, match=r"install --from FILE\.zip") as caught:
        install_pam50(url.format(serve=serve), release=release)
    assert caught.value.retryable
    assert not (tmp_path / "share" / "cohort_engine" / "PAM50").exists()


def test_a_bad_source_leaves_the_installed_copy(make_folder, make_zip, release, tmp_path):
    archive = make_zip()
    target = install_pam50(archive, release=release)
    (tmp_path / "cut.zip").write_bytes(archive.read_bytes()[:-2000])
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as z:
        z.writestr("README", "nothing here")
    folder = make_folder()
    (folder / BROKEN).write_bytes((folder / pam50.WM).read_bytes())
    cases = {"cut.zip": "zip file", "absent.zip": "no such file", "empty": "none of them", "other.zip": "none of them", "source": BROKEN}
    for name, message in cases.items():
        with pytest.raises(TemplateError, match=message):
            install_pam50(tmp_path / name, release=release)
        assert load_pam50(release=release).version == "test"
    assert [p.name for p in target.parent.iterdir()] == ["PAM50"]


def test_a_whole_copy_replaces_a_broken_one(make_folder, release):
    folder = make_folder()
    target = install_pam50(folder, release=release)
    (target / BROKEN).unlink()
    install_pam50(folder, release=release)
    assert load_pam50(release=release).version == "test"


def test_a_target_that_cannot_be_written(make_folder, release, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="permissions"):
        install_pam50(make_folder(), target=tmp_path / "file" / "PAM50", release=release)


# --- by name ----------------------------------------------------------------------------------------------------------
def test_templates_are_found_by_name(make_folder, monkeypatch, release):
    monkeypatch.setattr(pam50, "official", lambda: release)
    assert load_template("pam50", path=make_folder()).name == "PAM50"
    assert load_template("Parametric") is parametric_cord()
    with pytest.raises(UnknownNameError, match="'parametric'"):
        load_template("parametrik")


def test_the_official_release_lists_every_needed_file():
    r = pam50.official()
    assert r.version in r.url
    assert len(r.files) == 37 + 7 + 1
    assert all(len(h) == 16 for h in r.files.values())
