"""The DTI study from nothing: simulated patients, trainings, tables and figures. What is done is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import pandas as pd
from pydantic import Field

from cohort_engine.config import ComputeConfig, Section, merged, parse_section, read_yaml
from cohort_engine.engine.clusters import make_pool
from cohort_engine.errors import ConfigError, unknown_name
from cohort_engine.provenance import digest
from cohort_engine.report.reproduction import claim
from cohort_engine.report.roi_page import Evaluation
from cohort_engine.report.roi_study import evaluate_rois
from cohort_engine.report.roi_tables import choices_of, read_results
from cohort_engine.rois.slices import RoiSlices, joined
from cohort_engine.rois.sweep import RESULTS, Row, Sweep, Table, rows_of, run_sweep
from cohort_engine.single.process import Workplace
from cohort_engine.stages.fit import FitConfig
from cohort_engine.study.format import NOTHING
from cohort_engine.template.base import Template

PLAN: Final = "dti_csm.yaml"
PATIENTS, TRAIN, TEST, TRAININGS = "patients", "train.npz", "test.npz", "trainings"
TRAIN_SEED, TEST_SEED = 1, 2
FIRST_TEST: Final = 1000
"""Number of the first patient of the test: nobody is in both."""
BLOCK: Final = 8
"""Patients that are simulated, and kept, together."""
LAST: Final = "size"
"""Choice of a sweep that goes over all others."""

Say = Callable[[str], None]


class Size(Section):
    """How large a reproduction is."""

    patients: int = Field(ge=3)
    """Simulated patients to train and validate on, and to hold out."""
    test_patients: int = Field(ge=2)
    """Others, by whom all trainings are judged."""
    reduced: str
    """What is smaller than in the study, in words."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Settings below those of all choices."""
    always: dict[str, Any] = Field(default_factory=dict)
    """Settings above them."""
    tables: tuple[Table, ...]
    """Rows to train."""


class Plan(Section):
    """What is trained and compared."""

    choices: dict[str, dict[str, dict[str, Any]]]
    """As in a sweep."""
    looked_at: dict[str, dict[str, str]]
    """Rows on the page by the name they have there: their labels, where they are not the first ones of their choices."""
    sizes: dict[str, Size]
    """By name."""

    def size(self, name: str) -> Size:
        """Find a size by its name."""
        if name not in self.sizes:
            raise unknown_name("size", name, list(self.sizes), where="reproduction")
        return self.sizes[name]

    def sweep(self, size: str) -> Sweep:
        """Trainings of a size."""
        chosen = self.size(size)
        return Sweep(base=chosen.base, choices={**self.choices, LAST: {size: chosen.always}}, tables=chosen.tables)

    def shown(self, size: str) -> dict[str, Row]:
        """Rows that the page looks at, by name: of several seeds the first."""
        rows, out = rows_of(self.sweep(size)), {}
        for name, labels in self.looked_at.items():
            wanted = {choice: next(iter(known)) for choice, known in self.choices.items()} | labels
            row = next((r for r in rows if wanted.items() <= r.labels.items()), None)
            if row is None:
                raise ConfigError(expected=f"a row with {wanted}", found="none", where=f"sizes.{size}.tables", remedy="Add it to a table.")
            out[name] = row
        return out


def load_plan(path: str | Path | None = None) -> Plan:
    """Read a plan; by default that of the package.

    Examples
    --------
    >>> plan = load_plan()
    >>> list(plan.sizes), len(rows_of(plan.sweep("small"))), list(plan.shown("small"))
    (['full', 'reduced', 'small'], 4, ['ours', "the article's method", 'the released code'])
    """
    if path is not None:
        return parse_section(Plan, read_yaml(Path(path)), where=Path(path).name)
    with as_file(files("cohort_engine.report").joinpath(PLAN)) as packaged:
        return parse_section(Plan, read_yaml(packaged), where=PLAN)


