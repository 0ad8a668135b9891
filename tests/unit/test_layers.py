"""Names are typed in schema/ alone, modules are short, imports are light. Which package may import which: ``lint-imports``, in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cohort_engine

PACKAGE = Path(cohort_engine.__file__).parent


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize(
    "path", [p for p in modules() if p.parent.name != "schema" and p.name != "variable.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_dimension_names_are_typed_in_schema_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    docstrings = {
        id(n.body[0].value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and n.body and isinstance(n.body[0], ast.Expr)
    }
    typed = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings and n.value in {"subject", "voxel", "region"}]
    assert not typed, f"{path.name} types {sorted(set(typed))}: use schema.SUBJECT, schema.VOXEL, schema.REGION"


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    heavy = ["numpy", "torch", "ants", "dask", "distributed", "zarr", "xarray", "nibabel", "pandas", "matplotlib", "scipy"]
    code = f"import sys, cohort_engine.cli; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_morphometry_of_one_image_loads_no_scipy() -> None:
    """scipy would take a third of the time of a process that measures one mask."""
    heavy = ["scipy.ndimage", "scipy.sparse", "scipy.spatial", "pandas", "xarray", "zarr", "dask", "rich"]
    code = (
        "import sys, numpy as np; from cohort_engine.single.morphometry import shape; from cohort_engine.io.volume import Volume;"
        "from cohort_engine.template import pam50; mask = np.zeros((12, 12, 9)); mask[2:9, 3:8] = 1;"
        f"shape(Volume(mask, np.eye(4))); print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
