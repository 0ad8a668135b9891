"""PAM50: read, verify, cache and install the community's template of the spinal cord.

A volume is read once, one at a time, into the list of its non-zero voxels in RAS+ order (`Sparse`): 79 MB become a few hundred kB. All
that follows works on such lists, and so does verification: the hash of a file is taken over grid and non-zero voxels, so that a copy
that was compressed or oriented anew is still the same release, and a cache entry is checked by the same numbers as the files.

References
----------
De Leener B et al. PAM50: Unbiased multimodal template of the brainstem and spinal cord aligned with the ICBM152 space.
NeuroImage 2018;165:170-179. doi:10.1016/j.neuroimage.2017.10.041
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import StorageError, TemplateError
from cohort_engine.template.atlas import Atlas, parse_info
from cohort_engine.template.base import Heights, Template, sparse_rows
from cohort_engine.template.packing import FloatArray, Grid, Packing

NAME = "PAM50"
FOLDER_VARIABLE = "COHORT_ENGINE_PAM50"
MARGIN = 10.0
"""Room around the cord's bounding box in x and y, mm: what the registration sees besides the cord."""

INFO = "atlas/info_label.txt"
CORD, WM, GM, CSF, LEVELS, DISCS, BODIES = (f"template/PAM50_{n}.nii.gz" for n in ("cord", "wm", "gm", "csf", "levels", "label_disc", "label_body"))
SPINE = "template/PAM50_spine.nii.gz"

_WHERE = "PAM50 template"
_REMEDY = "Get it with 'cohort-engine template install', or name its folder: template.path in the study file, or $" + FOLDER_VARIABLE + "."
_CACHE_FORMAT = 1
_GZIP = b"\x1f\x8b"
_LARGEST_RATIO = 1032
"""Most that deflate can shrink."""
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Release:
    """What a release consists of.

    Attributes
    ----------
    version : str
    url : str
        Archive to install from.
    files : {path: hash}
        Needed files, relative to the template's folder, and the hash of their content (`Sparse.digest`, `_text_digest`).
    """

    version: str
    url: str
    files: Mapping[str, str]


def official() -> Release:
    """Return the release this package knows: r20250730, hashes taken from the template's repository at commit 3144364170."""
    return Release(**json.loads(resources.files(__package__).joinpath("pam50.json").read_text()))


def describe(folder: str | Path, *, version: str, url: str) -> Release:
    """Take the content hashes of a PAM50 folder: ``dataclasses.asdict`` of the result is what ``pam50.json`` holds."""
    root = _root(Path(folder))
    text = (root / INFO).read_text(encoding="utf-8", errors="replace")
    volumes = [_row(i) for i in range(len(parse_info(text)[0]))] + [CORD, WM, GM, CSF, LEVELS, DISCS, BODIES]
    return Release(version, url, {INFO: _text_digest(text)} | {f: read_sparse(root / f).digest for f in volumes})


def _row(label: int) -> str:
    return f"atlas/PAM50_atlas_{label:02d}.nii.gz"


