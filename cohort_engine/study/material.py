"""What is analysed: one number for each person and feature, a feature being a metric in a region at a level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis import harmonise
from cohort_engine.analysis.compression import Compression, find_compression
from cohort_engine.analysis.groups import inflation
from cohort_engine.config import AnalysisConfig, CompressionConfig
from cohort_engine.errors import CohortError, ConfigError, StoreError, UnknownNameError
from cohort_engine.quality import vocabulary
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.cells import left_out_of, regions_of
from cohort_engine.query.choice import LEAST_BIASED, Choice, choose
from cohort_engine.query.question import Query, as_query
from cohort_engine.query.reader import PROFILE_VARIABLES
from cohort_engine.reduce.cohort import atlas_of
from cohort_engine.study.people import (
    FEW,
    People,
    choose_people,
    chosen_columns,
    in_time,
    known_values,
    many_words,
    quality_names,
    subject_table,
    text_among_numbers,
    times,
    words_of,
)
from cohort_engine.template.atlas import Naming
from cohort_engine.template.levels import LevelRange

FloatArray = NDArray[np.float64]

COMPRESSED = "compressed"
"""Level that is each person's own: where the cord is compressed most."""
WHITE_MATTER = "white matter"
FLUID = "CSF"
"""How names of regions begin that are no tissue: they are analysed only where the study file asks for them."""
FUNICULI = ("dorsal columns", "lateral funiculi", "ventral funiculi", "gray matter")
SHORT = {schema.DIAMETER_AP: "AP diameter", schema.DIAMETER_RL: "RL diameter"}
"""Measure -> its short name, where that is not its name in the store."""
UNEVEN = 1.1
"""Variance inflation of a difference of groups by the sites above which a reader is told."""
KEYS = schema.FEATURE
METRIC, _, _, ESTIMATOR = KEYS
"""Columns that name a feature."""
LEAST_BIASED_KIND = Choice(*LEAST_BIASED[0]).kind
"""What stands in the column of the estimator where values are the least biased that there are."""
Choices = Mapping[tuple[str, str, str], Choice]
"""(metric, estimator, space) as a question names them -> what answers it."""


@dataclass(frozen=True, eq=False)
class Profile:
    """A measure along the template: `values` (subject, z), NaN where missing, with the unit and name of the measure."""

    values: FloatArray
    units: str
    long_name: str


@dataclass(frozen=True, eq=False)
class Sessions:
    """Every session of people who came several times, as measured, in time.

    Attributes
    ----------
    values : (session, feature)
        NaN is missing; so is the level of the compression, since it may move between sessions.
    subject : (session,)
        Row of the store.
    person : (session,)
        Participant.
    group : (session,)
        0 for a control, 1 for a case, NaN for others.
    time : (session,)
        NaN is missing.
    unit : str
        Of the time, ``year`` or ``session``.
    """

    values: FloatArray
    subject: NDArray[np.int64]
    person: NDArray[Any]
    group: FloatArray
    time: FloatArray
    unit: str

    @property
    def together(self) -> FloatArray:
        """Values (person, session, feature): as many of the first sessions of each as all have."""
        place = list(pd.Series(self.person).groupby(self.person, sort=False).indices.values())
        k = min(map(len, place))
        out: FloatArray = self.values[np.concatenate([rows[:k] for rows in place])].reshape(len(place), k, -1)
        return out


