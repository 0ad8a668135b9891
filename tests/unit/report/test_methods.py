"""The Methods section says what was done with its numbers, and cites what was used and nothing else."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from cohort_engine.config import AnalysisConfig, merged
from cohort_engine.report.methods import write_methods
from cohort_engine.report.references import REFERENCES
from cohort_engine.study.result import Analysis


def changed(found: Analysis, *, without: tuple[str, ...] = (), science: dict[str, Any] | None = None, **config: Any) -> Analysis:
    """Copy of an analysis with another configuration, and without some tables."""
    about = copy.deepcopy(dict(found.about)) | {"science": found.about["science"] | (science or {})}
    settings = AnalysisConfig(**merged(found.config.model_dump(mode="json"), config))
    return replace(found, about=about, config=settings, tables={n: t for n, t in found.tables.items() if n not in without})


def cited(found: Analysis, ds: Any) -> set[str]:
    dois = {r.doi for r in write_methods(found, ds).references}
    return {k for k, r in REFERENCES.items() if r.doi in dois}


def test_numbers_come_from_the_configuration(whole_study: Any) -> None:
    found, ds = whole_study
    text = str(write_methods(found, ds))
    people = found.material.people
    assert f"included {len(people.table)} participants: {int((people.group == 0).sum())} controls (HC)" in text
    assert "came from 30 bootstrap resamples (seed 1)" in text
    assert "20 mm of cord above and below, 10 mm away" in text
    assert "only 10% of" in text
    assert "mt_dice was at least 0.89" in text
    assert "at 5%." in text
    assert f"content hash {found.about['template']['template_digest']}" in text
    assert "parametric cord" in text
    other = changed(
        found, confidence=0.9, alpha=0.01, seed=7, max_missing=0.2, tests={"resamples": 250, "family": []},
        compression={"gap": 5.0, "extent": 30.0, "specificity": 0.95, "search": ["C3", "C6"]},
    )  # fmt: skip
    text = str(write_methods(other, ds))
    for said in (
        "90% confidence interval", "at 1%.", "percentiles of 250 bootstrap resamples within the groups (seed 7)", "controlled over all tests",
        "more than 20% of a group", "30 mm of cord above and below, 5 mm away", "from C3 to C6", "only 5% of",
    ):  # fmt: skip
        assert said in text
    assert "95%" not in text


def test_two_configurations_cite_what_each_used(whole_study: Any) -> None:
    found, ds = whole_study
    full = cited(found, ds)
    assert {
        "welch",
        "hedges",
        "fdr",
        "delong",
        "sun",
        "youden",
        "efron",
        "airola",
        "bates",
        "miyanji",
        "combat",
        "fortin",
        "liu",
        "crawford",
        "shrout",
        "bonett",
    } <= full
    assert not {"mann", "billot", "gros", "rabiner"} & full
    rank = changed(
        found, without=("change", "clusters", "compression", "repeats", "roc_pairs", "classifier"), tests={"method": "mann_whitney"},
        harmonise={"site": None},
        correlate={"method": "pearson"}, roc={"resamples": 0},
    )  # fmt: skip
    other = cited(rank, ds)
    assert {"mann", "delong", "fdr", "youden"} <= other
    absent = {
        "welch",
        "hedges",
        "combat",
        "fortin",
        "liu",
        "hennig",
        "hubert",
        "rousseeuw",
        "miyanji",
        "shrout",
        "weir",
        "bland",
        "efron",
        "bonett",
        "airola",
    }
    assert not absent & other


def test_linear_model_names_its_covariates(whole_study: Any) -> None:
    found, ds = whole_study
    text = str(write_methods(changed(found, tests={"method": "linear", "covariates": ["age", "sex"]}), ds))
    assert "a linear model adjusted for age, sex and site" in text  # the shift of each site was estimated from the same values
    assert "Welch" not in text


def test_images_are_described_by_the_science_of_the_store(whole_study: Any) -> None:
    found, ds = whole_study
    stages = copy.deepcopy(found.about["science"]["stages"])
    stages["fit"]["deformable"], stages["mtr"]["coregister"] = False, "none"
    assert "syn" not in cited(changed(found, science={"stages": stages}), ds)
    text = str(write_methods(changed(found, science={"source": "sct"}), ds))
    assert "results of the Spinal Cord Toolbox" in text
    assert "SyN" not in text
    pam50 = changed(found)
    pam50.about["template"]["template_name"] = "PAM50"
    assert "space of the PAM50 template" in str(write_methods(pam50, ds))
    assert "valosek" in cited(pam50, ds)  # of the compression
    assert "valosek" not in cited(replace(pam50, tables={}), ds)


def test_masks_of_the_network_are_counted(whole_study: Any) -> None:
    found, ds = whole_study
    renamed = ds.assign_coords(stage=["segment_mt" if s == "mtr" else s for s in ds["stage"].to_numpy()])
    n = len(found.material.people.at)
    assert f"Cord masks (MT) of {n} of the {n} participants were segmented by two convolutional networks" in str(write_methods(found, renamed))
    assert {"billot", "gros"} <= cited(found, renamed)


def test_citations_are_numbered_in_order_and_all_listed(whole_study: Any) -> None:
    methods = write_methods(*whole_study)
    numbers = [int(n) for _, text in methods.parts for group in re.findall(r"\[([\d, ]+)\]", text) for n in group.split(",")]
    first = list(dict.fromkeys(numbers))
    assert sorted(first) == list(range(1, len(methods.references) + 1))
    assert "@" not in str(methods)


@pytest.mark.parametrize("key", sorted(REFERENCES))
def test_references_have_a_doi_of_their_own(key: str) -> None:
    work = REFERENCES[key]
    assert re.fullmatch(r"10\.\d{4,5}/\S+", work.doi)
    assert re.search(r"\b(19|20)\d\d;", work.text)
    assert [r.doi for r in REFERENCES.values()].count(work.doi) == 1
