"""Make the packaged norms from the published tables: ``python docs/make_norms.py FOLDER`` (that of the tables of morphometry).

Healthy people of DLBS (sessions of C2 and C3), spine-generic (C2 to C7) and UCLA LA5c (C2). Scans of the head end in C3 to C5, and areas fade towards
their edge: UCLA's C3 spreads by 14 mm2 where it is wholly seen, other data by 7.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from cohort_engine.study import norms

LEVELS = {"DLBS": (2, 3), "spine-generic": (2, 3, 4, 5, 6, 7), "UCLA": (2,)}
ARCHIVES = {"spine-generic": "spine-generic_multi-subject", "UCLA": "UCLA_LA5c"}
MEASURES = ["MEAN(area)", "MEAN(diameter_AP)", "MEAN(diameter_RL)"]
NUMBER, LEVEL = "VertLevel", "level"


def tables(folder: Path) -> pd.DataFrame:
    """Read a row a session of a healthy person and level, of the levels that each data set is used for."""
    rows = [pd.read_csv(folder / "DLBS_per_level_train.tsv.gz", sep="\t", na_values="n/a").assign(site="DLBS")]
    for site, name in ARCHIVES.items():
        with tarfile.open(folder / f"spinal_cord_{name}.tar.xz") as tar:
            files = {m.name.split("/")[-1].split("_")[0]: tar.extractfile(m) for m in tar if m.name.endswith(".csv")}
            slices = pd.concat([pd.read_csv(io.BytesIO(f.read())).assign(participant_id=who) for who, f in files.items() if f is not None])
        by = slices.groupby(["participant_id", NUMBER])
        table = by[MEASURES].mean().assign(n_slices=by[MEASURES[0]].count(), n_slices_level=by.size()).reset_index()
        who = pd.read_csv(folder / f"{name}_participants.tsv", sep="\t", na_values="n/a")
        table = table.merge(who[["participant_id", "sex", "age", "pathology"]], on="participant_id")
        rows.append(table.assign(site=site, session_id="", level=[f"C{n}" for n in table[NUMBER]]))
    every = pd.concat(rows, ignore_index=True)
    used = [number in LEVELS[site] for site, number in zip(every["site"], every[NUMBER], strict=True)]
    columns = ["participant_id", "session_id", "sex", "age", "site", "pathology", LEVEL, "n_slices", "n_slices_level", *MEASURES]
    return every.loc[used, columns]


def main(folder: Path, out: Path) -> None:
    """Learn the norms and write them."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "levels.tsv"
        tables(folder).to_csv(path, sep="\t", index=False, na_rep="n/a")
        norms.write_norms(norms.fit_norms(norms.read_levels([path])), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(norms.__file__).parent / "data" / f"{norms.PACKAGED}.json")
