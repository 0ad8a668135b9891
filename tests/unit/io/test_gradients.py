"""b-values and directions: what a text may look like, and what is refused, in one sentence each."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.errors import InputError
from cohort_engine.io.gradients import Gradients, decode_text, gradients_of, read_gradients, scanner_axes
from cohort_engine.io.volume import Volume

VOLUMES = 8
LEFT = np.diag([-1.0, 1.0, 5.0, 1.0])  # LAS: components are those of the scanner, but for x
BVALS = np.array([0, 800, 800, 5, 800, 800, 800, 800.0])
WEIGHTED = BVALS > 50


def vectors(seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(VOLUMES, 3))
    return np.where(WEIGHTED[:, None], found / np.linalg.norm(found, axis=1, keepdims=True), 0.0)


def series(volumes: int = VOLUMES, affine: np.ndarray = LEFT) -> Volume:
    return Volume(np.zeros((2, 2, 2, volumes), np.float32), affine)


def text(table: np.ndarray, between: str = " ", digits: int = 9) -> str:
    return "\n".join(between.join(f"{v:.{digits}g}" for v in row) for row in np.atleast_2d(table))


@pytest.mark.parametrize("between", [" ", "\t", ",", ", ", ";", " ; ", "   "])
@pytest.mark.parametrize("columns", [False, True])
def test_either_layout_and_any_separator(between: str, columns: bool) -> None:
    table = vectors() if columns else vectors().T
    b = BVALS[:, None] if columns else BVALS[None]
    found = gradients_of(text(b, between) + between + "\n\n", "\n" + text(table, between) + "\n", series())
    np.testing.assert_array_equal(found.bvals, BVALS)
    np.testing.assert_allclose(found.directions, vectors() * [-1, 1, 1], atol=1e-8)
    np.testing.assert_array_equal(found.b0, ~WEIGHTED)
    assert found.shells == ((800.0, 6),)


def test_comments_windows_lines_and_byte_order_marks_are_no_numbers(tmp_path) -> None:
    (tmp_path / "x.bval").write_bytes(("# b-values\r\n" + text(BVALS) + "  # s/mm2\r\n").encode("utf-8-sig"))
    (tmp_path / "x.bvec").write_bytes(text(vectors().T).replace("\n", "\r\n").encode("utf-16"))
    found = read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", series())
    np.testing.assert_allclose(found.directions, vectors() * [-1, 1, 1], atol=1e-8)


def test_rounded_vectors_become_unit_vectors_and_b0_have_none() -> None:
    given = vectors()
    given[0], given[3] = (0.6, 0.8, 0.0), np.nan  # b0: whatever is written there
    found = gradients_of(text(BVALS), text((given * 1.03).T, digits=3), series()).directions
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), WEIGHTED, atol=1e-12)
    np.testing.assert_allclose(found, vectors() * [-1, 1, 1], atol=2e-3)


def test_three_volumes_are_read_as_they_make_unit_vectors() -> None:
    table = np.array([[0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    for given in (table, table.T):
        found = gradients_of("0 800 800", text(given), series(3))
        np.testing.assert_allclose(found.directions, table * [-1, 1, 1], atol=1e-12)


def test_shells_are_told_apart_and_volumes_are_taken() -> None:
    b = np.array([0, 495, 500, 505, 0, 1000, 995, 2000.0])
    found = Gradients(b, np.zeros((8, 3)))
    assert found.shells == ((500.0, 3), (997.5, 2), (2000.0, 1))
    assert found.take(b < 1500).shells == ((500.0, 3), (997.5, 2))


def test_a_sheared_image_has_the_nearest_axes_at_right_angles() -> None:
    affine = LEFT.copy()
    affine[0, 1] = 0.2
    axes = scanner_axes(affine)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(-1)
    assert np.abs(axes - np.diag([-1, 1, 1])).max() < 0.11


def changed(**change: object) -> tuple[str, str]:
    b, v = BVALS.copy(), vectors()
    for key, value in change.items():
        (b if key == "b" else v)[3 if key == "b0" else 1] = value
    return text(b), text(v.T)


GOOD = (text(BVALS), text(vectors().T))
REFUSED = {
    "count of b": ((text(BVALS[:-1]), GOOD[1]), "b-values of the diffusion series: expected 8 b-values, one a volume, found 7."),
    "count of directions": ((GOOD[0], text(vectors()[:-1].T)), "directions of the diffusion series: expected 8 directions, one a volume, found 7."),
    "swapped": (GOOD[::-1], "bval and bvec have changed places"),
    "swapped columns": ((text(vectors()), text(BVALS[:, None])), "bval and bvec have changed places"),
    "twice bval": ((GOOD[0], GOOD[0]), "found 8 numbers in a single row or column"),
    "twice bvec": ((GOOD[1], GOOD[1]), "b-values of the diffusion series: expected one row or column of b-values, found 3 rows of 8 numbers"),
    "with b beside": ((GOOD[0], text(np.column_stack([vectors(), BVALS]))), "found 8 rows of 4 numbers. Give directions alone"),
    "empty": (("\n # nothing\n", GOOD[1]), "b-values of the diffusion series: expected numbers, found an empty text"),
    "words": ((GOOD[0], "x y z\n" + GOOD[1]), "expected numbers alone, found 'x'"),
    "decimal commas": ((GOOD[0], GOOD[1].replace(".", ",")), "expected numbers with a decimal point, found '"),
    "decimal commas, one a line": (("\n".join("800,5" for _ in BVALS), GOOD[1]), "expected numbers with a decimal point, found '800,5'"),
    "ragged": ((GOOD[0], GOOD[1].rsplit(" ", 1)[0]), "expected rows of one length, found rows of 7, 8 numbers"),
    "negative b": (changed(b=-800), "expected b-values from 0, found -800"),
    "no number": (changed(b=np.nan), "expected b-values from 0, found nan"),
    "no b0": ((text(np.where(WEIGHTED, BVALS, 100)), GOOD[1]), "expected a volume of b <= 50 s/mm2, found a lowest b of 100"),
    "all b equal": ((text(np.full(8, 800)), GOOD[1]), "found b = 800 throughout"),
    "all b zero": ((text(np.zeros(8)), GOOD[1]), "found b = 0 throughout"),
    "ms/um2": ((text(BVALS / 1000), GOOD[1]), "the highest from 50 to 100000, found 0.8. Write them in s/mm2"),
    "s/m2": ((text(BVALS * 1e6), GOOD[1]), "the highest from 50 to 100000, found 8e+08. Write them in s/mm2"),
    "trace": (changed(v=0), "found zeros in volume 1 (from 0) of b = 800. A volume that the scanner averaged over directions (trace)"),
    "NaN": (changed(v=np.nan), "found NaN or infinity in a weighted volume"),
    "long": (changed(v=2), "expected directions of length 1, found 1 of other lengths, 1 to 3.46. Give the files"),
    "scaled": ((GOOD[0], text((vectors() * np.linspace(0.4, 1, 8)[:, None]).T)), "write |v|^2 b as the b-value of each volume"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_understood_is_one_error(name: str) -> None:
    (bval, bvec), words = REFUSED[name]
    with pytest.raises(InputError) as raised:
        gradients_of(bval, bvec, series())
    assert words in str(raised.value)
    assert len(raised.value.remedy) > 10


def test_a_file_that_is_no_text_is_refused() -> None:
    for raw in (b"\x1f\x8b\x08\x00\xff\xd8", b"n+1\0\0\0"):
        with pytest.raises(InputError, match="bvec: expected a text of numbers, found a file that is no text"):
            decode_text(raw, what="bvec")
