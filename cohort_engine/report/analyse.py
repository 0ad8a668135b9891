"""Analyse a cohort: tables into the store and beside it, figures, and one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from cohort_engine import sections
from cohort_engine.config import Config
from cohort_engine.engine.status import stale
from cohort_engine.errors import CohortError, ConfigError, NotEnoughError, StoreError, UnknownNameError, describe_error, optional
from cohort_engine.io.cells import defused_table
from cohort_engine.io.places import local_path
from cohort_engine.provenance import digest, versions
from cohort_engine.query.accessor import open_cohort
from cohort_engine.sections.base import settings_of
from cohort_engine.store import layout
from cohort_engine.store.analysis_tables import write_tables
from cohort_engine.store.records import now
from cohort_engine.study.material import gather
from cohort_engine.study.result import Analysis

CSV, PARQUET = "csv", "parquet"
DIGITS = "%.9g"
SIMULATOR = "cohort-engine simulate"
"""What a simulated dataset says it was made by."""
ENDING = "_analysis"


def analyse_cohort(cohort: str | xr.Dataset, config: Config) -> Analysis:
    """Compute every table of an analysis; nothing is written.

    Parameters
    ----------
    cohort : str or Dataset
        A store, or what `open_cohort` returned.
    config : Config
        Its section `analysis`.

    Raises
    ------
    InputError, ConfigError, UnknownNameError, StoreError
        Nothing can be analysed at all, or the study file asks a section for what does not exist. A section that the study has not enough for, and
        one that failed, are in `problems`.
    """
    chosen = config.analysis
    ds = open_cohort(cohort, space=chosen.space or "") if isinstance(cohort, str) else cohort
    material = gather(ds, chosen)
    tables: dict[str, pd.DataFrame] = {}
    problems: dict[str, str] = {}
    failed: list[str] = []
    for section in sections.every():
        try:
            tables |= section.tables_of(material, chosen)
        except (ConfigError, UnknownNameError):
            raise
        except Exception as error:  # the others are made all the same
            problems[section.name] = str(error) if isinstance(error, CohortError) else ": ".join(describe_error(error)[:2])
            failed += [] if isinstance(error, NotEnoughError) else [section.name]
    described = description(config.data.bids)
    science = json.loads(ds.attrs[layout.ASKED])["science"]
    settings = chosen.model_dump(mode="json", exclude={"out", "exclude"})
    own = {s.name: settings_of(chosen, s.name, s.settings) for s in sections.every() if s.settings is not None}
    settings |= {name: values.model_dump(mode="json") for name, values in own.items()}
    settings["norms"]["reference"] = "another cohort" if chosen.norms.reference else None  # no path
    store = {k: ds.attrs.get(k, "") for k in (layout.TEMPLATE_NAME, layout.TEMPLATE_VERSION, layout.TEMPLATE_DIGEST, layout.ATLAS_DIGEST)}
    about = {
        "study": {"name": chosen.title or described.get("Name") or local_stem(config.data.store), "simulated": simulated(described)},
        "config": settings,
        "science": science,
        "versions": versions(),
        "made": now(),
        "template": store,
        "finalised": ds.attrs.get(layout.FINALISED, ""),
    }
    about["hash"] = digest(settings, science, material.features.to_csv(), material.raw.tobytes(), material.people.group.tobytes())
    return Analysis(material, tables, problems, chosen, about, failed=tuple(failed))


def analyse(
    config: Config, *, out: str | Path | None = None, say: Callable[[str], None] | None = None, allow_mixed: bool = False
) -> Analysis:  # fmt: skip
    """Analyse the cohort of a study file: tables into the store, and tables, figures and ``report.html`` into a folder.

    Parameters
    ----------
    config : Config
    out : path, optional
        Folder; by default `analysis.out`, or beside the store.
    say : callable, optional
        Is told what is being done.
    allow_mixed : bool
        Analyse although rows of the store were made with different settings, or with others than the study file has now.

    Returns
    -------
    Analysis

    Raises
    ------
    InputError, ConfigError, UnknownNameError, StoreError, StorageError
        Nothing can be analysed, or a place cannot be written.
    """
    from cohort_engine.report.page import write_report

    tell = say or (lambda text: None)
    url = config.data.store
    tell("Reading the cohort and computing tables")
    ds = open_cohort(url, space=config.analysis.space or "")
    if (apart := [*filter(None, [ds.attrs[layout.MIXED]]), *stale(config)]) and not allow_mixed:
        raise StoreError(
            expected="rows that were made with the settings of the study file", found="; ".join(apart), where="store",
            remedy="Run build, which makes the others again, or analyse it as it is with --allow-mixed.",
        )  # fmt: skip
    found = analyse_cohort(ds, config)
    folder = Path(out or config.analysis.out or _beside(url))
    tell("Writing tables")
    if not ds.attrs.get(layout.TAG):  # a freeze stays as it is
        write_tables(url, found.tables, {"about": json.dumps(found.about), "problems": json.dumps(found.problems)})
    write_files(found.tables, folder)
    tell("Drawing figures and the report")
    write_report(found, ds, folder)
    return replace(found, out=folder)


def description(bids: str) -> dict[str, Any]:
    """Read what a BIDS dataset says of itself; nothing where it is not at hand."""
    folder = local_path(bids)
    try:
        said = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def simulated(described: Mapping[str, Any]) -> bool:
    """Whether nobody was scanned.

    Examples
    --------
    >>> simulated({"GeneratedBy": [{"Name": "cohort-engine simulate"}]}), simulated({"Name": "Study"})
    (True, False)
    """
    made = described.get("GeneratedBy")
    return any(isinstance(m, dict) and m.get("Name") == SIMULATOR for m in (made if isinstance(made, list) else ()))


def local_stem(url: str) -> str:
    """Name of a store without its ending.

    Examples
    --------
    >>> local_stem("/data/my_study.zarr"), local_stem("s3://bucket/study.zarr")
    ('my study', 'study')
    """
    return url.rstrip("/").rpartition("/")[2].removesuffix(".zarr").replace("_", " ")


def _beside(url: str) -> Path:
    """Folder beside a local store; for a store in a bucket one here."""
    path = local_path(url)
    name = (path.name if path else url.rstrip("/").rpartition("/")[2]).removesuffix(".zarr")
    return (path.parent if path else Path.cwd()) / f"{name}{ENDING}"


def write_files(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write each table as CSV and Parquet, in folders of their own."""
    with optional("pyarrow", "analysis", where="tables"):
        import pyarrow  # noqa: F401  # that it is there
    for kind in (CSV, PARQUET):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        defused_table(table).to_csv(folder / CSV / f"{name}.{CSV}", index=False, float_format=DIGITS)
        table.to_parquet(folder / PARQUET / f"{name}.{PARQUET}", index=False)
