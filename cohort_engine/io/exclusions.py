"""Ratings of people who looked, and whom they leave out: ``exclusions.yaml``, and spine-generic's ``exclude.yml``.

A file is a mapping of metric to a list. Ours has one mapping a rating (subject, session, rating, reason, rater, date); spine-generic's has names
alone, with the reason as a comment, and a name may be that of a site, whose subjects begin with it. A bare list of names is about every metric.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.places import beside, exists, join, read_bytes

PASS, FAIL, ARTIFACT = "pass", "fail", "artifact"
RATINGS = (PASS, FAIL, ARTIFACT)
ALL = "all"
"""Every metric."""
FILE = "exclusions.yaml"
SPINE_GENERIC: Mapping[str, str] = {
    "dti_fa": "fa", "dti_md": "md", "dti_ad": "ad", "dti_rd": "rd", "csa_t2": schema.SHAPE,
}  # fmt: skip
"""What spine-generic calls a metric -> its name here."""
PAGES = "_qc"
"""Ending of the folder of quality pages, beside the store."""
WHERE = "exclusions"
LONGEST = {"metric": 80, schema.SUBJECT: 200, "session": 200, "reason": 500, "rater": 80, "date": 40}
"""Characters of each word that are kept."""
_COMMENT = re.compile(r"\s+#\s*(.*?)\s*$")
_SITE = re.compile(r"\d*")


@dataclass(frozen=True)
class Rating:
    """What one rater says of one subject's metric.

    Attributes
    ----------
    metric : str
        A metric of the store, `schema.SHAPE` for all measures of the cord, one of these, or `ALL`.
    subject, session : str
        As in the subject table, with or without ``sub-`` and ``ses-``; without a session all of them.
    rating : str
        One of `RATINGS`: ``fail`` and ``artifact`` leave the value out.
    reason, rater, date : str
    """

    metric: str
    subject: str
    session: str = ""
    rating: str = FAIL
    reason: str = ""
    rater: str = ""
    date: str = ""

    @property
    def out(self) -> bool:
        """Whether it leaves the value out."""
        return self.rating != PASS

    @property
    def of(self) -> tuple[str, str, str]:
        """Subject, session and metric that it is about, whatever the way of writing them."""
        return _bare(self.subject, "sub-"), _bare(self.session, "ses-"), self.metric


def _bare(name: str, prefix: str) -> str:
    return name.strip().removeprefix(prefix)


def exclusions_url(store: str) -> str:
    """Where the ratings of a store lie: beside its quality pages.

    Examples
    --------
    >>> exclusions_url("s3://bucket/study.zarr")
    's3://bucket/study_qc/exclusions.yaml'
    """
    return join(beside(store, PAGES), FILE)


# --- files ------------------------------------------------------------------------------------------------------------
def parse_exclusions(text: str, *, where: str = WHERE) -> list[Rating]:
    r"""Read a file of either kind.

    Raises
    ------
    InputError
        No YAML, or neither kind: it says which line.

    Examples
    --------
    >>> parse_exclusions("mtr:\n- sub-a01  # moved\n")
    [Rating(metric='mtr', subject='sub-a01', session='', rating='fail', reason='moved', rater='', date='')]
    >>> parse_exclusions("all:\n- {subject: a, rating: pass, rater: AB}\n")[0].out
    False
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _unreadable("YAML", (str(error).splitlines() or [""])[0], where) from error
    if root is None:
        return []
    lines = text.splitlines()
    if isinstance(root, yaml.SequenceNode):
        return [_rating(ALL, node, lines, where) for node in root.value]
    if not isinstance(root, yaml.MappingNode):
        raise _unreadable("a mapping of metric to a list", "one word", where)
    out: list[Rating] = []
    for key, value in root.value:
        if isinstance(value, yaml.ScalarNode) and value.value in ("", "~", "null"):
            continue
        if not isinstance(value, yaml.SequenceNode):
            raise _unreadable("a list of subjects", "something else", f"{where}, line {value.start_mark.line + 1}")
        out += [_rating(str(key.value), node, lines, where) for node in value.value]
    return out


def _rating(metric: str, node: yaml.Node, lines: Sequence[str], where: str) -> Rating:
    here = f"{where}, line {node.start_mark.line + 1}"
    name = SPINE_GENERIC.get(metric, metric)
    if isinstance(node, yaml.ScalarNode):
        comment = _COMMENT.match(lines[node.end_mark.line][node.end_mark.column :]) if node.end_mark.line < len(lines) else None
        return rating_of({"metric": name, schema.SUBJECT: node.value, "reason": comment[1] if comment else ""}, where=here)
    if not isinstance(node, yaml.MappingNode):
        raise _unreadable("a subject's name, or subject, rating, reason, rater and date", "a list", here)
    return rating_of({"metric": name} | {str(k.value): str(getattr(v, "value", "")) for k, v in node.value}, where=here)


