"""From folders that the Spinal Cord Toolbox worked in to the subject table: the `Study` of `io.bids`, with warps and label folders.

Images, masks and landmarks are found by the rules of `io.bids`; the toolbox's short names (``t2_seg``, ``mt1``) are read as the BIDS names they
stand for (`SHORT`). What only the toolbox makes is found by `RESULTS`. Where several warps or label folders lie in one subject, one a contrast,
name and folder tell them apart (`CONTRASTS`); where they do not, that is the subject's error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from cohort_engine import schema
from cohort_engine.errors import ConfigError, InputError, MissingInputError
from cohort_engine.io import bids, near, places
from cohort_engine.io.bids import Study
from cohort_engine.io.choose import Choice, Selection, match
from cohort_engine.io.names import ImageFile, split_name
from cohort_engine.io.participants import Person
from cohort_engine.io.tree import Tree, place

FROM_TEMPLATE, TO_TEMPLATE, LABEL_FOLDER = "from_template", "to_template", "label_folder"
MTR_IMAGE, OFF_WARP, OFF_MOVED = schema.role(schema.MTR, "image"), schema.role(schema.MT_OFF, "warp"), schema.role(schema.MT_OFF, "moved")

SHORT: Mapping[str, str] = {
    r"t2": "T2w", r"mt1|mton|mt_on": "mt-on_MTS", r"mt0|mtoff|mt_off": "mt-off_MTS",
}  # fmt: skip
"""Short name of an image -> the BIDS name it stands for."""

_ENTITIES = r"(?:[a-z0-9]+-[a-z0-9]+_)*"
_ON = rf"(?:mt1|mt_?on|{_ENTITIES}(?:acq-mton|mt-on)_(?:mts|mtr))(?:_crop)?"
_OFF = rf"(?:mt0|mt_?off|{_ENTITIES}(?:acq-mtoff|mt-off)_(?:mts|mtr))(?:_crop)?"
_TEMPLATE = r"(?:template|pam50(?:_(?:t1|t2s|t2))?)"

CONTRASTS: Mapping[str, str] = {
    schema.MT: rf"mt|mts|mtr|{_ON}",
    schema.T2W: rf"t2w?|{_ENTITIES}t2w",
    "": r"t1w?|t2s|t2star|t2starw|dmri|dwi|epi|func|bold|.*_(?:t1w|t2star|t2starw|dwi|bold)",
}
"""Contrast -> what a folder, or the image in the name of a warp, is called; ``""`` for contrasts that no template map is made of."""

NEUTRAL = "anat"
"""Name of an image that says nothing; then the folder tells, and where it does not either, the warp is of `schema.MT`."""

RESULTS: Mapping[str, str] = {
    FROM_TEMPLATE: rf"warp_{_TEMPLATE}2(?P<image>.+)",
    TO_TEMPLATE: rf"warp_(?P<image>.+?)2{_TEMPLATE}",
    OFF_WARP: rf"warp_{_OFF}2{_ON}",
    OFF_MOVED: rf"{_OFF}_reg",
    MTR_IMAGE: rf"(?!.*mt-?(?:on|off)){_ENTITIES}mtr(?:map)?",
}
"""Result -> its file name in lower case, without participant and session. `image` tells the contrast."""

LABELS = re.compile(r"(?P<folder>(?:.*/)?label(?:s?[_-](?P<image>[^/]+))?)/(?:atlas|template)/[^/]+$")
"""A file of a label folder: ``label/``, ``label_mt/`` ..."""

PRODUCTS = (FROM_TEMPLATE, TO_TEMPLATE, LABEL_FOLDER)


def sct_roles() -> tuple[str, ...]:
    """Return what such a folder can give: images, masks and landmarks as in BIDS, and what the toolbox made of them."""
    made = (*(schema.role(c, p) for c in (schema.MT, schema.T2W) for p in PRODUCTS), MTR_IMAGE, OFF_WARP, OFF_MOVED)
    return (*bids.bids_roles(), *made)


_PERSON = re.compile(r"(?:sub|ses)-[a-z0-9]+_")


def index_results(
    folder: str, *, derivatives: Iterable[str] = (), include: Iterable[str] = (), exclude: Iterable[str] = (), roles: Sequence[schema.Role] = (),
    selection: Selection | None = None,
) -> Study:  # fmt: skip
    r"""Index a folder of subject folders that the Spinal Cord Toolbox worked in.

    A row is a folder ``sub-*``, or each ``ses-*`` in it; files may lie at any depth below.

    Parameters
    ----------
    folder : str
        On a disk of this machine, with a ``participants.tsv``.
    derivatives : iterable of str
        Must be empty: all that belongs to a subject lies in its folder.
    include, exclude : iterable of str
        Participants, with or without ``sub-``.
    roles : sequence of Role
        Further files, see `io.bids.index_study`.
    selection : Selection, optional
        What the study file says of images, masks and landmarks.

    Returns
    -------
    Study
        `Study.problems` has an error where two files could play one role.

    Raises
    ------
    ConfigError
        A bucket, or derivatives.
    MissingInputError, InputError, UnknownNameError
        As of `io.bids.index_study`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (root / "participants.tsv").write_text("participant_id\nsub-01\n")
    >>> for name in ("mt/warp_template2mt.nii.gz", "mt/mtr.nii.gz", "mt/label/atlas/info_label.txt", "t2/t2_seg.nii.gz"):
    ...     (root / "sub-01" / name).parent.mkdir(parents=True, exist_ok=True)
    ...     (root / "sub-01" / name).touch()
    >>> files = index_results(str(root)).files.loc[0].dropna()
    >>> sorted((role, str(pathlib.Path(path).relative_to(root / "sub-01"))) for role, path in files.items())[:2]
    [('mt_from_template', 'mt/warp_template2mt.nii.gz'), ('mt_label_folder', 'mt/label')]
    """
    if tuple(derivatives) or places.local_path(folder) is None:
        raise ConfigError(
            expected="one folder on a disk, with all results of a subject in its folder", found="derivatives" if tuple(derivatives) else "a URL",
            where=f"data, source: {schema.SCT}", remedy="Copy the results there, and leave data.derivatives out.",
        )  # fmt: skip
    tree = Tree(folder)
    if not tree.paths:
        raise MissingInputError(
            expected="a folder of subject folders", found="no files", where="data.bids", remedy="Check the path in the study file."
        )
    paths: dict[Person, list[str]] = {}
    for path in tree.paths:
        if (at := place(path)) and not at.prefix:
            paths.setdefault((at.participant, at.session), []).append(path)
    images = {person: list(filter(None, (_image(tree, p, person) for p in of))) for person, of in paths.items()}
    strays = [(*person, near.stray(*person, PurePosixPath(p).name)) for person, of in paths.items() for p in of if _is_stray(p, person)]

    selection = selection or Selection()

    def choose(person: Person) -> Choice:
        choice = match(images[person], images[person], roles, selection)
        files, problems = _results(tree, paths[person])
        return replace(choice, files=choice.files | files, problems=problems)

    names = (*sct_roles(), *(r.name for r in roles))
    every = [f for of in images.values() for f in of]
    bids.check_selection(selection, names, every)
    people = bids.people_of(tree, images)
    study = bids.make_study(tree, people, choose, roles=names, include=include, exclude=exclude, unread=[*near.unread_folders(tree), *strays])
    bids.check_found(selection, study.files, every)
    return study


def _image(tree: Tree, path: str, person: Person) -> ImageFile | None:
    """Split a name, short ones after they were written out; the folder says whose it is."""
    name = PurePosixPath(path).name
    if LABELS.search(path):
        return None
    if not name.startswith("sub-"):
        short = next(((m, full) for spelling, full in SHORT.items() if (m := re.match(rf"(?:{spelling})(?=[_.])", name, re.IGNORECASE))), None)
        if short is None:
            return None
        name = f"{'_'.join(filter(None, person))}_{short[1]}{name[short[0].end() :]}"
    image = split_name(name)
    if image is None or _is_stray(path, person):
        return None
    return replace(image, path=path, location=tree.location(path))


def _is_stray(path: str, person: Person) -> bool:
    """Whether the name of an image says that it is somebody else's."""
    image = None if LABELS.search(path) else split_name(path)
    return image is not None and (image.participant != person[0] or image.session not in ("", person[1]))