@dataclass(frozen=True, eq=False)
class Material:
    """Everything that the statistics of a study use.

    Attributes
    ----------
    people : People
    features : DataFrame
        A row a feature: metric, region, level, estimator, units.
    values : (subject, feature) float64
        NaN is missing. Harmonised, if the study asks for it.
    raw : (subject, feature) float64
        As measured.
    errors : (subject, feature) float64
        Standard error of each value as measured, on the scale of the value; NaN where its estimator has none.
    z, z_level : (z,)
        Height in the template, mm, and level number of each slice; empty without morphometry.
    profiles : mapping of measure to Profile
    compression : Compression or None
    compression_problem : str
        Why there is none.
    models : mapping of metric to harmonise.Model
    sessions : Sessions or None
        Of people who were scanned several times.
    quality : DataFrame
        A row a subject, a column a quality number.
    notes : tuple of str
        What a reader must know.
    naming, levels : Naming or None, tuple of str
        Regions of the atlas and levels of the template, by which a question may name them in other words.
    rises : frozenset of str
        Metrics that disease raises.
    choices : mapping of (metric, estimator, space) to Choice
        What answers the questions, by what they name; with both empty, the default of the metric.
    """

    people: People
    features: pd.DataFrame
    values: FloatArray
    raw: FloatArray
    z: FloatArray
    z_level: NDArray[np.int64]
    profiles: dict[str, Profile]
    compression: Compression | None
    compression_problem: str
    quality: pd.DataFrame
    models: dict[str, harmonise.Model] = field(default_factory=dict)
    sessions: Sessions | None = None
    notes: tuple[str, ...] = ()
    naming: Naming | None = None
    levels: tuple[str, ...] = schema.LEVEL_NAMES
    rises: frozenset[str] = frozenset()
    errors: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    choices: Choices = field(default_factory=dict)

    @property
    def repeats(self) -> FloatArray | None:
        """Values (person, session, feature) as measured, of people who were scanned several times; None where nobody was."""
        return None if self.sessions is None else self.sessions.together

    @property
    def own_level(self) -> NDArray[np.bool_]:
        """Which features (feature,) are taken at each person's own level, the narrowest one: selected by looking at that person."""
        return np.asarray(self.features[schema.LEVEL] == COMPRESSED, bool)

    def find(self, question: Query | str) -> NDArray[np.intp]:
        """Features that a question names.

        Raises
        ------
        ConfigError
            None does: it has no values.
        UnknownNameError
            No such metric, region or level.
        """
        q = as_query(question)
        regions = [n if self.naming is None else self.naming.region(n).name for n in q.tracts]
        levels = [n if n == COMPRESSED else LevelRange.parse(n, self.levels).name for n in q.levels]
        keep = (self.features[METRIC] == q.metric) & (self.features[ESTIMATOR] == _kind(resolved(q, self.choices)))
        for column, wanted in ((schema.REGION, regions), (schema.LEVEL, levels)):
            if wanted and not (column == schema.REGION and q.metric in schema.MEASURES):
                keep &= self.features[column].isin(wanted)
        found = np.flatnonzero(keep)
        if not found.size:
            raise ConfigError(
                expected="a feature of this cohort", found=repr(q.text()), where="analysis",
                remedy="It has no values here: ask for it with cohort-engine query, and see which levels the images cover.",
            )  # fmt: skip
        return found

    def find_all(self, questions: Iterable[Query | str]) -> NDArray[np.intp]:
        """Features that any of the questions names, each once, in the order of the questions."""
        return np.array(list(dict.fromkeys(i for q in questions for i in self.find(q).tolist())), np.intp)

    def label(self, feature: int) -> str:
        """Name of a feature for people, for instance ``MTR white matter C2:C3``."""
        return label(*(str(self.features.at[feature, k]) for k in KEYS))


def label(metric: str, region: str, level: str, estimator: str = LEAST_BIASED_KIND) -> str:
    """Name of a feature for people; the least biased kind of value has no mark.

    Examples
    --------
    >>> label("mtr", "white matter", "C2:C3"), label("area", "spinal cord", "compressed"), label("mtr", "dorsal columns", "C4", "wa")
    ('MTR white matter C2:C3', 'area at the compression', 'MTR (wa) dorsal columns C4')
    """
    name = SHORT.get(metric, metric.replace("_", " ")) if metric in schema.MEASURES else schema.label_of(metric)
    name += f" ({estimator})" if estimator not in (LEAST_BIASED_KIND, "") else ""
    where = "at the compression" if level == COMPRESSED else level
    return " ".join(filter(None, (name, "" if metric in schema.MEASURES else region, where)))


def resolved(q: Query, choices: Choices) -> Query:
    """Write out which estimator and space answer a question."""
    choice = choices.get((q.metric, q.estimator, q.space))
    return q if choice is None else replace(q, estimator=choice.estimator, space=choice.space)


