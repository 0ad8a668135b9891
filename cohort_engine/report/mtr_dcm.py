"""The MTR study from nothing: simulated people, the cohort from their images alone, and findings beside the published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pandas as pd

from cohort_engine import schema
from cohort_engine.config import load_config
from cohort_engine.engine.events import Events
from cohort_engine.errors import unknown_name
from cohort_engine.phantom.study import simulate
from cohort_engine.report.analyse import analyse
from cohort_engine.report.reproduction import build_simulated, claim
from cohort_engine.template.base import Template

STUDY, FINDINGS = "study", "findings.csv"
SEED: Final = 1
REMOTE, PRESSED = "C2:C3", "C5:C6"
WHITE, CORD = "white matter", "spinal cord"
SCORES = ("dexterity", "grip", "balance")


@dataclass(frozen=True)
class Size:
    """How many people are simulated; `words` say what is smaller than in the study."""

    patients: int
    controls: int
    words: str


SIZES: Mapping[str, Size] = MappingProxyType({
    "small": Size(6, 4, "6 patients and 4 controls for 30 and 15: the chain, and no finding"),
    "full": Size(30, 15, "nothing: as many people as in the study"),
})  # fmt: skip
PUBLISHED: Mapping[tuple[str, str], float] = MappingProxyType({("mtr", REMOTE): 0.74, ("area", REMOTE): 0.69})
"""Areas under the ROC curve that the study reports."""
SETTINGS: Mapping[str, Any] = {
    "stages": {"metrics": [schema.MTR], "shape": {"source": schema.T2W}},
    "analysis": {
        "features": [f"mtr level={REMOTE},{PRESSED}", f"area level={REMOTE},{PRESSED}"],
        "harmonise": {"site": schema.SITE},
        "roc": {"compare": [[f"mtr tract='{WHITE}' level={REMOTE}", f"area level={REMOTE}"]]},
        "correlate": {"scores": list(SCORES)},
    },
}
"""The study's questions, as a study file has them."""

Say = Callable[[str], None]


def reproduce(
    out: str | Path, template: Template, *, size: str = "small", template_path: str | Path | None = None, workers: int = 2,
    events: Events | None = None, say: Say = print,
) -> pd.DataFrame:  # fmt: skip
    """Simulate the study's people, build their cohort from the images alone, analyse it, and set its findings beside the published ones.

    Parameters
    ----------
    out : path
        Folder: ``study`` and ``study.yaml``, the store, ``study_analysis`` with report, tables and figures, ``findings.csv``, and
        ``reproduction.json`` (settings, versions, template). What is there is continued.
    template : Template
    size : str
        One of `SIZES`.
    template_path : path, optional
        Of the template, for the study file.
    workers : int
    events : Events, optional
        Who watches the build.
    say : callable

    Returns
    -------
    DataFrame
        See `findings`.

    Raises
    ------
    UnknownNameError
        No such size.
    StoreError
        The folder holds another reproduction.

    Notes
    -----
    Patients are simulated (`phantom`), so a published figure is not a truth that ours must meet: effects of the phantom were set after published
    effect sizes, and what is shown is that the chain finds them.
    """
    if size not in SIZES:
        raise unknown_name("size", size, list(SIZES), where="reproduce mtr-dcm")
    folder, chosen = Path(out), SIZES[size]
    record = {
        "study": "mtr-dcm", "size": size, "patients": chosen.patients, "controls": chosen.controls, "seed": SEED, "template": template.digest,
        "smaller": chosen.words, "settings": SETTINGS,
    }  # fmt: skip
    claim(folder, record)
    study_file = folder / f"{STUDY}.yaml"
    if not study_file.exists():  # it is written last
        say(f"{chosen.patients} patients and {chosen.controls} controls are simulated")
        simulate(
            folder / STUDY, template=template, patients=chosen.patients, controls=chosen.controls, seed=SEED, template_path=template_path,
            labels=False, settings=SETTINGS,
        )  # fmt: skip
    config = load_config(study_file)
    _, asked = build_simulated(config, folder / STUDY, workers=workers, events=events)
    if asked:
        say(f"discs of {len(asked)} people could not be named: each got one landmark")
    found = analyse(config)
    table = findings(found.tables)
    table.to_csv(folder / FINDINGS, index=False, float_format="%.3f")
    return table


def findings(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Collect what the study reports from the tables of an analysis.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        ``roc``, ``groups``, ``correlations``, those that there are.

    Returns
    -------
    DataFrame
        ``finding``, ``published`` (NaN where the study gives no number), ``value``, ``low`` and ``high`` (95 % interval), ``n``.

    Examples
    --------
    >>> roc = {"metric": ["mtr"], "region": ["white matter"], "level": ["C2:C3"], "auc": [0.8], "auc_low": [0.6], "auc_high": [0.9]}
    >>> row = findings({"roc": pd.DataFrame({**roc, "n_control": [15], "n_case": [30]})}).iloc[0]
    >>> row["finding"], float(row["published"]), float(row["value"]), row["n"]
    ('area under the ROC curve, mtr of white matter, C2:C3', 0.74, 0.8, '15 + 30')
    """
    rows: list[dict[str, Any]] = []
    cells = [("mtr", WHITE), ("area", CORD)]
    wanted = [(m, r, level) for level in (REMOTE, PRESSED) for m, r in cells]
    for metric, region, level in wanted:
        for row in _rows(tables.get("roc"), metric, region, level):
            name = f"area under the ROC curve, {metric} of {region}, {level}"
            known = PUBLISHED.get((metric, level), float("nan"))
            rows.append(_finding(name, known, row, "auc", "auc_low", "auc_high", f"{row['n_control']} + {row['n_case']}"))
    for metric, region, level in wanted:
        for row in _rows(tables.get("groups"), metric, region, level):
            name = f"difference of patients and controls ({row['size_kind']}), {metric} of {region}, {level}"
            rows.append(_finding(name, float("nan"), row, "size", "size_low", "size_high", f"{row['n_control']} + {row['n_case']}"))
    for metric, region, level in wanted:
        for row in _rows(tables.get("correlations"), metric, region, level):
            name = f"correlation with {row['score']} ({row['method']}), {metric} of {region}, {level}"
            rows.append(_finding(name, float("nan"), row, "r", "low", "high", str(row["n"])))
    return pd.DataFrame(rows, columns=["finding", "published", "value", "low", "high", "n"])


def _rows(table: pd.DataFrame | None, metric: str, region: str, level: str) -> list[dict[str, Any]]:
    if table is None:
        return []
    here = (table["metric"] == metric) & (table[schema.REGION] == region) & (table[schema.LEVEL] == level)
    return [{str(k): v for k, v in row.items()} for row in table[here].to_dict("records")]


def _finding(name: str, published: float, row: Mapping[str, Any], value: str, low: str, high: str, n: str) -> dict[str, Any]:
    return {"finding": name, "published": published, "value": row[value], "low": row[low], "high": row[high], "n": n}
