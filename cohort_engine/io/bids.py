"""From a BIDS folder or bucket to the subject table: who is in the study, what is known of them, and which file plays which role.

One listing of the dataset, file names split by bids2table, and rules that say what a name means: of images in `schema.ROLES`, of what belongs to
them in `PRODUCTS`. A new naming habit is a new row in a table. Nothing is opened but the participants table and a few sidecars.
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
from cohort_engine.io import places
from cohort_engine.io.participants import Person, Told, read_participants, sidecar_covariates
from cohort_engine.io.sidecars import Sidecars
from cohort_engine.io.tree import Tree, place
from cohort_engine.schema import Role

KIND = "kind"
NOTE = "note"
ROLE = "role"
FILES = "files"
COVARIATES = "covariates"
NOTE_COLUMNS = [schema.PARTICIPANT, schema.SESSION, ROLE, NOTE]


# --- rules ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ProductRule:
    """What the words after the image's name say: ``sub-01_T2w`` + ``label-SC_seg``.

    Attributes
    ----------
    product : str
        ``schema.MASK`` or ``schema.LANDMARKS``.
    words : str
        Regular expression for the whole tail in lower case, after ``desc-...`` and ``-manual`` were taken off.
    """

    product: str
    words: str


def image_rules() -> list[Role]:
    """Roles of images that a name tells. ``flip-2_mt-off_MTS`` is the T1-weighted image of an MTsat protocol: its flip angle differs from the MT-on
    image, so it is never the MT-off image of an MTR.
    """
    return [role for role in schema.ROLES.values() if role.suffixes]


PAIRED = ("flip",)
"""An MTR of images with different flip angles means nothing."""

PRODUCTS: tuple[ProductRule, ...] = (
    ProductRule(schema.MASK, r"(label-(sc|cord|spinalcord)_)?(seg|dseg|mask)"),
    ProductRule(schema.MASK, r"(label-(sc|cord|spinalcord)_)?softseg"),
    ProductRule(schema.LANDMARKS, r"labels?-discs?(_(dlabel|label|dseg|seg))?"),
    ProductRule(schema.LANDMARKS, r"(label-sc_)?seg_labeled_discs"),
    ProductRule(schema.LANDMARKS, r"labels?-(vertebrae|vertebra|vertebral|vert|body|bodies)(_(dlabel|label|dseg|seg))?"),
    ProductRule(schema.LANDMARKS, r"(label-sc_)?seg_labeled"),
)
"""In order of preference, within the same `DESCRIPTIONS` rank."""

DESCRIPTIONS = ("manual", "")
"""What ``desc-`` may say, best first: drawn or corrected by hand, nothing, then anything else (``desc-warp``)."""


def bids_roles() -> tuple[str, ...]:
    """Return what a BIDS dataset can give."""
    products = {schema.role(c, p.product) for c in schema.CONTRASTS for p in PRODUCTS}
    return tuple(r.name for r in schema.ROLES.values() if r.suffixes or r.sidecar_of or r.name in products)


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
    expected : tuple of str
        Roles that everybody should have; those that can stand for each other are not among them.
    """

    subjects: pd.DataFrame
    files: pd.DataFrame
    units: dict[str, str] = field(default_factory=dict)
    notes: pd.DataFrame = field(default_factory=lambda: _frame([], NOTE_COLUMNS))
    problems: Mapping[tuple[int, str], InputError] = field(default_factory=dict)
    expected: tuple[str, ...] = ()

    @property
    def roles(self) -> list[str]:
        """Roles that the source of this study can give."""
        return [str(r) for r in self.files.columns if not str(r).endswith(f"_{KIND}")]

    def __len__(self) -> int:
        return len(self.subjects)

    def missing(self, roles: Iterable[str] | None = None, covariates: Iterable[str] = COVARIATES_EXPECTED) -> pd.DataFrame:
        """List who is incomplete: one line a subject, indexed by row, with the words of the absent files and the absent covariates.

        By default the roles that are `expected`. Covariates that the study does not have at all are not counted against anybody.
        """
        known = [c for c in covariates if c in self.subjects]
        lines = {}
        for row in self.subjects.index:
            files = [schema.words(r) for r in self._known(self.expected if roles is None else roles) if self.files.at[row, r] is None]
            values = [c for c in known if _absent(self.subjects.at[row, c])]
            if files or values:
                lines[row] = [*self.subjects.loc[row, [schema.PARTICIPANT, schema.SESSION]], ", ".join(files), ", ".join(values)]
        return pd.DataFrame.from_dict(lines, orient="index", columns=[schema.PARTICIPANT, schema.SESSION, FILES, COVARIATES], dtype=object)

    def present(self, roles: Iterable[str] | None = None) -> pd.DataFrame:
        """Count subjects with and without each role (by default all of this study's), indexed by the words of the role."""
        counts = {schema.words(r): int(self.files[r].notna().sum()) for r in self._known(self.roles if roles is None else roles)}
        return pd.DataFrame({"present": counts, "missing": {words: len(self) - n for words, n in counts.items()}}, index=list(counts))

    def _known(self, roles: Iterable[str]) -> list[str]:
        for r in (roles := list(roles)):
            if r not in self.files:
                raise unknown_name("role", r, self.roles, where="study files")
        return roles


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


