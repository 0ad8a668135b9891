"""Norms from tables to a file, and people and studies against them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.config import parse_config
from cohort_engine.errors import InputError, UnknownNameError
from cohort_engine.sections import norms as section
from cohort_engine.study.norms import fit_norms, place_people, read_levels, read_norms, write_norms


def healthy(n: int, seed: int, factor: float = 1.0) -> pd.DataFrame:
    """Tables as the toolbox's: C2 and C3, C3 smaller by a tenth; one level in twenty is not wholly seen and 20 mm2 too small."""
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(20, 80, n).round(), rng.choice(["F", "M"], n)
    area = factor * np.exp(4.25 + 0.06 * (sex == "M") - 0.001 * (age - 50) + rng.normal(0, 0.09, n))
    parts = []
    for level, size in (("C2", 1.0), ("C3", 0.9)):
        cut = rng.random(n) < 0.05
        parts.append(pd.DataFrame({
            "participant_id": [f"sub-{seed}-{i}" for i in range(n)], "age": age, "sex": sex, "level": level,
            "n_slices": np.where(cut, 20, 31), "n_slices_level": 31, "MEAN(area)": size * area - 20 * cut, "pathology": "HC",
        }))  # fmt: skip
    return pd.concat(parts)


@pytest.fixture
def tables(tmp_path):
    for name, table in (("one", healthy(200, 1)), ("two", healthy(150, 2, 1.1)), ("own", healthy(120, 3, 0.8))):
        table.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
    return tmp_path


def test_from_tables_to_centiles(tables, monkeypatch) -> None:
    monkeypatch.chdir(tables)
    run = CliRunner().invoke(app, ["norms", "fit", "one.tsv", "two.tsv", "-o", "norms.json"])
    assert run.exit_code == 0, run.output
    norms = read_norms(str(tables / "norms.json"))
    assert (norms.features, dict(norms.made_of)) == ((("area", "C2"), ("area", "C3")), {"one": 200, "two": 150})
    assert "sub-" not in (tables / "norms.json").read_text()

    (tables / "who.txt").write_text("\n".join(f"sub-3-{i}" for i in range(20)))
    run = CliRunner().invoke(app, ["norms", "people", "own.tsv", "--norms", "norms.json", "--controls", "who.txt", "-o", "out.tsv"])
    assert run.exit_code == 0, run.output
    out = pd.read_csv(tables / "out.tsv", sep="\t")
    assert out["control"].sum() == pytest.approx(40, abs=6)
    new = out[~out["control"]]
    assert 0.35 < (new["centile"] < 50).mean() < 0.65
    assert (new["centile"] < 3).mean() < 0.07

    known = place_people(norms, read_levels([tables / "one.tsv"]), site="one")
    assert np.abs([(known["centile"] < c).mean() - c / 100 for c in (10, 50, 90)]).max() < 0.04
    with pytest.raises(InputError, match="one of one, two"):
        place_people(norms, read_levels([tables / "one.tsv"]), site="three")


def test_tables_that_do_not_fit(tables) -> None:
    healthy(5, 4).drop(columns="sex").to_csv(tables / "bad.csv", index=False)
    with pytest.raises(UnknownNameError, match="sex"):
        read_levels([tables / "bad.csv"])
    healthy(5, 4).assign(pathology="DCM").to_csv(tables / "ill.csv", index=False)
    with pytest.raises(InputError, match="nobody that is healthy"):
        read_levels([tables / "ill.csv"])
    healthy(9, 4).to_csv(tables / "few.csv", index=False)
    with pytest.raises(InputError, match="60 healthy people"):
        fit_norms(read_levels([tables / "few.csv"]))
    with pytest.raises(InputError, match="a file of norms"):
        read_norms(str(tables / "one.tsv"))


def test_a_study_against_norms(tables, make_material) -> None:
    """Cases of a site whose cords measure a fifth less than those of the norms, and who have none of the disease: 5 % outside."""
    write_norms(fit_norms(read_levels([tables / "one.tsv", tables / "two.tsv"])), tables / "norms.json")
    wide = read_levels([tables / "own.tsv"])
    values = wide[[("area", "C2"), ("area", "C3")]].to_numpy()
    group = (np.arange(len(wide)) >= 20).astype(float)
    features = [("area", "spinal cord", "C2"), ("area", "spinal cord", "C3"), ("mtr", "white matter", "C3")]
    m = make_material(np.column_stack([values, values[:, 0]]), group, features, age=wide["age"].to_numpy(), sex=wide["sex"].to_numpy())
    config = parse_config({"data": {"bids": "b", "store": "s"}, "analysis": {"norms": {"reference": str(tables / "norms.json")}}}).analysis
    made = section.compute(m, config)
    summary = made["norms_summary"].set_index(["metric", "level"])
    assert summary.loc[("area", "C2"), "reference"].startswith("centile curves of 350 people, placed by")
    assert summary.loc[("mtr", "C3"), "reference"] == "own controls"
    assert (summary["outside"] / summary["n_case"]).max() < 0.15
    rows = made["norms"].query("metric == 'area'")
    assert ((rows["value"] < rows["lower"]) == (rows["centile"] < 2.5)).all()
    few = make_material(values, (np.arange(len(wide)) >= 9).astype(float), features[:2], age=wide["age"].to_numpy(), sex=wide["sex"].to_numpy())
    with pytest.raises(InputError, match="10 controls"):
        section.compute(few, config)


def test_the_packaged_norms() -> None:
    """Women of 40 have about 69 mm2 at C2 in spine-generic and lose it slowly; men have more."""
    norms = read_norms("pam50-shape")
    assert dict(norms.made_of) == {"DLBS": 311, "UCLA": 117, "spine-generic": 203}
    table = pd.DataFrame({("age", ""): [40.0, 75.0, 40.0], ("sex", ""): ["F", "F", "M"], ("area", "C2"): 69.0, ("area", "C6"): 69.0})
    for name in ("participant_id", "session_id", "site"):
        table[(name, "")] = ["a", "b", "c"]
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    found = place_people(norms, table, site="spine-generic").set_index(["level", "participant_id"])["median"]
    assert found.loc[("C2", "a")] == pytest.approx(69, abs=1.5)
    assert found.loc[("C2", "b")] < found.loc[("C2", "a")] - 1.5
    assert found.loc[("C2", "c")] > found.loc[("C2", "a")] + 3
    assert found.loc[("C6", "b")] < found.loc[("C6", "a")] - 1.5  # nobody that old was known there
