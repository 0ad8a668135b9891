"""Stages: what is done to one subject, each one a piece of data with a function in it.

A stage sees its input files, its parameters, the template, and what upstream stages left in the store; nothing else, so its key
(`Stage.key`) covers all that can change its result. Adding a metric or a stage is one `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from graphlib import TopologicalSorter
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.errors import ConfigError, GeometryError, MissingInputError, unknown_name
from cohort_engine.io.bids import PRODUCT_OF
from cohort_engine.io.volume import Volume, read_volume, require_signal, same_grid
from cohort_engine.provenance import digest
from cohort_engine.template.base import Template

if TYPE_CHECKING:
    from cohort_engine.cord.grey import GreyMatter
    from cohort_engine.mapping.native import WarpedAtlas

Array = NDArray[Any]
ENTRY_POINTS = "cohort_engine.stages"
"""Entry-point group of other packages; each one names a `Stage`, or a tuple of them."""


@dataclass(frozen=True)
class StageInput:
    """All that a running stage may know.

    Attributes
    ----------
    files : mapping of role to location
        The files the stage selected for this subject.
    kinds : mapping of role to str
        `schema.DISC` or `schema.BODY` for each landmark role among them.
    params : mapping
        ``stage.params(config)``.
    template : Template
    load : callable of a store path to an array
        The subject's own row of what an upstream stage wrote: ``load("fit/mt")`` is (voxel, 3).
    drawn : frozenset of str
        Roles whose files were drawn here: landmarks among them are discs, whatever the study's are.
    """

    files: Mapping[str, str]
    kinds: Mapping[str, str]
    params: Mapping[str, Any]
    template: Template
    load: Callable[[str], Array]
    drawn: frozenset[str] = frozenset()

    def volume(self, role: str) -> Volume:
        """Read the image of a role, RAS+."""
        return read_volume(self.files[role], what=schema.ROLES[role])


@dataclass(frozen=True, eq=False)
class MetricImage:
    """A metric on the grid of an image.

    Attributes
    ----------
    volume : Volume
        NaN where the metric cannot be known.
    quality : mapping of str to float
    signal : (x, y, z) array, optional
        Of a ratio, what it is divided by: a voxel mixes signals, not ratios.
    """

    volume: Volume
    quality: Mapping[str, float]
    signal: Array | None = None


def always(config: Config) -> bool:
    """Say yes."""
    return True


@dataclass(frozen=True)
class Stage:
    """One step of a subject.

    Attributes
    ----------
    name, version : str
        A new version makes every key new, so raise it when the numbers change.
    run : callable of `StageInput` to mapping of store path to array
        Plain science. Arrays are one subject's row: ``maps/mtr`` is (voxel,), ``qc/...`` is a scalar array. Of a stage that `draws`, the `Volume`
        too, by its role.
    roles : tuple of str
        Files it cannot do without.
    alternatives : tuple of tuple of str
        Further files, in order of preference: the first set that is complete is used. End with ``()`` to make them optional.
    needs : tuple of str
        Stages whose output it loads.
    params : callable of `Config` to JSON-able mapping
        What the configuration says to it.
    wanted : callable of `Config` to bool
        Of a stage that `draws`: whether the configuration lets it.
    writes : tuple of str
        Store paths it fills.
    draws : str
        Role of the file that it makes for subjects who have none, see `stages.automatic`; most stages make none.
    completes : callable of `StageInput` to bool, optional
        Of a stage that `draws`: whether the file that a subject has is too little, and to be completed. One of `alternatives` then names that role.
    resources : mapping of str to float
        What a worker must offer (``{"gpu": 1}``); empty for any worker.
    memory : float
        Working memory beyond the worker's own, MiB: what the plan checks.
    image : callable of `StageInput` to `MetricImage`, optional
        The metric in the image's own space, of a stage that samples one: its native tables are made from it.
    atlas : callable of (`StageInput`, contrast, `MetricImage`) to `WarpedAtlas`, optional
        The atlas in that space; by default through the template map.
    atlas_roles : tuple of str
        Files that `atlas` needs.
    """

    name: str
    version: str
    run: Callable[[StageInput], Mapping[str, Array | Volume]]
    roles: tuple[str, ...]
    writes: tuple[str, ...]
    params: Callable[[Config], Mapping[str, Any]]
    wanted: Callable[[Config], bool] = always
    alternatives: tuple[tuple[str, ...], ...] = ((),)
    needs: tuple[str, ...] = ()
    draws: str = ""
    completes: Callable[[StageInput], bool] | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    memory: float = 512.0
    image: ImageOf | None = None
    atlas: AtlasOf | None = None
    atlas_roles: tuple[str, ...] = ()

    def select(self, files: Mapping[str, str]) -> dict[str, str]:
        """Pick the files this stage uses out of all a subject has.

        Raises
        ------
        MissingInputError
            Naming every role that is lacking.

        Examples
        --------
        >>> stage = Stage("s", "1", dict, ("mt_mask",), (), dict, alternatives=(("t2w_mask", "t2w_landmarks"), ("mt_landmarks",)))
        >>> stage.select({"mt_mask": "m", "mt_landmarks": "l", "t2w": "unused"})
        {'mt_mask': 'm', 'mt_landmarks': 'l'}
        """
        if lacking := self.lacking(files):
            raise MissingInputError(
                expected="every input of the stage", found="no " + ", no ".join(schema.ROLES[r] for r in lacking), where=self.name,
                remedy='Add the files to the study and build again; "cohort-engine index" lists what each subject lacks.',
            )  # fmt: skip
        return {r: files[r] for r in self.wanting(files)}

    def lacking(self, files: Mapping[str, str]) -> list[str]:
        """List the roles that must be added to `files`: the fewest that will do."""
        return [r for r in self.wanting(files) if r not in files]

    def wanting(self, files: Mapping[str, str]) -> tuple[str, ...]:
        """Return the set of roles to be used: the first that is complete, else the one that lacks least."""
        return min(self.sets, key=lambda roles: sum(r not in files for r in roles))

    @property
    def sets(self) -> list[tuple[str, ...]]:
        """Sets of files of which one will do, in order of preference."""
        return [(*self.roles, *more) for more in self.alternatives]

    def key(self, content: Mapping[str, str], kinds: Mapping[str, str], params: Mapping[str, Any], template: str, upstream: Sequence[str]) -> str:
        """Content key: equal when and only when nothing that can change the result changed.

        Parameters
        ----------
        content : mapping of role to sha256 of the file
        kinds : mapping of role to the kind of landmarks in it
        params : mapping
        template : str
            Content hash of the template.
        upstream : sequence of str
            Keys of the stages in `needs`.
        """
        return digest(self.name, self.version, dict(content), dict(kinds), dict(params), template, list(upstream))


ImageOf = Callable[[StageInput], MetricImage]
AtlasOf = Callable[[StageInput, str, MetricImage], "WarpedAtlas"]

STAGES: dict[str, Stage] = {}
"""Every stage by name. A fit stage is called ``fit_<contrast>``, a metric's stage like the metric."""
BY_SOURCE: dict[str, dict[str, Stage]] = {schema.BIDS: {}}
"""Source of the subjects -> the stages that differ from `STAGES`, by the same names."""