def _kind(q: Query) -> str:
    return "" if q.metric in schema.MEASURES else Choice(q.space or schema.SPACE_TEMPLATE, q.estimator or schema.WA).kind


def choices_of(ds: xr.Dataset, questions: Iterable[Query | str], space: str = "") -> Choices:
    """Choose what answers, for each metric of a cohort and for whatever questions name: once for everybody; `space` is of those that name none."""
    source = ds.cohort.source
    named = [(q.metric, q.estimator, q.space) for q in map(as_query, questions)]
    asked = dict.fromkeys([*((m, "", "") for m in source.metrics), *named])
    return {key: choose(source, key[0], estimator=key[1], space=key[2] or space) for key in asked if key[0] in source.metrics}


def gather(cohort: str | xr.Dataset, config: AnalysisConfig) -> Material:
    """Read what the configuration asks for.

    Parameters
    ----------
    cohort : str or Dataset
        A store, or what `open_cohort` returned.
    config : AnalysisConfig

    Returns
    -------
    Material
        Features of the defaults that too few people have are left out; those that the configuration names stay.

    Raises
    ------
    InputError, ConfigError, UnknownNameError, StoreError
        Groups, columns, questions or sites that do not fit; nothing that could be analysed.
    """
    ds = open_cohort(cohort, space=config.space or "") if isinstance(cohort, str) else cohort
    people = choose_people(ds, config)
    asked = questions_of(ds, config)
    choices = choices_of(ds, asked, config.space or "")
    asked = [resolved(q, choices) for q in asked]
    chosen = ds.isel({schema.SUBJECT: people.at})
    found, problem = _find_compression(chosen, people.group == 0, config.compression)
    features, values, errors = read_features(chosen, asked, found)
    metrics = tuple(dict.fromkeys(features[METRIC]))
    empty = {int(i): _why_empty(chosen, int(i), metrics) for i in np.flatnonzero(np.isnan(values).all(axis=1))}
    if empty:
        people, values = people.without(empty), np.delete(values, list(empty), axis=0)
        chosen = ds.isel({schema.SUBJECT: people.at})
        found, problem = _find_compression(chosen, people.group == 0, config.compression)
        features, values, errors = read_features(chosen, asked, found)
    keep = _with_values(values, people, config)
    dropped = int((~keep).sum())
    features, values, errors = features.loc[np.flatnonzero(keep)].reset_index(drop=True), values[:, keep], errors[:, keep]
    notes = [f"{schema.label_of(m)} {choice.note}" for (m, *named), choice in choices.items() if choice.note and not any(named)]
    notes += [f"{dropped} features are missing in more than {config.max_missing:.0%} of a group and left out"] if dropped else []
    notes += [
        f"column {name} holds text ({word!r}) among numbers and is not used: correct participants.tsv (n/a is missing) and build again"
        for name in people.columns if (word := text_among_numbers(people.column(name)))
    ]  # fmt: skip
    notes += _adjusted(people, config)
    notes += _rated(chosen, people)
    notes += _doubtful(chosen, people)
    quality = pd.DataFrame({n: chosen[n].to_numpy().astype(float) for n in quality_names(chosen)})
    z, z_level = (chosen[n].to_numpy() if n in chosen else np.empty(0) for n in (schema.Z, schema.Z_LEVEL))
    rises = frozenset(m for m in ds.cohort.metrics if ds[m].attrs.get(schema.RISES))
    material = Material(
        people, features, values, values, z.astype(float), z_level.astype(np.int64), _profiles(chosen), found, problem, quality,
        notes=tuple(notes), sessions=_sessions(ds, config, people, asked, features), naming=atlas_of(ds), levels=tuple(ds.cohort.levels), rises=rises,
        errors=errors, choices=choices,
    )  # fmt: skip
    done = _harmonised(material, config)
    return replace(done, notes=(*done.notes, *_unused(people, config)))


