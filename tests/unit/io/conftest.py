"""A BIDS dataset from a list of names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

MakeBids = Callable[..., Path]


@pytest.fixture
def make_bids(tmp_path: Path) -> MakeBids:
    """Make a dataset: files by name (their folders follow from it), derivatives by folder, and the tables as text.

    ``make_bids(["sub-01_T2w"], {"labels": ["sub-01_T2w_seg"]}, "participant_id age\\nsub-01 61")``: a table without tabs is
    separated by blanks, and without a table every participant gets an empty row.
    """

    def make(
        raw: Iterable[str], derivatives: Mapping[str, Iterable[str]] | None = None, participants: str | None = None, *,
        dictionary: Mapping[str, Any] | None = None, sidecars: Mapping[str, Mapping[str, Any]] | None = None, name: str = "study",
    ) -> Path:  # fmt: skip
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        raw = list(raw)
        for folder, names in [(root, raw), *((root / "derivatives" / d, n) for d, n in (derivatives or {}).items())]:
            for stem in names:
                _touch(folder, stem)
        if participants is None:
            participants = "\n".join(["participant_id", *sorted({r.split("_")[0] for r in raw})])
        (root / "participants.tsv").write_text((participants if "\t" in participants else participants.replace(" ", "\t")) + "\n")
        if dictionary is not None:
            (root / "participants.json").write_text(json.dumps(dictionary))
        for stem, content in (sidecars or {}).items():
            _touch(root, f"{stem}.json").write_text(json.dumps(content))
        return root

    return make


def _touch(root: Path, name: str) -> Path:
    """``sub-01_ses-2_T2w`` becomes ``sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz``; a name with slashes is taken as it is."""
    path = root / name
    if "/" not in name:
        parts = [w for w in name.split("_") if w.startswith(("sub-", "ses-"))]
        path = root.joinpath(*parts, "anat", name)
    if "." not in path.name:
        path = path.with_name(path.name + ".nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path
