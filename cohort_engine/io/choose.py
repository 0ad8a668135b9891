"""Which of a person's files plays which role, and what was left out and why.

One order decides among several images, see `_Choosing.take_images`; the study file may name files, or ask for entities (`Selection`). Images that are
compared with each other (`Role.beside`) are chosen together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.io.fieldmaps import reverse_of
from cohort_engine.io.names import DESCRIPTIONS, MADE_FIRST, MANUAL, PRODUCTS, REPEATS, SUFFIX, ImageFile, is_called, kind_of_landmarks, split_tail
from cohort_engine.io.sidecars import Sidecars
from cohort_engine.schema import Role

PAIRED = ("flip",)
"""An MTR of images with different flip angles means nothing: of images with one suffix."""

NO_MAGNITUDE = frozenset({"phase", "ph", "real", "imag", "imaginary", "im"})
"""Values of ``part-`` (and of ``rec-`` or ``acq-``, where people write it there) of images that are no magnitude."""
PARTS = ("part", "rec", "acq")


def image_rules() -> list[Role]:
    """Roles of images that a name tells. ``flip-2_mt-off_MTS`` is the T1-weighted image of an MTsat protocol: its flip angle differs from that of the
    MT-on image, so it is never the MT-off image of an MTR.
    """
    return [role for role in schema.ROLES.values() if role.suffixes]


# --- what a study file asks for ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Selection:
    """What a study file says of files.

    Attributes
    ----------
    files : mapping of role to patterns
        What the file of a role is called, see `names.is_called`; the first pattern that a person has counts.
    filters : mapping of role to {entity: values}
        ``""`` for every image. A value None: without the entity. An image that has another value is left out; one without the entity is kept where
        no image of the role has the value.
    """

    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    filters: Mapping[str, Mapping[str, Sequence[str | None]]] = field(default_factory=dict)

    def of(self, role: str) -> dict[str, Sequence[str | None]]:
        """Return the filters of the images of a role."""
        return {**self.filters.get("", {}), **self.filters.get(role, {})}


@dataclass(frozen=True, eq=False)
class Choice:
    """What was found for one person.

    Attributes
    ----------
    files, kinds : dict of role to location, of landmark role to kind
    notes : list of (role, note)
    described : tuple of str
        Paths of the images in whose sidecars covariates are looked up, best first.
    problems : dict of role to InputError
    images : dict of role to path
        From the root of its tree.
    """

    files: dict[str, str]
    kinds: dict[str, str] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    described: tuple[str, ...] = ()
    problems: dict[str, InputError] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)


# --- candidates -------------------------------------------------------------------------------------------------------
def state_of(role: Role, f: ImageFile) -> Mapping[str, str] | None:
    """Return the state of a role that an image is in, without regard to case; None where it is in none."""
    return next((s for s in role.states if all(f.entity(k).lower() == v.lower() for k, v in s.items())), None)


def is_image(role: Role, f: ImageFile) -> bool:
    """Whether a name says that a file is an image of this role."""
    named = not (f.tail or f.description or f.free) and f.entity(SUFFIX) in role.suffixes
    return named and state_of(role, f) is not None and not unlike(role, f)


def unlike(role: Role, f: ImageFile) -> str:
    """Return the entity, with its value, that an image of a role does not have; empty where there is none.

    Examples
    --------
    >>> from cohort_engine.io.names import split_name
    >>> unlike(schema.ROLES["dwi"], split_name("sub-01_rec-average_dwi.nii.gz"))
    'rec-average'
    """
    return next((f"{key}-{f.entity(key)}" for key, values in role.without.items() if f.entity(key).lower() in values), "")


def owner_of(image: Role) -> Role:
    """Role of the image after which what belongs to an image is called: its own, or that of the image it is made of."""
    return schema.ROLES[image.made_of] if image.made_of else image


def is_magnitude(f: ImageFile) -> bool:
    """Whether an image may be a magnitude.

    Examples
    --------
    >>> from cohort_engine.io.names import split_name
    >>> [is_magnitude(split_name(f"sub-01_{w}T2w.nii")) for w in ("", "part-mag_", "part-imag_", "rec-Phase_", "acq-real_")]
    [True, True, False, False, False]
    """
    return not any(f.entity(k).lower() in NO_MAGNITUDE for k in PARTS)


def _kept(f: ImageFile, key: str, wanted: Sequence[str | None], others: Sequence[ImageFile]) -> bool:
    """Whether a filter keeps an image."""
    if holds(f, key, wanted):
        return True
    return not f.entity(key) and not any(holds(o, key, wanted) for o in others)


def holds(f: ImageFile, key: str, wanted: Sequence[str | None]) -> bool:
    """Whether an image has one of the values of an entity."""
    return (f.entity(key).lower() or None) in {w if w is None else (str(int(w)) if w.isdigit() else w.lower()) for w in wanted}


@dataclass(frozen=True, eq=False)
class _Found:
    """Images that may play a role, and those that may not, with the reason."""

    role: Role
    files: list[ImageFile]
    out: list[tuple[ImageFile, str]]
    named: Mapping[ImageFile, int]


# --- the choice -------------------------------------------------------------------------------------------------------
class _Choosing:
    """Everything of one person, while roles are given out."""

    def __init__(self, raw: Sequence[ImageFile], products: Sequence[ImageFile], selection: Selection, sidecars: Sidecars | None) -> None:
        self.raw, self.products, self.selection, self.sidecars = raw, products, selection, sidecars
        self.chosen: dict[str, ImageFile] = {}
        self.notes: list[tuple[str, str]] = []

    # images
    def find(self, role: Role) -> _Found:
        """Look for the images that may play a role."""
        patterns = self.selection.files.get(role.name)
        named: dict[ImageFile, int] = {}
        if patterns is not None:
            for f in self.products:
                at = next((i for i, p in enumerate(patterns) if is_called(p, f.path)), None)
                if at is not None:
                    named[f] = at
            first = min(named.values(), default=0)
            files = [f for f, at in named.items() if at == first]
        else:
            files = [f for f in self.raw if is_image(role, f)]
        out = [(f, "no magnitude") for f in files if patterns is None and not is_magnitude(f)]
        if patterns is None and role.without:
            out += [(f, f"made by the scanner: {why}") for f in self.raw if (why := unlike(role, f)) and is_image(replace(role, without={}), f)]
        files = [f for f in files if patterns is not None or is_magnitude(f)]
        for key, wanted in self.selection.of(role.name).items():
            lost = [f for f in files if not _kept(f, key, wanted, files)]
            out += [(f, f"data.filters: {key}") for f in lost]
            files = [f for f in files if f not in lost]
        return _Found(role, files, out, named)

    def labels(self, role: Role, image: ImageFile) -> tuple[int, int]:
        """Masks and landmarks that people made of an image, and all that there are: kinds of them."""
        images = [schema.ROLES[c.image] for c in schema.CONTRASTS.values()]
        of = [self.of_image(p, image, i) for i in images if owner_of(i) is role for p in (schema.MASK, schema.LANDMARKS)]
        return sum(any(f.description == MANUAL for f in fs) for fs in of), sum(map(bool, of))

    def volumes(self, role: Role, image: ImageFile) -> int:
        """Volumes of which the gradients are known, of an image that has gradients beside it (b-values and directions); else 0."""
        beside = [r.endings for r in schema.ROLES.values() if r.sidecar_of == role.name and r.name in (schema.DWI_BVAL, schema.DWI_BVEC)]
        if self.sidecars is None or not beside:
            return 0
        found = [self.sidecars.of(image.path, endings)[:1] for endings in beside]
        if not all(found):
            return 0
        texts = self.sidecars.tree.read_many(found[0], what=schema.words(schema.DWI_BVAL))
        return max(1, len(re.findall(rb"[^\s,;]+", texts[0] or b"")))

    def take_images(self, base: _Found, beside: Sequence[_Found]) -> None:
        """Choose an image together with those that are compared with it."""
        partners = {f: [_partners(base, f, other) for other in beside] for f in base.files}
        volumes = {f: self.volumes(base.role, f) for f in base.files} if len(base.files) > 1 else {}

        def key(f: ImageFile) -> tuple[int, int, tuple[int, ...], tuple[Any, ...]]:
            """All partners first, then the most volumes, then what people labelled, then the plainest name with the lowest run."""
            return -sum(map(bool, partners[f])), -volumes[f], tuple(-n for n in self.labels(base.role, f)), f.rank

        order = sorted(base.files, key=key) if len(base.files) > 1 else base.files
        why: dict[ImageFile, str] = {}
        for f in order[1:]:
            (lost, _, labels, _), (least, _, most, _) = key(f), key(order[0])
            fewer = "" if volumes[f] == volumes[order[0]] else "without gradients" if not volumes[f] else f"{volumes[f]} volumes"
            why[f] = "without its partner" if lost > least else fewer or ("fewer labels" if labels > most else "")
        self.take(base.role.name, order, base.out, why)
        for i, other in enumerate(beside):
            ranked = sorted(other.files, key=lambda o: o.rank)
            if not order:
                self.take(other.role.name, ranked, other.out)
            elif fits := partners[order[0]][i]:
                alike = [o for o in ranked if o not in fits and any(all(o.entity(k) == f.entity(k) for k in PAIRED) for f in order)]
                self.take(other.role.name, [*fits, *alike], other.out)
            else:
                apart = [(o, f"does not go with {order[0].short}: {_difference(base, order[0], other, o)}") for o in ranked]
                self.take(other.role.name, [], [*other.out, *apart])

    def take(
        self, role: str, files: Sequence[ImageFile], out: Sequence[tuple[ImageFile, str]] = (), why: Mapping[ImageFile, str] | None = None
    ) -> None:  # fmt: skip
        """Give a role the first of the files, and note the others."""
        if files:
            self.chosen[role] = files[0]
        others = [(f, (why or {}).get(f, "")) for f in files[1:]] + list(out)
        if others:
            left = ", ".join(f.short + (f" ({reason})" if reason else "") for f, reason in others)
            self.notes.append((role, f"took {files[0].short} of {1 + len(others)}; left out: {left}" if files else f"took none; left out: {left}"))

    # what was made of images
    def of_image(self, product: str, image: ImageFile, role: Role) -> list[ImageFile]:
        """Products of an image, best first; of a role that is `made_of` another, also what was made of that in between (``desc-moco_dwi_seg``)."""
        found: dict[ImageFile, tuple[int, int, int, int, str]] = {}
        for f in self.products:
            tail, description, between = f.tail, f.description, 0
            if image.free or f.free:
                if not f.stem.startswith(f"{image.stem}_"):
                    continue
                tail, description = split_tail(f.stem.removeprefix(f"{image.stem}_").split("_"))
            elif f.image != image.image:
                more = dict(f.image - image.image)
                if not role.made_of or not image.image <= f.image or not more.keys() <= {"desc", *owner_of(role).without}:
                    continue
                if unlike(owner_of(role), f) and not tail:
                    continue  # what a scanner made is nothing that was made of it here
                between, tail = len(more), "_".join(filter(None, [f"desc-{more['desc'].lower()}" if "desc" in more else "", tail]))
            if role.made_of and product not in (schema.MOCO, schema.MEAN):
                tail = MADE_FIRST.sub("", tail, count=1) if MADE_FIRST.match(tail) else tail
            rule = _rule(product, tail)
            if rule is not None:
                described = DESCRIPTIONS.index(description) if description in DESCRIPTIONS else len(DESCRIPTIONS)
                found[f] = described, between, rule, f.order, f.path
        return sorted(found, key=lambda f: found[f])

    def take_product(self, role: str, product: str, made: Role) -> None:
        """Choose what was made of the chosen image; where that is absent, of the image that would have been chosen."""
        image = owner_of(made)
        owner = self.chosen.get(image.name)
        if (patterns := self.selection.files.get(role)) is not None:
            at = {f: next((i for i, p in enumerate(patterns) if is_called(p, f.path)), None) for f in self.products}
            stem = owner.stem if owner else ""
            named = [(i, not f.stem.startswith(stem), f.order, len(f.stem), f.path, f) for f, i in at.items() if i is not None]
            self.take(role, [f for *_, f in sorted(named, key=lambda n: n[:-1])])
            return
        every = [f for f in self.products if _rule(product, f.tail) is not None]
        heads = {f: replace(f, tail="", description="") for f in every}
        if owner is None:
            fits = sorted((h for h in heads.values() if is_image(image, h) and is_magnitude(h)), key=lambda h: h.rank)
            owner = fits[0] if fits else None
        found = self.of_image(product, owner, made) if owner is not None else []
        self.take(role, found)
        orphans = [f for f in every if is_image(image, heads[f]) and owner is not None and f.image != owner.image]
        if orphans and not found and owner is not None:
            names = ", ".join(f.short for f in orphans)
            self.notes.append((role, f"none belongs to {owner.short}; left out: {names}"))

    def take_reverse(self) -> None:
        """Choose the image of opposite phase encoding that goes with the diffusion series."""
        owner, patterns = self.chosen.get(schema.DWI), self.selection.files.get(schema.DWI_REVERSE)
        if patterns is not None:
            named = [f for pattern in patterns for f in self.products if is_called(pattern, f.path)]
            self.take(schema.DWI_REVERSE, list(dict.fromkeys(named)))
        elif owner is not None and self.sidecars is not None:
            series = [f for f in self.raw if is_image(schema.ROLES[schema.DWI], f) and f is not owner]
            epi = [f for f in self.raw if f.entity(SUFFIX) == "epi" and not (f.tail or f.description or f.free)]
            self.take(schema.DWI_REVERSE, *reverse_of(owner, [*epi, *series], self.sidecars))


@cache
def _rule(product: str, tail: str) -> int | None:
    """Say which of the rules of a product the end of a name fits; people of a study have few different ends."""
    return next((i for i, r in enumerate(r for r in PRODUCTS if r.product == product) if re.fullmatch(r.words, tail)), None)


def _partners(base: _Found, f: ImageFile, other: _Found) -> list[ImageFile]:
    """Images that may be compared with one, the name most like its own first."""
    return sorted((o for o in other.files if not _difference(base, f, other, o)), key=lambda o: (len(f.image ^ o.image), o.rank))


def _difference(base: _Found, f: ImageFile, other: _Found, o: ImageFile) -> str:
    """Entities that both images have and that differ, but for those that tell MT-on from MT-off: then they are no pair.

    Those that a study file names are compared by `REPEATS` alone.
    """
    named = f in base.named or o in other.named
    apart = {SUFFIX, *(state_of(base.role, f) or {}), *(state_of(other.role, o) or {})}
    both = set(REPEATS) if named else {k for k, _ in f.image | o.image} - apart
    keys = [k for k in sorted(both) if f.entity(k) and o.entity(k) and f.entity(k) != o.entity(k)]
    alike = not named and f.entity(SUFFIX) == o.entity(SUFFIX)
    keys += [k for k in PAIRED if alike and k not in {*keys, *apart} and f.entity(k) != o.entity(k)]
    return ", ".join(keys)


def match(
    raw: Sequence[ImageFile], products: Sequence[ImageFile], roles: Sequence[Role] = (), selection: Selection | None = None,
    sidecars: Sidecars | None = None,
) -> Choice:  # fmt: skip
    """Give each image, mask and landmark role its file, and each of `roles`, which a study file names.

    Parameters
    ----------
    raw : sequence of ImageFile
        Images of the dataset, of one person and session.
    products : sequence of ImageFile
        All that belongs to them: derivatives, and `raw`.
    roles : sequence of Role
        Further files, by `Role.file`.
    selection : Selection, optional
    sidecars : Sidecars, optional
        Of the dataset: without, nothing is known of gradients and phase encoding.
    """
    choosing = _Choosing(raw, products, selection or Selection(), sidecars)
    rules = image_rules()
    found = {rule.name: choosing.find(rule) for rule in rules}
    for rule in rules:
        if rule.beside not in found:
            choosing.take_images(found[rule.name], [found[r.name] for r in rules if r.beside == rule.name])
    for extra in roles:
        named = (f for f in products if is_called(extra.file, f.path))
        choosing.take(extra.name, sorted(named, key=lambda f: (len(f.stem), f.order, f.path)))
    choosing.take_reverse()
    for made in schema.ROLES.values():
        if made.made_of and (product := made.name.removeprefix(f"{made.made_of}_")) in {r.product for r in PRODUCTS}:
            choosing.take_product(made.name, product, made)
    for contrast in schema.CONTRASTS.values():
        for product in (schema.MASK, schema.LANDMARKS):
            choosing.take_product(schema.role(contrast.name, product), product, schema.ROLES[contrast.image])
    chosen = choosing.chosen
    marks = {c.landmarks: chosen[c.landmarks] for c in schema.CONTRASTS.values() if c.landmarks in chosen}
    kinds = {role: kind for role, f in marks.items() if (kind := kind_of_landmarks(f.path))}
    described = tuple(chosen[r.name].path for r in rules if r.name in chosen and r.beside not in chosen)
    return Choice({r: f.location for r, f in chosen.items()}, kinds, choosing.notes, described, images={r: f.path for r, f in chosen.items()})


def names_of(files: Sequence[ImageFile], most: int = 8) -> str:
    """Names that occur among files, without the people, the most frequent first: for a message."""
    counts: dict[str, int] = {}
    for f in files:
        name = "_".join(w for w in PurePosixPath(f.path).name.partition(".")[0].split("_") if not w.startswith(("sub-", "ses-")))
        counts[name] = counts.get(name, 0) + 1
    order = sorted(counts, key=lambda n: (-counts[n], n))
    return ", ".join(order[:most]) + (" ..." if len(order) > most else "") or "no image"