def questions_of(ds: xr.Dataset, config: AnalysisConfig) -> list[Query]:
    """List every question of the analysis once: those of the study file, then the default ones, if it names no features."""
    named = [*config.features, *(q for pair in config.roc.compare for q in pair), *config.classifier.markers]
    columns = set(subject_table(ds).columns)
    named += [q for q in config.clusters.features if q not in columns]
    return list(dict.fromkeys([*map(as_query, named), *([] if config.features else default_questions(ds, config))]))


def default_questions(ds: xr.Dataset, config: AnalysisConfig) -> list[Query]:
    """Every metric in every region of tissue, and area and diameter of the cord, at every level, at the remote level and at the compression."""
    levels = (*ds.cohort.levels, *_remote(ds, config), COMPRESSED)
    source = ds.cohort.source
    metrics = [Query(m, tuple(r.name for r in regions_of(source, m) if not r.name.startswith(FLUID)), levels) for m in source.metrics]
    measures = [Query(m, levels=levels) for m in (schema.AREA, schema.DIAMETER_AP) if PROFILE_VARIABLES[m] in ds]
    return [*metrics, *measures]


def _remote(ds: xr.Dataset, config: AnalysisConfig) -> list[str]:
    """Remote level, where the values can be pooled over levels: an older store has native ones of single levels alone."""
    source = ds.cohort.source
    alone = (config.space or source.space) == schema.SPACE_NATIVE and not all(source.has(schema.sums_path(m)) for m in source.metrics)
    return config.compression.remote.split(":")[:1] if alone else [config.compression.remote]


def read_features(
    ds: xr.Dataset, questions: Iterable[Query | str], compression: Compression | None
) -> tuple[pd.DataFrame, FloatArray, FloatArray]:  # fmt: skip
    """Read the values of questions.

    Parameters
    ----------
    ds : Dataset
    questions : iterable
        `resolved`.
    compression : Compression, optional
        For the level that is each person's own.

    Returns
    -------
    features : DataFrame
        `KEYS` and units.
    values, errors : (subject, feature) float64
        And their standard errors, NaN where there are none.
    """
    rows: list[dict[str, str]] = []
    columns: list[FloatArray] = []
    seen: set[tuple[str, ...]] = set()
    for question in questions:
        q = as_query(question)
        if q.only:
            raise ConfigError(
                expected="a feature of everybody", found=repr(q.text()), where="analysis",
                remedy="Choose people with analysis.groups, analysis.exclude or data.include.",
            )  # fmt: skip
        levels = [n for n in (q.levels or ds.cohort.levels) if n != COMPRESSED]
        blocks = [_table(ds, q, levels)] if levels else []
        if COMPRESSED in q.levels and compression is not None:
            blocks.append(_at_compression(_table(ds, q, ds.cohort.levels), compression))
        for block in blocks:
            cells = block.transpose(schema.SUBJECT, schema.LEVEL, schema.REGION, ...)
            numbers = cells.to_numpy().astype(float)
            for i, level in enumerate(cells[schema.LEVEL].to_numpy()):
                for j, region in enumerate(cells[schema.REGION].to_numpy()):
                    key = (q.metric, str(region), str(level), _kind(q))
                    if key not in seen:
                        seen.add(key)
                        rows.append({**dict(zip(KEYS, key, strict=True)), "units": str(cells.attrs.get("units", "1"))})
                        columns.append(numbers[:, i, j])
    table = pd.DataFrame(rows, columns=[*KEYS, "units"])
    both = np.stack(columns, axis=1) if columns else np.empty((ds.sizes[schema.SUBJECT], 0, 2))
    return table, both[..., 0], both[..., 1]


def _sessions(
    ds: xr.Dataset, config: AnalysisConfig, people: People, questions: Iterable[Query], features: pd.DataFrame
) -> Sessions | None:  # fmt: skip
    """Read the sessions of people with several."""
    table = subject_table(ds)
    table = table.iloc[in_time(table)]  # so that a difference of sessions has the sign of time
    table = table[~table[schema.PARTICIPANT].isin(config.exclude)]
    table = table[table.duplicated(schema.PARTICIPANT, keep=False).to_numpy()]
    if not len(table):
        return None
    rows = table.index.to_numpy()
    found, values, _ = read_features(ds.isel({schema.SUBJECT: rows}), questions, None)
    words = words_of(table, config.groups.column)
    group = np.full(len(words), np.nan)
    for code, name in people.groups:
        group[words == name] = code
    at, unit = times(table)
    subject = table[schema.SUBJECT].to_numpy().astype(np.int64)
    return Sessions(in_order(found, values, features), subject, table[schema.PARTICIPANT].to_numpy(), group, at, unit)


