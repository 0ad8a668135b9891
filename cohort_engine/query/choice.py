"""Which value answers a question that does not say: the least biased one that the cohort has. One function decides, for every answer and analysis.

On simulated cords (``tests/benchmarks/test_native_space.py``; tracts of at least 15 voxels of 5 mm, against the raw truth) native `map` is 0.1 to 0.4
percentage points low, `map` of maps in template space 5.5, `wa` there 6.6: a thick voxel mixes tissues, and only the image itself can be unmixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cohort_engine import schema
from cohort_engine.errors import StoreError, unknown_name

if TYPE_CHECKING:
    from cohort_engine.query.cells import Source

NATIVE, TEMPLATE = schema.SPACE_NATIVE, schema.SPACE_TEMPLATE
LEAST_BIASED = ((NATIVE, schema.MAP), (TEMPLATE, schema.MAP), (TEMPLATE, schema.ML), (TEMPLATE, schema.WA))
"""Values, space and estimator, in the order of their bias."""
SUMMED = frozenset({schema.WA, schema.ML, schema.MAP})
"""Estimators that are known to be `summed` without asking them: they need not be loaded for it."""
ENOUGH = 0.5
"""Share of the people with a map that must have native values for these to be the default."""


@dataclass(frozen=True)
class Choice:
    """What answers a question.

    Attributes
    ----------
    space, estimator : str
    why : str
        Why it is not a less biased value, where nobody asked for this one; else empty.
    """

    space: str
    estimator: str
    why: str = ""

    @property
    def kind(self) -> str:
        """What stands in the column ``estimator`` of a table: SCT's name, of native values with their space.

        Examples
        --------
        >>> Choice("native", "map").kind, Choice("template", "wa").kind
        ('native map', 'wa')
        """
        return f"{self.space} {self.estimator}" if self.space == NATIVE else self.estimator

    @classmethod
    def of_kind(cls, kind: str) -> Choice:
        """Read `kind` back."""
        space, _, estimator = kind.rpartition(" ")
        return cls(space or TEMPLATE, estimator)

    @property
    def words(self) -> str:
        """Name it.

        Examples
        --------
        >>> Choice("native", "map").words
        'map in native space'
        """
        return f"{self.estimator} in {self.space} space"

    @property
    def note(self) -> str:
        """Sentence about a fallback; empty where there is none.

        Examples
        --------
        >>> Choice("template", "wa", "no native values").note
        'values are wa in template space, which is more biased than map in native space: no native values'
        """
        best = Choice(*LEAST_BIASED[0]).words
        return f"values are {self.words}, which is more biased than {best}: {self.why}" if self.why else ""


def choose(source: Source, metric: str, *, estimator: str = "", space: str = "") -> Choice:
    """Choose the least biased value of a metric that a cohort has, among those that are asked for.

    Parameters
    ----------
    source : Source
        Everybody: the choice is one for the cohort, whoever is asked about.
    metric : str
        One that the cohort has.
    estimator, space : str
        What the question names; empty where it does not.

    Returns
    -------
    Choice
        Native values need the sums of levels, so that a level and a range of levels are answered alike, and `ENOUGH` people who have them; where the
        question names the space, it is that one.

    Raises
    ------
    UnknownNameError
        A space that does not exist.
    StoreError
        The cohort was opened for the other space.
    """
    if space and space not in schema.SPACES:
        raise unknown_name("space", space, list(schema.SPACES), where="query")
    if space and source.space and space != source.space:
        raise StoreError(
            expected=f"a question to {source.space} space, for which the cohort was opened", found=f"space={space}", where="query",
            remedy="Open it without a space.",
        )  # fmt: skip
    space = space or source.space
    why = ""
    for candidate in _candidates(source, metric, estimator, space):
        if space or candidate[0] != NATIVE:
            return Choice(*candidate, "" if estimator and space else why)
        why = _lacking(source, metric)
        if not why:
            return Choice(*candidate)
    raise AssertionError("there is always a last one")


def _candidates(source: Source, metric: str, estimator: str, space: str) -> Iterator[tuple[str, str]]:
    """Values that could answer, the least biased first; the last always can."""
    if estimator:
        yield from ((s, estimator) for s in ((space,) if space else schema.SPACES[::-1] if is_summed(estimator) else (TEMPLATE,)))
        return
    sums = source.has(schema.sums_path(metric))
    for where, name in LEAST_BIASED if space != NATIVE else ((NATIVE, e) for e in (schema.MAP, schema.ML, schema.WA)):
        known = (where == NATIVE and (sums or not space)) or name == schema.WA or source.has(schema.table_path(metric, name, where))
        if space in ("", where) and known:
            yield where, name


def is_summed(estimator: str) -> bool:
    """Whether native cells of any levels and regions follow from the sums of levels."""
    if estimator in SUMMED:
        return True
    from cohort_engine.reduce.estimators import estimator as find_estimator

    return find_estimator(estimator).summed


def _lacking(source: Source, metric: str) -> str:
    """Why native values cannot be the default; empty where they can."""
    native = schema.native_stage(metric)
    if not source.has(schema.sums_path(metric)):
        built = any(source.has(schema.table_path(metric, e, NATIVE)) for e in SUMMED)
        return "the store was built before the sums of levels were kept, build again" if built else "the store has no native values"
    some, all_ = int(source.made(native).sum()), int(source.made(metric).sum())
    if some and some >= ENOUGH * all_:
        return ""
    return f"{some} of {all_} people have native values"
