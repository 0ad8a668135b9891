"""Text in cells of tables that others open: a spreadsheet runs what begins with ``=``, ``+``, ``-`` or ``@`` as a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t")
"""Beginnings of what a spreadsheet may run."""


def defused(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run; numbers, and text that is one, stay. A carriage return, which may begin another
    line, becomes a blank.

    Examples
    --------
    >>> defused("=HYPERLINK(A1)"), defused("@home"), defused("-3.5"), defused(-3.5), defused("C2:C3")
    ("'=HYPERLINK(A1)", "'@home", '-3.5', -3.5, 'C2:C3')
    """
    value = value.replace("\r", " ").lstrip(" ") if isinstance(value, str) and "\r" in value else value
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return f"'{value}" if value[:1] == "\t" else value


def defused_table(table: pd.DataFrame) -> pd.DataFrame:
    r"""Defuse names and text of a table.

    Examples
    --------
    >>> import pandas as pd
    >>> defused_table(pd.DataFrame({"=a": ["+x", "y"], "n": [-1, 2]})).to_csv(index=False)
    "'=a,n\n'+x,-1\ny,2\n"
    """
    out = table.rename(columns=defused)
    for at in range(out.shape[1]):
        if out.dtypes.iloc[at].kind not in "fiubMm":
            out.isetitem(at, out.iloc[:, at].map(defused).to_numpy())
    return out
