"""Every error a user can meet, in four parts: what was expected, what was found, where, and what to do.

The parts travel separately so that the ledger can store them, the screen can print them, and a worker can send them home
through pickle. `where` names a *role* (``"MT-off image"``), never a file path: paths of people's data do not belong into logs.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any, ClassVar

LONGEST_TEXT = 2000
"""Characters of a foreign message that are looked at: what follows says nothing more."""
FRAMES = 20
"""Most frames of an error that are told: the outermost and the innermost."""


class CohortError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    expected, found : str
        What the code needed, and what it met instead.
    where : str
        The role of the input or the place in the store: ``"MT mask"``, ``"maps/mtr"``, ``"study.yaml: stages.fit"``.
    remedy : str
        What the user can do about it.

    Examples
    --------
    >>> print(
    ...     CohortError(
    ...         expected="a 3-D image", found="shape (64, 64, 20, 2)", where="MT-off image", remedy="Give one volume, for instance with fslroi."
    ...     )
    ... )
    MT-off image: expected a 3-D image, found shape (64, 64, 20, 2). Give one volume, for instance with fslroi.
    """

    retryable: ClassVar[bool] = False
    """True where doing the same again may help: storage and lost workers, never science."""

    def __init__(self, *, expected: str, found: str, where: str, remedy: str) -> None:
        self.expected, self.found, self.where, self.remedy = expected, found, where, remedy
        super().__init__(f"{where}: expected {expected}, found {found}. {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.expected, self.found, self.where, self.remedy)


def _rebuild(kind: type[CohortError], expected: str, found: str, where: str, remedy: str) -> CohortError:
    return kind(expected=expected, found=found, where=where, remedy=remedy)


class ConfigError(CohortError):
    """The study file asks for something that does not exist or does not fit."""


class InputError(CohortError):
    """An image, table or label of the study cannot be used as it is."""


class MissingInputError(InputError):
    """A file that a stage needs is not in the study."""


class GeometryError(InputError):
    """Images that must share a grid or a field of view do not."""


class CordError(InputError):
    """The cord mask or its centreline cannot carry a registration: empty, broken, too short."""


class NotEnoughError(InputError):
    """The study has too little of what something is made of: people, sites, sessions, scores. Nothing is wrong with it."""


class LevelError(InputError):
    """Vertebral landmarks are too few, out of order, or outside the image."""


class TemplateError(CohortError):
    """A template is absent, incomplete, or not the version that was asked for."""


class UnknownNameError(CohortError):
    """A tract, level, metric or option that nobody has heard of."""


class StoreError(CohortError):
    """The cohort store is not what the operation needs."""


class AlignmentError(StoreError):
    """A write would not cover whole chunks, so that two writers could meet."""


class IncompleteError(StoreError):
    """Closing was asked for while subjects are missing."""


class StorageError(CohortError):
    """The disk or the bucket failed: full, read-only, unreachable."""

    retryable = True


class LostWorkerError(CohortError):
    """A worker died while it ran the task, more than once."""

    retryable = True


class TimeoutWorkerError(LostWorkerError):
    """A task ran longer than it may, and was ended with its worker."""


class ResourceError(CohortError):
    """The cluster cannot run the plan: no worker offers a resource, or memory is too small."""


class MissingPackageError(CohortError):
    """A package of an extra is not installed."""


class CohortWarning(UserWarning):
    """What an input left open was settled, and a reader must know how: one sentence that begins with the role of the input.

    The command line prints it as a note; a build keeps it in the ledger.
    """


def warn(text: str, *, where: str) -> None:
    """Tell a reader something that stops nothing.

    Examples
    --------
    >>> with told() as notes:
    ...     warn("its sform is taken", where="MT mask")
    >>> notes
    ['MT mask: its sform is taken']
    """
    warnings.warn(f"{where}: {text}", CohortWarning, stacklevel=2)


@contextmanager
def told() -> Iterator[list[str]]:
    """Collect what is told inside, each sentence once; other warnings go their way. The list is filled at the end, however that comes."""
    notes: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CohortWarning)
            yield notes
    finally:
        notes += dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, CohortWarning))
        for other in (w for w in caught if not issubclass(w.category, CohortWarning)):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


