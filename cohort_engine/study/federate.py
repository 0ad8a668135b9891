"""Sums of one site as a file, and the comparison of the groups over the files of several sites."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.covariates import FloatArray
from cohort_engine.analysis.federated import Sums, add, linear, sums, welch
from cohort_engine.analysis.groups import LINEAR, false_discovery
from cohort_engine.config import AnalysisConfig
from cohort_engine.errors import InputError
from cohort_engine.study.material import KEYS, Material

WHERE = "federated sums"
FORMAT = 1
ARRAYS = ("count", "total", "square", "cross", "rows", "sites")
MALE = "M"


def share_sums(m: Material, config: AnalysisConfig) -> dict[str, Any]:
    """Give what one site may hand out, as JSON holds it: counts and moments of each feature, as measured, by group.

    Parameters
    ----------
    m : Material
    config : AnalysisConfig
        `tests.covariates`: numbers, and sex.

    Raises
    ------
    InputError
        A covariate is text and not sex.
    """
    names = list(config.tests.covariates)
    columns: list[FloatArray] = []
    for name in names:
        if name == schema.SEX and m.people.column(name).dtype.kind != "f":
            words = pd.Series(m.people.column(name)).astype(str).str.strip().str.upper().str[:1]
            columns.append(np.where(words.isin(["F", MALE]), (words == MALE).astype(float), np.nan))
        else:
            columns.append(m.people.numbers(name))
    found = sums(m.raw, m.people.group, np.stack(columns, axis=1) if columns else None, least=config.least)
    return {
        "format": FORMAT, "features": [[str(v) for v in row] for row in m.features[[*KEYS, "units"]].itertuples(index=False)],
        "groups": [m.people.control, m.people.case], "covariates": names, **{k: getattr(found, k).tolist() for k in ARRAYS},
    }  # fmt: skip


def combine_sums(paths: Sequence[str | Path], *, method: str = LINEAR, confidence: float = 0.95) -> pd.DataFrame:
    """Compare the groups over the files of several sites.

    Parameters
    ----------
    paths : sequence of path
        JSON of `share_sums`.
    method : {"linear", "welch"}
        With a mean of each site and the covariates; or as if all people were of one site.
    confidence : float

    Returns
    -------
    DataFrame
        A row a feature that some site has.

    Raises
    ------
    InputError
        A file of something else, or of other covariates.
    """
    files = [_read(Path(p)) for p in paths]
    if len({tuple(f["covariates"]) for f in files}) != 1:
        found = " and ".join(", ".join(f["covariates"]) or "none" for f in files)
        raise InputError(
            expected="files of the same covariates", found=found, where=WHERE, remedy="Set analysis.tests.covariates alike at every site."
        )
    features = list(dict.fromkeys(tuple(row) for f in files for row in f["features"]))
    both = add([_of(f, features) for f in files])
    out = pd.DataFrame(features, columns=[*KEYS, "units"])
    result = (linear if method == LINEAR else welch)(both, confidence=confidence)
    out["method"], out["sites"], out["n_control"], out["n_case"] = method, both.sites.astype(int), *both.count.astype(int)
    for key in ("effect", "se", "low", "high", "df", "p"):
        out[key] = getattr(result, key)
    out["q"] = false_discovery(result.p)
    return out[both.sites > 0].reset_index(drop=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        if found["format"] != FORMAT or not {*ARRAYS, "features", "covariates"} <= set(found):
            raise ValueError(f"format {found['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            expected="a file of cohort-engine federate share",
            found=str(error),
            where=f"{WHERE}: {path.name}",
            remedy="Ask the site to write it again.",
        ) from error
    return found


def _of(found: dict[str, Any], features: list[tuple[str, ...]]) -> Sums:
    """Put the sums of a file in the order of the features, 0 for those that it lacks."""
    place = {tuple(row): i for i, row in enumerate(found["features"])}
    at = np.array([place.get(f, -1) for f in features])
    arrays = {k: np.array(found[k], float) for k in ARRAYS}
    by_test = {k: np.moveaxis(a, -1, 0) if k in ("count", "total", "square") else a for k, a in arrays.items()}
    taken = {k: np.where((at >= 0).reshape(-1, *[1] * (a.ndim - 1)), a[at], 0.0) for k, a in by_test.items()}
    return Sums(**{k: np.moveaxis(a, 0, -1) if k in ("count", "total", "square") else a for k, a in taken.items()})
