"""What is in a dataset and is not read: folders that look like people, files in the wrong place, names that are nearly right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath

from cohort_engine import schema
from cohort_engine.io.choose import is_image, unlike
from cohort_engine.io.names import LEGAL_SUFFIXES, PRODUCTS, entities_of, split_name
from cohort_engine.io.tree import Tree, place
from cohort_engine.schema import Role

BESIDE_PEOPLE = frozenset({"derivatives", "sourcedata", "code", "stimuli", "phenotype"})
"""Folders of a dataset that hold no people of its own."""
_IMAGE = re.compile(r"\.(nii|hdr|img|mgz|mgh|nrrd|nhdr|mha|mhd|mnc|dcm|ima)\b|\.gz$", re.IGNORECASE)
_PERSON = re.compile(r"(?i)(?:sub(?:ject|j)?|participant|patient)(?=[-_ \d]|$)[-_ ]*")
_SESSION = re.compile(r"(?i)ses(?:sion|s)?[-_ ]*")
_LEADING = re.compile(r"(?i)(sub|ses)([-_ ]|\d)")
NAMED = 5
"""Files that a note names."""
ALIKE = 0.6
"""How like a word must be to a suffix to be a slip of it (`difflib`)."""

Unread = tuple[str, str, str]
"""Participant, session, and what is said."""


def unread_folders(tree: Tree) -> list[Unread]:
    """Folders that hold images of people, and whose names BIDS cannot read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("sub-01/ses-pre_op/anat", "Sub-04", "sub-02"):
    ...     (root / name).mkdir(parents=True)
    ...     (root / name / "x.nii.gz").touch()
    >>> for participant, session, text in unread_folders(Tree(str(root))):
    ...     print(participant, session, text)
    Sub-04  folder Sub-04 (1 images) is not read: a name is sub- with letters and digits; rename it and its files (sub-04)
    sub-01 ses-pre_op folder sub-01/ses-pre_op (1 images) is not read: a name is ses- with letters and digits; rename it and its files (ses-preop)
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    loose: list[str] = []
    for path in tree.paths:
        *parts, name = path.split("/")
        if not _IMAGE.search(name) or place(path) is not None or {*parts[:1]} & (BESIDE_PEOPLE - {"derivatives"}):
            continue
        person = next((i for i, p in enumerate(parts) if re.fullmatch(r"sub-[A-Za-z0-9]+", p)), None)
        looks = next((i for i, p in enumerate(parts) if _PERSON.match(p)), 0 if parts and parts[0] not in BESIDE_PEOPLE else None)
        if person is not None and person + 1 < len(parts):
            counts["/".join(parts[: person + 2]), parts[person], parts[person + 1]] += 1
        elif looks is not None:
            counts["/".join(parts[: looks + 1]), parts[looks], ""] += 1
        elif _LEADING.match(name):
            loose.append(name)
    out = []
    for (folder, participant, session), n in sorted(counts.items()):
        prefix, word, shape = ("ses-", session, _SESSION) if session else ("sub-", participant, _PERSON)
        label = re.sub(r"[^A-Za-z0-9]", "", shape.sub("", word, count=1))
        if session or _PERSON.match(participant) or re.search(r"\d", participant):
            why = f"a name is {prefix} with letters and digits" + (f"; rename it and its files ({prefix}{label})" if label else "")
        else:
            why = "people lie in folders sub-..., what was made of their images below derivatives/"
        out.append((participant, session, f"folder {folder} ({n} images) is not read: {why}"))
    if loose:
        names = ", ".join(loose[:NAMED]) + (" ..." if len(loose) > NAMED else "")
        out.append(("", "", f"{len(loose)} images lie outside the folders of people and are not read: {names}"))
    return out


def other_datasets(tree: Tree) -> list[Unread]:
    """Say which datasets lie inside this one, and are not read with it."""
    counts: Counter[str] = Counter()
    for path in tree.paths:
        at = place(path)
        if at and at.prefix and at.prefix.partition("/")[0] not in BESIDE_PEOPLE and _IMAGE.search(path):
            counts[at.prefix] += 1
    return [("", "", f"folder {p.rstrip('/')} ({n} images) is another dataset: not read; give it as data.bids") for p, n in sorted(counts.items())]


def stray(participant: str, session: str, name: str) -> str:
    """Say why a file whose name is not that of its folder is not read."""
    found = split_name(name)
    if found is None or found.participant != participant:
        return f"{name} lies in the folder of somebody else: ignored"
    return f"{name} lies in the folder of another session: ignored" if found.session else f"{name} lacks {session} in its name: ignored"