def in_order(found: pd.DataFrame, values: FloatArray, features: pd.DataFrame) -> FloatArray:
    """Values (subject, feature) of `found` in the order of `features`; NaN where it has none of them."""
    place = {row: i for i, row in enumerate(found[list(KEYS)].itertuples(index=False, name=None))}
    out = np.full((len(values), len(features)), np.nan)
    for j, row in enumerate(features[list(KEYS)].itertuples(index=False, name=None)):
        if row in place:
            out[:, j] = values[:, place[row]]
    return out


def _table(ds: xr.Dataset, q: Query, levels: Sequence[str]) -> xr.DataArray:
    """Values and their standard errors, (subject, level, region, 2)."""
    if q.metric in schema.MEASURES:
        cells: xr.Dataset = ds.cohort.profile(q.metric, list(levels), min_coverage=q.min_coverage)
    else:
        cells = ds.cohort.table(q.metric, list(q.tracts) or None, list(levels), estimator=q.estimator, space=q.space, min_coverage=q.min_coverage)
    value = cells[schema.VALUE]
    both = [value, cells.get(schema.SE, xr.full_like(value, np.nan))]
    return xr.concat(both, "number", combine_attrs="override").transpose(..., "number").compute()


def _at_compression(cells: xr.DataArray, compression: Compression) -> xr.DataArray:
    """Pick each person's own level."""
    cells = cells.transpose(schema.SUBJECT, schema.LEVEL, schema.REGION, ...)
    names = [schema.level_number(str(n)) for n in cells[schema.LEVEL].to_numpy()]
    at = np.array([names.index(n) if n in names else -1 for n in compression.level.tolist()])
    values = cells.to_numpy().astype(float)[np.arange(len(at)), at]
    values[at < 0] = np.nan
    out = cells.isel({schema.LEVEL: [0]}).copy(data=values[:, None, :])
    return out.assign_coords({schema.LEVEL: np.array([COMPRESSED], dtype=object)})


def _find_compression(ds: xr.Dataset, healthy: NDArray[np.bool_], config: CompressionConfig) -> tuple[Compression | None, str]:
    """Where each cord is compressed, or why nobody knows."""
    name = PROFILE_VARIABLES[config.measure]
    if name not in ds:
        return None, f"the cohort has no profile of {config.measure}: build it with stages.shape.source: t2w"
    profile = ds[name].to_numpy().astype(float)
    first, _, last = config.remote.partition(":")
    try:
        found = find_compression(
            profile, profile[healthy], ds[schema.Z_LEVEL].to_numpy(), own=healthy, search=config.search, control=(first, last or first),
            gap=config.gap, extent=config.extent, spacing=float(np.median(np.diff(ds[schema.Z].to_numpy()))), specificity=config.specificity,
        )  # fmt: skip
    except (ConfigError, UnknownNameError):
        raise
    except CohortError as error:
        return None, str(error)
    return found, ""


def _profiles(ds: xr.Dataset) -> dict[str, Profile]:
    present = [m for m in (schema.AREA, schema.DIAMETER_AP) if PROFILE_VARIABLES[m] in ds]
    return {m: Profile(ds[PROFILE_VARIABLES[m]].to_numpy().astype(float), schema.MEASURES[m][1], schema.MEASURES[m][0]) for m in present}


