"""Shared fixtures: factories, and the place of the real scans."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from cohort_engine.config import Config, parse_config
from cohort_engine.template.base import Template
from cohort_engine.template.parametric import parametric_cord

OURS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "ANTS_RANDOM_SEED")
"""Set for the tests; nobody sets them who types a command."""
for _name in OURS:
    os.environ.setdefault(_name, "1")

DATA_VARIABLE = "COHORT_ENGINE_TEST_DATA"


LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""A process of its own: a child is charged for the memory of the parent that forks it, and this one has little."""


class Cost(NamedTuple):
    """Processor time (s, user and system) and peak memory (MiB)."""

    seconds: float
    memory: float


@pytest.fixture(scope="session")
def cost() -> Callable[..., Cost]:
    """Run ``cohort-engine`` with arguments, a few times, and return the least it took."""
    pytest.importorskip("resource", reason="not on this system")

    def measure(*arguments: object, rounds: int = 3) -> Cost:
        command = [sys.executable, "-c", LAUNCH, sys.executable, "-m", "cohort_engine.cli", *map(str, arguments)]
        environment = {k: v for k, v in os.environ.items() if k not in OURS}
        runs = [subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split() for _ in range(rounds)]
        return Cost(*(min(map(float, column)) for column in zip(*runs, strict=True)))

    return measure


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real scans: ``$COHORT_ENGINE_TEST_DATA``, or ``shared/data`` beside the repository."""
    folder = Path(os.environ.get(DATA_VARIABLE) or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "PAM50").is_dir():
        pytest.skip(f"real scans not found: set {DATA_VARIABLE} to a folder that holds PAM50, errsm_23, ...")
    return folder


@pytest.fixture(scope="session")
def small_template() -> Template:
    """Parametric cord of C2 and C3 at 2 mm: a few hundred packed voxels, 43 regions."""
    return parametric_cord(spacing=2, top="C2", bottom="C3")


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """Return a study configuration with these sections and placeholders for its places; as plain as can be unless a section says otherwise."""
    plain = {
        "data": {"bids": "bids", "store": "store"},
        "stages": {"reduce": {"spaces": ["template"], "estimators": ["wa"]}, "segment": {"enabled": False}, "levels": {"enabled": False}},
    }
    return lambda **sections: parse_config({**plain, **sections})


@pytest.fixture
def make_store(tmp_path: Path, small_template: Template, make_config: Callable[..., Config]) -> Callable[..., str]:
    """Lay out a store of n subjects called sub-000, sub-001 ... (or of a given table), on the small template, with all stages of a study."""
    from cohort_engine.stages.choose import stages_of
    from cohort_engine.stages.declare import declare
    from cohort_engine.store.writer import init_store

    def make(subjects: int | pd.DataFrame = 3, *, url: str = "", units: dict[str, str] | None = None, **sections: Any) -> str:
        url = url or str(tmp_path / "store.zarr")
        if isinstance(subjects, int):
            subjects = pd.DataFrame({"participant_id": [f"sub-{i:03d}" for i in range(subjects)], "session_id": ""})
        config = make_config(**sections)
        told = declare(config, stages_of(config), small_template.digest)
        init_store(url, template=small_template, subjects=subjects, specs=told.specs, asked=told.asked, recipes=told.recipes, units=units)
        return url

    return make


@pytest.fixture(scope="session")
def make_finished_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Lay out a finished cohort of maps, profiles and tables: cases lose MTR, cord at C5, and some people come twice.

    `change` may edit the table of subjects, which the values were drawn for, before it is stored; with `flat` all MTR is 40.
    """
    import numpy as np

    from cohort_engine import schema
    from cohort_engine.reduce.cohort import tabulate
    from cohort_engine.store.maintenance import finalise
    from cohort_engine.testing import HandMadeStore

    template = parametric_cord(spacing=2, top="C2", bottom="C7")
    off = {"enabled": False}
    stages = {"reduce": {"spaces": ["template"], "estimators": ["wa"]}, "segment": off, "levels": off, "shape": {"source": "t2w"}}

    def make(
        people: int = 48, twice: int = 0, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda t: t, *, flat: bool = False, seed: int = 3
    ) -> str:  # fmt: skip
        url = str(tmp_path_factory.mktemp("cohort") / "study.zarr")
        rng = np.random.default_rng(seed)
        rows = []
        for i in range(people):
            case, severity = i % 2 == 1, float(rng.uniform(0.3, 1)) if i % 2 else 0.0
            score = round(18 - 8 * severity + rng.normal(0, 0.7), 1) if case else np.nan
            person = {
                "participant_id": f"sub-{i:03d}", "session_id": "ses-1" if twice else "", "group": "DCM" if case else "HC", "site": "ABC"[i % 3],
                "age": float(rng.integers(25, 75)), "sex": "FM"[int(rng.integers(2))], "mjoa": score, "severity": severity,
            }  # fmt: skip
            rows += [person, {**person, "session_id": "ses-2"}] if i < twice else [person]
        table = pd.DataFrame(rows)
        config = parse_config({"data": {"bids": "b", "store": url}, "template": {"name": "parametric"}, "stages": stages})
        store = HandMadeStore.lay_out(
            config, template, change(table).drop(columns="severity"), units={"age": "year"}, names=("fit_mt", "mtr", "shape")
        )
        import zarr

        root = zarr.open_group(url, mode="r")
        z, level = (np.asarray(root[f"{schema.PROFILES}/{n}"]) for n in (schema.Z, schema.Z_LEVEL))
        narrow = np.exp(-(((z - z[level == 5].mean()) / 5) ** 2))
        offsets = {p: rng.normal(0, 1, 2) for p in table["participant_id"]}
        for row, (_, who) in zip(store.rows, table.iterrows(), strict=True):
            mtr = 48 + offsets[who["participant_id"]][0] - 5 * who["severity"] * (template.packing.level == 5) - 1.5 * who["severity"]
            own = 1 + 0.05 * offsets[who["participant_id"]][1] + rng.normal(0, 0.004, len(z))
            ap = 7.5 * own * (1 - 0.35 * who["severity"] * narrow)
            noisy = np.full(len(mtr), 40.0) if flat else mtr + rng.normal(0, 3, len(mtr))
            arrays = {
                "maps/mtr": noisy.astype(np.float32),
                "profiles/diameter_ap": ap, "profiles/area": ap * 9.5, "qc/mt_dice": np.float32(rng.uniform(0.88, 0.97)),
            }  # fmt: skip
            store.write(row, arrays)
        finalise(url, tabulate=lambda: tabulate(url))
        return url

    return make