def register(stage: Stage, source: str | None = None) -> Stage:
    """Add a stage to `STAGES`, or in its place for one source; a name is given once."""
    stages = STAGES if source is None else BY_SOURCE.setdefault(source, {})
    if stage.name in stages:
        raise ConfigError(expected="a new stage name", found=f"{stage.name!r} twice", where="stages", remedy="Choose another name.")
    stages[stage.name] = stage
    return stage


def fit_name(contrast: str) -> str:
    """Name of the stage that makes ``fit/<contrast>``."""
    return f"fit_{contrast}"


def stages_of(config: Config, registry: Mapping[str, Stage] | None = None) -> tuple[Stage, ...]:
    """Return the stages a configuration asks for, upstream first.

    Raises
    ------
    UnknownNameError, ConfigError
        A metric without a stage; a metric whose contrast gets no template map.

    Examples
    --------
    >>> from cohort_engine.config import parse_config
    >>> [s.name for s in stages_of(parse_config({"data": {"bids": "b", "store": "s"}}))]
    ['segment_mt', 'segment_t2w', 'levels_t2w', 'fit_mt', 'mtr', 'mtr_native']
    """
    if registry is None:
        _load_entry_points()
        registry = STAGES | BY_SOURCE[config.data.source]
    if config.stages.shape.source == schema.PROFILE_TABLES:
        raise ConfigError(
            expected=f"{schema.T2W} or nothing", found=f"{schema.PROFILE_TABLES!r}, the mark of imported tables", where="stages.shape.source",
            remedy=f"Write source: {schema.T2W}, or add to that store with import-morphometry.",
        )  # fmt: skip
    shape = [schema.SHAPE] if config.stages.shape.source else []
    wanted = [*(fit_name(c) for c in config.stages.fit.contrasts), *config.stages.metrics, *shape]
    for name in wanted:
        if name not in registry:
            raise unknown_name("stage", name, list(registry), where="stages.metrics")
    chosen = {name: registry[name] for name in wanted}
    if config.stages.fit.grey and config.data.source == schema.BIDS:
        chosen |= {fit_name(c): _looking(registry[fit_name(c)], c) for c in config.stages.fit.contrasts}
    if schema.SPACE_NATIVE in config.stages.reduce.spaces:
        chosen |= {s.name: s for s in (native_stage(registry[m], config) for m in config.stages.metrics)}
    offer = {schema.GPU: 1.0} if config.stages.segment.gpu else {}
    drawers = {s.draws: replace(s, resources={**s.resources, **offer}) for s in registry.values() if s.draws and s.wanted(config)}
    chosen = with_drawers(chosen, drawers)
    for name, stage in chosen.items():
        for upstream in stage.needs:
            if upstream not in chosen:
                raise ConfigError(
                    expected=f"stage {upstream}, which {name} needs", found=f"{list(config.stages.fit.contrasts)}", where="stages.fit.contrasts",
                    remedy=f"Add {upstream.removeprefix('fit_')} to stages.fit.contrasts.",
                )  # fmt: skip
    order = TopologicalSorter({name: stage.needs for name, stage in chosen.items()}).static_order()
    return tuple(chosen[name] for name in order)