def rating_of(told: Mapping[str, Any], *, where: str = WHERE) -> Rating:
    """Check what is told of a rating; words that are too long are cut.

    Raises
    ------
    InputError
        No subject or metric, another rating than `RATINGS`, or a key that is none.
    """
    known = [*LONGEST, "rating"]
    if unknown := [k for k in told if k not in known]:
        raise _unreadable(f"keys among {', '.join(known)}", repr(unknown[0])[:60], where)
    values = {k: " ".join(str(v).split())[: LONGEST.get(k, 20)] for k, v in told.items() if v is not None}
    if not values.get(schema.SUBJECT) or not values.get("metric"):
        raise _unreadable("a metric and a subject", "neither" if not any(values.get(k) for k in (schema.SUBJECT, "metric")) else "one of them", where)
    if values.get("rating", FAIL) not in RATINGS:
        raise _unreadable(f"a rating of {', '.join(RATINGS)}", repr(values["rating"]), where)
    return Rating(**values)


def _unreadable(expected: str, found: str, where: str) -> InputError:
    remedy = "Write one list for each metric: names, or subject, rating (pass, fail, artifact), reason, rater and date."
    return InputError(expected=expected, found=found, where=where, remedy=remedy)


def read_exclusions(places: Iterable[str], *, optional: Iterable[str] = ()) -> list[Rating]:
    """Read several files, in their order; those that are `optional` only where they are there.

    Raises
    ------
    MissingInputError
        A file that is named is not there.
    InputError, StorageError
        It cannot be read.
    """
    given = list(places)
    out: list[Rating] = []
    for place in (*given, *optional):
        if exists(place):
            out += parse_exclusions(read_bytes(place, what=WHERE).decode("utf-8", "replace"))
        elif place in given:
            raise MissingInputError(
                expected="a file of exclusions", found="nothing there", where="--ratings", remedy="Correct the name, or take it out."
            )
    return out


def write_exclusions(ratings: Iterable[Rating]) -> str:
    """Write ratings as ``exclusions.yaml`` has them; `parse_exclusions` reads the same again.

    Examples
    --------
    >>> print(write_exclusions([Rating("mtr", "sub-01", reason="moved: much", rater="AB", date="2026-01-31")]), end="")
    # Ratings: one list for each metric; all is every metric.
    "mtr":
    - subject: "sub-01"
      rating: "fail"
      reason: "moved: much"
      rater: "AB"
      date: "2026-01-31"
    """
    by_metric: dict[str, list[Rating]] = {}
    for r in latest(ratings):
        by_metric.setdefault(r.metric, []).append(r)
    out = ["# Ratings: one list for each metric; all is every metric."]
    for metric in sorted(by_metric):
        out.append(f"{json.dumps(metric)}:")
        for r in by_metric[metric]:
            words = {k: v for k, v in asdict(r).items() if k != "metric" and (v or k != "session")}
            out += [f"{'- ' if i == 0 else '  '}{k}: {json.dumps(v)}" for i, (k, v) in enumerate(words.items())]
    return "\n".join(out) + "\n"


# --- several raters ---------------------------------------------------------------------------------------------------
def latest(ratings: Iterable[Rating]) -> list[Rating]:
    """Keep the last word of each rater on each subject, session and metric: by date, then by order."""
    held: dict[tuple[str, ...], Rating] = {}
    for r in ratings:
        place = (*r.of, r.rater)
        if place not in held or held[place].date <= r.date:
            held[place] = r
    return list(held.values())


def verdict(ratings: Sequence[Rating]) -> str:
    """Say why a value is left out, in words that do not name who rated it; nothing where it is not. Most raters decide; where they are even it is.

    Examples
    --------
    >>> verdict([Rating("mtr", "a", reason="moved", rater="AB"), Rating("mtr", "a", rating="pass", rater="CD")])
    'rated fail: moved'
    >>> verdict([Rating("mtr", "a", rating="pass", rater=r) for r in "xy"] + [Rating("mtr", "a", rater="z")])
    ''
    """
    last = latest(ratings)
    against = [r for r in last if r.out]
    if not against or 2 * len(against) < len(last):
        return ""
    return "; ".join(dict.fromkeys(_said(r) for r in against))


