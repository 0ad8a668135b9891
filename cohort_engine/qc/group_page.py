"""What the page of the cohort shows: facts, stages, numbers by site, and its data as JSON for the table and the ratings."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort_engine import __version__, schema
from cohort_engine.errors import optional
from cohort_engine.io.exclusions import ALL, Rating, agreement
from cohort_engine.provenance import digest
from cohort_engine.qc.group import Group, Shown, cut
from cohort_engine.qc.panels import PANELS
from cohort_engine.quality import vocabulary
from cohort_engine.quality.limits import NUMBERS, SHOWN
from cohort_engine.report.page import fill, without_paths
from cohort_engine.store.records import now
from cohort_engine.study.format import number

if TYPE_CHECKING:
    from markupsafe import Markup

HERE = "cohort_engine.qc"
SCRIPT = "qc.js"
LEFT, RIGHT = 160.0, 630.0
"""Where the axis of a picture of numbers begins and ends."""
ROW, FOOT = 22, 20
MOST_NAMED = 40
"""Outliers of a number that are named below its picture."""
MOST_SITES = 60
"""Sites that a picture of numbers has a line of."""
FIRST_PICTURE = 48
"""Code of the letter that stands for the first kind of picture in the page's data."""
FAULT_WORDS: Mapping[str, str] = {
    vocabulary.LEVELS_FAULT: "levels", vocabulary.MASK_FAULT: "mask", vocabulary.SIDES_FAULT: "sides", vocabulary.MOTION_FAULT: "motion",
    vocabulary.CONTRAST_FAULT: "contrast", vocabulary.MAP_FAULT: "map",
}  # fmt: skip
"""What a flag of a kind of failure is called in the table."""
STATE_TITLES = {schema.MISSING: "Lacking a file", schema.TO_DO: "To do", schema.NOT_NEEDED: "Not needed"}
Stored = Mapping[int, Sequence[tuple[str, str, str]]]
"""Row -> (panel, name, title) of its pictures."""


@dataclass(frozen=True)
class Box:
    """A site's line in a picture of numbers, in its units; `out` has the place and the name of each outlier."""

    site: str
    count: int
    y: float
    low: float = 0.0
    first: float = 0.0
    middle: float = 0.0
    width: float = 0.0
    high: float = 0.0
    out: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Numbers:
    """A quality number by site."""

    name: str
    units: str
    limit: str
    meaning: str
    beyond: int
    height: int
    boxes: tuple[Box, ...]
    ticks: tuple[tuple[float, str], ...]
    bad_low: tuple[float, float] | None
    bad_high: tuple[float, float] | None
    named: tuple[tuple[str, str, str], ...]
    more: int


@dataclass(frozen=True)
class Table:
    """A small table."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class IndexPage:
    """Everything that the template shows.

    Parameters
    ----------
    store : str
    group : Group
    pictures : mapping
        `Stored`.
    why : str
        Why the images of the study are not known; empty where they are.
    ratings : sequence of Rating
    place : str
        Where ratings are read from, as a person would type it.
    token : str
        With one the page saves ratings at the server that it came from.
    """

    def __init__(
        self, store: str, group: Group, pictures: Stored, why: str = "", ratings: Sequence[Rating] = (), place: str = "", token: str = ""
    ) -> None:
        self.group, self.pictures, self.why, self.ratings, self.exclusions, self.token = group, pictures, why, ratings, place, token
        self.store, self.version, self.made, self.closed, self.far = store, __version__, now()[:10], group.closed[:10], f"{SHOWN:g}"

    @property
    def people(self) -> str:
        return f"{len(self.group)} subject{'' if len(self.group) == 1 else 's'}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        flagged = sum(map(bool, self.group.flags))
        share = f" ({flagged / len(self.group):.1%})" if len(self.group) else ""
        drawn = sum(bool(self.pictures.get(int(row))) for row in self.group.rows)
        return [(str(len(self.group)), "subjects"), (f"{flagged}{share}", "flagged"), (str(drawn), "with pictures"),
                (str(len(self.group.all_sites)), "sites")]  # fmt: skip

    @property
    def notes(self) -> list[str]:
        return [cut(without_paths(n)) for n in (self.why, self.group.mixed) if n]

    @property
    def stages(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """One table for each state that is no good one, and one of what is done: stages by sites."""
        sites, counts = self.group.all_sites, self.group.counts()
        shown = sites if len(sites) <= MOST_SITES else []
        out = []
        for state in (schema.DONE, *sorted(schema.OPEN, key=schema.STATES.index), schema.NOT_NEEDED):
            rows = [
                (stage, str(sum(c.get(state, 0) for c in of.values())), *(str(of[s].get(state, 0) or "") for s in shown))
                for stage, of in counts if any(state in c for c in of.values())
            ]  # fmt: skip
            if rows:
                out.append((STATE_TITLES.get(state, state.capitalize()), ("Stage", "all", *shown), rows))
        return out

    @property
    def numbers(self) -> list[Numbers]:
        return [_numbers(self.group, n) for n in self.group.numbers.values() if np.isfinite(n.values).any() and n.key in NUMBERS]

    @property
    def agreement(self) -> Table | None:
        rows = tuple((f"{cut(a)} and {cut(b)}", str(n), f"{share:.0%}", number(kappa)) for a, b, n, share, kappa in agreement(self.ratings))
        return Table(("Raters", "Values", "Agree", "Cohen's kappa"), rows) if rows else None

    # --- what the script reads ---
    @cached_property
    def data(self) -> Markup:
        """All that the table and the ratings need, as JSON in which no markup can begin."""
        from markupsafe import Markup

        g = self.group
        kinds = list(dict.fromkeys(f.kind for flags in g.flags for f in flags))
        drawn = [found for own in self.pictures.values() for found in own]
        panels = {f"{panel}_{name}": f"{PANELS[panel].title}: {title.partition(',')[0]}" for panel, name, title in drawn}
        order = {key: chr(FIRST_PICTURE + i) for i, key in enumerate(panels)}
        sites, groups = g.all_sites, sorted(set(g.groups))
        usable = g.numbers.get(vocabulary.USABLE)
        told: dict[str, Any] = {
            "id": digest(self.store, g.names[:1]), "row": g.rows.tolist(), "name": g.names, "participant": g.people, "session": g.sessions,
            "sites": sites, "site": [sites.index(s) for s in g.sites], "groups": groups, "group": [groups.index(s) for s in g.groups],
            "usable": [None if usable is None or not math.isfinite(v) else round(float(v), 3) for v in (g.rows if usable is None else usable.values)],
            "kinds": [FAULT_WORDS.get(k, self._kind(k)) for k in kinds], "flags": [[[kinds.index(f.kind), f.words] for f in own] for own in g.flags],
            "panels": list(panels.items()), "pictures": ["".join(order[f"{p}_{n}"] for p, n, _ in self.pictures.get(int(r), ())) for r in g.rows],
            "metrics": [ALL, *g.metrics], "ratings": [asdict(r) for r in self.ratings], "save": self.token,
        }  # fmt: skip
        return Markup(as_json(told))

    def _kind(self, key: str) -> str:
        found = self.group.numbers.get(key)
        return found.number.name if found else key

    @cached_property
    def script(self) -> Markup:
        """The page's own script."""
        from markupsafe import Markup

        return Markup(files(HERE).joinpath(SCRIPT).read_text(encoding="utf-8"))

    @property
    def policy(self) -> str:
        return policy(str(self.script))

    def render(self) -> str:
        """Return the page as HTML."""
        with optional("jinja2", "analysis", where="quality pages"):
            return fill("index.html", folder=HERE, page=self)


