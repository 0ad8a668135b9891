"""Stages: what is done to one subject, each one a piece of data with a function in it.

A stage sees its input files, its parameters, the template, and what upstream stages left in the store; nothing else, so its key
(`Stage.key`) covers all that can change its result. What it writes are specs: the store is laid out from them.

A file of this folder, or of another package, registers what it brings: a `StageKind` (a section of the study file, and the stages that follow from
it), the `schema.Metric`, `schema.Contrast` and `schema.Role` that these make or read, or a `Source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cohort_engine import schema
from cohort_engine.config import STAGE_KINDS, Config
from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.grids import REMEDY
from cohort_engine.io.sidecars import decode_json
from cohort_engine.io.volume import (
    Volume,
    decode_mask,
    decode_nonzero,
    decode_series,
    decode_vectors,
    decode_volume,
    decode_voxels,
    on_voxels_of,
    read_raw,
)
from cohort_engine.provenance import digest
from cohort_engine.registry import Registry
from cohort_engine.schema import VariableSpec
from cohort_engine.template.base import Template

if TYPE_CHECKING:
    from cohort_engine.io.bids import Study

Array = NDArray[Any]
LIMIT_SECONDS = 3600.0
"""Most that a stage may take, unless it or the study file says otherwise."""


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
        `Stage.params`.
    template : Template
    load : callable of a store path to an array
        The subject's own row of what an upstream stage wrote: ``load("fit/mt")`` is (voxel, 3).
    made : frozenset of str
        Roles whose files were made by stages: landmarks among them are discs, whatever the study's are.
    content : callable of a role to bytes, optional
        The bytes of its file, those that the key was made from; by default they are read.
    key : str
        Content key of what is to be made.
    upstream : mapping of stage to key
        Keys of the stages whose output it loads.
    """

    files: Mapping[str, str]
    kinds: Mapping[str, str]
    params: Mapping[str, Any]
    template: Template
    load: Callable[[str], Array]
    made: frozenset[str] = frozenset()
    content: Callable[[str], bytes] | None = None
    key: str = ""
    upstream: Mapping[str, str] = field(default_factory=dict)

    def raw(self, role: str) -> bytes:
        """Return the bytes of a role's file."""
        return read_raw(self.files[role], what=schema.words(role)) if self.content is None else self.content(role)

    def volume(self, role: str, dtype: DTypeLike = np.float32) -> Volume:
        """Read the image of a role, RAS+; errors as of `io.volume.read_volume`."""
        return decode_volume(self.raw(role), what=schema.words(role), dtype=dtype)

    def mask(self, role: str, *, on: Volume | None = None, like: str = "", remedy: str = REMEDY) -> Volume:
        """Read a mask, where a voxel that is not a number lies outside; taken voxel by voxel of the image `on`, of role `like`."""
        mask = decode_mask(self.raw(role), what=schema.words(role))
        if on is None:
            return mask
        return on_voxels_of(on, mask, what=schema.words(role), like=f"the {schema.words(like)}", remedy=remedy)

    def voxels(self, role: str) -> Volume:
        """Read the voxels of an image without their values, see `io.volume.decode_voxels`."""
        return decode_voxels(self.raw(role), what=schema.words(role))

    def labels(self, role: str) -> Volume:
        """Read an image of whole numbers; as of a mask."""
        return decode_mask(self.raw(role), what=schema.words(role), dtype=np.int32)

    def vectors(self, role: str) -> Volume:
        """Read a field of vectors, see `io.volume.read_vectors`."""
        return decode_vectors(self.raw(role), what=schema.words(role))

    def series(self, role: str) -> Volume:
        """Read a series of volumes (x, y, z, t), RAS+, see `io.volume.decode_series`."""
        return decode_series(self.raw(role), what=schema.words(role))

    def nonzero(self, role: str) -> Any:
        """Read the voxels of an image that are not zero, see `io.volume.read_nonzero`."""
        return decode_nonzero(self.raw(role), what=schema.words(role))

    def text(self, role: str) -> str:
        """Read a text file: ``.bval``, ``.bvec``, a table."""
        try:
            return self.raw(role).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(expected="text in UTF-8", found="other bytes", where=schema.words(role), remedy="Export the file again.") from error

    def json(self, role: str) -> dict[str, Any]:
        """Read the sidecar of an image: a JSON mapping; of several that apply (`io.places.together`) the nearest to say a thing holds."""
        return decode_json(self.text(role), what=schema.words(role))


