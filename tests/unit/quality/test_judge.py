import numpy as np
import pytest

from cohort_engine.quality import vocabulary
from cohort_engine.quality.features import Findings
from cohort_engine.quality.judge import SIGNS, card, judge, told


def test_every_feature_that_counts_is_one_that_is_written() -> None:
    known = vocabulary.quality_specs()
    for kind, signs in SIGNS.items():
        assert kind in vocabulary.FAULTS
        assert set(signs) <= set(known)
        assert set(card()["weights"][kind]) == {"", *signs}


def test_nothing_known_says_nothing_against_a_subject() -> None:
    assert judge({}).usable > 0.8
    assert judge({"mt_explained": np.nan}).usable == judge({}).usable
    assert judge({}).reasons == ()


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, signs in SIGNS.items() for key in signs])
def test_a_worse_number_never_makes_a_subject_better(kind: str, key: str) -> None:
    fine, bad = SIGNS[kind][key]
    usable = [judge({key: fine + part * (bad - fine)}).usable for part in (-1, 0, 0.5, 1, 2, 5)]
    assert (np.diff(usable) <= 0).all()


def test_the_likeliest_failure_is_told_first_with_its_slices() -> None:
    found = Findings({"mt_border_lacks": 3.0, "pair_loose": 2.5}, {"mt_border_lacks": np.array([4, 5, 6, 9])})
    verdict = judge(found.values)
    assert verdict.usable < vocabulary.LEAST_USABLE
    assert set(verdict.reasons) == {vocabulary.MASK_FAULT, vocabulary.MOTION_FAULT}
    assert "mt_border_lacks 3, slices 4-6, 9" in told(found, verdict)


def test_what_could_not_be_judged_is_told() -> None:
    assert told(Findings(failed={"levels": "a cord expected, none found"}), judge({})) == "not judged: levels (a cord expected, none found)"
