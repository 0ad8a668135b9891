"""Words of others lose their names before they are recorded, in no time."""

from __future__ import annotations

import time

import pytest

from cohort_engine.errors import FRAMES, LONGEST_TEXT, InputError, describe_error, scrub
from cohort_engine.io.places import join

SECRETS = ("sub-", "ses-", "Roe", "Jane", "O'Brien", "secret", "bucket")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("cannot open /data/sub-01_T2w.nii.gz for sub-01", "cannot open ... for ..."),
        ("No such file: '/data/Jane Roe/T2w.nii' here", "No such file: ... here"),
        ('No such file: "/data/O\'Brien/Jane.nii": gone', "No such file: ...: gone"),
        ("cannot read C:\\Users\\Jane Roe\\scan 1.nii.gz today", "cannot read ... today"),
        ("share \\\\server\\Jane Roe\\x.nii, offline", "share ..., offline"),
        ("PUT https://host/bucket/Jane: denied", "PUT ...: denied"),
        ("s3://bucket/sub-01/x.nii is gone", "... is gone"),
        ("path=/data/Jane Roe/a.nii (os error 2)", "... (os error 2)"),
        ("folder /data/Jane Roe", "folder ..."),
        ("~/Jane/x.nii or x_sub-01_ses-2_T2w", "... or ..."),
        ("study/sub-AB-12/anat and Jane.nii.gz", "... and ..."),
        ("can't read it: '/a b/Jane Roe'", "can't read it: ..."),
        ("index 4 is out of bounds for axis 0 with size 3", "index 4 is out of bounds for axis 0 with size 3"),
        ("first line\n/data/Jane Roe\nlast", "first line\n...\nlast"),
        ("", ""),
    ],
)
def test_names_of_people_go_and_reasons_stay(said: str, kept: str) -> None:
    assert scrub(said) == kept
    assert not any(secret in scrub(said) for secret in SECRETS)


@pytest.mark.parametrize("unit", ["/", "a/b ", "'", "'/", "\"/'", "x", "sub-", "\\", " ", "/a b", "(os error ", "\n/", "..."])
def test_a_long_text_takes_no_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    found = scrub(text)
    assert time.process_time() - started < 0.1
    assert len(found) <= 2 * LONGEST_TEXT + 4
    assert found.endswith(" ...")


def test_an_error_of_ours_is_what_it_says() -> None:
    error = InputError(expected="a cord", found="x" * 10_000, where="MT mask", remedy="Look.")
    kind, message, trace = describe_error(error)
    assert (kind, trace) == ("InputError", "")
    assert message.startswith("MT mask: expected a cord, found xxx")
    assert len(message) <= LONGEST_TEXT + 4


def test_an_unforeseen_error_names_the_innermost_place_of_the_package_and_the_whole_chain() -> None:
    with pytest.raises(AttributeError) as caught:
        join("store", 3)  # any function of the package that meets something unforeseen
    kind, message, trace = describe_error(caught.value)
    assert kind == "AttributeError"
    assert message.startswith("in places.py:")
    assert trace.startswith("test_errors.py:")
    assert trace.split(" > ")[-1].startswith("places.py:")


def test_causes_are_told_without_their_words() -> None:
    def fail() -> None:
        try:
            raise KeyError("/data/Jane Roe")
        except KeyError as error:
            raise ZeroDivisionError("sub-01") from error

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    _, message, trace = describe_error(caught.value)
    assert message.endswith(" (fail): ...")
    assert "; after KeyError > test_errors.py:" in trace
    assert "Jane" not in trace


def test_an_endless_recursion_and_an_error_without_words() -> None:
    def deeper() -> None:
        deeper()

    with pytest.raises(RecursionError) as caught:
        deeper()
    trace = describe_error(caught.value)[2]
    assert trace.count(" > ") == FRAMES
    assert " more > " in trace

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert describe_error(MuteError()) == ("MuteError", "no message", "")
