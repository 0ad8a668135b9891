"""Bytes of a file that may be compressed: gzip is found by its magic number and not by the name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np

from cohort_engine.errors import InputError, first_line

GZIP = b"\x1f\x8b"
LARGEST_RATIO = 1032
"""Most that deflate can shrink: a header that announces more lacks voxels."""
PIECE = 1 << 16
"""Bytes that are unpacked at once."""
STEP = 1 << 18
"""Bytes that they become at once: they stay in the processor's cache until they are copied."""
PADDING = 1 << 16
"""Bytes behind the last voxel that are let pass: some tools fill up to whole blocks."""


def unpack_head(raw: bytes, size: int, *, what: str) -> bytes:
    """Unpack the first `size` bytes; errors of `unpack`."""
    if not raw.startswith(GZIP):
        return raw[:size]
    with _gzip_errors(what), gzip.GzipFile(fileobj=BytesIO(raw)) as file:
        return file.read(size)


def unpack(raw: bytes, size: int, *, what: str) -> memoryview:
    """Undo gzip, which may be of several members, into one buffer; the checksums must agree, and no more is unpacked than `size` and `PADDING`.

    Bytes that are not compressed are returned as they are.

    Raises
    ------
    InputError
        Cut short, damaged, or longer.
    """
    if not raw.startswith(GZIP):
        return memoryview(raw)
    if size > LARGEST_RATIO * len(raw):
        return memoryview(b"")  # fewer voxels than announced, whatever they are
    whole, filled, source = np.empty(size + PADDING, np.uint8).data, 0, memoryview(raw)
    stream = None  # between members
    with _gzip_errors(what):
        for start in range(0, len(raw), PIECE):
            left: bytes | memoryview = source[start : start + PIECE]
            held = False  # more has come in than went out
            while left or held:
                if stream is None:
                    left = bytes(left).lstrip(b"\0")  # zeros may fill up to the next member
                    if not left:
                        break
                    stream = zlib.decompressobj(wbits=31)
                most = min(STEP, len(whole) - filled + 1)
                part = stream.decompress(left, most)
                if filled + len(part) > len(whole):
                    raise InputError(
                        expected=f"{size} bytes, as the header announces", found="more", where=what,
                        remedy="The header is damaged, or the file is not what it seems: export the image again.",
                    )  # fmt: skip
                whole[filled : filled + len(part)] = part
                filled += len(part)
                left, held = (stream.unused_data, False) if stream.eof else (stream.unconsumed_tail, len(part) == most)
                if stream.eof:
                    stream = None
        if stream is not None:
            raise EOFError
    return whole[:filled].toreadonly()


@contextmanager
def _gzip_errors(what: str) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise InputError(
            expected="a whole compressed file", found="one that ends early", where=what, remedy="The file is cut short: copy it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            expected="a sound compressed file", found=first_line(error), where=what, remedy="The file is damaged: copy it again."
        ) from error