def with_drawers(chosen: Mapping[str, Stage], drawers: Mapping[str, Stage]) -> dict[str, Stage]:
    """Put in front of each stage those that draw what its subjects may lack; `drawers` by role."""
    out: dict[str, Stage] = {}
    queue = list(chosen.values())
    while queue:
        stage = queue.pop(0)
        if stage.name not in out:
            ahead = [drawers[role] for role in dict.fromkeys(r for roles in stage.sets for r in roles) if role in drawers and role != stage.draws]
            out[stage.name] = replace(stage, needs=(*(s.name for s in ahead), *stage.needs))
            queue += ahead
    return out


def _load_entry_points() -> None:
    """Register the stages that draw, those of the other source, and those of other packages, once."""
    import cohort_engine.stages.automatic
    import cohort_engine.stages.sct  # noqa: F401

    for point in entry_points(group=ENTRY_POINTS):
        found = point.load()
        for stage in (found,) if isinstance(found, Stage) else found:
            if STAGES.get(stage.name) is not stage:
                register(stage)


# --- fit: where each template voxel lies in the image ------------------------------------------------------------------
def run_fit(inputs: StageInput, *, contrast: str) -> dict[str, Array]:
    """Fit the template map of a contrast: ``fit/<contrast>`` (voxel, 3) RAS+ mm and its quality numbers.

    Vertebral levels come from the landmarks of the T2w image, through scanner coordinates, or from the contrast's own.
    """
    from cohort_engine.cord.centreline import centreline_from_mask
    from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
    from cohort_engine.mapping.template_map import fit_template_map

    def centreline(role: str) -> tuple[Volume, Any]:
        mask = inputs.volume(role)
        return mask, centreline_from_mask(mask.data, mask.affine, what=schema.ROLES[role])

    cord, own = centreline(schema.role(contrast, schema.MASK))
    source = next(c for c in (schema.T2W, contrast) if schema.role(c, schema.LANDMARKS) in inputs.files)
    labelled = schema.role(source, schema.LANDMARKS)
    labels = read_volume(inputs.files[labelled], what=schema.ROLES[labelled], dtype=np.int32)
    kind = inputs.kinds[labelled] if inputs.params["landmarks"] == "auto" or labelled in inputs.drawn else inputs.params["landmarks"]
    landmarks = landmarks_from_labels(labels.data, labels.affine, kind=kind, what=schema.ROLES[labelled])
    reference = own if source == contrast else centreline(schema.role(source, schema.MASK))[1]
    levels = level_axis(reference, landmarks, inputs.template)
    grey = _grey_matter(inputs, contrast, cord) if inputs.params["grey"] else None
    fitted = fit_template_map(
        cord.data, cord.affine, levels if source == contrast else transfer(levels, own), inputs.template,
        grey=grey.soft if grey and grey.shown else None, deformable=inputs.params["deformable"], seed=inputs.params["seed"],
        what=schema.ROLES[schema.role(contrast, schema.MASK)],
    )  # fmt: skip
    quality = fitted.quality | ({schema.GREY_CONTRAST: grey.contrast} if grey else {})
    return {schema.fit_spec(contrast).path: fitted.packed(inputs.template)} | quality_arrays(contrast, schema.FIT_QC, quality)


