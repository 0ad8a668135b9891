"""The toy stages of the tests of clusters are a module of their own, since worker processes import them by name."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = str(Path(__file__).parents[1] / "distributed")
if HERE not in sys.path:
    sys.path.insert(0, HERE)
