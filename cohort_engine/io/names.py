"""What the names of files say: whose they are, which image they are or belong to, and what was made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath

from cohort_engine import schema

SUFFIX = "suffix"
MANUAL = "manual"
NEAREST = ("sub", "ses")


# --- rules ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ProductRule:
    """What the words after the image's name say: ``sub-01_T2w`` + ``label-SC_seg``.

    Attributes
    ----------
    product : str
        ``schema.MASK``, ``schema.LANDMARKS``, or an image that is made of the image (`Role.made_of`).
    words : str
        Regular expression for the whole tail in lower case, after ``desc-...`` and ``-manual`` were taken off.
    """

    product: str
    words: str


PRODUCTS: tuple[ProductRule, ...] = (
    ProductRule(schema.MASK, r"(label-(sc|cord|spinalcord)_)?(seg|dseg|mask)"),
    ProductRule(schema.MASK, r"(label-(sc|cord|spinalcord)_)?softseg"),
    ProductRule(schema.LANDMARKS, r"labels?-discs?(_(dlabel|label|dseg|seg))?"),
    ProductRule(schema.LANDMARKS, r"(label-sc_)?seg_labeled_discs"),
    ProductRule(schema.LANDMARKS, r"labels?-(vertebrae|vertebra|vertebral|vert|body|bodies)(_(dlabel|label|dseg|seg))?"),
    ProductRule(schema.LANDMARKS, r"(label-sc_)?seg_labeled"),
    ProductRule(schema.MOCO, r"desc-(moco|preproc|corrected)"),
    ProductRule(schema.MOCO, r"(crop_)?moco"),
    ProductRule(schema.MEAN, r"desc-(moco)?(dwi)?mean"),
    ProductRule(schema.MEAN, r"(crop_)?(moco_)?dwi_mean"),
    ProductRule(schema.ROI_LABELS, r"label-rois?(_(dseg|seg|dlabel))?"),
    *(
        ProductRule(role.removeprefix(f"{schema.DWI}_"), rf"label-{short.lower()}(_(mask|seg|dseg))?")
        for role, short in zip(schema.DWI_ROI_MASKS, schema.SHORT, strict=True)
    ),
)
"""In order of preference, within the same `DESCRIPTIONS` rank."""

MADE_FIRST = re.compile(r"(desc-(moco|preproc|corrected|(moco)?(dwi)?mean)|(crop_)?(moco_dwi_mean|moco|dwi_mean))_")
"""What a mask's name may have before its own words, where it was drawn on what was made of the image."""

DESCRIPTIONS = (MANUAL, "")
"""What ``desc-`` may say, best first: drawn or corrected by hand, nothing, then anything else (``desc-warp``)."""

COUNTED = {schema.DISC: r"dis[ck]s?(posterior)?", schema.BODY: r"body|bodies|vert|vertebrae?|vertebral"}
"""Words of a file name that say what landmark numbers count; of both (vertebral discs) the first holds."""

REPEATS = ("echo", "inv", "run")
"""Entities that number images of one protocol: the lowest is the one to take. They make a name no less plain."""