def _grey_matter(inputs: StageInput, contrast: str, cord: Volume) -> GreyMatter:
    """Draw the grey matter of the contrast's image, on the grid of its mask."""
    from cohort_engine.cord.grey import grey_matter

    product = PRODUCT_OF[contrast]
    image = inputs.volume(product)
    if not same_grid(image, cord):
        raise GeometryError(
            expected=f"the grid of the {schema.ROLES[product]}", found="another", where=schema.ROLES[schema.role(contrast, schema.MASK)],
            remedy="Draw the mask on this very image, or switch stages.fit.grey off.",
        )  # fmt: skip
    return grey_matter(image.data, image.affine, cord.data)


def fit_params(config: Config) -> dict[str, Any]:
    """All of ``stages.fit`` but the list of contrasts: that another contrast is fitted too changes nothing here. And the network, if used."""
    from cohort_engine.nn.weights import GREY, content

    params = config.stages.fit.model_dump(mode="json", exclude={"contrasts"})
    return params | ({"weights": content(GREY)} if config.stages.fit.grey else {})


def _looking(stage: Stage, contrast: str) -> Stage:
    """Return a fit stage that reads the image as well."""
    return replace(stage, roles=(*stage.roles, PRODUCT_OF[contrast]), memory=FIT_MEMORY + GREY_MEMORY)


def quality_arrays(prefix: str, quantities: Mapping[str, tuple[str, str]], values: Mapping[str, float]) -> dict[str, Array]:
    """Lay quality numbers out as a stage returns them; NaN for those that are not given."""
    return {spec.path: np.asarray(values.get(key, np.nan), np.float32) for key, spec in schema.qc_specs(prefix, quantities).items()}


def _fit_stage(contrast: str) -> Stage:
    mask, marks = schema.role(contrast, schema.MASK), schema.role(contrast, schema.LANDMARKS)
    t2w = (schema.role(schema.T2W, schema.MASK), schema.role(schema.T2W, schema.LANDMARKS))
    return Stage(
        name=fit_name(contrast), version="1", run=partial(run_fit, contrast=contrast), params=fit_params, roles=(mask,),
        alternatives=((marks,),) if contrast == schema.T2W else (t2w, (marks,)),
        writes=(schema.fit_spec(contrast).path, *(s.path for s in schema.qc_specs(contrast, schema.FIT_QC).values())), memory=FIT_MEMORY,
    )  # fmt: skip


GREY_MEMORY = 400.0
"""torch, the network, and the windows of a 1 mm T2w image, MiB."""
FIT_MEMORY = 400.0
"""antspyx, a 1 mm T2w mask of the whole neck, SyN on the straightened block: 260 MiB measured with PAM50."""

