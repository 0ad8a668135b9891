"""One image, one label folder, one table: the numbers of ``sct_extract_metric`` with their standard error and coverage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import GeometryError, InputError, LevelError, UnknownNameError, unknown_name
from cohort_engine.io.grids import require_grid
from cohort_engine.io.label_folder import NativeAtlas, read_atlas, read_levels
from cohort_engine.io.volume import Volume, read_volume, require_signal
from cohort_engine.reduce.estimators import estimator as find_estimator
from cohort_engine.reduce.native import atlas_moves, reduce_group, slice_levels
from cohort_engine.single.columns import Columns, runs
from cohort_engine.template.atlas import Region

SLICE, ALL = "slice", "all"
PER = (schema.LEVEL, SLICE, ALL)
METRIC = "metric image"


class Extraction(Columns):
    """A table as columns of equal length; the numbers are float64 and NaN where there is none.

    Attributes
    ----------
    columns : dict of lists
        ``Slice (I->S)`` and ``VertLevel`` (runs such as ``3:5``), ``Label``, ``Size [vox]``, ``MAP()`` (the estimator), ``STD()``, as SCT names
        them; then ``SE()`` (standard error, where the estimator has one), ``Spread()`` (standard deviation about the estimate), ``Coverage`` (share
        of the region that has a value) and ``N [vox]`` (soft voxels that have one).
    """


def extract(
    metric: str | Path | Volume,
    labels: str | Path | NativeAtlas,
    *,
    estimator: str = schema.MAP,
    levels: str | None = None,
    slices: str | None = None,
    per: str | None = None,
    regions: Sequence[str] = (ALL,),
    level_map: Volume | None = None,
) -> Extraction:
    """Reduce one image over the regions of an atlas that lies on its grid.

    Parameters
    ----------
    metric : path or Volume
        Any scalar map; NaN and infinity are missing, zero is a value.
    labels : path or NativeAtlas
        SCT's ``label`` folder, or an atlas in memory.
    estimator : str
        SCT's name: ``wa``, ``bin``, ``median``, ``ml``, ``map`` or ``max``; or that of another package's.
    levels : str, optional
        ``"C2:C5"``, ``"C3,C5"`` or by number ``"2:5"``.
    slices : str, optional
        ``"3:8"`` or ``"3,5"``, counted from 0 at the bottom. With both, what is in both.
    per : str, optional
        One row a ``level``, a ``slice``, or for ``all`` together. By default ``all`` where levels or slices are chosen, else ``slice``.
    regions : sequence of str
        Names, sums ``"a + b"``, or ``"all"``: every label, then every union.
    level_map : Volume, optional
        Level numbers on the same grid; by default ``template/PAM50_levels.nii.gz`` of the label folder.

    Returns
    -------
    Extraction
        Regions outermost, groups from the bottom up. Missing: a level outside the image has no slices, NaN, and coverage 0.

    Raises
    ------
    UnknownNameError
        An estimator, region, level or grouping nobody has heard of.
    GeometryError
        Labels, levels and metric are not on one grid, or a slice outside of it.
    LevelError
        None of the levels is in the image.
    InputError, MissingInputError
        A file that is absent or cannot be used; a metric without a single value.

    Examples
    --------
    >>> from cohort_engine.io.label_folder import NativeAtlas
    >>> from cohort_engine.template.atlas import Naming
    >>> image = Volume(np.array([[[40.0, 10.0]]]), np.eye(4))
    >>> atlas = NativeAtlas(Naming(("tract",), {}, {"white matter": (0,)}), image.grid, np.array([0, 1]), np.array([[1.0, 0.5]]))
    >>> print(extract(image, atlas, estimator="wa", per="all").csv().replace(",,", ",-,"), end="")
    Slice (I->S),VertLevel,Label,Size [vox],WA(),STD(),SE(),Spread(),Coverage,N [vox]
    0:1,-,tract,1.5,30.0,14.142135623730951,-,14.142135623730951,1.0,1.5
    """
    find_estimator(estimator)
    per = per or (ALL if levels or slices else SLICE)
    if per not in PER:
        raise unknown_name("grouping", per, list(PER), where="per")
    atlas = labels if isinstance(labels, NativeAtlas) else read_atlas(labels)
    every = [r.name for r in atlas.naming.regions]
    chosen = [atlas.naming.region(name) for r in regions for name in (every if r == ALL else [r])]
    image = metric if isinstance(metric, Volume) else read_volume(metric, what=METRIC)
    require_grid(atlas.grid, image.grid, what="atlas labels", like=f"the {METRIC}")
    require_signal(image, what=METRIC)
    if not len(atlas.voxel):
        raise InputError(
            expected="labels that reach the image", found="no voxel in any of them", where="atlas labels", remedy="Warp the template again."
        )
    of_slice = np.zeros(image.data.shape[2], np.int64)
    if level_map is None and not isinstance(labels, NativeAtlas):
        level_map = read_levels(labels, required=bool(levels) or per == schema.LEVEL)
    if level_map is not None:
        require_grid(level_map.grid, image.grid, what="vertebral levels", like=f"the {METRIC}")
        of_slice = slice_levels(level_map.data, level_map.affine)
    groups = _groups(of_slice, levels, slices, per)
    return _table(image, atlas, chosen, groups, of_slice, estimator)


@dataclass(frozen=True)
class _Group:
    slices: tuple[int, ...]
    levels: tuple[int, ...]


def _groups(of_slice: NDArray[np.int64], levels: str | None, slices: str | None, per: str) -> list[_Group]:
    """Which slices make a row, from the bottom up; levels that are not in the image last."""
    inside = range(len(of_slice)) if slices is None else _numbers(slices, where="slices")
    outside = [k for k in inside if k >= len(of_slice)]
    if outside:
        raise GeometryError(
            expected=f"slices from 0 to {len(of_slice) - 1}", found=str(outside[0]), where="slices", remedy="Slices count from 0 at the bottom."
        )
    present = sorted({int(n) for n in of_slice if n > 0})
    wanted = _levels(levels) if levels else present
    if (levels or per == schema.LEVEL) and not set(wanted) & set(present):
        raise LevelError(
            expected=f"levels of the image ({runs(present) or 'it has none'})", found=runs(wanted) or "none", where="levels",
            remedy="Choose levels that the image covers; 1 = C1, 8 = T1.",
        )  # fmt: skip
    if per == schema.LEVEL:
        groups = [_Group(tuple(k for k in inside if of_slice[k] == n), (n,)) for n in wanted]
        return sorted(groups, key=lambda g: (not g.slices, g.slices))
    kept = [k for k in sorted(inside) if levels is None or of_slice[k] in wanted]
    parts = [(k,) for k in kept] if per == SLICE else [tuple(kept)]
    return [_Group(p, tuple(sorted({int(of_slice[k]) for k in p if of_slice[k] > 0}))) for p in parts]


def _table(
    image: Volume, atlas: NativeAtlas, regions: Sequence[Region], groups: Sequence[_Group], of_slice: NDArray[np.int64], estimator: str
) -> Extraction:
    values = image.data.reshape(-1)[atlas.voxel].astype(np.float64)
    members = [r.members for r in regions]
    clusters = tuple(atlas.naming.clusters.values())
    places = np.stack(np.unravel_index(atlas.voxel, image.data.shape), axis=-1)
    moves = atlas_moves(atlas.weights, atlas.naming.clusters, places, image.affine)
    cells = []
    for group in groups:
        some = np.isin(places[:, 2], group.slices)
        where: dict[str, Any] = {"places": places[some], "moves": moves.of(some)}
        cells.append(reduce_group(values[some], atlas.weights[:, some], members, clusters, estimator=estimator, **where))

    def column(of: str) -> list[float]:
        stacked: NDArray[np.float64] = np.stack([getattr(c, of) for c in cells], axis=1)
        return stacked.ravel().tolist()

    return Extraction({
        "Slice (I->S)": [runs(g.slices) for _ in regions for g in groups],
        "VertLevel": [runs(g.levels) for _ in regions for g in groups],
        "Label": [r.name for r in regions for _ in groups],
        "Size [vox]": column("size"), f"{estimator.upper()}()": column("value"), "STD()": column("std"),
        "SE()": column("se"), "Spread()": column("spread"), "Coverage": column("coverage"), "N [vox]": column("n"),
    })  # fmt: skip


def _levels(text: str) -> list[int]:
    """Level numbers of ``"C2:C5"``, ``"C3,C5"``, ``"2:5"``."""
    return _numbers(text, where="levels", names=True)


def _numbers(text: str, *, where: str, names: bool = False) -> list[int]:
    """Whole numbers of ``"3:8"``, ``"3-8"``, ``"3,5"``; of level names as well."""
    out: list[int] = []
    for part in text.replace(";", ",").split(","):
        ends = [p.strip() for p in re.split("[:-]", part)]
        if names:
            ends = [p if p.isdigit() else str(schema.level_number(p, where=where)) for p in ends]
        if len(ends) > 2 or not all(p.isdigit() for p in ends) or int(ends[-1]) < int(ends[0]):
            raise UnknownNameError(
                expected="numbers such as 3:8 or 3,5,7", found=repr(text), where=where,
                remedy="Write the smaller number first; levels run from C2 down to C5.",
            )  # fmt: skip
        out += range(int(ends[0]), int(ends[-1]) + 1)
    return sorted(set(out))
