"""Characteristics of the people of a study, and the quality numbers of their images, group by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.groups import compare
from cohort_engine.config import AnalysisConfig
from cohort_engine.report.material import Material
from cohort_engine.report.people import many_words, text_among_numbers


def characteristics(m: Material, config: AnalysisConfig) -> pd.DataFrame:
    """Describe what is known of the people, group by group, with a test of each column."""
    from scipy import stats

    rows: list[dict[str, Any]] = []
    for name in m.people.columns:
        column, group = m.people.column(name), m.people.group
        numeric = column.dtype.kind == "f"
        known = np.isfinite(column) if numeric else np.array([str(v) != "" for v in column])
        if not known.any() or set(column[known].tolist()) in ({m.people.control, m.people.case},):
            continue
        words = [""] if numeric else sorted({str(v) for v in column[known]})
        if not numeric and (many_words(column) or text_among_numbers(column)):
            continue  # names, dates, numbers with a decimal comma: a note says so
        p = np.nan
        if numeric:
            parts = [column[known & (group == g)] for g in (0, 1)]
            if min(map(len, parts)) > 1 and np.ptp(column[known]) > 0:
                p = float(compare(column[:, None], group, max_missing=0.999).p[0]) if min(map(len, parts)) >= config.least else np.nan
        elif len(words) > 1:
            counts = np.array([[np.sum(known & (group == g) & (column == w)) for w in words] for g in (0, 1)])
            if (counts.sum(axis=1) >= config.least).all():
                p = float(stats.fisher_exact(counts)[1] if counts.shape == (2, 2) else stats.chi2_contingency(counts, correction=False)[1])
        for word in words:
            for code, group_name in ((0, m.people.control), (1, m.people.case)):
                there = known & (group == code)
                row: dict[str, Any] = {"variable": name, "category": word, schema.GROUP: group_name, "n": int(there.sum())}
                if numeric:
                    values = column[there]
                    row |= dict(zip(("low", "median", "high"), np.percentile(values, [25, 50, 75]) if len(values) else [np.nan] * 3, strict=True))
                    row |= {"mean": values.mean() if len(values) else np.nan, "sd": values.std(ddof=1) if len(values) > 1 else np.nan}
                else:
                    row["count"] = int(np.sum(there & (column == word)))
                rows.append({**row, "p": p})
    return pd.DataFrame(rows, columns=["variable", "category", schema.GROUP, "n", "count", "mean", "sd", "low", "median", "high", "p"])


def quality(m: Material) -> pd.DataFrame:
    """Describe the quality numbers, group by group."""
    rows = []
    for name, column in m.quality.items():
        for code, group_name in ((0, m.people.control), (1, m.people.case)):
            values = column.to_numpy()[m.people.group == code]
            values = values[np.isfinite(values)]
            if len(values):
                low, middle, high = np.percentile(values, [0, 50, 100])
                rows.append({"quantity": name, schema.GROUP: group_name, "n": len(values), "smallest": low, "median": middle, "largest": high})
    return pd.DataFrame(rows, columns=["quantity", schema.GROUP, "n", "smallest", "median", "largest"])