# --- shape: morphometry of the T2w cord --------------------------------------------------------------------------------
T2W_PAIR = (schema.role(schema.T2W, schema.MASK), schema.role(schema.T2W, schema.LANDMARKS))


def run_shape(inputs: StageInput) -> dict[str, Array]:
    """Measure the cord of the T2w mask: ``profiles/*`` (z,) along the template and ``tables/shape/*`` (level,)."""
    from cohort_engine.single.morphometry import measure_cord, subject_arrays

    mask, marks = T2W_PAIR
    labels = read_volume(inputs.files[marks], what=schema.ROLES[marks], dtype=np.int32)
    words = (schema.ROLES[mask], schema.ROLES[marks])
    return subject_arrays(measure_cord(inputs.volume(mask), labels, inputs.template, kind=inputs.kinds[marks], what=words), inputs.template)


def shape_params(config: Config) -> dict[str, Any]:
    """All of ``stages.shape``."""
    return config.stages.shape.model_dump(mode="json")


# --- mtr --------------------------------------------------------------------------------------------------------------
MT_MASK = schema.role(schema.MT, schema.MASK)
SYN_MARGIN = 20.0
"""In-plane margin (mm) around the cord in which MT-off is deformed."""
SYN_ITERATIONS = (30,)
"""At full resolution alone: the shifts have done the coarse part, and few thick slices cannot be shrunk."""
SYN_FLOW = 2.0
"""Smoothing of SyN's update field, voxels."""
SYN_PAD = 3
"""Slices repeated at both ends: SyN holds the border of its volume still."""


def run_metric(inputs: StageInput, *, metric: str, image: ImageOf) -> dict[str, Array]:
    """Sample a metric at the template map of its contrast: ``maps/<metric>`` (voxel,) and its quality numbers."""
    from cohort_engine.mapping.template_map import sample

    found = image(inputs)
    values = sample(found.volume.data, found.volume.affine, inputs.load(schema.fit_spec(schema.metric(metric).contrast).path))
    return {schema.map_spec(metric).path: values.astype(np.float32)} | quality_arrays(metric, schema.METRIC_QC, found.quality)


def mtr_image(inputs: StageInput) -> MetricImage:
    """Magnetization transfer ratio (percent) on the grid of the MT-on image; its signal is MT-off there."""
    from cohort_engine.qmri.mt import check_not_swapped, cord_floor, mtr

    on, off, cord = (inputs.volume(r) for r in (schema.MT_ON, schema.MT_OFF, MT_MASK))
    for role, volume in ((schema.MT_OFF, off), (MT_MASK, cord)):
        if not same_grid(on, volume):
            raise GeometryError(
                expected=f"the grid of the {schema.ROLES[schema.MT_ON]}, {_grid(on)}", found=_grid(volume), where=schema.ROLES[role],
                remedy="Resample it onto the MT-on image, or check that the files belong to one acquisition.",
            )  # fmt: skip
    for role, volume in ((schema.MT_ON, on), (schema.MT_OFF, off)):
        require_signal(volume, what=schema.ROLES[role])
    mask = cord.data > 0.5
    moved, shift = coregister_off(on, off, cord, inputs.params["coregister"], seed=inputs.params["seed"])
    ratio = mtr(moved, on.data, floor=cord_floor(moved, mask, inputs.params["low_signal"]))[0]
    check_not_swapped(ratio, mask)
    return MetricImage(Volume(ratio, on.affine), metric_quality(ratio, mask, shift), moved)


def metric_quality(values: Array, mask: Array, shift: float = np.nan) -> dict[str, float]:
    """Quality numbers of a metric (x, y, z) over its cord."""
    return {
        schema.SHIFT: shift, schema.FLAGGED: float(np.mean(~np.isfinite(values[mask]))), schema.NEGATIVE: float(np.mean(values[mask] < 0)),
        schema.CORD_MEDIAN: float(np.nanmedian(values[mask])),
    }  # fmt: skip