LEGAL_SUFFIXES = frozenset({
    "T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "UNIT1", "T2star", "FLASH", "PD", "angio", "defacemask", "T1map",
    "T2map", "T2starmap", "R1map", "R2map", "R2starmap", "MTRmap", "MTsat", "MTVmap", "MWFmap", "PDmap", "Chimap", "S0map", "M0map", "T1rho",
    "TB1map", "RB1map", "dwi", "sbref", "bold", "cbv", "phase", "epi", "magnitude", "magnitude1", "magnitude2", "fieldmap", "phasediff", "phase1",
    "phase2", "VFA", "IRT1", "MP2RAGE", "MESE", "MEGRE", "MPM", "MTS", "MTR", "TB1AFI", "TB1DAM", "TB1EPI", "TB1RFM", "TB1SRGE", "TB1TFL", "RB1COR",
    "asl", "m0scan",
})  # fmt: skip
"""Suffixes of images in BIDS: what has one of them is what it says, and no slip of the pen."""


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
    free : bool
        A name that is not BIDS: the folder says whose it is, and only a study file says what it is.
    """

    path: str
    participant: str
    session: str
    image: frozenset[tuple[str, str]]
    tail: str = ""
    description: str = ""
    location: str = ""
    order: int = 0
    free: bool = False

    @cached_property
    def entities(self) -> dict[str, str]:
        """Entities and suffix of the image, by name."""
        return dict(self.image)

    def entity(self, key: str) -> str:
        return self.entities.get(key, "")

    @property
    def stem(self) -> str:
        """Name of the file without its ending."""
        return without_ending(PurePosixPath(self.path).name)

    @property
    def short(self) -> str:
        """Name of the file without the person."""
        return "_".join(w for w in PurePosixPath(self.path).name.split("_") if not w.startswith(("sub-", "ses-")))

    @property
    def rank(self) -> tuple[int, tuple[int, ...], str]:
        """The plain name first, then the lowest of `REPEATS`, then the alphabet."""
        more = [k for k, v in self.image if k not in REPEATS and (k, v) != ("part", "mag")]
        return len(more), tuple(int(v) if (v := self.entity(k)).isdigit() else 0 for k in REPEATS), self.path


def without_ending(name: str) -> str:
    """Return a name without the ending of an image."""
    return name.removesuffix(next((e for e in schema.IMAGE_ENDINGS if name.endswith(e)), ""))


def entities_of(stem: str) -> tuple[frozenset[tuple[str, str]], str]:
    """Split a name without its ending into entities and suffix; numbers without leading zeros.

    Examples
    --------
    >>> entities, suffix = entities_of("sub-01_run-02_T2w")
    >>> sorted(entities), suffix, entities_of("T2w")
    ([('run', '2'), ('sub', '01')], 'T2w', (frozenset(), 'T2w'))
    """
    *words, suffix = stem.split("_")
    pairs = [word.partition("-")[::2] for word in words]
    return frozenset((k, str(int(v)) if v.isdigit() and k not in NEAREST else v) for k, v in pairs), suffix


def split_name(path: str) -> ImageFile | None:
    """Split the name of a NIfTI file; None for a name that is not BIDS.

    Examples
    --------
    >>> f = split_name("sub-01/ses-1/anat/sub-01_ses-1_flip-1_mt-on_MTS_label-SC_desc-manual_seg.nii.gz")
    >>> f.participant, f.session, sorted(f.image), f.tail, f.description
    ('sub-01', 'ses-1', [('flip', '1'), ('mt', 'on'), ('suffix', 'MTS')], 'label-sc_seg', 'manual')
    """
    name = PurePosixPath(path).name
    words = without_ending(name).split("_")
    cut = next((i for i, w in enumerate(words) if "-" not in w), None)
    if not name.endswith(schema.IMAGE_ENDINGS) or cut is None:
        return None
    found, suffix = entities_of("_".join(words[: cut + 1]))
    entities = dict(found)
    participant, session = entities.pop("sub", ""), entities.pop("ses", "")
    if not participant:
        return None
    tail, description = split_tail(words[cut + 1 :])
    image = frozenset({*entities.items(), (SUFFIX, suffix)})
    return ImageFile(path, f"sub-{participant}", session and f"ses-{session}", image, tail, description)


def split_tail(words: Iterable[str]) -> tuple[str, str]:
    """Split the words after the name of an image into what was made of it and its description, in lower case.

    Examples
    --------
    >>> split_tail(["label-SC", "desc-warp", "seg"]), split_tail(["seg-manual"])
    (('label-sc_seg', 'warp'), ('seg', 'manual'))
    """
    description, tail = "", []
    for word in map(str.lower, words):
        if word.startswith("desc-"):
            description = word.removeprefix("desc-")
        elif word.endswith(f"-{MANUAL}"):
            description = MANUAL
            tail.append(word.removesuffix(f"-{MANUAL}"))
        else:
            tail.append(word)
    return "_".join(tail), description


def is_called(pattern: str, path: str) -> bool:
    """Whether a file is called as a study file says: by a pattern of its name, of its path, or by the words that end its name.

    Examples
    --------
    >>> [is_called(p, "sub-01/anat/sub-01_T1w.nii.gz") for p in ("*_T1w", "T1w", "*_T1w.nii.gz", "anat/*_T1w", "*_t1w", "1w")]
    [True, True, True, True, False, False]
    """
    names = {path, without_ending(path)}
    if "/" in pattern:
        return any(fnmatchcase(f"/{n}", f"*/{pattern.lstrip('/')}") for n in names)
    names = {PurePosixPath(n).name for n in names}
    if not any(c in pattern for c in "*?["):
        return any(n == pattern or n.endswith(f"_{pattern}") for n in names)
    return any(fnmatchcase(n, pattern) for n in names)


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


def names_nobody(text: str) -> bool:
    """Whether all names of files in a text are BIDS without the person, so that it may be recorded.

    Examples
    --------
    >>> [names_nobody(f"took {n}.nii.gz of 2") for n in ("run-1_T2w", "sub-01_T2w", "jane_roe", "acq-ax_T2w_label-SC_seg")]
    [True, False, False, True]
    """
    for name in re.findall(r"[^\s,;()]+\.nii\S*", text):
        words = name.partition(".")[0].split("_")
        first = next((w for w in words if "-" not in w), "")
        if first not in LEGAL_SUFFIXES or any(w.startswith(tuple(f"{n}-" for n in NEAREST)) for w in words):
            return False
    return True


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key under which sub-2 comes before sub-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