def policy(script: str = "") -> str:
    """Write what the browser is to let a page do: show its pictures, run its own script, and talk to nobody but the server it came from."""
    run = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    own = "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; base-uri 'none'"
    return f"{own}; script-src {run}"


def as_json(told: Any) -> str:
    r"""Write JSON that may stand in a page: no character in it begins markup.

    Examples
    --------
    >>> as_json(["</script>"])
    '["\\u003c/script\\u003e"]'
    """
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")


# --- numbers by site ----------------------------------------------------------------------------------------------------
def _numbers(group: Group, shown: Shown) -> Numbers:
    """Lay a number out by site."""
    values, far = shown.values, group.outlying(shown.key)
    limit = shown.number
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    for end in (limit.low, limit.high):
        if math.isfinite(end):
            low, high = min(low, end), max(high, end)
    low, high = (low - 0.5, high + 0.5) if low == high else (low - 0.03 * (high - low), high + 0.03 * (high - low))

    def place(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - low) / (high - low), 1)

    sites = sorted(group.all_sites, key=lambda s: -len(group.of_site(s)))[:MOST_SITES]
    boxes = []
    for line, site in enumerate(sorted(sites)):
        at = group.of_site(site)
        own = values[at]
        there = np.isfinite(own)
        y = 14.0 + ROW * line
        if not there.any():
            boxes.append(Box(_short(site), 0, y))
            continue
        inner = own[there & ~far[at]]
        first, middle, last = (place(float(q)) for q in np.percentile(own[there], [25, 50, 75]))
        out = tuple((place(float(values[i])), f"{group.names[i]}: {values[i]:.3g}") for i in at[far[at]][:MOST_NAMED])
        ends = place(float(inner.min())), place(float(inner.max()))
        boxes.append(Box(_short(site), int(there.sum()), y, ends[0], first, middle, max(1.0, round(last - first, 1)), ends[1], out))
    height = ROW * len(boxes) + FOOT
    named = np.flatnonzero(far)
    beyond = int((values < limit.low).sum() + (values > limit.high).sum())
    bad_low = (LEFT, round(place(limit.low) - LEFT, 1)) if math.isfinite(limit.low) and limit.low > low else None
    bad_high = (place(limit.high), round(RIGHT - place(limit.high), 1)) if math.isfinite(limit.high) and limit.high < high else None
    return Numbers(
        limit.name, shown.units, limit.limit, shown.meaning[:1].upper() + shown.meaning[1:], beyond, height, tuple(boxes),
        tuple((place(t), f"{t:.3g}") for t in np.linspace(low, high, 5)), bad_low, bad_high,
        tuple((group.names[i], f"{int(group.rows[i]):06d}", f"{values[i]:.3g}") for i in named[:MOST_NAMED]), max(0, len(named) - MOST_NAMED),
    )  # fmt: skip


def _short(site: str) -> str:
    return site if len(site) <= 20 else f"{site[:19]}…"