def _said(r: Rating) -> str:
    return f"rated {r.rating}{f': {r.reason}' if r.reason else ''}"


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Ratings of the people of a cohort.

    Attributes
    ----------
    reasons : mapping of (position, metric) to str
        Why a metric (or `ALL`) of a person is left out.
    unknown : tuple of str
        Subjects that are rated and not there.
    ratings : tuple of Rating
    """

    reasons: Mapping[tuple[int, str], str]
    unknown: tuple[str, ...] = ()
    ratings: tuple[Rating, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reasons)

    @property
    def everything(self) -> dict[int, str]:
        """Of whom every metric is left out, by position, and why."""
        return {at: why for (at, metric), why in self.reasons.items() if metric == ALL}

    def of(self, metric: str) -> dict[int, str]:
        """Of whom a metric, or a measure of the cord, is left out, by position, and why; those left out altogether are not among them."""
        names = (metric, schema.SHAPE) if metric in schema.MEASURES else (metric,)
        whole = self.everything
        return {at: why for (at, name), why in self.reasons.items() if name in names and at not in whole}


NOBODY = Exclusions({})


def exclusions_among(ratings: Iterable[Rating], participants: Sequence[str], sessions: Sequence[str]) -> Exclusions:
    """Find who is left out among the people of a cohort.

    Parameters
    ----------
    ratings : iterable of Rating
    participants, sessions : sequences of str
        By position.

    Examples
    --------
    >>> found = exclusions_among(parse_exclusions("mtr: [siteA, sub-b1]"), ["sub-siteA01", "sub-siteAB1", "sub-b1"], ["", "", ""])
    >>> sorted(found.of("mtr")), exclusions_among([Rating("mtr", "sub-c")], ["sub-b1"], [""]).unknown
    ([0, 2], ('sub-c',))
    """
    given = list(ratings)
    names = [(_bare(p, "sub-"), _bare(s, "ses-")) for p, s in zip(participants, sessions, strict=True)]
    by_name: dict[str, list[int]] = {}
    for at, (name, _) in enumerate(names):
        by_name.setdefault(name, []).append(at)
    found: dict[tuple[int, str], list[Rating]] = {}
    unknown: list[str] = []
    for r in given:
        name, session, _ = r.of
        name, session = (name, session) if name in by_name or session else _with_session(name)
        here = by_name.get(name) or [at for at, (n, _) in enumerate(names) if n.startswith(name) and name and _SITE.fullmatch(n[len(name) :])]
        here = [at for at in here if not session or names[at][1] == session]
        if not here:
            unknown.append(r.subject)
        for at in here:
            found.setdefault((at, r.metric), []).append(r)
    reasons = {place: why for place, several in found.items() if (why := verdict(several))}
    return Exclusions(reasons, tuple(dict.fromkeys(unknown)), tuple(given))


def _with_session(name: str) -> tuple[str, str]:
    """``cal088_ses-M0`` is a participant and a session."""
    first, found, session = name.partition("_ses-")
    return (first, session.split("_")[0]) if found else (name.split("_")[0], "")


def agreement(ratings: Iterable[Rating]) -> list[tuple[str, str, int, float, float]]:
    """Agreement of each two raters on whether a value is left out.

    Returns
    -------
    list of (rater, rater, values that both rated, share on which they agree, Cohen's kappa)
        Kappa is NaN where both said one and the same of all.

    Examples
    --------
    >>> rated = [
    ...     Rating("mtr", s, rating=x, rater=r)
    ...     for s, pair in {"1": "pp", "2": "ff", "3": "pf", "4": "ff"}.items()
    ...     for r, x in zip("AB", ("pass" if c == "p" else "fail" for c in pair))
    ... ]
    >>> agreement(rated)
    [('A', 'B', 4, 0.75, 0.5)]
    """
    said: dict[str, dict[tuple[str, str, str], bool]] = {}
    for r in latest(ratings):
        if r.rater:
            said.setdefault(r.rater, {})[r.of] = r.out
    raters, out = sorted(said), []
    for i, a in enumerate(raters):
        for b in raters[i + 1 :]:
            both = sorted(said[a].keys() & said[b].keys())
            if both:
                x, y = ([said[r][k] for k in both] for r in (a, b))
                same = sum(p == q for p, q in zip(x, y, strict=True)) / len(both)
                chance = (sum(x) * sum(y) + (len(x) - sum(x)) * (len(y) - sum(y))) / len(both) ** 2
                out.append((a, b, len(both), same, (same - chance) / (1 - chance) if chance < 1 else float("nan")))
    return out
