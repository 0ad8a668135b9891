"""Vertebral levels as people write them: one level, or a pool of neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cohort_engine import schema
from cohort_engine.errors import UnknownNameError, unknown_name

WHOLE_CORD = "all"
"""Name of the range that pools every level."""


@dataclass(frozen=True)
class LevelRange:
    """One or more vertebral levels that are pooled into one cell.

    Attributes
    ----------
    name : str
    numbers : tuple of int
        Level numbers, 1 = C1.

    Examples
    --------
    >>> LevelRange.parse("C2"), LevelRange.parse("c7:T2")
    (LevelRange(name='C2', numbers=(2,)), LevelRange(name='C7:T2', numbers=(7, 8, 9)))
    """

    name: str
    numbers: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, known: Sequence[str] = schema.LEVEL_NAMES) -> LevelRange:
        """Read ``"C2"``, the pooled range ``"C2:C5"`` or ``"all"`` among the levels `known` to a template.

        Raises
        ------
        UnknownNameError
            A level the template lacks, or a range that runs upwards.
        """
        if text.strip().lower() == WHOLE_CORD:
            return cls(WHOLE_CORD, tuple(map(schema.level_number, known)))
        ends = []
        for part in text.split(":"):
            name = part.strip().upper()
            if name not in known:
                raise unknown_name("level", part.strip(), [*known, WHOLE_CORD], where="level")
            ends.append(schema.level_number(name))
        first, last = ends[0], ends[-1]
        if len(ends) > 2 or last < first:
            raise UnknownNameError(
                expected="a level or a range from the upper to the lower one", found=repr(text), where="level",
                remedy="Write C2, or C2:C5 for the pool of four levels.",
            )  # fmt: skip
        names = [schema.LEVEL_NAMES[n - 1] for n in sorted({first, last})]
        return cls(":".join(names), tuple(range(first, last + 1)))
