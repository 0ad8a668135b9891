"""Dependencies point down only, numerics know only arrays, and names are typed in schema.py alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cohort_engine

PACKAGE = Path(cohort_engine.__file__).parent

LAYERS = [
    {"errors"},
    {"registry", "variable"},
    {"schema", "provenance"},
    {"config"},
    {"template", "io"},
    {"mapping", "cord", "qmri", "nn"},
    {"store", "runlog"},
    {"reduce"},
    {"single"},
    {"stages"},
    {"engine"},
    {"query", "analysis", "testing", "phantom", "rois"},
    {"report", "explore"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

NUMERICS = ["mapping", "cord", "qmri", "nn", "analysis", "reduce/operator.py", "reduce/estimators.py", "reduce/linear.py", "reduce/native.py"]
FORBIDDEN = {"dask", "distributed", "zarr", "xarray", "logging", "obstore", "nibabel", "pandas"}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{a.name}" for a in node.names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    mine = RANK[room(path)]
    for name in imports(path):
        top, _, rest = name.partition(".")
        below = rest.split(".")[0]
        if top == "cohort_engine" and below in RANK:
            assert RANK[below] <= mine, f"{path.name} imports {name}, which stands above it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_numerics_know_only_arrays(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    if any(relative.startswith(n) for n in NUMERICS):
        used = {name.split(".")[0] for name in imports(path)} | {".".join(n.split(".")[:2]) for n in imports(path)}
        assert not used & (FORBIDDEN | {"cohort_engine.io"}), relative


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("path", [p for p in modules() if p.name not in ("schema.py", "variable.py")], ids=lambda p: str(p.relative_to(PACKAGE)))
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
