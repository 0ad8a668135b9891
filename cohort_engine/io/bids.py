"""From a BIDS folder or bucket to the subject table: who is in the study, what is known of them, and which file plays which role.

One listing of the dataset, and rules that say what a name means: of images in `schema.ROLES`, of what belongs to them in `names.PRODUCTS`. A new
naming habit is a new row in a table. Nothing is opened but the participants table and a few sidecars. What is not read is said in `Study.notes`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError, unknown_name
from cohort_engine.io import near, places
from cohort_engine.io.choose import Choice, Selection, holds, image_rules, match, names_of
from cohort_engine.io.names import PRODUCTS, SUFFIX, ImageFile, natural, split_name, without_ending
from cohort_engine.io.participants import Person, Told, read_participants, sidecar_covariates
from cohort_engine.io.sidecars import JSON, Sidecars
from cohort_engine.io.tree import Tree, place
from cohort_engine.schema import Role

KIND = "kind"
NOTE = "note"
ROLE = "role"
FILES = "files"
COVARIATES = "covariates"
NOTE_COLUMNS = [schema.PARTICIPANT, schema.SESSION, ROLE, NOTE]


def bids_roles() -> tuple[str, ...]:
    """Return what a BIDS dataset can give."""
    products = {schema.role(c, p.product) for c in schema.CONTRASTS for p in PRODUCTS}
    return tuple(r.name for r in schema.ROLES.values() if r.suffixes or r.sidecar_of or r.name in products or r.name == schema.DWI_REVERSE)


COVARIATES_EXPECTED = (schema.GROUP, schema.SITE, schema.AGE, schema.SEX)


# --- the result -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Study:
    """The subject table of a study. Row number is identity in the store; names stay in this table.

    Attributes
    ----------
    subjects : DataFrame
        `schema.PARTICIPANT`, `schema.SESSION` (``""`` where there are none), then typed covariates: float64 with NaN, or text with ``""``.
    files : DataFrame
        Same index; one column a role with path, URL or None, and `kind_column` of each landmark role.
    units : dict
        Unit of a numeric covariate, where it is known.
    notes : DataFrame
        What was decided or left out: participant, session, role, note. For the screen of the person who runs the study.
    problems : dict of (row, role) to InputError
        Why a subject's file of a role could not be chosen: the subject's failure, not the study's.
    """

    subjects: pd.DataFrame
    files: pd.DataFrame
    units: dict[str, str] = field(default_factory=dict)
    notes: pd.DataFrame = field(default_factory=lambda: _frame([], NOTE_COLUMNS))
    problems: Mapping[tuple[int, str], InputError] = field(default_factory=dict)

    @property
    def roles(self) -> list[str]:
        """Roles that the source of this study can give."""
        return [str(r) for r in self.files.columns if not str(r).endswith(f"_{KIND}")]

    def __len__(self) -> int:
        return len(self.subjects)

    def missing(self, roles: Iterable[str] | Mapping[int, Iterable[str]], covariates: Iterable[str] = COVARIATES_EXPECTED) -> pd.DataFrame:
        """List who is incomplete: one line a subject, indexed by row, with the words of the absent files and the absent covariates.

        Parameters
        ----------
        roles : iterable of str, or mapping of row to such
            Files that everybody needs, or that each one lacks (`engine.study.lacking`).
        covariates : iterable of str
            Those that the study does not have at all are not counted against anybody.
        """
        known = [c for c in covariates if c in self.subjects]
        of = roles if isinstance(roles, Mapping) else dict.fromkeys(self.subjects.index, tuple(roles))
        lines = {}
        for row in self.subjects.index:
            files = [schema.words(r) for r in self._known(of.get(row, ())) if self.files.at[row, r] is None]
            values = [c for c in known if _absent(self.subjects.at[row, c])]
            if files or values:
                lines[row] = [*self.subjects.loc[row, [schema.PARTICIPANT, schema.SESSION]], ", ".join(files), ", ".join(values)]
        return pd.DataFrame.from_dict(lines, orient="index", columns=[schema.PARTICIPANT, schema.SESSION, FILES, COVARIATES], dtype=object)

    def present(self, roles: Iterable[str] | None = None) -> pd.DataFrame:
        """Count subjects with and without each role (by default all of this study's), indexed by the words of the role."""
        counts = {schema.words(r): int(self.files[r].notna().sum()) for r in self._known(self.roles if roles is None else roles)}
        return pd.DataFrame({"present": counts, "absent": {words: len(self) - n for words, n in counts.items()}}, index=list(counts))

    def told(self, most: int = 6) -> list[str]:
        """Return the notes as lines: what is said of several people alike is one, and names the first of them."""
        lines: dict[tuple[str, str], list[str]] = {}
        for participant, session, role, note in self.notes.itertuples(index=False, name=None):
            lines.setdefault((role, note), []).append(" ".join(filter(None, (participant, session))))
        out = []
        for (role, note), people in lines.items():
            names = ", ".join(people[:most]) + (f" and {len(people) - most} more" if len(people) > most else "")
            out.append(": ".join(filter(None, (names, schema.words(role) if role else "", note))))
        return out

    def _known(self, roles: Iterable[str]) -> list[str]:
        for r in (roles := list(roles)):
            if r not in self.files:
                raise unknown_name("role", r, self.roles, where="study files")
        return roles


def kind_column(role: str) -> str:
    """Column of `Study.files` that says what the numbers of a landmark role mean.

    Examples
    --------
    >>> kind_column("t2w_landmarks")
    't2w_landmarks_kind'
    """
    return f"{role}_{KIND}"


# --- index ------------------------------------------------------------------------------------------------------------
def _sidecars(sidecars: Sidecars, choice: Choice) -> dict[str, str]:
    """Files that say more of a chosen image: of each role the nearest, of JSON files all that apply (`places.together`)."""
    found = {}
    for role in schema.ROLES.values():
        if (image := choice.images.get(role.sidecar_of)) is not None and (of := sidecars.of(image, role.endings)):
            found[role.name] = places.together(map(sidecars.tree.location, of if role.endings == (JSON,) else of[:1]))
    return found


def _broken(wrong: Mapping[str, str]) -> list[Told]:
    """Say which sidecars cannot be read."""
    where = {path: place(path) for path in wrong}
    return [
        (at.participant if at else "", at.session if at else "", f"{PurePosixPath(path).name} is no JSON ({wrong[path]}): not read")
        for path, at in where.items()
    ]  # fmt: skip


def index_study(
    bids: str, *, derivatives: Iterable[str] = (), include: Iterable[str] = (), exclude: Iterable[str] = (), roles: Sequence[Role] = (),
    selection: Selection | None = None,
) -> Study:  # fmt: skip
    r"""Index a BIDS dataset.

    Each participant and session with a file is a row, in natural order of participant, then session; without session folders the session is ``""``.
    Of several images one with all its partners is taken (MT-on and MT-off are a pair), of these the one that people labelled, then the plainest name
    (``acq-``, ``rec-average`` are less plain), then the lowest echo and run. Phase, real and imaginary images are not taken. Masks and landmarks
    belong to exactly the image that was taken, manual ones first. Every such choice is in `Study.notes`, as is what cannot be read.

    Parameters
    ----------
    bids : str
        Folder, or URL of a bucket.
    derivatives : iterable of str
        Folders or URLs, or names below ``derivatives/``, best first; by default all below ``derivatives/``.
    include, exclude : iterable of str
        Participants, with or without ``sub-``.
    roles : sequence of Role
        Further files, by the words that end their names (`schema.Role.file`), in the dataset or its derivatives.
    selection : Selection, optional
        What the study file says of names and entities.

    Returns
    -------
    Study

    Raises
    ------
    MissingInputError
        No such dataset, no participants in it, or no ``participants.tsv``.
    InputError
        A participants table that nobody can read; a selection that nobody's files fit.
    UnknownNameError
        `include` or `exclude` name somebody who is not there; the selection an unknown role or entity.
    StorageError
        The disk or bucket failed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t61\n")
    >>> (root / "sub-01" / "anat").mkdir(parents=True)
    >>> (root / "sub-01" / "anat" / "sub-01_T2w.nii.gz").touch()
    >>> study = index_study(str(root))
    >>> study.subjects.age.tolist(), study.present(["t2w", "mt_on"]).absent.tolist()
    ([61.0], [0, 1])
    """
    tree = Tree(bids)
    if not tree.paths:
        raise MissingInputError(expected="a BIDS dataset", found="no files", where="data.bids", remedy="Check the path in the study file.")
    trees = [*_derivative_trees(tree, tuple(derivatives)), (tree, "")]
    listed = [list_files(other, prefix, order) for order, (other, prefix) in enumerate(trees)]
    images, products = by_person(listed[-1].images), by_person(f for listing in listed for f in listing.images)
    names = (*bids_roles(), *(r.name for r in roles))
    selection = selection or Selection()
    check_selection(selection, names, [f for listing in listed for f in listing.images])
    sidecars = Sidecars(tree)
    called = {p for c in schema.CONTRASTS.values() for p in (c.mask, c.landmarks)}
    findable = [r for r in schema.ROLES.values() if r.suffixes or r.name in called]
    others: defaultdict[Person, list[str]] = defaultdict(list)
    for listing in listed:
        for person, paths in listing.others.items():
            others[person] += paths

    def choose(person: Person) -> Choice:
        choice = match(images[person], products[person], roles, selection, sidecars)
        lacking = [r for r in findable if r.name not in choice.files]
        missed = near.near_misses(_unused(products[person], others[person], choice), person, lacking, list(map(_stem, choice.images.values())))
        return replace(choice, files=choice.files | _sidecars(sidecars, choice), notes=[*choice.notes, *missed])

    people = people_of(tree, images)
    unread = [*near.unread_folders(tree), *near.other_datasets(tree), *(s for listing in listed for s in listing.strays), *_alone(products, people)]
    found = make_study(tree, people, choose, roles=names, include=include, exclude=exclude, unread=unread)
    check_found(selection, found.files, [f for listing in listed for f in listing.images])
    return found


def _alone(products: Mapping[Person, Sequence[ImageFile]], people: Sequence[Person]) -> list[near.Unread]:
    """Say whose derivatives belong to no person or session of the dataset."""
    out = []
    for person in sorted(set(products) - set(people)):
        names = sorted(f.short for f in products[person])
        more = " ..." if len(names) > near.NAMED else ""
        out.append((*person, f"has derivatives ({', '.join(names[: near.NAMED])}{more}), but no such folder of images: not read"))
    return out


def _stem(path: str) -> str:
    return without_ending(PurePosixPath(path).name)


def _unused(products: Sequence[ImageFile], others: Sequence[str], choice: Choice) -> list[str]:
    """Files of a person that play no role."""
    used = set(choice.images.values())
    return [p for p in (*(f.path for f in products), *others) if p not in used]


def check_selection(selection: Selection, roles: Sequence[str], files: Sequence[ImageFile]) -> None:
    """Refuse a selection of roles or entities that are not there, and of values that no image has.

    Raises
    ------
    UnknownNameError, InputError
        With what was found.
    """
    for role in selection.files:
        if role not in roles:
            raise unknown_name("file", role, list(roles), where="data.files")
    images = [r.name for r in image_rules()]
    for role, filters in selection.filters.items():
        where = f"data.filters{role and '.'}{role}"
        if role and role not in images:
            raise unknown_name("image", role, images, where="data.filters")
        for key, wanted in filters.items():
            values = sorted({f.entity(key) for f in files} - {""}, key=natural)
            if not values:
                known = sorted({k for f in files if not f.free for k, _ in f.image if k != SUFFIX})
                raise unknown_name("entity of the images", key, known or ["none"], where=where)
            if None not in wanted and not any(holds(f, key, wanted) for f in files):
                raise InputError(
                    expected=f"images with {' or '.join(f'{key}-{w}' for w in wanted)}", found=f"{key}: {', '.join(values)}", where=where,
                    remedy="Ask for one of these.",
                )  # fmt: skip


def check_found(selection: Selection, found: pd.DataFrame, files: Sequence[ImageFile]) -> None:
    """Refuse a name that nobody's file has; `InputError` with the names that were found."""
    for role, patterns in selection.files.items():
        if not found[role].notna().any():
            raise InputError(
                expected=f"files called {' or '.join(map(repr, patterns))}", found=names_of(files), where=f"data.files: {role}",
                remedy="Write the words that end the name (T1w), or a pattern of the whole name ('*_T1w').",
            )  # fmt: skip


def make_study(
    tree: Tree, everybody: Sequence[Person], choose: Callable[[Person], Choice], *, roles: Sequence[str], include: Iterable[str],
    exclude: Iterable[str], unread: Iterable[near.Unread] = (),
) -> Study:  # fmt: skip
    """Join people, the participants table and what was found for each of them; arguments and errors as of `index_study` and `Study`."""
    table = read_participants(tree)
    kept = _selected({p for p, _ in everybody} | table.names, tuple(include), tuple(exclude))
    people = [person for person in everybody if person[0] in kept]
    unread = list(unread)
    if not people:
        found = "none of those selected" if everybody else "; ".join(["none", *(text for *_, text in unread[: near.NAMED])])
        raise MissingInputError(
            expected="participants (folders sub-...)", found=found, where="data.bids",
            remedy="Point data.bids at the folder that holds the sub-... folders, and check include and exclude.",
        )  # fmt: skip

    landmark_roles = [c.landmarks for c in schema.CONTRASTS.values()]
    files: list[list[str | None]] = []
    notes: list[tuple[str, str, str, str]] = []
    described: list[tuple[str, ...]] = []
    problems: dict[tuple[int, str], InputError] = {}
    for row, person in enumerate(people):
        choice = choose(person)
        files.append([*map(choice.files.get, roles), *map(choice.kinds.get, landmark_roles)])
        problems |= {(row, role): error for role, error in choice.problems.items()}
        notes += [(*person, role, note) for role, note in choice.notes]
        notes += [(*person, role, f"found {error.found}: left out") for role, error in choice.problems.items()]
        described.append(choice.described)
    covariates, units, told = table.rows(people)
    said, wrong = Sidecars(tree).say(described)
    measured, measured_units, more = sidecar_covariates(said, people, without=[str(c) for c in covariates.columns])
    told = [t for t in (*table.told, *told, *more, *_broken(wrong)) if not t[0] or t[0] in kept]
    notes += [(participant, session, "", note) for participant, session, note in told]
    notes += [
        (*p, "", f"has files, but no row in the participants table: no covariates{_meant(p[0], table.names)}")
        for p in people
        if p[0] not in table.names
    ]
    absent = sorted((table.names & kept) - {p for p, _ in people}, key=natural)
    notes += [(p, "", "", "has a row in the participants table, but no files: not in the study") for p in absent]
    everyone = {p for p, _ in everybody} | table.names
    notes += [(p, s, "", text) for p, s, text in unread if p in kept or p not in everyone]
    return Study(
        pd.concat([_frame(people, [schema.PARTICIPANT, schema.SESSION]), covariates, measured], axis=1),
        _frame(files, [*roles, *map(kind_column, landmark_roles)]),
        units | measured_units,
        _frame(notes, NOTE_COLUMNS),
        problems,
    )


def _derivative_trees(tree: Tree, names: tuple[str, ...]) -> list[tuple[Tree, str]]:
    """Trees and prefixes with masks and landmarks, best first."""
    inside = dict.fromkeys(at.prefix for p in tree.paths if p.startswith("derivatives/") and (at := place(p)))
    if not names:
        return [(tree, prefix) for prefix in sorted(inside, key=natural)]
    found = []
    for name in names:
        prefix = next((p for p in (f"derivatives/{name.strip('/')}/", f"{name.strip('/')}/") if p in inside), None)
        other = tree if prefix is not None else Tree(name if "://" in name or name.startswith("/") else places.join(tree.root, name))
        if prefix is None and not other.paths:
            known = ", ".join(p.removeprefix("derivatives/").strip("/") for p in inside) or "none"
            raise MissingInputError(
                expected="a folder with masks and landmarks",
                found=f"nothing in {name!r}",
                where="data.derivatives",
                remedy=f"Below derivatives/: {known}.",
            )
        found.append((other, prefix or ""))
    return found


@dataclass(frozen=True)
class Listing:
    """Files of the people of a dataset: images by their names, the rest by person, and what lies in a wrong place."""

    images: list[ImageFile]
    others: Mapping[Person, list[str]]
    strays: list[near.Unread]


def list_files(tree: Tree, prefix: str, order: int) -> Listing:
    """Split the names of a dataset. A file whose name contradicts its folder is a stray; the folder says whose a name is that is not BIDS."""
    images: list[ImageFile] = []
    others: defaultdict[Person, list[str]] = defaultdict(list)
    strays: list[near.Unread] = []
    for path in tree.paths:
        at = place(path)
        if at is None or at.prefix != prefix:
            continue
        image, name = split_name(path), PurePosixPath(path).name
        if image is None:
            if not name.endswith(schema.IMAGE_ENDINGS):
                others[at.participant, at.session].append(path)
                continue
            image = ImageFile(path, at.participant, at.session, frozenset({(SUFFIX, _stem(path))}), free=True)
        elif image.participant != at.participant or at.session not in ("", image.session):
            strays.append((at.participant, at.session, near.stray(at.participant, at.session, name)))
            continue
        images.append(replace(image, location=tree.location(path), order=order))
    return Listing(images, others, strays)


def people_of(tree: Tree, images: Mapping[Person, Sequence[ImageFile]]) -> list[Person]:
    """Everybody with a file. Loose files beside session folders are a row only when there is an image among them."""
    seen = {(at.participant, at.session) for p in tree.paths if (at := place(p)) and not at.prefix} | {p for p, files in images.items() if files}
    in_sessions = {p for p, s in seen if s}
    return sorted(
        (k for k in seen if k[1] or k[0] not in in_sessions or any(not f.free for f in images[k])), key=lambda k: (natural(k[0]), natural(k[1]))
    )


def _selected(known: set[str], include: tuple[str, ...], exclude: tuple[str, ...]) -> set[str]:
    def names(given: tuple[str, ...], where: str) -> set[str]:
        full = {f"sub-{g.removeprefix('sub-')}" for g in given}
        for name in sorted(full - known):
            raise unknown_name("participant", name, sorted(known, key=natural), where=where)
        return full

    return (names(include, "data.include") or known) - names(exclude, "data.exclude")


def by_person(files: Iterable[ImageFile]) -> defaultdict[Person, list[ImageFile]]:
    """Sort files by whose they are."""
    out: defaultdict[Person, list[ImageFile]] = defaultdict(list)
    for f in files:
        out[f.participant, f.session].append(f)
    return out


def _meant(name: str, rows: Iterable[str]) -> str:
    """Say which row may be meant: of the same letters and numbers, whatever their case and leading zeros."""

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]|(?<![0-9])0+(?=[0-9])", "", text.lower())

    near = sorted(r for r in rows if plain(r) == plain(name))
    return f" (is {' or '.join(near)} meant?)" if near else ""


def _absent(value: Any) -> bool:
    return bool(value == "" or pd.isna(value))


def _frame(rows: Sequence[Sequence[Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame([list(r) for r in rows], columns=columns, index=pd.RangeIndex(len(rows)), dtype=object)
