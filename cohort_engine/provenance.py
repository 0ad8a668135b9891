"""Versions and hashes: what made a result, in a form that can be compared."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cohort_engine

PACKAGES = ("numpy", "scipy", "xarray", "zarr", "dask", "distributed", "nibabel", "antspyx")


def digest(*parts: Any) -> str:
    """Hash JSON-able parts or bytes to 16 hex digits; the same parts give the same digest on any machine.

    Examples
    --------
    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    h = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that shape the numbers."""
    out = {"python": platform.python_version(), "cohort_engine": cohort_engine.__version__}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "absent"
    return out