def _why_empty(ds: xr.Dataset, at: int, metrics: Iterable[str]) -> str:
    """Say why somebody has no value of these metrics: for a rating, or for a stage that did not end."""
    if rated := dict.fromkeys(why for m in metrics if (why := left_out_of(ds.cohort.source, m).get(at))):
        return "; ".join(rated)
    status = f"{schema.STAGES}_{schema.STATUS}"
    if status in ds:
        codes = ds[status].isel({schema.SUBJECT: at}).to_numpy()
        for name, code in zip(ds[schema.STAGE].to_numpy(), codes, strict=True):
            word = schema.STATUS_CODES.get(int(code), "")
            if word in (schema.FAILED, schema.MISSING, schema.NOT_RUN):
                return f"no values: stage {name} {word.replace('_', ' ')}"
    return "no values"


def _with_values(values: FloatArray, people: People, config: AnalysisConfig) -> NDArray[np.bool_]:
    """Which features (feature,) stay: not those that a test could not use, unless the study file names its features."""
    if config.features:
        keep = np.isfinite(values).any(axis=0)
    else:
        share = np.stack([np.isnan(values[people.group == g]).mean(axis=0) for g, _ in people.groups])
        keep = (share <= config.max_missing).all(axis=0)
    if not keep.any():
        raise StoreError(
            expected="features with values", found="none", where="analysis",
            remedy="See cohort-engine status: is the cohort built, and are its tables filled (cohort-engine finalise)?",
        )  # fmt: skip
    return np.asarray(keep)


NAMED = 12
"""People whom a note names; of more it says how many they are."""


def _unused(people: People, config: AnalysisConfig) -> list[str]:
    """Name columns that are in no table of characteristics, correlation or cluster, and why."""
    long = [n for n in chosen_columns(people, config) if many_words(people.column(n)) and not text_among_numbers(people.column(n))]
    notes = [f"column {n} holds {len(known_values(people.column(n)))} different words and is not among the characteristics" for n in long]
    chosen = people.chosen(config.correlate.who)
    rows = np.isin(np.arange(len(people.group)), chosen)
    who = "cases" if len(chosen) < len(people.group) else "people"
    if not config.correlate.scores:
        for name in people.numeric():
            different = len(known_values(people.column(name)[rows]))
            if name not in (schema.AGE, config.groups.column, *config.correlate.covariates) and different <= 2:
                values = ("no value", "one value", "two different values")[different]
                notes.append(f"column {name} has {values} among the {who} and is in no correlation: name it in analysis.correlate.scores to have it")
    return notes


def _adjusted(people: People, config: AnalysisConfig) -> list[str]:
    """Say what becomes of the columns that the study file adjusts for, and of people who lack one."""
    names = list(dict.fromkeys((*config.tests.covariates, *config.correlate.covariates)))
    notes = []
    for name in (n for n in names if n in people.table):
        known = known_values(people.column(name))
        if len(known) < 2:
            notes.append(f"column {name} is the same in everybody, or missing: nothing is adjusted for it")
        elif people.table[name].dtype.kind != "f" and len(known) > FEW:
            notes.append(f"column {name} holds text: each of its {len(known)} words is a category to adjust for")
    return [*notes, *_without(people, names, "are in nothing that is adjusted")]


def _without(people: People, names: Iterable[str], what: str) -> list[str]:
    """Say who is left out for want of a column."""
    lost = people.lacking(names)
    if not lost:
        return []
    said = [f"{who} (no {', no '.join(columns)})" for who, columns in lost.items()]
    return [f"{len(lost)} people {what}: {', '.join(said[:NAMED])}" + (f" and {len(said) - NAMED} more" if len(said) > NAMED else "")]


def _rated(ds: xr.Dataset, people: People) -> list[str]:
    """Say of which metrics people have no value since somebody who looked left it out, and why."""
    source, found = ds.cohort.source, dict[str, list[str]]()
    for metric in dict.fromkeys(metric for _, metric in source.left_out):
        why = [source.left_out[int(row), metric] for row in people.table[schema.SUBJECT] if (int(row), metric) in source.left_out]
        if why:
            found[metric] = [f"{reason}, {n}" for reason, n in Counter(why).items()]
    name = {schema.SHAPE: "the shape of the cord"}
    return [f"{name.get(m) or schema.label_of(m)} is left out of some people: {'; '.join(why)}" for m, why in found.items()]


