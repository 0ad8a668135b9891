"""Every error a user can meet, in four parts: what was expected, what was found, where, and what to do.

The parts travel separately so that the ledger can store them, the screen can print them, and a worker can send them home
through pickle. `where` names a *role* (``"MT-off image"``), never a file path: paths of people's data do not belong into logs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, ClassVar


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


class ResourceError(CohortError):
    """The cluster cannot run the plan: no worker offers a resource, or memory is too small."""


class MissingPackageError(CohortError):
    """A package of an extra is not installed."""


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
