"""The record of a reproduction: what it was made of. A folder holds one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cohort_engine.errors import StoreError
from cohort_engine.provenance import versions

RECORD: Final = "reproduction.json"


def claim(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a reproduction with the versions of everything; one that is there must be of the same.

    Raises
    ------
    StoreError
        The folder holds another reproduction.
    """
    path = folder / RECORD
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(record))
        if other := [k for k, v in now.items() if before.get(k) != v]:
            raise StoreError(
                expected="an empty folder, or a reproduction of the same plan, size and template", found=f"one that differs in {', '.join(other)}",
                where="folder of the reproduction", remedy="Give another folder.",
            )  # fmt: skip
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**record, "versions": versions()}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