def _doubtful(ds: xr.Dataset, people: People) -> list[str]:
    """Name those whose values may not be usable, and why: they are analysed unless ``analysis.quality`` leaves them out."""
    if vocabulary.USABLE not in ds:
        return []
    usable, reasons = ds[vocabulary.USABLE].to_numpy().astype(float), ds[vocabulary.REASONS].to_numpy()
    low = np.flatnonzero(usable < vocabulary.LEAST_USABLE)
    names = people.table[[schema.PARTICIPANT, schema.SESSION]].astype(str).agg(" ".join, axis=1).str.strip().to_numpy()
    out = [f"{names[i]} may not be usable (usable with a probability of {usable[i]:.2f}), and is analysed: {reasons[i]}" for i in low]
    if vocabulary.LARGEST_DOUBT in ds:
        doubt, said = ds[vocabulary.LARGEST_DOUBT].to_numpy().astype(float), ds[vocabulary.DOUBTFUL].to_numpy()
        out += [f"{names[i]} has native MTR that depends on doubtful slices: {said[i]}" for i in np.flatnonzero(doubt > vocabulary.MUCH_DOUBT)]
    return out


def harmonise_keeps(people: People, config: AnalysisConfig) -> dict[str, Any]:
    """Columns whose effects harmonisation keeps, the group as 0 and 1."""
    keep: dict[str, Any] = people.covariates([n for n in config.harmonise.keep if n != schema.GROUP])
    return {schema.GROUP: people.group, **keep} if schema.GROUP in config.harmonise.keep and len(people.groups) > 1 else keep


def _harmonised(material: Material, config: AnalysisConfig) -> Material:
    """Remove scanner effects, metric by metric, if the study asks for it."""
    site = config.harmonise.site
    people = material.people
    if site is None:
        places = people.covariates([schema.SITE])
        if places:
            count = len(set(map(str, next(iter(places.values())))))
            note = f"people come from {count} sites and nothing is harmonised: set analysis.harmonise.site if scanners differ"
            return replace(material, notes=(*material.notes, *_without(people, [schema.SITE], "are in no comparison of sites"), note))
        return material
    where = [str(v) for v in people.column(site)]
    keep = harmonise_keeps(people, config)
    out, models = material.values.copy(), {}
    errors = material.errors.copy() if material.errors.size else np.full(out.shape, np.nan)
    lost = people.lacking((site, *keep))
    there = [w if w and who not in lost else "" for who, w in zip(people.table[schema.PARTICIPANT], where, strict=True)]
    alone = {str(who): w for who, w in zip(people.table[schema.PARTICIPANT], there, strict=True) if w and there.count(w) < harmonise.SMALLEST}
    where = ["" if str(who) in alone else w for who, w in zip(people.table[schema.PARTICIPANT], where, strict=True)]
    if len(set(where) - {""}) < 2:
        note = f"nothing is harmonised: the people who can be used come from fewer than two places by column {site}"
        return replace(material, notes=(*material.notes, *_without(people, (site, *keep), "lack what harmonisation needs"), note))
    notes = _without(people, (site, *keep), "have no harmonised value")
    notes += [f"{who} has no harmonised value: nobody else of site {w} can be used" for who, w in alone.items()]
    for metric in material.features[METRIC].unique():
        block = np.flatnonzero(material.features[METRIC] == metric)
        done = harmonise.learn(material.values[:, block], where, keep)
        out[:, block] = done.values
        for name, scale in zip(done.model.sites, done.model.scale, strict=True):
            here = np.ix_(np.array(where) == name, block)
            errors[here] /= scale
        models[str(metric)] = done.model
        notes += [f"{metric}: {w}" for w in done.model.warnings]
    together = inflation(people.group, where) if len(people.groups) > 1 else 1.0
    if together > UNEVEN:
        notes.append(
            f"cases and controls are spread unevenly over {site}: the variance of a harmonised difference is {together:.2f} times what it seems. The "
            "group tests count that; ROC curves, norms and clusters cannot"
        )
    return replace(material, values=out, errors=errors, models=models, notes=(*material.notes, *notes))
