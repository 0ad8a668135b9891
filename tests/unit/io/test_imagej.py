"""Outlines of ImageJ: bytes written here by the format's layout, masks counted by hand."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from cohort_engine.errors import CohortWarning, InputError, UnknownNameError
from cohort_engine.io import imagej
from cohort_engine.io.imagej import decode_outline, decode_outlines, outline_masks
from cohort_engine.testing import imagej_roi


def packed(files: dict[str, bytes], **how: Any) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", **how) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return out.getvalue()


def test_a_rectangle_is_its_pixels_and_knows_its_slice_and_name() -> None:
    found = decode_outline(imagej_roi(1, (1, 0, 3, 2), name="L-DC", slice_=4))
    assert (found.name, found.position) == ("L-DC", 4)
    assert found.fill((4, 3)).astype(int).tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_the_first_header_s_position_goes_first() -> None:
    assert decode_outline(imagej_roi(1, (0, 0, 1, 1), position=2, slice_=4)).position == 2
    assert decode_outline(imagej_roi(1, (0, 0, 1, 1))).position is None


@pytest.mark.parametrize("kind", [0, 7, 8])
def test_an_outline_holds_the_pixels_whose_middle_it_holds(kind: int) -> None:
    """A triangle with legs of 4 pixels: middles below the diagonal, without the diagonal's own, are 3 + 2 + 1."""
    found = decode_outline(imagej_roi(kind, (2, 1, 6, 5), [(2, 1), (6, 1), (2, 5)])).fill((8, 8))
    assert found.sum() in (6, 10)
    assert found[2, 1]
    assert not found[5, 4]
    assert decode_outline(imagej_roi(kind, (2, 1, 6, 5), [(2, 1), (6, 1), (6, 5), (2, 5)])).fill((8, 8)).sum() == 16


def test_subpixel_corners_are_taken_where_they_are() -> None:
    corners = [(1.6, 1.6), (3.4, 1.6), (3.4, 3.4), (1.6, 3.4)]
    assert np.argwhere(decode_outline(imagej_roi(0, (1, 1, 4, 4), corners, fine=True)).fill((6, 6))).tolist() == [[2, 2]]
    assert np.argwhere(decode_outline(imagej_roi(1, (1, 1, 4, 4), fine=True, rect=(1.6, 1.6, 1.8, 1.8))).fill((6, 6))).tolist() == [[2, 2]]


def test_an_oval_has_the_area_of_an_ellipse() -> None:
    assert decode_outline(imagej_roi(2, (10, 20, 70, 60))).fill((128, 128)).sum() == pytest.approx(np.pi * 30 * 20, rel=0.01)


def test_coordinates_beyond_16_bits_signed() -> None:
    assert decode_outline(imagej_roi(1, (40000 - 65536, 0, 40010 - 65536, 5))).bounds.tolist() == [40000, 0, 40010, 5]


def test_a_zip_becomes_masks_of_regions_where_the_patient_s_right_was_on_the_left() -> None:
    """Drawn at columns 0 and 1, rows 0 of 6 x 5 pixels: the patient's right and front."""
    raw = packed({"a.roi": imagej_roi(1, (0, 0, 2, 1), name="R-VC", position=2), "L_GM.roi": imagej_roi(1, (4, 4, 5, 5), position=1)})
    masks = outline_masks(decode_outlines(raw), (6, 5, 3))
    assert np.argwhere(masks[6]).tolist() == [[4, 4, 1], [5, 4, 1]]
    assert np.argwhere(masks[3]).tolist() == [[1, 0, 0]]
    assert masks.sum() == 3
    assert np.argwhere(outline_masks(decode_outlines(raw), (6, 5, 3), view="stored")[6]).tolist() == [[0, 0, 1], [1, 0, 1]]
    assert np.argwhere(outline_masks(decode_outlines(raw), (6, 5, 3), view="neurological")[6]).tolist() == [[0, 4, 1], [1, 4, 1]]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"Iout", "4 bytes that are none"),
        (b"x" * 100, "100 bytes"),
        (imagej_roi(10, (0, 0, 1, 1)), "points"),
        (imagej_roi(5, (0, 0, 1, 1)), "segmented line"),
        (imagej_roi(99, (0, 0, 1, 1)), "type 99"),
        (imagej_roi(1, (0, 0, 1, 1), shapes=12), "several outlines"),
        (imagej_roi(0, (0, 0, 4, 4), [(0, 0), (4, 0), (4, 4)])[:70], "ends early"),
        (imagej_roi(0, (0, 0, 4, 4), [(0, 0), (4, 0)]), "2 corners"),
        (imagej_roi(0, (0, 0, 4, 4), [(0, 0), (4, 0), (4, 4)], name="L-DC")[:-2], "its name is cut"),
    ],
)
def test_what_is_no_area_is_named(raw: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decode_outline(raw)


def test_zips_that_hold_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    one = imagej_roi(1, (0, 0, 1, 1), name="L-DC")
    with pytest.raises(InputError, match="zip of ImageJ outlines"):
        decode_outlines(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match="found none"), pytest.warns(CohortWarning, match="1 files"):
        decode_outlines(packed({"note.txt": b"x"}))
    damaged = bytearray(packed({"a.roi": one}))
    damaged[60] ^= 255
    with pytest.raises(InputError, match="CRC"):
        decode_outlines(bytes(damaged))
    with pytest.raises(InputError, match="at most"):
        decode_outlines(packed({"a.roi": bytes(imagej.LARGEST + 1)}, compression=zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(imagej, "MOST", 1)
    with pytest.raises(InputError, match="found 2, the largest"):
        decode_outlines(packed({"a.roi": one, "b.roi": one}))


def test_outlines_that_do_not_belong_to_the_image() -> None:
    def of(**more: Any) -> list[imagej.Outline]:
        return [decode_outline(imagej_roi(1, (0, 0, 2, 2), **{"name": "L-DC", "position": 1, **more}))]

    with pytest.raises(InputError, match="outline 1 of 1"):
        outline_masks(of(name="Roe"), (4, 4, 3))
    with pytest.raises(InputError, match="none for left dorsal column"):
        outline_masks(of(position=0), (4, 4, 3))
    with pytest.raises(InputError, match="4 for left"):
        outline_masks(of(position=4), (4, 4, 3))
    with pytest.raises(InputError, match="1 x 4 pixels"):
        outline_masks(of(), (1, 4, 3))
    with pytest.raises(UnknownNameError, match="radiological"):
        outline_masks(of(), (4, 4, 3), view="radiology")
    assert outline_masks(of(position=0), (4, 4, 1)).sum() == 4
