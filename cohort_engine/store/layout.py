"""How a cohort store lies on disk: which arrays, which chunks, which attributes; and how one is opened and checked.

The root's attributes are the commit: they are written last, in one put. `SUBJECTS` counts the rows that count; arrays that are longer are the
rest of an append that crashed, and the next `init_store` puts them right.

The root holds the coordinates of the cohort (rows and names of subjects, voxels, levels, regions), so that ``xarray.open_zarr`` and
``xarray.open_datatree`` give labelled data without this package; groups with tables hold the names along their axes as well.

Chunks. A large array that a task writes (``maps/*``, ``fit/*``) has one subject a chunk. A template table has `schema.SUBJECT_BLOCK`. What is
gathered from records, and a column, has as many subjects as make `CHUNK_BYTES`, `COLUMN_BLOCK` at most. All may be longer than the axis, so that
they stay the same when the axis grows.

Ragged arrays. Axes of `schema.GROWN` (volumes and slices of a series) are as long as the longest row of the cohort; a record holds its row as long
as it is, and gathering fills it up. They grow when a longer row is gathered, all arrays that have them at once; their chunks never change.

Which chunks are there. Arrays are written with their empty chunks too (`whole`); a large array's chunk is deleted when its stage is undone. So a
chunk that is lacking says something: of a large array, that the stage of that subject is not done; of anything else, that it is lost.

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
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from obstore import exceptions
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import GroupNotFoundError

from cohort_engine import schema
from cohort_engine.errors import CohortError, StorageError, StoreError, unknown_name
from cohort_engine.io import objects
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
SIZES, SPECS, ASKED, RECIPES = "sizes", "specs", "asked", "recipes"
MIXED = "mixed"
STALE = "stale"
"""Of a closed store: ``{stage: [row, ...]}`` of those that were stale when it was closed."""
TEMPLATE_NAME, TEMPLATE_VERSION, TEMPLATE_DIGEST = "template_name", "template_version", "template_digest"
ATLAS_DIGEST, VOXELS_DIGEST = "atlas_digest", "voxels_digest"
SCIENCE, VERSIONS = "science", "versions"
CREATED, UPDATED, FINALISED, COMPACTED = "created", "updated", "finalised", "compacted"
TAG = "tag"
"""Of a frozen store: its tag."""

# --- attributes of the atlas and voxel groups -------------------------------------------------------------------------
UNIONS, CLUSTERS = "unions", "clusters"
GRID_SHAPE, GRID_AFFINE = "grid_shape", "grid_affine"

COLUMN_BLOCK = 4096
"""Subjects in one chunk of a column, at most."""
CHUNK_BYTES = 2**20
"""Size of a chunk of a gathered array, at most; with one subject where a row alone is larger."""
GATHER_BLOCK = 1024
"""Subjects in one chunk of what is gathered, at most: gathering reads and writes whole chunks."""
TEXT_BYTES = 32
"""A word, as far as the size of chunks goes."""
STAGE_BLOCK = 16
"""Stages in one chunk of ``stages/*``."""

NUMERIC = (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec())
TEXT = (ZstdCodec(), Crc32cCodec())


# --- coordinates, at the root and beside tables ------------------------------------------------------------------------
ROW = VariableSpec(schema.SUBJECT, "row of the store", "1", (schema.SUBJECT,), "int64", fill=-1)
VOXEL = VariableSpec(schema.VOXEL, "position on the packed axis", "1", (schema.VOXEL,), "int32", fill=-1)
LEVELS = VariableSpec(schema.LEVEL, "vertebral level", "1", (schema.LEVEL,), "str", fill="")
REGIONS = VariableSpec(schema.REGION, "tract, grey-matter region or union of the atlas", "1", (schema.REGION,), "str", fill="")
ROI_NAMES = VariableSpec(schema.ROI, "region that a mask of the image gives", "1", (schema.ROI,), "str", fill="")
NAMES = tuple(VariableSpec(c, c.replace("_", " "), "1", (schema.SUBJECT,), "str", fill="") for c in (schema.PARTICIPANT, schema.SESSION))
"""Who each row is, once more: beside the data where the store is opened as one Dataset."""
LEFT = VariableSpec(f"{schema.SUBJECTS}/left", "why the subject is no longer in the study; empty: it is", "1", (schema.SUBJECT,), "str", fill="")
PARTICIPANTS = f"{schema.SUBJECTS}/{schema.PARTICIPANT}"
LABELS = VariableSpec(f"{schema.ATLAS}/{schema.LABEL_NAME}", "name of each label of the atlas", "1", (schema.LABEL_NAME,), "str", fill="")
STAGE_NAMES = VariableSpec(f"{schema.STAGES}/{schema.STAGE}", "stage", "1", (schema.STAGE,), "str", fill="")


def fixed_arrays(template: Template, specs: Iterable[VariableSpec]) -> list[tuple[VariableSpec, NDArray[Any]]]:
    """Return the arrays that depend on the template alone, with their values: atlas, voxels, and the coordinates that `specs` need."""
    packing, atlas = template.packing, template.atlas
    xyz = packing.xyz.astype(np.float32)
    values: dict[str, NDArray[Any]] = {
        **{f"{schema.VOXELS}/{n}": packing.ijk[:, i] for i, n in enumerate(schema.VOXEL_INDEX)},
        **{f"{schema.VOXELS}/{n}": xyz[:, i] for i, n in enumerate(schema.VOXEL_WORLD)},
        f"{schema.VOXELS}/{schema.VOXEL_LEVEL}": packing.level,
        f"{schema.ATLAS}/{schema.INDPTR}": atlas.weights.indptr.astype(np.int64),
        f"{schema.ATLAS}/{schema.INDICES}": atlas.weights.indices.astype(np.int32),
        f"{schema.ATLAS}/{schema.WEIGHT}": atlas.weights.data.astype(np.float32),
    }
    fixed = [(s, values[s.path]) for s in schema.FIXED if s.path in values]
    names = [(LEVELS, text(template.levels)), (REGIONS, text(r.name for r in atlas.regions))]
    beside: dict[str, tuple[VariableSpec, NDArray[Any]]] = {}
    for spec in specs:
        for name, along in (*names, (ROI_NAMES, text(map(schema.ROI_REGION.format, schema.ROIS)))):
            if name.path in spec.dims:
                path = f"{spec.group}/{name.path}"
                beside[path] = replace(name, path=path), along
        if schema.Z in spec.dims:
            beside |= {s.path: (s, v) for s, v in zip(schema.Z_AXIS, (template.z, template.slice_level), strict=True)}
    voxels = np.arange(len(packing), dtype=np.int32)
    return [*fixed, (LABELS, text(atlas.labels)), (VOXEL, voxels), *names, *beside.values()]


def sizes_of(template: Template) -> dict[str, int]:
    """Length of each axis that the template gives."""
    out = {
        schema.VOXEL: len(template.packing), schema.AXIS: 3, schema.HOMOGENEOUS: 4, schema.LEVEL: len(template.levels),
        schema.REGION: len(template.atlas.regions), schema.ROI: len(schema.ROIS), schema.Z: len(template.z), schema.PLANE: 2,
    }  # fmt: skip
    labels = len(template.atlas.labels)
    out[schema.PART] = 3 * labels + 2 + labels * (labels + 1) // 2  # `reduce.maps.Kept.pack`
    for sums, pairs, n in ((schema.SUM, schema.PAIR, labels), (schema.ROI_SUM, schema.ROI_PAIR, len(schema.ROIS))):
        out |= {sums: 7 * n + 2 + n * (n + 1), pairs: n * (n + 1) // 2}  # `reduce.sums.LevelSums.pack`
    return out


def grown_sizes(root: zarr.Group | None = None) -> dict[str, int]:
    """Length of each axis that grows with the cohort's longest row; 1 where nothing was gathered."""
    known = {} if root is None else record_of(root, SIZES)
    return {d: int(known.get(d, 1)) for d in schema.GROWN}


def fits(shape: tuple[int, ...], dims: tuple[str, ...], sizes: Mapping[str, int]) -> bool:
    """Whether a row has the shape that its dimensions ask for: any length along those that grow."""
    return len(shape) == len(dims) and all(n == sizes.get(d, -1) or (d in schema.GROWN and n > 0) for n, d in zip(shape, dims, strict=True))


def filled_up(values: NDArray[Any], shape: tuple[int, ...], fill: Any) -> NDArray[Any]:
    """Fill an array up at the end of its axes.

    Examples
    --------
    >>> filled_up(np.ones((1, 2)), (2, 3), 0).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if values.shape == shape:
        return values
    return np.pad(values, [(0, n - m) for n, m in zip(shape, values.shape, strict=True)], constant_values=fill)


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
    """Chunk lengths; along subject, stage and what else grows they do not depend on how many there are today.

    Examples
    --------
    >>> area = VariableSpec("profiles/area", "area", "mm2", ("subject", "z"), "float64", stage="shape")
    >>> chunks_of(area, (4000, 1000)), chunks_of(area, (3, 1)), chunks_of(replace(area, chunks={"subject": 1}), (4000, 1000))
    ((128, 1000), (1024, 1), (1, 1000))
    """
    whole = spec.chunk_shape(tuple(schema.GROWN.get(d, n) for d, n in zip(spec.dims, shape, strict=True)))
    item = TEXT_BYTES if spec.dtype == "str" else np.dtype(spec.dtype).itemsize
    row = item * math.prod(n for d, n in zip(spec.dims, whole, strict=True) if d not in (schema.SUBJECT, schema.STAGE))
    most = GATHER_BLOCK if spec.gathered or schema.STAGE in spec.dims else COLUMN_BLOCK
    rows = min(most, 2 ** int(math.log2(max(1, CHUNK_BYTES // max(1, row)))))
    open_ended = {schema.SUBJECT: rows, schema.STAGE: STAGE_BLOCK}
    return tuple(spec.chunks.get(d, open_ended[d]) if d in open_ended else n for d, n in zip(spec.dims, whole, strict=True))


def create(root: zarr.Group, spec: VariableSpec, shape: tuple[int, ...], *, overwrite: bool = False) -> zarr.Array[Any]:
    """Lay out one array as its spec says."""
    group = root.require_group(spec.group) if spec.group else root
    words = spec.dtype == "str"
    return group.create_array(
        spec.name, shape=shape, dtype="string" if words else spec.dtype, chunks=chunks_of(spec, shape), compressors=TEXT if words else NUMERIC,
        fill_value=spec.fill, dimension_names=spec.dims, attributes=attributes_of(spec), overwrite=overwrite,
    )  # fmt: skip


def whole(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array so that chunks of nothing but fill are written too: then a chunk that is lacking is lost."""
    return array.with_config({"write_empty_chunks": True})


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


def group_at(root: zarr.Group, path: str) -> zarr.Group:
    """Open one group of a store that has it."""
    node = root[path]
    assert isinstance(node, zarr.Group)
    return node


def like(root: zarr.Group, path: str, array: zarr.Array[Any], chunk: int, shard: int = 0) -> zarr.Array[Any]:
    """Lay out an array as another one is, with `chunk` subjects in one chunk and `shard` in one object (0: a chunk each)."""
    group, _, name = path.rpartition("/")
    place = root.require_group(group) if group else root
    return place.create_array(
        name, shape=array.shape, dtype="string" if is_text(array) else array.dtype, chunks=(chunk, *array.chunks[1:]) if array.ndim else (),
        shards=(shard, *array.shape[1:]) if shard else None, compressors=TEXT if is_text(array) else NUMERIC, fill_value=array.fill_value,
        dimension_names=dims_of(array), attributes=dict(array.attrs),
    )  # fmt: skip


@contextmanager
def damage(path: str) -> Iterator[None]:
    """Turn what a decoder says of damaged bytes into a `StorageError` with the array's name."""
    try:
        yield
    except CohortError:
        raise
    except (OSError, exceptions.BaseError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise StorageError(
            expected="chunks that decode", found=f"damage ({type(error).__name__}: {reason})", where=path,
            remedy='"cohort-engine verify" lists the rows; bring the files back from a backup, or build these subjects again.',
        ) from error  # fmt: skip


def consolidate(root: zarr.Group) -> None:
    """Write the metadata of all nodes in one place, for readers over a network."""
    with warnings.catch_warnings():  # zarr warns that v3 has no final specification of it; a reader that ignores it loses speed only
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(root.store, zarr_format=3)


def is_text(array: zarr.Array[Any]) -> bool:
    """Whether an array holds text."""
    return array.dtype.kind not in "fiub"


def stored_specs(root: zarr.Group) -> dict[str, VariableSpec]:
    """Every variable that was laid out, by path."""
    return dict(_parse_specs(str(root.attrs[SPECS])))


@lru_cache(maxsize=8)
def _parse_specs(listed: str) -> Mapping[str, VariableSpec]:
    return {s.path: s for s in map(VariableSpec.from_json, json.loads(listed))}


def spec_at(root: zarr.Group, path: str) -> VariableSpec:
    """Look a variable up; a name that is not there is answered with the near ones."""
    specs = _parse_specs(str(root.attrs[SPECS]))
    if path not in specs:
        raise unknown_name("variable of the store", path, sorted(specs), where="store")
    return specs[path]


def record_of(root: zarr.Group, attribute: str) -> dict[str, Any]:
    """Read a root attribute that holds JSON (`ASKED`, `RECIPES`, `SCIENCE`, `SIZES`)."""
    return dict(json.loads(str(root.attrs.get(attribute) or "{}")))


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
    """Open a place for laying out, and say whether a whole store is there. Only who holds the lease may: what an earlier try left is cleared, for no
    task ever wrote to it, and the lease says that nobody is laying it out now.

    Raises
    ------
    StoreError
        Something else is there, or another format.
    """
    store = open_zarr_store(url, create=True)
    try:
        root = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
    except FileNotFoundError:
        if any(objects.children(object_store(url))):
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
    """Refuse what is not a cohort store of the version this package reads."""
    attributes = root.attrs
    if attributes.get(FORMAT) != FORMAT_NAME:
        raise StoreError(expected="a cohort store", found="another Zarr group", where="store", remedy="Choose another place for the cohort.")
    version = attributes.get(VERSION)
    if version is None:
        raise StoreError(
            expected="a store laid out to the end", found="one whose making was cut short", where="store", remedy="Run build again: it continues."
        )
    if str(version) != schema.FORMAT_VERSION:
        older = int(str(version)) < int(schema.FORMAT_VERSION)
        remedy = (
            'Build it again from the images at a new place: write another path at "data: store:" of the study file, and run "cohort-engine build".'
            if older
            else f"Install a cohort_engine that reads format version {version}: the store says it was made with {made_with(root)}."
        )
        raise StoreError(expected=f"format version {schema.FORMAT_VERSION}", found=f"format version {version}", where="store", remedy=remedy)


def frozen(root: zarr.Group) -> str:
    """Say what a store is that is only read, in words; empty for one that grows."""
    if tag := root.attrs.get(TAG):
        return f"the freeze {tag}"
    return "a freeze made by compact" if root.attrs.get(COMPACTED) else ""


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
    with storage_errors(schema.VOXELS), damage(schema.VOXELS):
        group = root[schema.VOXELS]
        shape, affine = group.attrs[GRID_SHAPE], np.asarray(group.attrs[GRID_AFFINE], float)
        i, j, k = (np.asarray(array_at(root, f"{schema.VOXELS}/{n}")[:], np.int16) for n in schema.VOXEL_INDEX)
        level = np.asarray(array_at(root, f"{schema.VOXELS}/{schema.VOXEL_LEVEL}")[:], np.int8)
    return Packing(Grid(tuple(shape), affine), np.stack([i, j, k], axis=1), level)  # type: ignore[arg-type]


def stored_atlas(url: str) -> Atlas:
    """Rebuild the atlas from the store alone: names, unions, clusters and weights, with the digest of the template's."""
    root = open_root(url)
    with storage_errors(schema.ATLAS), damage(schema.ATLAS):
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
