"""How a cohort store lies on disk: which arrays, which chunks, which attributes; and how one is opened and checked.

The root's attributes are the commit: they are written last, in one put. `SUBJECTS` counts the rows that count; arrays that are longer are the
rest of an append that crashed, and the next `init_store` puts them right.

Chunks. An array that a task writes has one subject a chunk. A table has `schema.SUBJECT_BLOCK`, a column `COLUMN_BLOCK`; both may be longer
than the axis, so that they stay the same when the axis grows.

Codec. Measured on a packed PAM50 MTR map (1.02 MB) and template map (3.06 MB) from a real 5 mm scan, written and read back on local disk:

=======================  ==============  ==============  =================
codec                    map size        fit size        fit write / read
=======================  ==============  ==============  =================
none                     1.02 MB         3.06 MB         4-9 / 3 ms
zstd (zarr's default)    0.21 MB         1.53 MB         9 / 6 ms
blosc zstd + shuffle     0.19 MB         1.30 MB         9 / 6 ms
blosc lz4 + shuffle      0.20 MB         1.34 MB         3 / 2 ms
=======================  ==============  ==============  =================

So: blosc lz4 with byte shuffle, 3% larger than the smallest and the fastest both ways; CRC-32C after it, because blosc alone does not notice
every flipped bit.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import obstore
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import GroupNotFoundError

from cohort_engine import schema
from cohort_engine.errors import StoreError, unknown_name
from cohort_engine.io.places import clear, object_store, open_zarr_store, storage_errors
from cohort_engine.provenance import digest
from cohort_engine.schema import VariableSpec
from cohort_engine.template.atlas import Atlas
from cohort_engine.template.base import Template
from cohort_engine.template.packing import Grid, Packing

# --- root attributes --------------------------------------------------------------------------------------------------
FORMAT = "format"
FORMAT_NAME = "cohort_engine"
VERSION = "format_version"
ROWS = "subjects"
TEMPLATE_NAME, TEMPLATE_VERSION, TEMPLATE_DIGEST = "template_name", "template_version", "template_digest"
ATLAS_DIGEST, VOXELS_DIGEST = "atlas_digest", "voxels_digest"
SCIENCE, SCIENCE_HASH, VERSIONS = "science", "science_hash", "versions"
CREATED, UPDATED, FINALISED, COMPACTED = "created", "updated", "finalised", "compacted"

# --- attributes of the atlas and voxel groups -------------------------------------------------------------------------
UNIONS, CLUSTERS = "unions", "clusters"
GRID_SHAPE, GRID_AFFINE = "grid_shape", "grid_affine"

COLUMN_BLOCK = 4096
"""Subjects in one chunk of a column of `subjects/` and `stages/`."""

NUMERIC = (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec())
TEXT = (ZstdCodec(), Crc32cCodec())


def level_spec(space: str = schema.SPACE_TEMPLATE) -> VariableSpec:
    """Level names beside the tables, so that xarray finds them as a coordinate."""
    return VariableSpec(f"{schema.TABLES}/{space}/{schema.LEVEL}", "vertebral level", "1", (schema.LEVEL,), "str", fill="")


def region_spec(space: str = schema.SPACE_TEMPLATE) -> VariableSpec:
    """Region names beside the tables."""
    return VariableSpec(
        f"{schema.TABLES}/{space}/{schema.REGION}", "tract, grey-matter region or union of the atlas", "1", (schema.REGION,), "str", fill=""
    )


LABELS = VariableSpec(f"{schema.ATLAS}/{schema.LABEL_NAME}", "name of each label of the atlas", "1", (schema.LABEL_NAME,), "str", fill="")
STAGE_NAMES = VariableSpec(f"{schema.STAGES}/{schema.STAGE}", "stage", "1", (schema.STAGE,), "str", fill="")


def fixed_arrays(template: Template) -> list[tuple[VariableSpec, NDArray[Any]]]:
    """Return the arrays that depend on the template alone, with their values."""
    packing, atlas = template.packing, template.atlas
    values: dict[str, NDArray[Any]] = {
        **{f"{schema.VOXELS}/{n}": packing.ijk[:, i] for i, n in enumerate(schema.VOXEL_INDEX)},
        **{f"{schema.VOXELS}/{n}": packing.xyz[:, i].astype(np.float32) for i, n in enumerate(schema.VOXEL_WORLD)},
        f"{schema.VOXELS}/{schema.VOXEL_LEVEL}": packing.level,
        f"{schema.ATLAS}/{schema.INDPTR}": atlas.weights.indptr.astype(np.int64),
        f"{schema.ATLAS}/{schema.INDICES}": atlas.weights.indices.astype(np.int32),
        f"{schema.ATLAS}/{schema.WEIGHT}": atlas.weights.data.astype(np.float32),
    }
    fixed = [(s, values[s.path]) for s in schema.FIXED if s.path in values]
    return [*fixed, (LABELS, text(atlas.labels)), *table_names(template)]


def table_names(template: Template, space: str = schema.SPACE_TEMPLATE) -> list[tuple[VariableSpec, NDArray[Any]]]:
    """Return the names along the tables of a space."""
    return [(level_spec(space), text(template.levels)), (region_spec(space), text(r.name for r in template.atlas.regions))]


def group_attributes(template: Template) -> dict[str, dict[str, Any]]:
    """Return the attributes of groups from which atlas and packing are rebuilt."""
    grid = template.packing.grid
    return {
        schema.ATLAS: {
            k: {n: list(map(int, m)) for n, m in v.items()} for k, v in ((UNIONS, template.atlas.unions), (CLUSTERS, template.atlas.clusters))
        },
        schema.VOXELS: {GRID_SHAPE: [int(n) for n in grid.shape], GRID_AFFINE: np.asarray(grid.affine, float).tolist()},
    }


def voxels_digest(packing: Packing) -> str:
    """Content hash of the packed axis, recomputable from the store alone: 16 hex digits."""
    shape, affine = tuple(int(n) for n in packing.grid.shape), np.asarray(packing.grid.affine, float)
    return digest(shape, affine.tobytes(), np.ascontiguousarray(packing.ijk).tobytes(), np.ascontiguousarray(packing.level).tobytes())


def text(values: Iterable[str]) -> NDArray[Any]:
    """Text as an object array: the type that both zarr's variable-length strings and xarray take without a word.

    Examples
    --------
    >>> text(("C1", "C2")).tolist()
    ['C1', 'C2']
    """
    return np.array([str(v) for v in values], dtype=object)


# --- arrays -----------------------------------------------------------------------------------------------------------
def chunks_of(spec: VariableSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk lengths; along subject they do not depend on how many there are today."""
    whole = spec.chunk_shape(shape)
    return tuple(spec.chunks.get(d, COLUMN_BLOCK) if d == schema.SUBJECT else n for d, n in zip(spec.dims, whole, strict=True))