WHOLE = {
    "harmonise": {"site": "site"}, "roc": {"resamples": 30}, "clusters": {"resamples": 10}, "quality": {"mt_dice": [0.89, None]},
    "exclude": ["sub-007"],
}  # fmt: skip
"""Analysis section that leaves no section out."""


@pytest.fixture(scope="session")
def whole_study(make_finished_study: Callable[..., str]) -> tuple[Any, Any]:
    """Analysis of a simulated cohort in which no section is missing, and the opened cohort. Not to be changed."""
    from cohort_engine.query.accessor import open_cohort
    from cohort_engine.report.analyse import analyse_cohort

    url = make_finished_study(twice=8)
    ds = open_cohort(url)
    return analyse_cohort(ds, parse_config({"data": {"bids": "b", "store": url}, "analysis": WHOLE})), ds


@pytest.fixture(scope="session")
def make_material() -> Callable[..., Any]:
    """Put what a study analyses together from arrays: values (subject, feature), group (0 or 1), (metric, region, level) of each feature, columns."""
    import numpy as np

    from cohort_engine.study.material import KEYS, Material
    from cohort_engine.study.people import IDENTITY, REASON, People

    def make(values: Any, group: Any, features: Any = None, *, raw: Any = None, **columns: Any) -> Material:
        values, group = np.asarray(values, float), np.asarray(group, float)
        rows, count = values.shape
        names = features or [("mtr", f"tract {i + 1}", "C3") for i in range(count)]
        table = pd.DataFrame({"subject": range(rows), "participant_id": [f"sub-{i + 1:04d}" for i in range(rows)], "session_id": ""})
        table["group"] = np.where(group == 1, "DCM", "HC")
        for name, column in columns.items():
            table[name] = np.asarray(column, dtype=None if np.asarray(column).dtype.kind == "f" else object)
        people = People(np.arange(rows), table, group, "HC", "DCM", pd.DataFrame(columns=[*IDENTITY, REASON]))
        rows_of = [
            dict(zip(KEYS, (m, r, level, "" if m in ("area", "diameter_ap") else "wa"), strict=True), units="percent") for m, r, level in names
        ]
        empty = pd.DataFrame(index=range(rows))
        measured = values if raw is None else np.asarray(raw, float)
        return Material(people, pd.DataFrame(rows_of), values, measured, np.empty(0), np.empty(0, np.int64), {}, None, "no morphometry", empty)

    return make
