"""Estimators by their SCT name, one family a module. Each is one object that reduces maps of a cohort and one image alike.

A new estimator is a new module here, or in another package, that ends with ``schema.ESTIMATORS.add(...)``: see `base`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import cast

from cohort_engine import schema
from cohort_engine.reduce.estimators.base import Estimator

__all__ = ["Estimator", "estimator"]


def estimator(name: str, *, where: str = "estimator") -> Estimator:
    """Look an estimator up by its SCT name.

    Raises
    ------
    UnknownNameError
        Nobody has added it; the message has the near names.

    Examples
    --------
    >>> estimator("wa").describe()
    'Weighted average: each voxel counts by the fraction of it that the atlas gives to the region.'
    """
    return cast(Estimator, schema.ESTIMATORS.find(name, where=where))


for _module in iter_modules(__path__, f"{__name__}."):  # in one order, whichever is asked for first
    import_module(_module.name)