def kind_column(role: str) -> str:
    """Column of `Study.files` that says what the numbers of a landmark role mean.

    Examples
    --------
    >>> kind_column("t2w_landmarks")
    't2w_landmarks_kind'
    """
    return f"{role}_{KIND}"


# --- names ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ImageFile:
    """A file name, split at the name of its image: ``sub-01_acq-MTon_MTS`` and, of a product, ``label-SC_seg``.

    Attributes
    ----------
    path : str
        From the root of its tree.
    participant, session : str
    image : frozenset of pairs
        Entities and suffix of the image.
    tail, description : str
        The words after it in lower case, and its ``desc-``.
    location : str
        Path or URL that opens it.
    order : int
        Rank of its tree: derivatives as configured, then the raw tree.
    """

    path: str
    participant: str
    session: str
    image: frozenset[tuple[str, str]]
    tail: str = ""
    description: str = ""
    location: str = ""
    order: int = 0

    def entity(self, key: str) -> str:
        return dict(self.image).get(key, "")

    @property
    def rank(self) -> tuple[int, int, str]:
        """The plain name first, then the lowest run."""
        run = self.entity("run")
        return len(self.image) - bool(run), int(run) if run.isdigit() else 0, self.path


def split_name(path: str) -> ImageFile | None:
    """Split the name of a NIfTI file; None for a name that is not BIDS.

    Examples
    --------
    >>> f = split_name("sub-01/ses-1/anat/sub-01_ses-1_flip-1_mt-on_MTS_label-SC_desc-manual_seg.nii.gz")
    >>> f.participant, f.session, sorted(f.image), f.tail, f.description
    ('sub-01', 'ses-1', [('flip', '1'), ('mt', 'on'), ('suffix', 'MTS')], 'label-sc_seg', 'manual')
    """
    from bids2table import parse_bids_entities

    name = PurePosixPath(path).name
    ending = next((s for s in schema.IMAGE_ENDINGS if name.endswith(s)), None)
    words = name.removesuffix(ending or "").split("_")
    cut = next((i for i, w in enumerate(words) if "-" not in w), None)
    if ending is None or cut is None:
        return None
    entities = parse_bids_entities("_".join(words[: cut + 1]) + ending)
    entities.pop("ext", None)
    participant, session = entities.pop("sub", ""), entities.pop("ses", "")
    if not participant:
        return None
    description, tail = "", []
    for word in (w.lower() for w in words[cut + 1 :]):
        if word.startswith("desc-"):
            description = word.removeprefix("desc-")
        elif word.endswith("-manual"):
            description = "manual"
            tail.append(word.removesuffix("-manual"))
        else:
            tail.append(word)
    image = frozenset((k, str(int(v)) if v.isdigit() else v) for k, v in entities.items())
    return ImageFile(path, f"sub-{participant}", session and f"ses-{session}", image, "_".join(tail), description)


