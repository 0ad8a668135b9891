"""Norms as files: centile curves of healthy people, learnt from tables, written once and compared with by any study."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.centiles import Centiles, fit_centiles, place_site, position, value_at
from cohort_engine.analysis.covariates import BoolArray, FloatArray
from cohort_engine.config import PACKAGED_NORMS
from cohort_engine.errors import InputError, unknown_name
from cohort_engine.io.table import read_column, read_table

WHERE = "norms"
FORMAT = 1
PATHOLOGY, SLICES, SLICES_LEVEL = "pathology", "n_slices", "n_slices_level"
SCT_NAMES = {
    "MEAN(area)": schema.AREA, "MEAN(diameter_AP)": schema.DIAMETER_AP_ELLIPSE, "MEAN(diameter_RL)": schema.DIAMETER_RL,
    "MEAN(eccentricity)": schema.ECCENTRICITY, "MEAN(solidity)": schema.SOLIDITY,
}  # fmt: skip
"""Columns of tables of the Spinal Cord Toolbox; without a column of its own, its front-to-back diameter is the axis of the ellipse."""
ALIKE = {schema.DIAMETER_AP: schema.DIAMETER_AP_ELLIPSE}
"""Measure -> the one whose curves serve, where it has none: a site is placed by its own controls in its own measure."""
KEY = (schema.PARTICIPANT, schema.SESSION, schema.SITE, schema.AGE, schema.SEX)
Feature = tuple[str, str]
"""Measure and level."""


@dataclass(frozen=True, eq=False)
class Norms:
    """Curves of features.

    Attributes
    ----------
    features : tuple of (measure, level)
    curves : Centiles
        In their order.
    made_of : mapping of site to int
        How many people of each.
    """

    features: tuple[Feature, ...]
    curves: Centiles
    made_of: Mapping[str, int]

    def find(self, measure: str, level: str) -> int | None:
        """Place of a feature; None where it has no curve."""
        for name in (measure, ALIKE.get(measure, "")):
            if (name, level) in self.features:
                return self.features.index((name, level))
        return None


def read_norms(name: str) -> Norms:
    """Read a file of norms, or the packaged ones by their name.

    Raises
    ------
    InputError
        No such file, or one of something else.

    Examples
    --------
    >>> norms = read_norms("pam50-shape")
    >>> norms.made_of["DLBS"], norms.find("area", "C3") is not None
    (311, True)
    """
    try:
        raw = (resources.files(__package__) / "data" / f"{PACKAGED_NORMS}.json").read_bytes() if name == PACKAGED_NORMS else Path(name).read_bytes()
        found = json.loads(raw)
        if found["format"] != FORMAT:
            raise InputError(expected=f"norms of format {FORMAT}", found=str(found["format"]), where=WHERE, remedy="Make them again, or update.")
        return Norms(tuple((str(m), str(level)) for m, level in found["features"]), Centiles.of(found["curves"]), found["made_of"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            expected=f"a file of norms, or {PACKAGED_NORMS}", found=str(error) or type(error).__name__, where=f"{WHERE}: {name}",
            remedy="Make one with cohort-engine norms fit.",
        ) from error  # fmt: skip


def write_norms(norms: Norms, path: str | Path) -> None:
    """Write norms as JSON: coefficients, no value of anybody."""
    text = {"format": FORMAT, "features": [list(f) for f in norms.features], "made_of": dict(norms.made_of), "curves": norms.curves.describe()}
    target = Path(path)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(text, indent=1) + "\n")
    part.replace(target)


def is_norms(reference: str) -> bool:
    """Whether a reference of the study file names norms, and no store."""
    return reference == PACKAGED_NORMS or reference.endswith(".json")


def read_levels(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read tables of values by level: a row a session of a person and level.

    Parameters
    ----------
    paths : iterable of path
        Text with the columns participant_id, age, sex, level (``C2``) and a column a measure (``area``, or ``MEAN(area)`` as the Spinal Cord Toolbox
        has it); as they have them session_id, site (else each file is a site), pathology (only healthy people are kept), and n_slices with
        n_slices_level (only levels that are wholly seen are kept: the edge of a field of view is biased). ``.gz`` is unpacked.

    Returns
    -------
    DataFrame
        A row a session, a column (measure, level).

    Raises
    ------
    InputError
        No file, a column is absent, nobody is left.
    """
    parts = []
    for path in map(Path, paths):
        try:
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        except OSError as error:
            raise InputError(expected="a table", found=str(error), where=f"{WHERE}: {path.name}", remedy="Check its name.") from error
        text = read_table(raw, where=f"{WHERE}: {path.name}")
        frame = pd.DataFrame({name: text.column(name) for name in text.header}).rename(columns=SCT_NAMES)
        for name in (schema.PARTICIPANT, schema.AGE, schema.SEX, schema.LEVEL):
            if name not in frame:
                raise unknown_name("column", name, [str(c) for c in frame], where=f"{WHERE}: {path.name}")
        frame = frame.assign(**{n: w for n, w in ((schema.SESSION, ""), (schema.SITE, path.name.split(".")[0])) if n not in frame})
        if PATHOLOGY in frame:
            frame = frame[frame[PATHOLOGY].str.casefold().isin(schema.HEALTHY)]
        if {SLICES, SLICES_LEVEL} <= set(frame):
            frame = frame[frame[SLICES] == frame[SLICES_LEVEL]]
        parts.append(frame)
    every = pd.concat(parts, ignore_index=True)
    measures = [n for n in schema.MEASURES if n in every]
    if not measures or every.empty:
        found = "nobody that is healthy with a whole level" if measures else "no column of a measure"
        raise InputError(expected=f"values of {', '.join(SCT_NAMES.values())}", found=found, where=WHERE, remedy="See the how-to on norms.")
    for name in (*measures, schema.AGE):
        every[name] = read_column(every[name].fillna("").tolist()).values
    every = every.dropna(subset=[schema.AGE])
    wide = every.pivot_table(index=list(KEY), columns=schema.LEVEL, values=measures)
    return wide.reset_index()