def create(root: zarr.Group, spec: VariableSpec, shape: tuple[int, ...], *, overwrite: bool = False) -> zarr.Array[Any]:
    """Lay out one array as its spec says."""
    group = root.require_group(spec.group)
    words = spec.dtype == "str"
    return group.create_array(
        spec.name, shape=shape, dtype="string" if words else spec.dtype, chunks=chunks_of(spec, shape), compressors=TEXT if words else NUMERIC,
        fill_value=spec.fill, dimension_names=spec.dims, attributes=attributes_of(spec), overwrite=overwrite,
    )  # fmt: skip


def attributes_of(spec: VariableSpec) -> dict[str, Any]:
    """Attributes of a spec as JSON can hold them: an open range is a ``valid_min``."""
    out = spec.attributes()
    if spec.valid_range is not None and not np.isfinite(spec.valid_range).all():
        del out["valid_range"]
        out["valid_min"] = spec.valid_range[0]
    return out


def arrays(root: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """Every array of the store, by path."""
    return {path: node for path, node in root.members(max_depth=None) if isinstance(node, zarr.Array)}


def subject_arrays(root: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """Every array with a subject axis (always the first), by path."""
    return {p: a for p, a in arrays(root).items() if dims_of(a)[:1] == (schema.SUBJECT,)}


def dims_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Dimension names."""
    return tuple(str(d) for d in getattr(array.metadata, "dimension_names", None) or ())


def array_at(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """Open one array; a name that is not there is answered with the near ones."""
    try:
        node = root[path]
    except KeyError:
        node = None
    if not isinstance(node, zarr.Array):
        raise unknown_name("variable of the store", path, sorted(arrays(root)), where="store")
    return node


def like(root: zarr.Group, path: str, array: zarr.Array[Any], *, shard: int) -> zarr.Array[Any]:
    """Lay out an array as another one is, with `shard` subjects in one object where a chunk is one subject."""
    group, _, name = path.rpartition("/")
    sharded = dims_of(array)[:1] == (schema.SUBJECT,) and array.chunks[0] == 1
    return root.require_group(group).create_array(
        name, shape=array.shape, dtype="string" if is_text(array) else array.dtype, chunks=array.chunks,
        shards=(shard, *array.chunks[1:]) if sharded else None, compressors=TEXT if is_text(array) else NUMERIC, fill_value=array.fill_value,
        dimension_names=dims_of(array), attributes=dict(array.attrs),
    )  # fmt: skip


def consolidate(root: zarr.Group) -> None:
    """Write the metadata of all nodes in one place, for readers over a network."""
    with warnings.catch_warnings():  # zarr warns that v3 has no final specification of it; a reader that ignores it loses speed only
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(root.store, zarr_format=3)


def is_text(array: zarr.Array[Any]) -> bool:
    """Whether an array holds text."""
    return array.dtype.kind not in "fiub"


def specs_of(science: Mapping[str, Any]) -> dict[str, VariableSpec]:
    """Every variable that ``config.science()`` asks for, by path (subject columns aside)."""
    stages = science["stages"]
    shape = stages.get("shape", {}).get("source") is not None  # stores older than the key have none
    specs = schema.store_specs(
        contrasts=tuple(stages["fit"]["contrasts"]), metrics=tuple(stages["metrics"]), estimators=tuple(stages["reduce"]["estimators"]),
        spaces=spaces_of(science), shape=shape, source=science.get("source", schema.BIDS), segmented=segmented_of(science),
        labelled=(schema.T2W,) if _drawn(science, "levels") else (),
    )  # fmt: skip
    return specs | ({level_spec(schema.SHAPE).path: level_spec(schema.SHAPE)} if shape else {})


def segmented_of(science: Mapping[str, Any]) -> tuple[str, ...]:
    """Contrasts whose masks ``config.science()`` lets be drawn."""
    return (*dict.fromkeys((*science["stages"]["fit"]["contrasts"], schema.T2W)),) if _drawn(science, "segment") else ()


def _drawn(science: Mapping[str, Any], section: str) -> bool:
    """Whether a stage that draws is switched on; stores older than the key have none."""
    return science.get("source", schema.BIDS) == schema.BIDS and bool(science["stages"].get(section, {}).get("enabled"))


def spaces_of(science: Mapping[str, Any]) -> tuple[str, ...]:
    """Spaces that ``config.science()`` asks tables for."""
    return tuple(science["stages"]["reduce"].get("spaces", (schema.SPACE_TEMPLATE,)))  # stores older than the key have none


def template_axes(template: Template) -> list[tuple[VariableSpec, NDArray[Any]]]:
    """Return the axes of morphometry with their values: those of ``profiles`` and of ``tables/shape``."""
    z, level = schema.Z_AXIS
    return [(z, template.z), (level, template.slice_level), (level_spec(schema.SHAPE), text(template.levels))]


def declared(root: zarr.Group) -> dict[str, VariableSpec]:
    """Every variable that the store's own configuration asks for, by path."""
    science = json.loads(str(root.attrs[SCIENCE]))
    specs, spaces = specs_of(science), spaces_of(science)
    identity = {s.path: s for s in (schema.subject_spec(c, "str") for c in (schema.PARTICIPANT, schema.SESSION))}
    return identity | {s.path: s for s in (LABELS, *(names(space) for space in spaces for names in (level_spec, region_spec)))} | specs


DRAWING = (*map(schema.segment_stage, (schema.MT, schema.T2W)), schema.levels_stage(schema.T2W))
"""Stages that leave quality numbers alone in the store."""


def stage_of(path: str) -> str | None:
    """Name of the stage that writes a variable, None where no stage does.

    Examples
    --------
    >>> stage_of("fit/mt"), stage_of("maps/mtr"), stage_of("profiles/area"), stage_of("tables/native/mtr_map_se"), stage_of("subjects/age")
    ('fit_mt', 'mtr', 'shape', 'mtr_native', None)
    """
    group, _, name = path.rpartition("/")
    if path in {s.path for s in schema.Z_AXIS}:
        return None
    if group == schema.QC:
        return next((s for s in DRAWING if name.startswith(f"{s}_")), None)
    native = f"{schema.TABLES}/{schema.SPACE_NATIVE}"
    metric = next((m for m in schema.METRICS if name.startswith(f"{m}_")), None)
    return {
        schema.FIT: f"{schema.FIT}_{name}", schema.MAPS: name, schema.PROFILES: schema.SHAPE, native: metric and schema.native_stage(metric),
    }.get(group)  # fmt: skip


# --- opening ----------------------------------------------------------------------------------------------------------
def open_root(url: str, mode: Literal["r", "r+"] = "r") -> zarr.Group:
    """Open a cohort store, and check that it is one, whole, and not of a newer format. Consolidated metadata is never used.

    Raises
    ------
    StoreError
        Nothing there, not a cohort store, not laid out to the end, or a newer format.
    StorageError
        The place does not answer.
    """
    store = open_zarr_store(url)
    with storage_errors("opening the store"):
        try:
            root = zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)
        except GroupNotFoundError as error:
            raise StoreError(
                expected="a cohort store", found="no Zarr v3 group", where="store", remedy="Check the path, or build the cohort first."
            ) from error
    check_format(root)
    return root


def claim(url: str) -> tuple[zarr.Group, bool]:
    """Open a place for laying out, and say whether a whole store is there. What a crashed first try has left is cleared: no task ever wrote to it.

    Raises
    ------
    StoreError
        Something else is there, or a newer format.
    """
    store = open_zarr_store(url, create=True)
    try:
        root = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
    except FileNotFoundError:
        listing = obstore.list_with_delimiter(object_store(url))
        if listing["objects"] or listing["common_prefixes"]:
            raise StoreError(
                expected="an empty place or a cohort store", found="other files", where="store", remedy="Choose another place for the cohort."
            ) from None
    else:
        if root.attrs.get(FORMAT) != FORMAT_NAME or VERSION in root.attrs:
            check_format(root)
            return root, True
        clear(url)
    return zarr.create_group(store, zarr_format=3, attributes={FORMAT: FORMAT_NAME}), False


def check_format(root: zarr.Group) -> None:
    """Refuse what is not a cohort store of a version this package reads."""
    attributes = root.attrs
    if attributes.get(FORMAT) != FORMAT_NAME:
        raise StoreError(expected="a cohort store", found="another Zarr group", where="store", remedy="Choose another place for the cohort.")
    version = attributes.get(VERSION)
    if version is None:
        raise StoreError(
            expected="a store laid out to the end", found="one whose making was cut short", where="store", remedy="Run build again: it continues."
        )
    if int(str(version)) > int(schema.FORMAT_VERSION):
        raise StoreError(
            expected=f"format version {schema.FORMAT_VERSION} or older", found=f"format version {version}", where="store",
            remedy=f"Install a cohort_engine that reads format version {version}: the store says it was made with {made_with(root)}.",
        )  # fmt: skip


def made_with(root: zarr.Group) -> str:
    """Return the package version that wrote the store last."""
    return str(json.loads(str(root.attrs.get(VERSIONS, "{}"))).get("cohort_engine", "an unknown version"))


def row_count(root: zarr.Group) -> int:
    """Rows of the subject axis that count."""
    return int(str(root.attrs[ROWS]))


def store_attributes(url: str) -> Mapping[str, Any]:
    """Root attributes of a checked store."""
    return dict(open_root(url).attrs)


def stored_packing(url: str) -> Packing:
    """Rebuild the packed voxel axis from the store alone."""
    root = open_root(url)
    with storage_errors("voxels"):
        group = root[schema.VOXELS]
        shape, affine = group.attrs[GRID_SHAPE], np.asarray(group.attrs[GRID_AFFINE], float)
        i, j, k = (np.asarray(array_at(root, f"{schema.VOXELS}/{n}")[:], np.int16) for n in schema.VOXEL_INDEX)
        level = np.asarray(array_at(root, f"{schema.VOXELS}/{schema.VOXEL_LEVEL}")[:], np.int8)
    return Packing(Grid(tuple(shape), affine), np.stack([i, j, k], axis=1), level)  # type: ignore[arg-type]


def stored_atlas(url: str) -> Atlas:
    """Rebuild the atlas from the store alone: names, unions, clusters and weights, with the digest of the template's."""
    root = open_root(url)
    with storage_errors("atlas"):
        unions, clusters = ({str(n): tuple(m) for n, m in _mapping(root[schema.ATLAS].attrs[k]).items()} for k in (UNIONS, CLUSTERS))
        names = tuple(str(n) for n in np.asarray(array_at(root, LABELS.path)[:]))
        indptr, indices, weight = (np.asarray(array_at(root, f"{schema.ATLAS}/{n}")[:]) for n in (schema.INDPTR, schema.INDICES, schema.WEIGHT))
        voxels = array_at(root, f"{schema.VOXELS}/{schema.VOXEL_LEVEL}").shape[0]
    from scipy import sparse  # a question whose answer a table holds needs none

    # scipy keeps index arrays of one width
    weights = sparse.csr_array((weight, indices, indptr.astype(np.int32)), shape=(len(names), voxels))
    return Atlas(names, unions, clusters, weights)


def _mapping(value: Any) -> Mapping[str, Any]:
    return dict(value)