COUNTED = {schema.DISC: r"dis[ck]s?(posterior)?", schema.BODY: r"body|bodies|vert|vertebrae?|vertebral"}
"""Words of a file name that say what landmark numbers count; of both (vertebral discs) the first holds."""


def kind_of_landmarks(location: str) -> str | None:
    """Tell from a file name what the numbers of landmarks count; None where it does not say.

    Every command and stage asks this, unless the user says it. The numbers of a mask labelled by level (``seg_labeled``) are vertebrae.

    Examples
    --------
    >>> kind_of_landmarks("sub-01_T2w_label-discs_dlabel.nii.gz"), kind_of_landmarks("t2_bodies.nii.gz"), kind_of_landmarks("points.nii")
    ('disc', 'body', None)
    >>> kind_of_landmarks("sub-01_T2w_labels-disc-manual.nii.gz"), kind_of_landmarks("T2w_label-vertebrae_desc-manual_dlabel.nii.gz")
    ('disc', 'body')
    """
    stem = re.sub(r"(^|_)(sub|ses)-[^_]*", "", PurePosixPath(location).name.lower()).partition(".")[0]
    words = re.split(r"[^a-z]+", stem)
    if kind := next((kind for kind, known in COUNTED.items() if any(re.fullmatch(known, w) for w in words)), None):
        return kind
    return schema.BODY if re.search(r"(^|_)seg_label+ed$", stem) else None


# --- matching ---------------------------------------------------------------------------------------------------------
def _image_candidates(rule: Role, files: Sequence[ImageFile], chosen: Mapping[str, ImageFile]) -> list[ImageFile]:
    def holds(f: ImageFile) -> bool:
        return any(all(f.entity(k).lower() == v.lower() for k, v in state.items()) for state in rule.states)

    found = [f for f in files if not f.tail and not f.description and f.entity("suffix") in rule.suffixes and holds(f)]
    partner = chosen.get(rule.beside)
    if partner is None:
        return sorted(found, key=lambda f: f.rank)
    found = [f for f in found if all(f.entity(k) == partner.entity(k) for k in PAIRED)]
    return sorted(found, key=lambda f: (len(f.image ^ partner.image), f.rank))


def _product_candidates(product: str, image: str, files: Sequence[ImageFile], chosen: Mapping[str, ImageFile]) -> list[ImageFile]:
    """Products of the chosen image, best first; where the image itself is absent, products of the image that would have been chosen."""
    rules = [r for r in PRODUCTS if r.product == product]
    matched = {f: i for f in files for i, r in enumerate(rules) if re.fullmatch(r.words, f.tail)}
    owner = chosen.get(image)
    if owner is None:
        rule = schema.ROLES[image]
        heads = _image_candidates(rule, [replace(f, tail="", description="") for f in matched], chosen)
        if not heads:
            return []
        owner = heads[0]

    def rank(f: ImageFile) -> tuple[int, int, int, str]:
        described = DESCRIPTIONS.index(f.description) if f.description in DESCRIPTIONS else len(DESCRIPTIONS)
        return described, matched[f], f.order, f.path

    return sorted((f for f in matched if f.image == owner.image), key=rank)


def match(raw: Sequence[ImageFile], products: Sequence[ImageFile], roles: Sequence[Role] = ()) -> Choice:
    """Give each image, mask and landmark role its file, and each of `roles`, which a study file names."""
    chosen: dict[str, ImageFile] = {}
    kinds: dict[str, str] = {}
    notes: list[tuple[str, str]] = []

    def take(role: str, candidates: Sequence[ImageFile]) -> None:
        if candidates:
            chosen[role] = candidates[0]
        if len(candidates) > 1:
            names = [_short(f) for f in candidates]
            notes.append((role, f"took {names[0]} of {len(names)}; left out: {', '.join(names[1:])}"))

    rules = image_rules()
    for rule in rules:
        take(rule.name, _image_candidates(rule, raw, chosen))
    for extra in roles:
        take(extra.name, _named(extra, products))
    for contrast in schema.CONTRASTS.values():
        for product in (schema.MASK, schema.LANDMARKS):
            found = _product_candidates(product, contrast.image, products, chosen)
            role = schema.role(contrast.name, product)
            take(role, found)
            if found and product == schema.LANDMARKS and (kind := kind_of_landmarks(found[0].path)):
                kinds[role] = kind
    described = tuple(chosen[r.name].path for r in rules if r.name in chosen and not r.beside)
    return Choice({r: f.location for r, f in chosen.items()}, kinds, notes, described, images={r: f.path for r, f in chosen.items()})