class Sparse(NamedTuple):
    """The non-zero voxels of a volume.

    Attributes
    ----------
    grid : Grid
        Axes in RAS+ order.
    ijk : (n, 3) int16
        Sorted by z, then y, then x.
    value : (n,) float32
    """

    grid: Grid
    ijk: NDArray[np.int16]
    value: NDArray[np.float32]

    @property
    def digest(self) -> str:
        """Hash of grid and voxels, 16 hex digits; blind to compression, storage type and axis order. World coordinates count to 1 um."""
        h = hashlib.sha256(repr(tuple(map(int, self.grid.shape))).encode())
        for a in (np.rint(self.grid.affine * 1e3).astype("<i8"), self.ijk.astype("<i2"), self.value.astype("<f4")):
            h.update(np.ascontiguousarray(a).tobytes())
        return h.hexdigest()[:16]

    def dense(self, corner: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Fill a (x, y, z) block that begins at grid index `corner`; what lies outside is dropped."""
        ijk = self.ijk - corner
        inside = ((ijk >= 0) & (ijk < shape)).all(axis=1)
        out = np.zeros(shape, np.float32)
        out[tuple(ijk[inside].T)] = self.value[inside]
        return out


def read_sparse(path: Path) -> Sparse:
    """Read the non-zero voxels of a NIfTI volume, in RAS+ axis order. Holds one dense volume for the time of the call."""
    import nibabel as nib

    raw = path.read_bytes()
    if raw.startswith(_GZIP):
        raw = zlib.decompress(raw, wbits=31, bufsize=min(int.from_bytes(raw[-4:], "little"), _LARGEST_RATIO * len(raw)))  # into one buffer
    image: Any = nib.Nifti1Image.from_bytes(raw)
    del raw
    shape = image.shape
    flat = np.asanyarray(image.dataobj).reshape(-1, order="F")
    index = np.flatnonzero(flat != 0)  # a comparison and a search of bytes: four times as fast as a search of floats
    stored = np.stack(np.unravel_index(index, shape, order="F"), axis=1)
    orientation = nib.orientations.io_orientation(image.affine)
    to_stored = nib.orientations.inv_ornt_aff(orientation, shape)
    ijk = np.rint((stored - to_stored[:3, 3]) @ to_stored[:3, :3]).astype(np.int16)
    order = np.lexsort(ijk.T)
    ras_shape = tuple(int(shape[a]) for a in np.argsort(orientation[:, 0]))
    return Sparse(Grid(ras_shape, image.affine @ to_stored), ijk[order], flat[index][order].astype(np.float32))  # type: ignore[arg-type]


def find_spine(folder: str | Path | None = None) -> Path | None:
    """Find the mask of the vertebrae, which the networks' training draws from; it is no part of what `load_pam50` needs or installs."""
    path = _place(folder, None)[0] / SPINE
    return path if path.is_file() else None


def load_pam50(folder: str | Path | None = None, *, release: Release | None = None) -> Template:
    """Load PAM50 from its folder, verified file by file against a release.

    Parameters
    ----------
    folder : path, optional
        Holds ``atlas/`` and ``template/`` (or a ``PAM50*`` folder that does). By default ``$COHORT_ENGINE_PAM50``, else the copy that
        `install_pam50` made.
    release : Release, optional
        What the files must be; by default r20250730.

    Returns
    -------
    Template
        Full grid 141 x 141 x 991 at 0.5 mm, the block the cord's bounding box and 10 mm in x and y.

    Raises
    ------
    TemplateError
        Files are missing (all are listed), unreadable, or not those of the release (the file is named).

    Notes
    -----
    The first load reads 44 volumes; what was read is kept under ``$XDG_CACHE_HOME/cohort_engine``, keyed by the files' bytes. `install_pam50` puts
    the same beside the files, so that no machine that sees the folder reads them again. Either is held against the release like the files, and
    counts for nothing where it does not agree.
    """
    root, release = _place(folder, release)
    return _compile(_volumes(root, release, _images(release)), _info(root, release), release)


def load_heights(folder: str | Path | None = None, *, release: Release | None = None) -> Heights:
    """Load the heights of PAM50's vertebrae alone, from three of its volumes: see `load_pam50`."""
    root, release = _place(folder, release)
    volumes = _volumes(root, release, [LEVELS, DISCS, BODIES])
    return Heights(NAME, release.version, volumes[LEVELS].grid, _slice_level(volumes[LEVELS]), _all_landmarks(volumes))


def _place(folder: str | Path | None, release: Release | None) -> tuple[Path, Release]:
    return _root(Path(folder or os.environ.get(FOLDER_VARIABLE) or installed_folder())), release or official()


def installed_folder() -> Path:
    """Where `install_pam50` puts PAM50: ``$XDG_DATA_HOME/cohort_engine/PAM50``."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "cohort_engine" / NAME


def install_pam50(source: str | Path | None = None, *, target: str | Path | None = None, release: Release | None = None) -> Path:
    """Copy the needed files of PAM50 to where `load_pam50` finds them, after checking every one, and put what was read of them beside.

    Parameters
    ----------
    source : path or URL, optional
        Folder, zip file or URL of a zip file; by default the official archive of the release. Without a source, an installed copy that
        is whole is left as it is.
    target : path, optional
        Folder to make; by default `installed_folder`.
    release : Release, optional
        What the files must be; by default r20250730.

    Returns
    -------
    Path
        `target`. It appears whole, by one rename, or not at all; an older copy there is replaced only by a whole one.

    Raises
    ------
    TemplateError
        `source` is no folder or zip file, lacks files, or holds other ones than the release.
    StorageError
        The URL cannot be reached, or `target` cannot be written.
    """
    release = release or official()
    target = Path(target or installed_folder())
    if source is None and _is_whole(target, release):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{NAME}-") as scratch:
            staged = Path(scratch) / NAME
            _stage(str(source or release.url), staged, release)
            volumes = _volumes(staged, release, _images(release))
            _compile(volumes, _info(staged, release), release)
            _write_cache(_cache_file(staged, _images(release), staged), volumes)
            if target.exists():
                target.rename(Path(scratch) / "replaced")
            staged.rename(target)
    except OSError as error:
        remedy = "Check space and permissions, or choose another folder with $XDG_DATA_HOME."
        raise StorageError(expected="room for the template", found=error.strerror or str(error), where=_WHERE, remedy=remedy) from error
    return target


# --- reading and verifying --------------------------------------------------------------------------------------------
def _root(folder: Path) -> Path:
    """Return the folder that holds ``atlas/``: the one given, or a PAM50* folder up to two levels below (release archives differ)."""
    below = (sorted(folder.glob(pattern)) for pattern in ("PAM50*", "PAM50*/PAM50*"))
    return next((c for c in (folder, *(p for ps in below for p in ps)) if (c / INFO).is_file()), folder)


def _volumes(root: Path, release: Release, paths: list[str]) -> dict[str, Sparse]:
    """Volumes of the release, from the cache if it holds these very files."""
    _refuse_missing([f for f in release.files if not os.access(root / f, os.R_OK)], release)
    cache = _cache_file(root, paths, _cache_home())
    for place in (root / cache.name, cache):
        volumes = _read_cache(place, paths, release)
        if volumes is not None:
            return volumes
    volumes = {f: _verified(root, f, release) for f in paths}
    _write_cache(cache, volumes)
    return volumes


def _images(release: Release) -> list[str]:
    return [f for f in release.files if f.endswith(".nii.gz")]


def _refuse_missing(missing: list[str], release: Release) -> None:
    if missing:
        found = "none of them" if len(missing) == len(release.files) else f"{len(missing)} absent or not readable: {', '.join(missing)}"
        raise TemplateError(expected=f"{len(release.files)} files of {NAME} {release.version}", found=found, where=_WHERE, remedy=_REMEDY)


def _verified(root: Path, file: str, release: Release) -> Sparse:
    try:
        volume = read_sparse(root / file)
    except Exception as error:  # nibabel, gzip, zlib and numpy each have their own for a broken file
        found = f"a file that cannot be read to its end ({type(error).__name__})"
        raise TemplateError(expected="a whole NIfTI volume", found=found, where=f"{_WHERE}: {file}", remedy=_REMEDY) from error
    _check(file, volume.digest, release)
    return volume


def _check(file: str, found: str, release: Release) -> None:
    if found != release.files[file]:
        raise TemplateError(
            expected=f"content {release.files[file]} of {NAME} {release.version}", found=f"content {found}", where=f"{_WHERE}: {file}",
            remedy="The file is of another release or was changed. " + _REMEDY,
        )  # fmt: skip


def _info(root: Path, release: Release) -> str:
    text = (root / INFO).read_text(encoding="utf-8", errors="replace")
    _check(INFO, _text_digest(text), release)
    return text


def _text_digest(text: str) -> str:
    return hashlib.sha256("\n".join(line.rstrip() for line in text.splitlines()).encode()).hexdigest()[:16]


# --- installing -------------------------------------------------------------------------------------------------------
def _is_whole(folder: Path, release: Release) -> bool:
    try:
        load_pam50(folder, release=release)
    except TemplateError:
        return False
    return True


def _stage(source: str, staged: Path, release: Release) -> None:
    """Bring the release's files, and no others, from a folder, zip file or URL into a new folder."""
    for folder in {(staged / f).parent for f in release.files}:
        folder.mkdir(parents=True)
    if "://" in source:
        archive = staged.with_name("archive.zip")
        _download(source, archive)
    else:
        archive = Path(source)
    if archive.is_dir():
        root = _root(archive)
        _refuse_missing([f for f in release.files if not os.access(root / f, os.R_OK)], release)
        for f in release.files:
            shutil.copyfile(root / f, staged / f)
        return
    try:
        with zipfile.ZipFile(archive) as z:
            names = set(z.namelist())
            prefix = min((n.removesuffix(INFO) for n in names if f"/{n}".endswith(f"/{INFO}")), key=len, default="")
            _refuse_missing([f for f in release.files if prefix + f not in names], release)
            for f in release.files:
                (staged / f).write_bytes(z.read(prefix + f))
    except (zipfile.BadZipFile, zlib.error, EOFError, FileNotFoundError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"not one, or not all of it ({error})"
        raise TemplateError(expected=f"a folder or a zip file of {NAME}", found=found, where="source of the installation", remedy=_REMEDY) from error


def _download(url: str, to: Path) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=_TIMEOUT) as response, to.open("wb") as file:
            shutil.copyfileobj(response, file)
            promised = response.headers.get("Content-Length")
        if promised is not None and int(promised) != to.stat().st_size:
            raise EOFError(f"{to.stat().st_size} of {promised} bytes")
    except (OSError, HTTPException, EOFError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the open answer as well
        remedy = "Check the network and try again, or fetch the archive by hand: cohort-engine template install --from FILE.zip"
        raise StorageError(expected="the archive", found=f"{type(error).__name__}: {error}", where=url, remedy=remedy) from error


# --- cache ------------------------------------------------------------------------------------------------------------
def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cohort_engine"


def _cache_file(root: Path, paths: list[str], folder: Path) -> Path:
    h = hashlib.sha256()
    for f in paths:
        h.update(hashlib.sha256((root / f).read_bytes()).digest())
    return folder / f"{NAME}-{_CACHE_FORMAT}-{h.hexdigest()[:32]}.npz"


def _read_cache(cache: Path, paths: list[str], release: Release) -> dict[str, Sparse] | None:
    """Volumes of a cache entry; None where there is none, or where it does not hold what the release says."""
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as z:
            grid = Grid(tuple(z["shape"].tolist()), z["affine"])
            ends, ijk, value = z["ends"], z["ijk"], z["value"]
        volumes = {f: Sparse(grid, i, v) for f, i, v in zip(paths, np.split(ijk, ends), np.split(value, ends), strict=True)}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return volumes if all(v.digest == release.files[f] for f, v in volumes.items()) else None


def _write_cache(cache: Path, volumes: Mapping[str, Sparse]) -> None:
    """Write aside, then rename. A cache that cannot be written costs time, not the result."""
    every = list(volumes.values())
    ends = np.cumsum([len(v.value) for v in every])[:-1]
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=".part-") as scratch:
            np.savez(
                Path(scratch) / cache.name, shape=np.array(every[0].grid.shape), affine=every[0].grid.affine, ends=ends,
                ijk=np.concatenate([v.ijk for v in every]), value=np.concatenate([v.value for v in every]),
            )  # fmt: skip
            os.replace(Path(scratch) / cache.name, cache)


# --- compiling --------------------------------------------------------------------------------------------------------
def _compile(volumes: Mapping[str, Sparse], info: str, release: Release) -> Template:
    cord = volumes[CORD]
    grid = cord.grid
    for f, v in volumes.items():
        if not grid.same(v.grid):
            raise TemplateError(
                expected="the grid of the cord", found=f"one up to {grid.apart(v.grid):.2f} mm away", where=f"{_WHERE}: {f}", remedy=_REMEDY
            )
    labels, unions, clusters = parse_info(info)
    rows = [volumes[_row(i)] for i in range(len(labels))]
    nx, ny, nz = grid.shape
    keys = [np.ravel_multi_index(tuple(v.ijk.T[::-1].astype(np.int64)), (nz, ny, nx)) for v in rows]
    packed = np.unique(np.concatenate(keys))
    ijk = np.stack(np.unravel_index(packed, (nz, ny, nx))[::-1], axis=1).astype(np.int16)
    weights = sparse_rows([(np.searchsorted(packed, k), v.value) for k, v in zip(keys, rows, strict=True)], len(packed))
    slice_level = _slice_level(volumes[LEVELS])
    margin = np.append(np.ceil(MARGIN / grid.spacing[:2]).astype(int), nz)
    corner = np.maximum(cord.ijk.min(axis=0) - margin, 0)
    end = np.minimum(cord.ijk.max(axis=0) + 1 + margin, grid.shape)
    shape = (int(end[0] - corner[0]), int(end[1] - corner[1]), int(end[2] - corner[2]))
    dense = {f: volumes[f].dense(corner, shape) for f in (CORD, WM, GM, CSF)}
    return Template(
        name=NAME, version=release.version, grid=grid, corner=(int(corner[0]), int(corner[1]), int(corner[2])),
        cord=dense[CORD], wm=dense[WM], gm=dense[GM], csf=dense[CSF], slice_level=slice_level,
        landmarks=_all_landmarks(volumes),
        packing=Packing(grid, ijk, slice_level[ijk[:, 2]]),
        atlas=Atlas(labels, unions, clusters, weights),
    )  # fmt: skip


def _slice_level(levels: Sparse) -> NDArray[np.int8]:
    """Level of each slice: the most frequent value of its voxels, 0 in an empty slice."""
    counts = np.zeros((levels.grid.shape[2], int(levels.value.max()) + 1), np.int64)
    np.add.at(counts, (levels.ijk[:, 2], levels.value.astype(int)), 1)
    level: NDArray[np.int8] = counts.argmax(axis=1).astype(np.int8)
    present = level[level > 0]
    if (np.diff(present) > 0).any():
        raise TemplateError(
            expected="each level to be one run of slices, C1 on top", found="a level in pieces", where=f"{_WHERE}: {LEVELS}", remedy=_REMEDY
        )
    return level


def _all_landmarks(volumes: Mapping[str, Sparse]) -> dict[str, dict[int, float]]:
    return {schema.DISC: _landmarks(volumes[DISCS]), schema.BODY: _landmarks(volumes[BODIES])}


def _landmarks(points: Sparse) -> dict[int, float]:
    """Return number -> world z, mm. Numbers beyond the vertebrae (60 marks the cauda equina) are not landmarks of a level."""
    z: FloatArray = points.grid.world(points.ijk.astype(float))[:, 2]
    return {int(n): float(z[points.value == n].mean()) for n in np.unique(points.value) if n <= len(schema.LEVEL_NAMES)}