@contextmanager
def optional(package: str, extra: str, *, where: str) -> Iterator[None]:
    """Import inside: an absent package is answered with the extra that brings it.

    Examples
    --------
    >>> with optional("scikit-learn", "analysis", where="clusters"):
    ...     raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    Traceback (most recent call last):
    cohort_engine.errors.MissingPackageError: clusters: expected scikit-learn, found no module 'sklearn'. pip install "cohort-engine[analysis]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        found, remedy = f"no module {error.name!r}", f'pip install "cohort-engine[{extra}]"'
        raise MissingPackageError(expected=package, found=found, where=where, remedy=remedy) from error


def unknown_name(kind: str, name: str, known: list[str], *, where: str) -> UnknownNameError:
    """Build the error for a name that is not known, offering the nearest ones.

    Examples
    --------
    >>> print(unknown_name("level", "C9", ["C1", "C2", "C7"], where="query"))
    query: expected a known level, found 'C9'. Did you mean 'C7', 'C2', 'C1'?
    """
    lower = {k.lower(): k for k in reversed(known)}
    near = [lower[k] for k in get_close_matches(name.lower(), list(lower), n=3, cutoff=0.4)]
    remedy = f"Did you mean {', '.join(map(repr, near))}?" if near else f"Known: {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}."
    return UnknownNameError(expected=f"a known {kind}", found=repr(name), where=where, remedy=remedy)


# --- words of others ----------------------------------------------------------------------------------------------------
_QUOTED = re.compile(r"""'[^'/\\\n]*[/\\][^'\n]*'|"[^"/\\\n]*[/\\][^"\n]*"|`[^`/\\\n]*[/\\][^`\n]*`""")
_NAMES = re.compile(r"[/\\]|(?:sub|ses)-\w|\.(?:nii|gz|json|tsv|csv|dcm|ima|zarr|mat|mgz|txt|xlsx?|h5|np[yz]|bvals?|bvecs?|ya?ml)\b", re.IGNORECASE)
_ROOT = re.compile(r"(?:^|[=:(\[{<'\"`~.])[/\\]")
_END = re.compile(r"\.[A-Za-z]\w*\W*$|[:,;)\]'\"`]$")


_SECRET = re.compile(r"SECRET|TOKEN|PASSW|ACCESS_KEY|ACCOUNT_KEY|SAS|CREDENTIAL")
"""Variables of the environment whose values are nobody's business."""


SHORTEST_SECRET = 8
"""Characters of a value that may be a secret: a shorter one would take words out of sentences."""


def _without_secrets(text: str) -> str:
    """Take out what the environment keeps secret."""
    if len(text) >= SHORTEST_SECRET:
        for name in filter(_SECRET.search, os.environ):
            value = os.environ.get(name, "")
            if len(value) >= SHORTEST_SECRET:
                text = text.replace(value, "...")
    return text


def scrub(text: str) -> str:
    r"""Take out of a foreign message whatever may name a person: paths, names of files, and BIDS entities. Rather too much than too little.
    Credentials of the environment go, too.

    A path may hold blanks: in quotes it ends with them; else it reaches to the last slash of its line, and on to an extension or a sign.
    Only `LONGEST_TEXT` characters are looked at, in time proportional to their number.

    Examples
    --------
    >>> scrub("cannot open /data/sub-01_T2w.nii.gz for sub-01")
    'cannot open ... for ...'
    >>> scrub("No such file: '/data/Jane Roe/T2w.nii', as before"), scrub("disk of D:\\Jane Roe\\scans, full")
    ('No such file: ..., as before', 'disk of ..., full')
    """
    cut = _without_secrets(text[:LONGEST_TEXT])
    lines = [_scrub_line(line) for line in _QUOTED.sub("...", cut).splitlines()]
    return "\n".join(lines) + (" ..." if len(text) > LONGEST_TEXT else "")


def _scrub_line(line: str) -> str:
    words = line.split(" ")
    kept: list[str] = []
    last = max((i for i, word in enumerate(words) if "/" in word or "\\" in word), default=-1)
    i = 0
    while i < len(words):
        word = words[i]
        if last >= i and _ROOT.search(word):  # a path from its root: blanks in it do not end it
            i = next((k for k in range(last, len(words)) if _END.search(words[k])), len(words) - 1)
            word = "..." + words[i][len(words[i].rstrip(":,;)]")) :]
        elif _NAMES.search(word):
            word = "..." + word[len(word.rstrip(":,;)]")) :]
        if not (word == "..." and kept and kept[-1] == "..."):
            kept.append(word)
        i += 1
    return " ".join(kept)


def describe_error(error: BaseException) -> tuple[str, str, str]:
    """Describe an error so that it can be recorded: nothing in it names a person.

    Returns
    -------
    kind : str
        Its type.
    message : str
        For a `CohortError` what was expected and found; else the innermost place in this package, and the scrubbed text.
    trace : str
        For any other error its frames as ``file.py:line (function)``, outermost first, and those of what caused it; else empty.

    Examples
    --------
    >>> describe_error(ValueError("cannot read /data/sub-01/x.nii"))
    ('ValueError', 'cannot read ...', '')
    """
    kind = type(error).__name__
    if isinstance(error, CohortError):
        return kind, _cut(f"{error.where}: expected {error.expected}, found {error.found}."), ""
    frames = _frames(error)
    own = [place for place, ours in frames if ours] or [place for place, _ in frames]
    parts = [" > ".join(_middle_out([place for place, _ in frames]))]
    seen, cause = {id(error)}, error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen and len(seen) < FRAMES:
        seen.add(id(cause))
        parts.append(" > ".join([type(cause).__name__, *_middle_out([place for place, _ in _frames(cause)])]))
        cause = cause.__cause__ or cause.__context__
    try:
        text = scrub(str(error)) or "no message"
    except Exception:  # an exception that cannot say what it is
        text = "no message"
    return kind, (f"in {own[-1]}: {text}" if own else text), "; after ".join(filter(None, parts))


def _frames(error: BaseException) -> list[tuple[str, bool]]:
    """``file.py:line (function)`` of each frame, outermost first, and whether it lies in this package."""
    package = str(Path(__file__).parent)
    found = []
    for frame, line in walk_tb(error.__traceback__):
        code = frame.f_code
        found.append((f"{Path(code.co_filename).name}:{line} ({code.co_name})", code.co_filename.startswith(package)))
    return found


def _middle_out(places: list[str]) -> list[str]:
    """Leave out the middle of a long chain, as of an endless recursion."""
    half = FRAMES // 2
    return places if len(places) <= FRAMES else [*places[:half], f"{len(places) - FRAMES} more", *places[-half:]]


def first_line(error: BaseException) -> str:
    """Return the first line of what a foreign error says, without its full stop; its type where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " ..."
