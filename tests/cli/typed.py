"""For the shell that types a page: ``part STUDY.yaml JSON`` puts a part into a study file, ``plug`` lets plug-ins of the folder be found, ``slice
DISCS`` says where the disc C2/C3 lies."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import yaml

from cohort_engine.config import load_config, merged


def main(what: str, *words: str) -> None:
    if what == "part":
        study = Path(words[0])
        study.write_text(yaml.safe_dump(merged(yaml.safe_load(study.read_text()), json.loads(words[1]))))
        load_config(study)
    elif what == "slice":
        import nibabel as nib
        import numpy as np

        print(np.argwhere(np.asarray(nib.as_closest_canonical(nib.load(words[0])).dataobj) == 3)[0, 2])
    elif Path("pyproject.toml").exists():
        [(group, names)] = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"].items()
        about = Path("typed-1.0.dist-info")
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: typed\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