def near_misses(paths: Iterable[str], person: tuple[str, str], lacking: Sequence[Role], images: Sequence[str]) -> list[tuple[str, str]]:
    """Files whose names are nearly those of something that a person lacks: (role, what it would have been).

    Parameters
    ----------
    paths : iterable of str
        Files in the person's folders that play no role.
    person : (participant, session)
    lacking : sequence of Role
        Images, masks and landmarks that the person has not.
    images : sequence of str
        Names of the chosen images without endings: masks and landmarks must belong to one of them, or to an image that is lacking.
    """
    found: list[tuple[str, str]] = []
    for path in paths:
        name = PurePosixPath(path).name
        roles = lacking if _IMAGE.search(name) else ()
        right = next(((role, right) for role in roles if (right := _right_name(name, person, role, images))), None)
        if right is not None:
            found.append((right[0].name, f"{name} is not read; it would be the {right[0].words}, were it called {right[1]}"))
        elif not path.startswith("derivatives/") and (role := next((r for r in roles if _mentions(name, r)), None)) is not None:
            found.append((role.name, f"{name} is not read, for its name does not say enough; the {role.words} is called {_example(person, role)}"))
    return found


def _mentions(name: str, role: Role) -> bool:
    """Whether a name that is not BIDS, or does not say its state, holds the suffix of a role as a word."""
    split = split_name(name)
    words = {w.lower() for w in re.split(r"[^A-Za-z0-9]+", re.split(r"(?i)\.nii", name)[0])}
    plain = split is None or not split.tail or not any(re.fullmatch(r.words, split.tail) for r in PRODUCTS)
    states = [s for other in schema.ROLES.values() for s in other.states if set(other.suffixes) & set(role.suffixes)]
    told = split is not None and any(all(split.entity(k).lower() == v.lower() for k, v in s.items()) for s in states if s)
    told = told or (split is not None and bool(unlike(role, split)))
    return plain and not told and not (split and split.description) and any(s.lower() in words for s in role.suffixes)


def _example(person: tuple[str, str], role: Role) -> str:
    return "_".join([*filter(None, person), *(f"{k}-{v}" for k, v in role.states[0].items()), role.suffixes[0]]) + schema.IMAGE_ENDINGS[0]


def _right_name(name: str, person: tuple[str, str], role: Role, images: Sequence[str]) -> str:
    """Name under which a file would play a role; empty where it is no slip of one."""
    stem = re.split(r"(?i)\.(?:nii|hdr|img|mg[zh]|nr+d|nhdr|mh[ad]|mnc|dcm|ima|gz)", name)[0]
    stem = re.sub(r"\s*(\(\d+\)|- ?copy( \(\d+\))?|~)$", "", stem, flags=re.IGNORECASE)
    words = [w for w in re.split(r"[_ ]", stem) if w]
    while words and (_LEADING.match(words[0]) or f"_{words[0]}" in f"_{person[0]}_{person[1]}".replace("-", "_")):
        words = words[1:]
    cut = next((i for i, w in enumerate(words) if "-" not in w), None)
    if cut is None:
        return ""
    entities = [f"{k.lower()}-{v}" for k, _, v in (w.partition("-") for w in words[:cut])]
    tail = words[cut + 1 :]
    owner = next((c.image for c in schema.CONTRASTS.values() if role.name in (c.mask, c.landmarks)), "")
    image = schema.ROLES[owner] if owner else role
    for suffix in _suffixes(words[cut], image):
        head = "_".join([*filter(None, person), *entities, suffix])
        candidate = f"{'_'.join([head, *tail])}{schema.IMAGE_ENDINGS[0]}"
        split = split_name(candidate)
        if split is None or candidate == name or candidate.removesuffix(".gz") == name:
            continue
        if not owner and is_image(role, split):
            return candidate
        product = schema.MASK if role.name.endswith(schema.MASK) else schema.LANDMARKS
        known = {entities_of(i) for i in images}
        if owner and entities_of(head) in known and any(r.product == product and re.fullmatch(r.words, split.tail) for r in PRODUCTS):
            return candidate
    return ""


def _suffixes(word: str, role: Role) -> list[str]:
    """Suffixes of a role that a word may stand for."""
    same = [s for s in role.suffixes if s.lower() == word.lower()]
    if same or word in LEGAL_SUFFIXES:
        return same
    return get_close_matches(word, role.suffixes, n=1, cutoff=ALIKE)