def reproduce(
    out: str | Path, template: Template, *, size: str = "small", plan: Plan | None = None, workers: int = 1, address: str | None = None,
    device: str = "auto", say: Say | None = None,
) -> Evaluation:  # fmt: skip
    """Simulate patients, train all rows, judge them by other patients, and write tables, figures and the page.

    Parameters
    ----------
    out : path
        Folder. Gets ``patients/``, ``train.npz``, ``test.npz``, ``trainings/``, ``reproduction.json``, and what `roi_page.write_evaluation` writes.
        What is there is continued, if it is of the same plan, size and template.
    template : Template
        Anatomy of the patients.
    size : str
        ``small``, ``reduced`` or ``full``: the page says what was reduced.
    plan : Plan, optional
        By default that of the package.
    workers : int
        Processes that simulate and train.
    address : str, optional
        Scheduler of a running cluster, which trains in their place.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    say : callable, optional
        Told what is done.

    Returns
    -------
    Evaluation

    Raises
    ------
    UnknownNameError
        No such size.
    StoreError
        The folder holds another reproduction.
    CohortError
        What a training or its evaluation raises.
    """
    plan, folder, say = plan or load_plan(), Path(out), say or (lambda _: None)
    chosen = plan.size(size)
    sweep = plan.sweep(size)
    sweep = sweep.model_copy(update={"base": merged(sweep.base, {"device": device})})
    shown = plan.shown(size)
    record: dict[str, Any] = {
        "study": "doi 10.3390/diagnostics13050817", "size": size, "reduced": chosen.reduced,
        "template": template.name, "template hash": template.digest,
        "patients": chosen.patients, "patients of the test": chosen.test_patients, "seeds of patients": [TRAIN_SEED, TEST_SEED],
        "plan": digest(plan.model_dump(mode="json")),
    }  # fmt: skip
    claim(folder, record)
    train = _patients(folder, TRAIN, template, chosen.patients, TRAIN_SEED, 0, workers, say)
    test = _patients(folder, TEST, template, chosen.test_patients, TEST_SEED, FIRST_TEST, workers, say)
    rows = _trained(sweep, train, test, folder / TRAININGS, workers, address, say)
    failed = [row for row in rows if "error" in row]
    runs = {name: folder / TRAININGS / row.name for name, row in shown.items()}
    results = _without_idle(read_results(folder / TRAININGS / RESULTS), plan)
    notes = [
        f"Size {size}. Reduced: {chosen.reduced}.",
        "All patients are simulated: figures say how methods compare with one another on them, not how well they do in people.",
        *(f"A training failed and is left out: {row['error']}" for row in failed),
    ]
    return evaluate_rois(runs, test, folder, results=results, device=device, notes=notes, provenance=record, say=say)


def _without_idle(results: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Take out the labels that a method goes over: only its own says what was trained."""
    last = next(reversed(plan.choices))
    if last not in results:
        return results
    own = results[last] != next(iter(plan.choices[last]))
    return results.assign(**{c: results[c].where(~own, NOTHING) for c in choices_of(results) if c != last})


def _patients(folder: Path, name: str, template: Template, patients: int, seed: int, first: int, workers: int, say: Say) -> Path:
    """Simulate patients block by block; blocks that are there are read."""
    from cohort_engine.phantom.roi_study import make_roi_slices

    path, parts = folder / name, folder / PATIENTS
    if path.exists():
        return path
    parts.mkdir(exist_ok=True)
    made = []
    for start in range(first, first + patients, BLOCK):
        count = min(BLOCK, first + patients - start)
        part = parts / f"{Path(name).stem}_{start:04d}.npz"
        if not part.exists():
            make_roi_slices(template, patients=count, seed=seed, first=start, workers=workers).save(part)
        made.append(RoiSlices.load(part))
        say(f"{Path(name).stem}: {start - first + count} of {patients} patients")
    joined(made).save(path)
    return path


def _trained(sweep: Sweep, train: Path, test: Path, out: Path, workers: int, address: str | None, say: Say) -> list[dict[str, Any]]:
    pool = make_pool(ComputeConfig(cluster="address" if address else "local" if workers > 1 else "synchronous", address=address, workers=workers))

    def told(row: Mapping[str, Any]) -> None:
        labels = ", ".join(str(v) for k, v in row.items() if isinstance(v, str) and k not in ("row", "error", LAST))
        say(f"{labels}, seed {row['seed']}: {row.get('error') or 'Dice ' + format(sum(row['test']['dice']) / len(row['test']['dice']), '.3f')}")

    try:
        pool.open(Workplace(seed=FitConfig().seed))
        return run_sweep(sweep, train.resolve(), test.resolve(), out.resolve(), pool, say=told)
    finally:
        pool.close()