def _results(tree: Tree, paths: Sequence[str]) -> tuple[dict[str, str], dict[str, InputError]]:
    """Give each role of a result its file or folder, or say why not."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    neutral: defaultdict[str, set[str]] = defaultdict(set)
    for product, path, image in _products(paths):
        contrast = _contrast(path, image)
        if product not in PRODUCTS:
            found[product].add(path)
        elif contrast is None:
            neutral[product].add(path)
        elif contrast:
            found[schema.role(contrast, product)].add(path)
    for product, of in neutral.items():
        if not found[role := schema.role(schema.MT, product)]:
            found[role] = of
    files = {role: tree.location(next(iter(of))) for role, of in found.items() if len(of) == 1}
    problems = {
        role: InputError(
            expected=f"one {schema.words(role)}", found=f"{len(of)}", where=schema.words(role),
            remedy="Keep the one that belongs to the image, or tell them apart by name or folder: warp_template2mt, mt/label.",
        )
        for role, of in found.items() if len(of) > 1
    }  # fmt: skip
    return files, problems


def _products(paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Every result among files: what it is, its file or folder, and the name of its image."""
    for path in paths:
        if label := LABELS.match(path):
            yield LABEL_FOLDER, label["folder"], (label["image"] or NEUTRAL).lower()
        elif path.endswith(schema.IMAGE_ENDINGS):
            name = _PERSON.sub("", re.sub(r"\.nii(\.gz)?$", "", PurePosixPath(path).name.lower()))
            for product, words in RESULTS.items():
                if m := re.fullmatch(words, name):
                    yield product, path, m.groupdict().get("image", "")


def _contrast(path: str, image: str) -> str | None:
    """Contrast that the name of an image says, or else the nearest folder; ``""`` for one of no interest, None where nothing says one."""
    words = [image] if image != NEUTRAL else [p.lower() for p in reversed(PurePosixPath(path).parts[1:-1])]
    said = (next((c for c, known in CONTRASTS.items() if re.fullmatch(known, w)), None) for w in words)
    return next((c for c in said if c is not None), None if image == NEUTRAL else "")
