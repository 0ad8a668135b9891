"""Files that unpack to any size, in any number of members, come back byte for byte."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from cohort_engine.errors import InputError
from cohort_engine.io.gunzip import PIECE, STEP, unpack

SIZES = [0, 1, PIECE, STEP - 1, STEP, STEP + 1, 3 * STEP, 3 * STEP + 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_every_byte_comes_back(size: int, kind: str) -> None:
    data = bytes(size) if kind == "zeros" else np.random.default_rng(0).bytes(size)
    one = gzip.compress(data, 1)
    two = gzip.compress(data[: size // 2], 1) + bytes(5) + gzip.compress(data[size // 2 :], 9) + bytes(9)  # zeros may stand between members
    assert bytes(unpack(one, size, what="image")) == bytes(unpack(two, size, what="image")) == data


@pytest.mark.parametrize("size", [s for s in SIZES if s])
def test_a_file_that_is_cut_short_is_refused(size: int) -> None:
    raw = gzip.compress(np.random.default_rng(0).bytes(size), 1)
    with pytest.raises(InputError, match="ends early"):
        unpack(raw[:-9], size, what="image")