def fit_norms(table: pd.DataFrame) -> Norms:
    """Learn norms from what `read_levels` read; the levels of a measure are a family.

    Features that too few people have get none.
    """
    features: list[Feature] = [(str(c[0]), str(c[1])) for c in table.columns.tolist() if c[0] in schema.MEASURES]
    values, who = table[features].to_numpy(np.float64), table[schema.SITE].astype(str) + "/" + table[schema.PARTICIPANT].astype(str)
    curves = fit_centiles(
        values, _covariates(table), site=table[schema.SITE].to_numpy(), person=who.to_numpy(), family=[measure for measure, _ in features]
    )  # fmt: skip
    keep = np.flatnonzero(np.isfinite(curves.location[:, 0]))
    if not len(keep):
        raise InputError(expected="60 healthy people or more", found=str(who.nunique()), where=WHERE, remedy="Add people.")
    made_of = who.groupby(table[schema.SITE]).nunique()
    return Norms(tuple(features[i] for i in keep), curves.only(keep), {str(k): int(v) for k, v in made_of.items()})


def place_people(norms: Norms, table: pd.DataFrame, *, site: str | None = None, controls: Iterable[str] = ()) -> pd.DataFrame:
    """Say where the people of a table lie.

    Parameters
    ----------
    norms : Norms
    table : DataFrame
        From `read_levels`.
    site : str, optional
        One of the norms' own, if it is theirs.
    controls : iterable of str
        Participants who place another site; by default everybody does.

    Returns
    -------
    DataFrame
        A row a session and feature: value, median for age and sex, z and centile; `control` marks who placed the site.
    """
    features = [f for f in norms.features if f in table.columns]
    curves = norms.curves.only([norms.features.index(f) for f in features])
    values, given = table[features].to_numpy(np.float64), _covariates(table)
    who = table[schema.PARTICIPANT].astype(str)
    chosen = who.isin(set(controls)) if controls else pd.Series(True, table.index)
    where = None
    if site is not None:
        where, chosen = np.repeat(site, len(table)), pd.Series(False, table.index)
    else:
        first = (chosen & ~who.where(chosen).duplicated()).to_numpy()
        curves = place_site(curves, values[first], {k: v[first] for k, v in given.items()})
    found = position(curves, values, given, site=where)
    parts = [
        table[[(k, "") for k in KEY if k != schema.SITE]].droplevel(1, axis=1).assign(
            measure=m, level=level, value=values[:, i], median=found.median[:, i], z=found.z[:, i], centile=found.centile[:, i], control=chosen
        )
        for i, (m, level) in enumerate(features)
    ]  # fmt: skip
    out = pd.concat(parts, ignore_index=True)
    return out[out["value"].notna()].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Against:
    """People against curves that their own controls placed, each (person, feature)."""

    z: FloatArray
    centile: FloatArray
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray


def against(norms: Norms, features: Iterable[Feature], values: FloatArray, people: pd.DataFrame, controls: BoolArray, level: float) -> Against:
    """Compare the people of a study with norms, at the site that its controls place.

    Parameters
    ----------
    norms : Norms
    features : iterable of (measure, level)
        Each of which the norms have.
    values : (person, feature)
    people : DataFrame
        With age and sex.
    controls : (person,)
    level : float
        Of the interval.
    """
    curves, given = norms.curves.only([i for f in features if (i := norms.find(*f)) is not None]), _covariates(people)
    here = place_site(curves, values[controls], {k: v[controls] for k, v in given.items()})
    found = position(here, values, given)
    lower, upper = value_at(here, [50 * (1 - level), 50 * (1 + level)], given)
    return Against(found.z, found.centile, found.median, lower, upper)


def _covariates(table: pd.DataFrame) -> dict[str, Any]:
    """Age and sex; the latter by its first letter.

    Examples
    --------
    >>> _covariates(pd.DataFrame({"age": [30.0, 40.0], "sex": ["female", "n/a"]}))["sex"].tolist()
    ['F', '']
    """
    for name in (schema.AGE, schema.SEX):
        if name not in table:
            raise unknown_name("column of the subject table", name, [str(c) for c in table], where=WHERE)
    sex = table[schema.SEX].astype(str).str.strip().str.upper().str[:1]
    return {schema.AGE: table[schema.AGE].to_numpy(np.float64), schema.SEX: sex.where(sex.isin(["F", "M"]), "").to_numpy()}
