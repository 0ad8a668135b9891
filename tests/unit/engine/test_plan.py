from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cohort_engine import schema
from cohort_engine.config import Config, parse_config
from cohort_engine.engine.clusters import WorkerOffer, make_pool
from cohort_engine.engine.plan import Plan
from cohort_engine.engine.runner import Subject
from cohort_engine.errors import ConfigError, ResourceError, TemplateError
from cohort_engine.stages.base import Stage
from cohort_engine.stages.choose import stages_of
from cohort_engine.stages.declare import declare
from cohort_engine.template.parametric import parametric_cord

TEMPLATE = parametric_cord(spacing=2.0, top="C3", bottom="C4")
GIB = 2**30


def config(tmp_path: Path, **compute: object) -> Config:
    stages = {"reduce": {"spaces": ["template"]}, "segment": {"enabled": False}, "levels": {"enabled": False}, "quality": {"enabled": False}}
    return parse_config({"data": {"bids": "b", "store": str(tmp_path / "s.zarr")}, "compute": compute, "stages": stages})


def stages(tmp_path: Path) -> tuple[Stage, ...]:
    return stages_of(config(tmp_path))


def subject(tmp_path: Path, row: int, *, lacks: str = "") -> Subject:
    files = {}
    for role in schema.ROLES:
        if role != lacks:
            files[role] = str(tmp_path / f"{row}-{role}")
            Path(files[role]).write_bytes(bytes(10))
    return Subject(row, files)


def make_plan(
    tmp_path: Path, people: int | list[Subject] = 3, offers: tuple[WorkerOffer, ...] = (WorkerOffer(4 * GIB),) * 2,
    chosen: tuple[Stage, ...] | None = None, **more: object,
) -> Plan:  # fmt: skip
    subjects = [subject(tmp_path, i) for i in range(people)] if isinstance(people, int) else people
    wanted = chosen or stages(tmp_path)
    specs = declare(config(tmp_path), wanted, TEMPLATE.digest).specs
    return Plan.of(config(tmp_path), subjects, wanted, TEMPLATE, offers, specs=specs, **more)  # type: ignore[arg-type]


def test_counts(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert (plan.subjects, plan.workers, plan.tasks) == (3, 2, {"fit_mt": 3, "mtr": 3})
    # t2w mask and landmarks, mt mask, mt on, mt off; the T2w image itself is not read
    assert plan.bytes_in == 3 * 5 * 10
    voxels = len(TEMPLATE.packing)
    tables = (4 + 5) * len(TEMPLATE.levels) * len(TEMPLATE.atlas.regions)  # wa, and map with its standard error
    per_stage = 1 + 4 + 4 + 16 + 16  # status, seconds, memory; key and recipe
    names = 8 + 3 * 16  # row; participant and session beside the data, and why somebody left
    labels = len(TEMPLATE.atlas.labels)
    sums = (3 * labels + 2 + labels * (labels + 1) // 2) * len(TEMPLATE.levels)
    per_subject = 4 * (3 * voxels + voxels + 15 + 4 + tables) + 8 * sums + 2 * per_stage + names
    assert plan.bytes_out == 3 * per_subject
    plan.validate()


def test_the_table_says_what_will_run_and_why(tmp_path: Path) -> None:
    runs = {"fit_mt": {"to_do": 0, "stale": 0, "failed": 0}, "mtr": {"to_do": 1, "stale": 2, "failed": 0}}
    why = "stages.mtr.low_signal changed: mtr of 2 subjects"
    plan = make_plan(tmp_path, runs=runs, reasons=[why], left={"excluded in the study file": 1})
    rows = dict(plan.rows())
    assert rows["stage fit_mt"] == "0 of 3 to run"
    assert rows["stage mtr"] == "3 of 3 to run: 1 to do, 2 stale"
    assert rows["why"] == why
    assert rows["left: excluded in the study file"] == "1"


def test_missing_files_are_counted_by_role(tmp_path: Path) -> None:
    people = [subject(tmp_path, 0), subject(tmp_path, 1, lacks="mt_mask"), subject(tmp_path, 2, lacks="mt_mask"), subject(tmp_path, 3, lacks="mt_on")]
    plan = make_plan(tmp_path, people, (WorkerOffer(),))
    assert plan.missing == {"mt_on": 1, "mt_mask": 2}
    plan.validate()


def test_all_problems_at_once(tmp_path: Path) -> None:
    fit, mtr = stages(tmp_path)
    greedy = replace(fit, resources={"gpu": 1})
    template = TemplateError(expected="template a", found="b", where="store", remedy="Load a.")
    plan = make_plan(tmp_path, 1, (WorkerOffer(GIB // 4),), (greedy, mtr), problems=[template])
    with pytest.raises(ResourceError, match=r"3 problems.*\(1\).*template a.*\(2\).*'gpu': 1.*\(3\).*about 0\.\d GiB"):
        plan.validate()


def test_one_problem_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"compute\.memory: expected about .* found 256\.0 MiB"):
        make_plan(tmp_path, offers=(WorkerOffer(GIB // 4),)).validate()


def test_a_full_disk_is_seen_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ResourceError, match="free disk, found 10 B"):
        make_plan(tmp_path).validate()


def test_a_resource_must_be_offered_by_one_worker_whole() -> None:
    assert WorkerOffer(resources={"gpu": 1}).has({"gpu": 1})
    assert not WorkerOffer(resources={"gpu": 1}).has({"gpu": 2})
    assert not WorkerOffer().has({"gpu": 1})
    assert WorkerOffer(resources=None).has({"gpu": 1})


def test_a_local_cluster_is_planned_without_starting_it(tmp_path: Path) -> None:
    pool = make_pool(config(tmp_path, workers=3, memory="2 GiB").compute)
    assert pool.offers() == (WorkerOffer(2 * GIB),) * 3
    assert pool.client is None


def test_an_address_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compute\.address"):
        make_pool(config(tmp_path, cluster="address").compute)
