"""Tables of a whole cohort: read blocks of subjects, reduce, write; and the same reduction from Dataset to Dataset.

`tabulate` fills the tables of a store. A task owns `schema.SUBJECT_BLOCK` rows, which is one chunk of every table, so two tasks never meet; its
memory is that of one block of maps whatever the cohort's size. `tract_table` is the lazy form for cells that no table holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any

import numpy as np
import scipy
import xarray as xr
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import StoreError, unknown_name
from cohort_engine.io.places import storage_errors
from cohort_engine.reduce.estimators import estimator as find_estimator
from cohort_engine.reduce.maps import Maps
from cohort_engine.reduce.operator import Operator
from cohort_engine.reduce.precision import NONE
from cohort_engine.reduce.stored import StoredRows
from cohort_engine.schema import VariableSpec
from cohort_engine.store import layout
from cohort_engine.store.records import read_entries
from cohort_engine.store.tables import mark_tables, old_blocks, stored_digests, wanted_digests, way_of
from cohort_engine.store.writer import write_block
from cohort_engine.template.atlas import Atlas, Region
from cohort_engine.template.levels import LevelRange

SCIENCE = "science"
"""Part of what a store was asked: the study's scientific settings."""


# --- store in, store out ----------------------------------------------------------------------------------------------
def tabulate(
    url: str, *, metrics: Sequence[str] | None = None, estimators: Sequence[str] | None = None, min_coverage: float | None = None, client: Any = None
) -> int:
    """Fill ``tables/template/<metric>_<estimator>`` and its companions, as one Dask graph, and say how many blocks of subjects were made.

    A block is made where it was made from other maps, settings or rows than are there now (`store.tables`), and nowhere else. Subjects without a
    map get NaN values and no voxels.

    Parameters
    ----------
    url : str
        A store that `init_store` laid out for these metrics and estimators.
    metrics : sequence of str, optional
        By default all whose maps the store has.
    estimators : sequence of str, optional
        By default those that the store's study asks for, in template space.
    min_coverage : float, optional
        A cell with less of its weight inside the data is NaN, 0 to 1; by default as the store's study asks.
    client : distributed.Client, optional
        Where to run; by default threads of this process. Tasks carry the URL, and each process builds the operator once.

    Raises
    ------
    UnknownNameError
        A metric that the store does not have, or an estimator that nobody has added.
    StoreError, StorageError
        The store lacks the arrays, or the place failed.
    """
    root = layout.open_root(url, "r+")
    asked = reduction_of(root)
    if estimators is None:
        estimators = asked["estimators"] if schema.SPACE_TEMPLATE in asked["spaces"] else ()
    limit = float(asked["min_coverage"]) if min_coverage is None else min_coverage
    quantities = tuple(metric_of(root, name) for name in (metrics_of(root) if metrics is None else metrics))
    entries = read_entries(url)
    weights = str(asked.get("weights", NONE))
    tables: dict[str, dict[str, Any]] = {}
    wanted: dict[str, list[str]] = {}
    old: set[int] = set()
    for metric, name in product(quantities, estimators):
        path = schema.table_specs(metric, find_estimator(name).name)[schema.VALUE].path
        way = way_of(name, weights, error=schema.has_error(metric))
        tables[path] = {"stage": metric.stage or metric.name, "estimator": way, "min_coverage": limit}
        wanted[path] = wanted_digests(root.attrs, entries, **tables[path])
        old.update(old_blocks(stored_digests(root, path), wanted[path]))
    if old:
        for path, digests in wanted.items():
            there = ["" if i * schema.SUBJECT_BLOCK in old else d for i, d in enumerate(digests)]
            mark_tables(root, [path], **tables[path], digests=there)
        _reduce(url, sorted(old), quantities, tuple(estimators), limit, client)
        for path, digests in wanted.items():
            mark_tables(root, [path], **tables[path], digests=digests)
    return len(old)


def reduction_of(root: zarr.Group) -> dict[str, Any]:
    """Return the section ``stages.reduce`` of the study that a store was last asked by."""
    asked: dict[str, Any] = layout.record_of(root, layout.ASKED)[SCIENCE]["stages"]["reduce"]
    return asked


def _reduce(url: str, firsts: Sequence[int], metrics: tuple[VariableSpec, ...], estimators: tuple[str, ...], limit: float, client: Any) -> None:
    """Reduce the blocks of subjects that begin at these rows: in this process where there is one, else as a Dask graph."""
    if client is None and len(firsts) == 1:
        _reduce_block(url, firsts[0], metrics, estimators, limit)
        return
    import dask

    block = dask.delayed(_reduce_block, pure=False)
    token = dask.base.tokenize(url)
    tasks = [block(url, first, metrics, estimators, limit, dask_key_name=f"tabulate-{first:06d}-{token}") for first in firsts]
    if client is None:
        dask.compute(*tasks, scheduler="threads")
    else:
        client.gather(client.compute(tasks))


