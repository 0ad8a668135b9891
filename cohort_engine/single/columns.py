"""A small table as columns: what the one-shot commands return and write. No data frame is needed for it."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_engine.errors import StorageError
from cohort_engine.io.cells import defused

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Columns:
    r"""Columns of equal length; NaN where a number is missing.

    Attributes
    ----------
    columns : dict of lists
    notes : tuple of str
        What a reader of the table must know.

    Examples
    --------
    >>> print(Columns({"a": [1, 2], "b": [0.5, float("nan")]}).csv().replace(",\n", ",-\n"), end="")
    a,b
    1,0.5
    2,-
    """

    columns: dict[str, list[Any]]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def frame(self) -> pd.DataFrame:
        """Return the table as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.columns)

    def csv(self) -> str:
        """Text of the table; a missing number is empty."""
        return self._text(",", "")

    def tsv(self) -> str:
        """Text of the table as BIDS has it, with tabs; a missing number is ``n/a``."""
        return self._text("\t", "n/a")

    def _text(self, separator: str, missing: str) -> str:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=separator, lineterminator="\n")
        writer.writerow(map(defused, self.columns))
        writer.writerows([missing if v != v else defused(v) for v in row] for row in zip(*self.columns.values(), strict=True))
        return text.getvalue()

    def write(self, path: str | Path) -> None:
        """Write the table as CSV, or where the name says so as TSV, whole or not at all."""
        aside = Path(path).with_name(f".{uuid.uuid4().hex}.part")
        try:
            aside.write_text(self.tsv() if str(path).endswith(".tsv") else self.csv())
            aside.replace(path)
        except OSError as error:
            raise StorageError(
                expected="room for the table", found=error.strerror or "an error", where="table to write", remedy="Check the folder and its space."
            ) from error
        finally:
            aside.unlink(missing_ok=True)


def runs(numbers: Sequence[int]) -> str:
    """Write sorted numbers as the Spinal Cord Toolbox does.

    Examples
    --------
    >>> runs([3, 4, 5, 8])
    '3:5;8'
    """
    found: list[list[int]] = []
    for n in numbers:
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ";".join(f"{a}:{b}" if b > a else f"{a}" for a, b in found)