def coregister_off(on: Volume, off: Volume, cord: Volume, how: str, *, seed: int = 1) -> tuple[Array, float]:
    """Bring the MT-off image onto the MT-on image.

    Parameters
    ----------
    on, off, cord : Volume
        On one grid.
    how : str
        ``none``; ``slicewise``, in-plane shifts; ``deformable``, SyN in-plane after those, near the cord. MT-off is interpolated once.
    seed : int
        Of ANTs.

    Returns
    -------
    off : (x, y, z) array
    shift : float
        Largest in-plane movement of a cord voxel, mm.
    """
    if how == "none":
        return off.data, 0.0
    from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise

    spacing = on.grid.spacing
    shifts = estimate_slicewise(on.data, off.data, cord.data > 0.5, spacing)
    moved = apply_shifts(off.data, shifts, spacing)
    if how == "slicewise":
        return moved, float(np.max(np.linalg.norm(shifts, axis=-1)))
    from cohort_engine.mapping.ants import CORRELATION, deform
    from cohort_engine.mapping.template_map import sample

    near = np.argwhere(cord.data > 0.5)
    margin = np.ceil(np.array([*(SYN_MARGIN / spacing[:2]), on.data.shape[2]])).astype(int)
    low, high = np.maximum(near.min(0) - margin, 0), np.minimum(near.max(0) + 1 + margin, on.data.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    both = np.isfinite(on.data[window]) & np.isfinite(moved[window])
    ends = ((0, 0), (0, 0), (SYN_PAD, SYN_PAD))
    fixed, moving = (np.pad(np.where(both, image[window], 0), ends, mode="edge") for image in (on.data, moved))
    found = deform(fixed, moving, spacing, seed=seed, iterations=SYN_ITERATIONS, flow_sigma=SYN_FLOW, metric=CORRELATION)
    movement = found[:, :, SYN_PAD:-SYN_PAD].astype(float)
    movement[..., :2] += shifts[None, None, low[2] : high[2]]
    places = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    moved[window] = sample(off.data, off.affine, off.grid.world(places + movement / spacing), order=3)
    return moved, float(np.max(np.linalg.norm(movement[..., :2], axis=-1)[cord.data[window] > 0.5]))


def mtr_params(config: Config) -> dict[str, Any]:
    """All of ``stages.mtr``, and the seed of ANTs."""
    return config.stages.mtr.model_dump(mode="json") | {"seed": config.stages.fit.seed}


# --- native space ----------------------------------------------------------------------------------------------------
def fitted_atlas(inputs: StageInput, contrast: str, image: MetricImage) -> WarpedAtlas:
    """Bring the atlas into an image through the template map of its contrast.

    With `schema.SIGNAL`, its integral over each voxel becomes shares of the signal (`reduce.native.signal_weights`) if the metric is a ratio.
    """
    from cohort_engine.mapping.native import native_atlas
    from cohort_engine.reduce.native import signal_weights

    shape, how = image.volume.data.shape, inputs.params["native"]
    way = schema.INTEGRAL if how == schema.SIGNAL else how
    atlas = native_atlas(inputs.load(schema.fit_spec(contrast).path), inputs.template, image.volume.affine, shape, how=way)
    if image.signal is None or how != schema.SIGNAL:
        return atlas
    signal = image.signal.reshape(-1)[atlas.voxel].astype(np.float64)
    clusters = tuple(inputs.template.atlas.clusters.values())
    return replace(atlas, weights=signal_weights(atlas.weights, signal, atlas.voxel % shape[2], clusters))


def run_native(inputs: StageInput, *, metric: str, image: ImageOf, atlas: AtlasOf) -> dict[str, Array]:
    """Reduce a metric in the image itself, over the atlas as it lies there: ``tables/native/<metric>_*`` (level, region).

    The quality number is the median difference from template space, where the map that the metric's stage has sampled is reduced likewise.
    """
    from cohort_engine.reduce.estimators import estimator as find_estimator
    from cohort_engine.reduce.native import level_tables
    from cohort_engine.reduce.operator import template_operator

    template, estimators, least = inputs.template, inputs.params["estimators"], inputs.params["min_coverage"]
    found = image(inputs)
    warped = atlas(inputs, schema.metric(metric).contrast, found)
    values = found.volume.data.reshape(-1)[warped.voxel].astype(np.float64)
    places = np.stack(np.unravel_index(warped.voxel, found.volume.data.shape), axis=-1)
    out: dict[str, Array] = {}
    levels = [schema.level_number(name) for name in template.levels]
    for name in estimators:
        cells = level_tables(
            values, warped.weights, warped.level, warped.reach, levels, [r.members for r in template.atlas.regions],
            tuple(template.atlas.clusters.values()), estimator=name, min_coverage=least, places=places,
        )  # fmt: skip
        out |= {spec.path: cells[key] for key, spec in schema.table_specs(metric, name, schema.SPACE_NATIVE).items()}
    packed = inputs.load(schema.map_spec(metric).path)
    there = find_estimator(estimators[0]).of_maps(template_operator(template), packed[None], min_coverage=least)[schema.VALUE][0]
    apart = np.abs(there - out[schema.table_specs(metric, estimators[0], schema.SPACE_NATIVE)[schema.VALUE].path])
    apart = apart[np.isfinite(apart)]
    return out | quality_arrays(metric, schema.SPACE_QC, {schema.SPACE_DIFFERENCE: float(np.median(apart)) if len(apart) else np.nan})


def native_stage(stage: Stage, config: Config) -> Stage:
    """Return the stage that fills the native tables of a metric, given the metric's own stage and the estimators that are asked for.

    Raises
    ------
    ConfigError
        The metric's stage has no image in native space.
    """
    metric, reduce = stage.name, config.stages.reduce
    if stage.image is None:
        raise ConfigError(
            expected=f"a metric that has an image of its own for {schema.SPACE_NATIVE} tables", found=metric, where="stages.reduce.spaces",
            remedy=f"Leave {schema.SPACE_NATIVE} out, or give the stage an `image`.",
        )  # fmt: skip
    tables = [spec.path for e in reduce.estimators for spec in schema.table_specs(metric, e, schema.SPACE_NATIVE).values()]
    own = {"estimators": list(reduce.estimators), "min_coverage": reduce.min_coverage, "native": reduce.native}
    return Stage(
        name=schema.native_stage(metric), version=f"{stage.version}.3",
        run=partial(run_native, metric=metric, image=stage.image, atlas=stage.atlas or fitted_atlas),
        params=partial(_native_params, stage.params, own), roles=(*stage.roles, *stage.atlas_roles),
        alternatives=stage.alternatives, needs=(*stage.needs, stage.name),
        writes=(*tables, *(s.path for s in schema.qc_specs(metric, schema.SPACE_QC).values())), resources=stage.resources, memory=NATIVE_MEMORY,
    )  # fmt: skip


def _native_params(of_metric: Callable[[Config], Mapping[str, Any]], own: Mapping[str, Any], config: Config) -> dict[str, Any]:
    return {**of_metric(config), **own}


NATIVE_MEMORY = 600.0
"""Shares of the template's voxels in the image's, and the reduction's operator, MiB."""


def _grid(volume: Volume) -> str:
    shape, spacing = volume.grid.shape, volume.grid.spacing
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm"


for _contrast in (schema.MT, schema.T2W):
    register(_fit_stage(_contrast))
register(
    Stage(
        name=schema.SHAPE, version="1", run=run_shape, params=shape_params, roles=T2W_PAIR,
        writes=tuple(p for p, s in schema.shape_specs().items() if schema.SUBJECT in s.dims), memory=300.0,
    )
)  # fmt: skip
register(
    Stage(
        name=schema.MTR, version="1", run=partial(run_metric, metric=schema.MTR, image=mtr_image), params=mtr_params,
        roles=(schema.MT_ON, schema.MT_OFF, MT_MASK), needs=(fit_name(schema.MT),),
        writes=(schema.map_spec(schema.MTR).path, *(s.path for s in schema.qc_specs(schema.MTR, schema.METRIC_QC).values())), memory=250.0,
        image=mtr_image,
    )
)  # fmt: skip