def _named(role: Role, files: Sequence[ImageFile]) -> list[ImageFile]:
    """Files whose names end with the words that the study file gives, the shortest name first."""

    def words(f: ImageFile) -> str:
        name = PurePosixPath(f.path).name
        return name.removesuffix(next(e for e in schema.IMAGE_ENDINGS if name.endswith(e)))

    return sorted((f for f in files if words(f).endswith(f"_{role.file}")), key=lambda f: (len(words(f)), f.order, f.path))


def _sidecars(sidecars: Sidecars, choice: Choice) -> dict[str, str]:
    """Files that say more of a chosen image, the nearest of each role."""
    found = {}
    for role in schema.ROLES.values():
        if (image := choice.images.get(role.sidecar_of)) is not None and (of := sidecars.of(image, role.endings)):
            found[role.name] = sidecars.tree.location(of[0])
    return found


def _broken(wrong: Mapping[str, str]) -> list[Told]:
    """Say which sidecars cannot be read."""
    where = {path: place(path) for path in wrong}
    return [
        (at.participant if at else "", at.session if at else "", f"{PurePosixPath(path).name} is no JSON ({wrong[path]}): not read")
        for path, at in where.items()
    ]  # fmt: skip


# --- index ------------------------------------------------------------------------------------------------------------
def index_study(
    bids: str, *, derivatives: Iterable[str] = (), include: Iterable[str] = (), exclude: Iterable[str] = (), roles: Sequence[Role] = ()
) -> Study:
    r"""Index a BIDS dataset.

    Each participant and session with a file is a row, in natural order of participant, then session; without session folders the
    session is ``""``. Of several runs the lowest is taken, of several acquisitions (``acq-``, ``rec-average``) the plainest name; masks
    and landmarks belong to exactly the image that was taken, manual ones first. Every such choice is in `Study.notes`.

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

    Returns
    -------
    Study

    Raises
    ------
    MissingInputError
        No such dataset, no participants in it, or no ``participants.tsv``.
    InputError
        A participants table that contradicts itself.
    UnknownNameError
        `include` or `exclude` name somebody who is not there.
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
    >>> study.subjects.age.tolist(), study.present(["t2w", "mt_on"]).missing.tolist()
    ([61.0], [0, 1])
    """
    tree = Tree(bids)
    if not tree.paths:
        raise MissingInputError(expected="a BIDS dataset", found="no files", where="data.bids", remedy="Check the path in the study file.")
    trees = _derivative_trees(tree, tuple(derivatives))
    raw, strays = image_files(tree, "", len(trees))
    products = by_person([f for order, (other, prefix) in enumerate(trees) for f in image_files(other, prefix, order)[0]] + raw)
    images = by_person(raw)

    sidecars = Sidecars(tree)

    def choose(person: Person) -> Choice:
        choice = match(images[person], products[person], roles)
        return replace(choice, files=choice.files | _sidecars(sidecars, choice))

    names = (*bids_roles(), *(r.name for r in roles))
    return make_study(tree, people_of(tree, images), choose, roles=names, include=include, exclude=exclude, strays=strays, expected=names)


