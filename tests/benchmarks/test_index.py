"""How long the index of a large study takes: 2,000 subjects, 18,000 files."""

from __future__ import annotations

from cohort_engine.io.bids import index_study

SUBJECTS = 2000
RAW = ("T2w", "flip-1_mt-on_MTS", "flip-1_mt-off_MTS", "flip-2_mt-off_MTS", "dwi")
LABELS = ("T2w_label-SC_seg", "T2w_label-discs_dlabel", "flip-1_mt-on_MTS_label-SC_seg", "flip-1_mt-on_MTS_label-discs_desc-warp_dlabel")


def test_index(benchmark, tmp_path):
    names = [f"sub-{i:04d}" for i in range(SUBJECTS)]
    for root, endings in ((tmp_path, RAW), (tmp_path / "derivatives" / "labels", LABELS)):
        for name in names:
            folder = root / name / "anat"
            folder.mkdir(parents=True)
            for ending in endings:
                (folder / f"{name}_{ending}.nii.gz").touch()
    rows = "".join(f"{n}\t{30 + i % 50}\tHC\n" for i, n in enumerate(names))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\tgroup\n{rows}")
    study = benchmark(index_study, str(tmp_path))
    assert (study.present()["present"] == SUBJECTS).all()
