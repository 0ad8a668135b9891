"""Files of sites, put together, against all people in one table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.analysis.groups import compare
from cohort_engine.cli import app
from cohort_engine.config import parse_config
from cohort_engine.errors import InputError
from cohort_engine.study.federate import combine_sums, share_sums


def test_files_of_three_sites_are_one_table(make_material, tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    n, features = 90, [("mtr", "white matter", "C2"), ("mtr", "white matter", "C3"), ("area", "spinal cord", "C3")]
    values, group, site = rng.normal(45, 3, (n, 3)), rng.integers(0, 2, n).astype(float), np.arange(n) % 3
    values[site == 1, 0] += 4
    values[rng.random(values.shape) < 0.05] = np.nan
    age, sex = rng.uniform(30, 70, n), rng.choice(["F", "M"], n)
    config = parse_config({"data": {"bids": "b", "store": "s"}, "analysis": {"tests": {"method": "linear", "covariates": ["age", "sex"]}}}).analysis
    for s in range(3):
        has = [0, 1, 2] if s < 2 else [1, 2]  # one site has two features of the three
        m = make_material(values[site == s][:, has], group[site == s], [features[i] for i in has], age=age[site == s], sex=sex[site == s])
        (tmp_path / f"{s}.json").write_text(json.dumps(share_sums(m, config)))
    assert "sub-" not in (tmp_path / "0.json").read_text()

    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["federate", "combine", "0.json", "1.json", "2.json"])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "federated.csv").exists()
    found = combine_sums([tmp_path / f"{s}.json" for s in range(3)])
    assert found["sites"].tolist() == [2, 3, 3]
    columns = np.column_stack([age, sex == "M", site == 1, site == 2])
    values[site == 2, 0] = np.nan
    pooled = compare(values, group, method="linear", covariates=columns)
    for key in ("effect", "se", "low", "high", "p"):
        np.testing.assert_allclose(found[key], getattr(pooled, key), rtol=1e-8)
    np.testing.assert_allclose(combine_sums([tmp_path / f"{s}.json" for s in range(3)], method="welch")["p"], compare(values, group).p, rtol=1e-8)


def test_files_that_do_not_go_together(make_material, tmp_path) -> None:
    rng = np.random.default_rng(0)
    m = make_material(rng.normal(size=(20, 1)), np.arange(20) % 2, age=rng.uniform(30, 70, 20))
    for name, covariates in (("a", []), ("b", ["age"])):
        config = parse_config({"data": {"bids": "b", "store": "s"}, "analysis": {"tests": {"method": "linear", "covariates": covariates}}}).analysis
        (tmp_path / f"{name}.json").write_text(json.dumps(share_sums(m, config)))
    with pytest.raises(InputError, match="same covariates"):
        combine_sums([tmp_path / "a.json", tmp_path / "b.json"])
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="federate share"):
        combine_sums([tmp_path / "c.json"])