def table_block(
    url: str, first: int, *, metrics: Sequence[VariableSpec] | None = None, estimators: Sequence[str] | None = None,
    min_coverage: float | None = None, kept: bool = True,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Reduce one block of subjects: what its tables must hold, by path. Parameters as of `tabulate`.

    Estimators that need no more are given the sums that were kept of the maps (`schema.sums_spec`), of rows that have them; without `kept`, and
    where voxels count by how well they are measured, all are given the maps.
    """
    root = layout.open_root(url)
    asked = reduction_of(root)
    limit = float(asked["min_coverage"]) if min_coverage is None else min_coverage
    rows, weights = np.arange(first, min(first + schema.SUBJECT_BLOCK, layout.row_count(root))), str(asked.get("weights", NONE))
    operator = table_operator(url, str(root.attrs[layout.TEMPLATE_DIGEST]))
    tables: dict[str, NDArray[np.float32]] = {}
    for metric in tuple(metric_of(root, n) for n in metrics_of(root)) if metrics is None else metrics:
        stored = StoredRows(
            metric.name, rows, layout.stored_specs(root).__contains__, partial(_read, root), operator.atlas, weights,
            [n for r in operator.levels for n in r.numbers] if kept else (),
        )  # fmt: skip
        for name in asked["estimators"] if estimators is None else estimators:
            cells = stored.reduce(find_estimator(name), operator, min_coverage=limit)
            tables |= {spec.path: cells[key] for key, spec in schema.table_specs(metric, name).items()}
    return tables


def _read(root: zarr.Group, path: str, rows: NDArray[np.intp]) -> NDArray[Any]:
    """Read rows of a variable; those of a whole block at once."""
    array = layout.array_at(root, path)
    with storage_errors(path):
        whole = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        return np.asarray(array[rows[0] : rows[-1] + 1] if whole else array.oindex[rows])


def _reduce_block(url: str, first: int, metrics: tuple[VariableSpec, ...], estimators: tuple[str, ...], min_coverage: float) -> None:
    """Reduce the rows of one block and write them."""
    write_block(url, first, table_block(url, first, metrics=metrics, estimators=estimators, min_coverage=min_coverage))


def metrics_of(root: zarr.Group) -> tuple[str, ...]:
    """Names of the metrics whose maps a store holds."""
    return tuple(spec.name for spec in layout.stored_specs(root).values() if schema.is_metric(spec))


def metric_of(root: zarr.Group, name: str) -> VariableSpec:
    """Spec of ``maps/<name>`` as the store holds it, whether or not this installation knows the metric: name, words, unit, range.

    Raises
    ------
    UnknownNameError
        The store has no such map; the message has the near names.
    """
    path = f"{schema.MAPS}/{name}"
    specs = layout.stored_specs(root)
    if path not in specs:
        raise unknown_name("metric of the store", name, list(metrics_of(root)), where="store")
    return specs[path]


def quantity_of(name: str, attributes: Mapping[Any, Any]) -> VariableSpec:
    """Spec of ``maps/<name>`` from its CF attributes.

    Examples
    --------
    >>> quantity_of("fa", {"long_name": "fractional anisotropy", "units": "1", "valid_range": [0, 1]}).valid_range
    (0.0, 1.0)
    """
    limits = attributes.get("valid_range", [attributes.get("valid_min", -math.inf), attributes.get("valid_max", math.inf)])
    low, high = (float(v) for v in limits)
    return VariableSpec(
        f"{schema.MAPS}/{name}", str(attributes.get("long_name", name)), str(attributes.get("units", "1")), (schema.SUBJECT, schema.VOXEL),
        valid_range=(low, high) if math.isfinite(low) or math.isfinite(high) else None, chunks={schema.SUBJECT: 1},
    )  # fmt: skip


@lru_cache(maxsize=4)
def table_operator(url: str, template_digest: str) -> Operator:
    """Build the operator of a store's tables, once per process; `template_digest` keeps a rebuilt store apart."""
    root = layout.open_root(url)
    with storage_errors(schema.TABLES):
        names = [str(n) for n in np.asarray(layout.array_at(root, layout.LEVELS.path)[:])]
        level = np.asarray(layout.array_at(root, f"{schema.VOXELS}/{schema.VOXEL_LEVEL}")[:])
    atlas = layout.stored_atlas(url)
    return Operator.build(atlas, level, [LevelRange.parse(n) for n in names], atlas.regions)


# --- Dataset in, Dataset out ------------------------------------------------------------------------------------------
ATLAS_VARIABLES = {name: f"{schema.ATLAS}_{name}" for name in (schema.INDPTR, schema.INDICES, schema.WEIGHT, schema.LABEL_NAME)}
"""Names of the atlas' arrays in an opened cohort: a body weight among the covariates is then no clash."""

_ATLASES: dict[str, Atlas] = {}


def atlas_of(ds: xr.Dataset) -> Atlas:
    """Rebuild the atlas that an opened cohort carries; kept by its content hash.

    Raises
    ------
    StoreError
        The dataset does not carry one, or only a part of the voxels.
    """
    lacking = [n for n in (*ATLAS_VARIABLES.values(), schema.VOXEL_LEVEL) if n not in ds.variables]
    if lacking:
        raise StoreError(
            expected="a dataset from open_cohort, which carries its atlas", found=f"no {', '.join(lacking)}", where="cohort dataset",
            remedy="Select from the opened dataset, for instance ds.isel(subject=...), and keep its other variables.",
        )  # fmt: skip
    digest = ds.attrs.get(layout.ATLAS_DIGEST)
    if digest not in _ATLASES:
        indptr, indices, weight, labels = (ds[name].to_numpy() for name in ATLAS_VARIABLES.values())
        unions, clusters = ({n: tuple(m) for n, m in json.loads(ds.attrs[k]).items()} for k in (layout.UNIONS, layout.CLUSTERS))
        weights = scipy.sparse.csr_array((weight, indices, indptr.astype(np.int32)), shape=(len(labels), ds.sizes[schema.VOXEL]))
        atlas = Atlas(tuple(map(str, labels)), unions, clusters, weights)
        if digest is None:
            return atlas
        _ATLASES[digest] = atlas
    return _ATLASES[digest]


def tract_table(
    ds: xr.Dataset,
    *,
    metric: str = schema.MTR,
    levels: Sequence[LevelRange | str] | None = None,
    regions: Sequence[Region | str] | None = None,
    estimator: str = schema.WA,
    min_coverage: float = schema.LEAST_COVERAGE,
    merge: bool = True,
) -> xr.Dataset:
    """Reduce the maps of an opened cohort to (subject, level, region) cells, lazily.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`, or a selection of its subjects. Variable `metric` is (subject, voxel).
    metric : str
    levels : sequence, optional
        ``"C2"``, pooled ranges ``"C2:C5"``, ``"all"``; by default each level of the template.
    regions : sequence, optional
        Names the atlas knows, sums ``"a + b"``, or `Region` objects; by default every label and union.
    estimator : str
        SCT's name.
    min_coverage : float
        0 to 1.
    merge : bool
        Return `ds` with its tables replaced by the new one; otherwise the new table alone.

    Returns
    -------
    Dataset
        ``<metric>_<estimator>`` and the companions of the estimator (``..._std``, ``..._n`` ...), (subject, level, region) float32,
        with units: those of the maps.

    Raises
    ------
    UnknownNameError
        A level, region or estimator that does not exist, with the near names.
    StoreError
        The dataset has no maps of the metric.
    """
    kernel = find_estimator(estimator)
    atlas = atlas_of(ds)
    if metric not in ds or ds[metric].dims[-1:] != (schema.VOXEL,):
        raise StoreError(expected=f"maps of {metric}", found="none", where="cohort dataset", remedy=f"Build the cohort with metric {metric}.")
    known = template_levels(ds)
    ranges = [r if isinstance(r, LevelRange) else LevelRange.parse(r, known) for r in (known if levels is None else levels)]
    chosen = [r if isinstance(r, Region) else atlas.region(r) for r in (atlas.regions if regions is None else regions)]
    operator = Operator.build(atlas, ds[schema.VOXEL_LEVEL].to_numpy(), ranges, chosen)

    specs = schema.table_specs(quantity_of(metric, ds[metric].attrs), estimator)

    def cells(maps: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        out = kernel.of_maps(operator, Maps(maps.reshape(-1, maps.shape[-1])), min_coverage=min_coverage)
        return tuple(out[key].reshape(*maps.shape[:-1], *out[key].shape[1:]) for key in specs)

    sizes = {schema.LEVEL: len(ranges), schema.REGION: len(chosen)}
    arrays = xr.apply_ufunc(
        cells, ds[metric], input_core_dims=[[schema.VOXEL]], output_core_dims=[list(sizes)] * len(specs), keep_attrs=False,
        dask="parallelized", output_dtypes=[np.float32] * len(specs), dask_gufunc_kwargs={"output_sizes": sizes},
    )  # fmt: skip
    named = {spec.name: array.assign_attrs(layout.attributes_of(spec)) for spec, array in zip(specs.values(), arrays, strict=True)}
    coords = {schema.LEVEL: layout.text(r.name for r in ranges), schema.REGION: layout.text(r.name for r in chosen)}
    table = xr.Dataset(named).assign_coords(coords)
    return ds.drop_dims([schema.LEVEL, schema.REGION], errors="ignore").merge(table) if merge else table


def template_levels(ds: xr.Dataset) -> list[str]:
    """Names of the levels that the voxels of an opened cohort lie in, from the top down."""
    present = np.unique(ds[schema.VOXEL_LEVEL].to_numpy())
    return [schema.LEVEL_NAMES[n - 1] for n in present if n > 0]