@dataclass(frozen=True)
class Recipe:
    """What a stage does, whoever the subject is: rows with another recipe than the study file's are stale.

    Attributes
    ----------
    stage, version : str
    params : mapping
        As JSON holds them.
    template : str
        Content hash.
    section : str
        Key of the stage below ``stages:`` of the study file, for messages.
    """

    stage: str
    version: str
    params: Mapping[str, Any]
    template: str
    section: str = ""

    @property
    def hash(self) -> str:
        """16 hex digits."""
        return digest(self.stage, self.version, dict(self.params), self.template)

    def to_json(self) -> dict[str, Any]:
        """All of it, as a store keeps it."""
        return {
            "stage": self.stage, "version": self.version, "params": dict(self.params), "template": self.template, "section": self.section,
        }  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One step of a subject.

    Attributes
    ----------
    name, version : str
        A new version makes every key new, so raise it when the numbers change.
    run : callable of `StageInput` to mapping of store path to array
        Plain science. Arrays are one subject's row: ``maps/mtr`` is (voxel,), ``qc/...`` is a scalar array. Of a stage that `makes` a file, the
        `Volume` too, by its role.
    roles : tuple of str
        Files it cannot do without.
    writes : tuple of VariableSpec
        What it fills: exactly these. Each names this stage.
    params : mapping
        What the study file says to it, resolved.
    alternatives : tuple of tuple of str
        Further files, in order of preference: the first set that is complete is used. End with ``()`` to make them optional.
    optional : tuple of str
        Further files, each of which is used where a subject has it or a stage makes it.
    needs : tuple of str
        Stages whose output it loads.
    makes : str
        Role of the file that it makes for subjects who have none (a mask, landmarks); most stages make none.
    completes : callable of `StageInput` to bool, optional
        Of a stage that `makes` a file: whether the one that a subject has is too little, and to be completed. One of `alternatives` then names
        that role.
    resources : mapping of str to float
        What a worker must offer (``{"gpu": 1}``); empty for any worker.
    gpu : bool
        Whether it can use one: with ``compute.gpu`` it then asks for it.
    memory : float
        Working memory beyond the worker's own, MiB: what the plan checks.
    timeout : float
        Seconds after which it is ended.
    section : str
        Its key below ``stages:``.

    Examples
    --------
    >>> Stage("s", "1", dict, ("mt_mask",), ()).recipe("t").hash == Stage("s", "2", dict, ("mt_mask",), ()).recipe("t").hash
    False
    """

    name: str
    version: str
    run: Callable[[StageInput], Mapping[str, Array | Volume]]
    roles: tuple[str, ...]
    writes: tuple[VariableSpec, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[tuple[str, ...], ...] = ((),)
    optional: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    makes: str = ""
    completes: Callable[[StageInput], bool] | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    gpu: bool = False
    memory: float = 512.0
    timeout: float = LIMIT_SECONDS
    section: str = ""

    def select(self, files: Mapping[str, str]) -> dict[str, str]:
        """Pick the files this stage uses out of all a subject has.

        Raises
        ------
        MissingInputError
            Naming every role that is lacking.

        Examples
        --------
        >>> stage = Stage("s", "1", dict, ("mt_mask",), (), alternatives=(("t2w_mask", "t2w_landmarks"), ("mt_landmarks",)))
        >>> stage.select({"mt_mask": "m", "mt_landmarks": "l", "t2w": "unused"})
        {'mt_mask': 'm', 'mt_landmarks': 'l'}
        """
        if lacking := self.lacking(files):
            raise MissingInputError(
                expected="every input of the stage", found="no " + ", no ".join(map(schema.words, lacking)), where=self.name,
                remedy='Add the files to the study and build again; "cohort-engine index" lists what each subject lacks.',
            )  # fmt: skip
        return {r: files[r] for r in self.wanting(files)}

    def lacking(self, files: Mapping[str, str]) -> list[str]:
        """List the roles that must be added to `files`: the fewest that will do."""
        return [r for r in self.wanting(files) if r not in files]

    def wanting(self, files: Mapping[str, str]) -> tuple[str, ...]:
        """Return the roles to be used: the first set that is complete, else the one that lacks least, and what is optional and there."""
        return _wanting(self.roles, self.alternatives, self.optional, frozenset(files))

    @property
    def sets(self) -> list[tuple[str, ...]]:
        """Sets of files of which one will do, in order of preference."""
        return [(*self.roles, *more) for more in self.alternatives]

    @property
    def reads(self) -> tuple[str, ...]:
        """Every role that it may read."""
        return tuple(dict.fromkeys((*(role for roles in self.sets for role in roles), *self.optional)))

    def recipe(self, template: str) -> Recipe:
        """Return what it does with a template of this content hash."""
        return Recipe(self.name, self.version, self.params, template, self.section)

    def key(self, content: Mapping[str, str], kinds: Mapping[str, str], template: str, upstream: Sequence[str]) -> str:
        """Content key: equal when and only when nothing that can change the result changed.

        Parameters
        ----------
        content : mapping of role to sha256 of the file
        kinds : mapping of role to the kind of landmarks in it
        template : str
            Content hash of the template.
        upstream : sequence of str
            Keys of the stages in `needs`.
        """
        return digest(self.name, self.version, dict(content), dict(kinds), dict(self.params), template, list(upstream))


@cache
def _wanting(roles: tuple[str, ...], alternatives: tuple[tuple[str, ...], ...], optional: tuple[str, ...], files: frozenset[str]) -> tuple[str, ...]:
    """As `Stage.wanting`: most people of a study have the same files."""
    best = min(((*roles, *more) for more in alternatives), key=lambda one: sum(r not in files for r in one))
    return (*best, *(r for r in optional if r in files and r not in best))


@dataclass(frozen=True)
class StageKind:
    """A section of the study file, and the stages that follow from it.

    Attributes
    ----------
    name : str
        Key below ``stages:``.
    settings : type
        A `config.Section`, or what pydantic can make of the section; called without arguments it gives the default.
    stages : callable of `Config` to an iterable of Stage
        None where the configuration does not want it. Of a metric it asks `wants`.
    methods : callable of (science, metrics) to str, optional
        Sentences for the Methods section, with citations (``[@key]``): `science` is `Config.science`, `metrics` those that are used.
    references : mapping of str to (text, DOI)
        Works that the sentences cite and `report.references` does not have.
    words : str
        What the section is, for the reference; by default what `settings` says of itself.
    """

    name: str
    settings: Any
    stages: Callable[[Config], Iterable[Stage]]
    methods: Callable[[Mapping[str, Any], frozenset[str]], str] | None = None
    references: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    words: str = ""


@dataclass(frozen=True)
class Source:
    """Where subjects come from.

    Attributes
    ----------
    name : str
        What ``data.source`` says.
    words : str
        One sentence for the reference.
    index : callable to `Study`
        Of a folder or URL, with the keywords of `io.bids.index_study`.
    roles : callable of nothing to tuple of str
        Roles that it can give.
    stands_in : mapping of kind to callable of `Config` to an iterable of Stage
        Kinds of stages that it replaces by its own.
    methods : str
        Sentence for the Methods section in place of those that tell of images; empty for images.
    """

    name: str
    words: str
    index: Callable[..., Study]
    roles: Callable[[], tuple[str, ...]]
    stands_in: Mapping[str, Callable[[Config], Iterable[Stage]]] = field(default_factory=dict)
    methods: str = ""


SOURCES: Registry[Source] = Registry("source", "cohort_engine.stages")


def register(kind: StageKind) -> StageKind:
    """Add a kind of stage; a name is given once."""
    STAGE_KINDS.add(kind)
    return kind


def quality_arrays(specs: Mapping[str, VariableSpec], values: Mapping[str, float]) -> dict[str, Array]:
    """Lay quality numbers out as a stage returns them; NaN for those that are not given."""
    return {spec.path: np.asarray(values.get(key, np.nan), np.float32) for key, spec in specs.items()}