def make_study(
    tree: Tree, everybody: Sequence[Person], choose: Callable[[Person], Choice], *, roles: Sequence[str], include: Iterable[str],
    exclude: Iterable[str], strays: Iterable[tuple[str, str, str]] = (), expected: tuple[str, ...] = (),
) -> Study:  # fmt: skip
    """Join people, the participants table and what was found for each of them; arguments and errors as of `index_study` and `Study`."""
    table = read_participants(tree)
    kept = _selected({p for p, _ in everybody} | table.names, tuple(include), tuple(exclude))
    people = [person for person in everybody if person[0] in kept]
    if not people:
        raise MissingInputError(
            expected="participants (folders sub-...)", found="none" if not everybody else "none of those selected", where="data.bids",
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
    notes += [(*person, "", "has files, but no row in the participants table: no covariates") for person in people if person[0] not in table.names]
    absent = sorted((table.names & kept) - {p for p, _ in people}, key=_natural)
    notes += [(p, "", "", "has a row in the participants table, but no files: not in the study") for p in absent]
    notes += [(p, s, "", f"{name} lies in the folder of somebody else: ignored") for p, s, name in strays if p in kept]
    return Study(
        pd.concat([_frame(people, [schema.PARTICIPANT, schema.SESSION]), covariates, measured], axis=1),
        _frame(files, [*roles, *map(kind_column, landmark_roles)]),
        units | measured_units,
        _frame(notes, NOTE_COLUMNS),
        problems,
        expected,
    )


def _derivative_trees(tree: Tree, names: tuple[str, ...]) -> list[tuple[Tree, str]]:
    """Trees and prefixes with masks and landmarks, best first."""
    inside = dict.fromkeys(at.prefix for p in tree.paths if p.startswith("derivatives/") and (at := place(p)))
    if not names:
        return [(tree, prefix) for prefix in sorted(inside, key=_natural)]
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


def image_files(tree: Tree, prefix: str, order: int) -> tuple[list[ImageFile], list[tuple[str, str, str]]]:
    """Split the names of a dataset; a file whose name contradicts its folder is a stray (participant, session, name)."""
    found, strays = [], []
    for path in tree.paths:
        at = place(path)
        if at is None or at.prefix != prefix or (image := split_name(path)) is None:
            continue
        if image.participant == at.participant and at.session in ("", image.session):
            found.append(replace(image, location=tree.location(path), order=order))
        else:
            strays.append((at.participant, at.session, PurePosixPath(path).name))
    return found, strays


def people_of(tree: Tree, images: Mapping[Person, Sequence[ImageFile]]) -> list[Person]:
    """Everybody with a file. Loose files beside session folders are a row only when there is an image among them."""
    seen = {(at.participant, at.session) for p in tree.paths if (at := place(p)) and not at.prefix} | {p for p, files in images.items() if files}
    in_sessions = {p for p, s in seen if s}
    return sorted((k for k in seen if k[1] or k[0] not in in_sessions or images[k]), key=lambda k: (_natural(k[0]), _natural(k[1])))


def _selected(known: set[str], include: tuple[str, ...], exclude: tuple[str, ...]) -> set[str]:
    def names(given: tuple[str, ...], where: str) -> set[str]:
        full = {f"sub-{g.removeprefix('sub-')}" for g in given}
        for name in sorted(full - known):
            raise unknown_name("participant", name, sorted(known, key=_natural), where=where)
        return full

    return (names(include, "data.include") or known) - names(exclude, "data.exclude")


def by_person(files: Iterable[ImageFile]) -> defaultdict[Person, list[ImageFile]]:
    """Sort files by whose they are."""
    out: defaultdict[Person, list[ImageFile]] = defaultdict(list)
    for f in files:
        out[f.participant, f.session].append(f)
    return out


def _short(f: ImageFile) -> str:
    """Name of a file without the person."""
    return "_".join(w for w in PurePosixPath(f.path).name.split("_") if not w.startswith(("sub-", "ses-")))


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key under which sub-2 comes before sub-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _absent(value: Any) -> bool:
    return bool(value == "" or pd.isna(value))


def _frame(rows: Sequence[Sequence[Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame([list(r) for r in rows], columns=columns, index=pd.RangeIndex(len(rows)), dtype=object)
