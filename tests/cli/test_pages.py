"""What stands on the pages is typed as it stands there and in its order: the README, the tutorials, the how-tos.

A page is typed in a folder of its own, beside files of the names that it speaks of: of a simulated person, of a cohort made by hand. What needs a
bucket, a browser or PAM50 meets a stand-in of this machine; what is run elsewhere is listed in `ELSEWHERE`, with the place.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from cohort_engine.phantom.dwi_files import DwiPlan
from cohort_engine.phantom.study import simulate
from cohort_engine.template import load_template
from docs import run_pages as pages

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))}
STRANGER = "a new clone: make stranger"
ELSEWHERE = {
    "git clone": STRANGER, "make ": STRANGER, "source .venv": STRANGER, "cohort-engine doctor": STRANGER,
    ".venv/bin/pre-commit install": "hooks of git; the same four commands are `make lint`",
    "docker build": "tests/unit/deploy holds the file", "helm install": "the operator's chart is another project's",
    "kubectl ": "tests/unit/deploy holds the manifests against the schemas of Kubernetes and of the operator",
    "cohort-engine build study.yaml --cluster configs/clusters/slurm.yaml": "tests/slurm",
    "dask ": "tests/clusters", "cohort-engine build study.yaml --cluster configs/clusters/address.yaml": "tests/clusters",
    "cohort-engine reproduce dti-csm": "a plan of seconds: tests/unit/report/test_dti_csm.py; this one: tests/benchmarks/test_dti_csm.py",
    "cohort-engine train rois": "tests/cli/test_rois.py", "cohort-engine evaluate rois": "tests/cli/test_rois.py",
    "cohort-engine simulate-rois blind.npz": "three minutes and PAM50; tests/benchmarks/test_roi_phantom.py makes such slices",
    "ROI_SLICES=": "a benchmark",
}  # fmt: skip
"""Beginning of what is typed -> where it is run, or why it is not."""

STAND_INS = r"""
serving() {  # a server that nobody ends: its page is asked for once
    command cohort-engine "$@" > served & local server=$!
    for _ in $(seq 900); do grep -q http served && break; sleep 0.1; done
    python -c 'import re, urllib.request as u; u.urlopen(re.search("http[^ ]+", open("served").read())[0].strip()).read()'
    local code=$?; kill $server; wait $server; return $code
}
cohort-engine() {
    case "$*" in
        explore*) serving "$@" --no-browser ;;
        *--serve*) serving "$@" ;;
        subject*--pdf) command cohort-engine "${@:1:$#-1}" ;;  # printing needs a browser
        register*--template*|label*--template*|shape*--template*|init*--template*) command cohort-engine "$@" ;;
        register*) command cohort-engine "$@" --template parametric --no-deformable ;;  # PAM50 is not on every machine; SyN takes its time
        label*--init-z\ 155*)
            command cohort-engine "${@:1:$#-1}" "$(python "$ROOT/tests/cli/typed.py" slice known_discs.nii.gz)" --template parametric ;;
        label*|shape*|init*|patient*) command cohort-engine "$@" --template parametric ;;
        *) command cohort-engine "$@" ;;
    esac
}
pip() { test "$1" = install && python "$ROOT/tests/cli/typed.py" plug; }  # what it would install is installed
"""


# --- what lies there ----------------------------------------------------------------------------------------------------
QUICK: dict[str, Any] = {
    "data": {"bids": "study", "store": "study.zarr"}, "template": {"name": "parametric"}, "compute": {"cluster": "synchronous"},
    "stages": {"metrics": ["mtr", "fa", "md"], "rois": {"source": "atlas"}, "fit": {"deformable": False}},
}  # fmt: skip
SITE: dict[str, Any] = {
    "data": {"bids": "bids", "store": "study.zarr"}, "template": {"name": "parametric"},
    "analysis": {
        "features": ["mtr tract='white matter' level=C2:C5", "area level=C2,C3"],
        "roc": {"resamples": 20}, "clusters": {"resamples": 5, "largest": 3}, "classifier": {"folds": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study of one simulated person, sub-01, and its files by the names that pages give them."""
    folder = tmp_path_factory.mktemp("person")
    simulate(folder / "as_made", template=load_template("parametric"), patients=0, controls=1, seed=4, dwi=DwiPlan.named("b800", distortion=4.0))
    shutil.rmtree(folder / "as_made" / "derivatives" / "truth")
    for source in sorted((folder / "as_made").rglob("*")):
        if source.is_file():
            target = folder / "study" / str(source.relative_to(folder / "as_made")).replace("sub-HC001", "sub-01")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes().replace(b"sub-HC001", b"sub-01") if source.suffix in (".tsv", ".json") else source.read_bytes())
    shutil.rmtree(folder / "as_made")
    (folder / "study.yaml").write_text(yaml.safe_dump(QUICK))
    return folder


@pytest.fixture(scope="session")
def built(person: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its store."""
    from cohort_engine.config import load_config
    from cohort_engine.engine.build import build

    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(person, folder, dirs_exist_ok=True)
    assert build(load_config(folder / "study.yaml")).exit_code == 0
    return folder


@pytest.fixture(scope="session")
def cohort(make_finished_study: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished store of 24 people made by hand, without images."""
    folder = tmp_path_factory.mktemp("cohort")
    shutil.copytree(Path(make_finished_study(24)).parent, folder, dirs_exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(SITE))
    return folder


IMAGES = {
    "sub-01_T2w": "anat/sub-01_T2w", "sub-01_dwi": "dwi/sub-01_dwi", "sub-01_dir-PA_epi": "fmap/sub-01_dir-PA_epi",
    "mt-on": "anat/sub-01_flip-1_mt-on_MTS",
    "sub-01_mt-on_MTS": "anat/sub-01_flip-1_mt-on_MTS", "sub-01_flip-1_mt-on_MTS": "anat/sub-01_flip-1_mt-on_MTS",
    "sub-01_mt-off_MTS": "anat/sub-01_flip-1_mt-off_MTS", "sub-01_flip-1_mt-off_MTS": "anat/sub-01_flip-1_mt-off_MTS",
    "mt-mask": "anat/sub-01_flip-1_mt-on_MTS_label-SC_seg",
    "sub-01_mt-on_MTS_seg": "anat/sub-01_flip-1_mt-on_MTS_label-SC_seg",
    "known_discs": "anat/sub-01_T2w_label-discs_dlabel", "known_mask": "anat/sub-01_T2w_label-SC_seg",
}  # fmt: skip
"""Name on a page -> file of the person."""


def scans(folder: Path) -> None:
    """Images of the person beside the study, by the names that pages give them."""
    for name, place in IMAGES.items():
        for source in [*folder.glob(f"study/sub-01/{place}.*"), *folder.glob(f"study/derivatives/labels/sub-01/{place}.*")]:
            shutil.copy(source, folder / f"{name}{source.name.removeprefix(place.split('/')[1])}")


def like(folder: Path, name: str, made: Callable[[np.ndarray], Any], source: str = "mt-on") -> None:
    """An image made of the values of another."""
    scan = nib.load(folder / f"{source}.nii.gz")
    nib.Nifti1Image(np.asarray(made(scan.get_fdata()), np.float32), scan.affine).to_filename(folder / f"{name}.nii.gz")


def triplet(folder: Path) -> None:
    """The third image of MTsat, as a spoiled gradient echo of tissue with a T1 of 1 s would be."""
    scans(folder)
    names = {"sub-01_flip-1_mt-on_MTS": (0.035, 9), "sub-01_flip-1_mt-off_MTS": (0.035, 9), "sub-01_flip-2_mt-off_MTS": (0.015, 15)}
    like(folder, "sub-01_flip-2_mt-off_MTS", lambda v: 0.68 * v, "sub-01_flip-1_mt-off_MTS")
    for name, (tr, flip) in names.items():
        (folder / f"{name}.json").write_text(json.dumps({"RepetitionTime": tr, "FlipAngle": flip}))
        for end in (".nii.gz", ".json"):
            shutil.copy(folder / f"{name}{end}", folder / "study" / "sub-01" / "anat")


def second_runs(folder: Path) -> None:
    """Another dataset of the person, in which every image is a second run, and the T1w image is to stand for the T2w image."""
    for source in sorted((folder / "study").rglob("*.*")):
        if source.is_file():
            name = str(source.relative_to(folder / "study")).replace("/sub-01_T2w", "/sub-01_acq-sag_T1w")
            target = folder / "dataset" / re.sub(r"_(T1w|flip|dwi|dir)", r"_run-2_\1", name, count=1)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def maps(folder: Path) -> None:
    """Ready maps: T1 on the grid of MT-on, MD on that of T2w."""
    scans(folder)
    like(folder, "sub-01_T1map", lambda v: np.full(v.shape, 1.25))
    (folder / "study" / "derivatives" / "other" / "sub-01" / "anat").mkdir(parents=True)
    like(folder, "study/derivatives/other/sub-01/anat/sub-01_T1map", lambda v: np.full(v.shape, 1.25))
    like(folder, "study/derivatives/other/sub-01/anat/sub-01_desc-dipy_MD", lambda v: np.full(v.shape, 0.0009), "sub-01_T2w")


def epi(folder: Path) -> None:
    """The first volume of the series as the pair of its reverse image."""
    scans(folder)
    like(folder, "sub-01_dir-AP_epi", lambda v: v[..., 0], "sub-01_dwi")


def tables(folder: Path) -> None:
    """Areas of healthy people of two sites, and of a third with its controls."""
    rng = np.random.default_rng(0)
    for name in ("healthy_a", "healthy_b", "new_site"):
        who = [f"sub-{name[-1]}{i:03d}" for i in range(70)]
        age, sex = rng.uniform(20, 80, 70).round(), rng.choice(["F", "M"], 70)
        area = 72 - 0.1 * age + 4 * (sex == "M") + rng.normal(0, 6, (3, 70))
        rows = [pd.DataFrame({"participant_id": who, "age": age, "sex": sex, "level": f"C{n + 2}", "area": a}) for n, a in enumerate(area)]
        pd.concat(rows).to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    (folder / "controls.txt").write_text("".join(f"sub-e{i:03d}\n" for i in range(20)))


def drawn(folder: Path) -> None:
    """A dataset of which people have drawn regions."""
    place = folder / "bids" / "sub-01" / "dwi"
    place.mkdir(parents=True)
    numbers = np.zeros((40, 40, 3), np.uint8)
    for n in range(8):
        numbers[12 + 9 * (n < 4) : 19 + 9 * (n < 4), 8 + 6 * (n % 4) : 13 + 6 * (n % 4)] = n + 1
    for name, values in {"FA": 0.3 + 0.05 * numbers, "S0": 100.0 + numbers, "mask": numbers > 0, "label-ROI_dseg": numbers}.items():
        kind = np.uint8 if name in ("mask", "label-ROI_dseg") else np.float32
        nib.Nifti1Image(values.astype(kind), np.diag([0.63, 0.63, 7, 1])).to_filename(place / f"sub-01_dwi_{name}.nii.gz")


def mean_dwi(folder: Path) -> None:
    """The mean of the diffusion-weighted volumes, which the template is brought onto."""
    scans(folder)
    like(folder, "mean_dwi", lambda v: v[..., 5:].mean(axis=-1), "sub-01_dwi")


def two_stores(folder: Path) -> None:
    """The store as it was, and as it is."""
    shutil.copytree(folder / "study.zarr", folder / "before.zarr")
    shutil.copytree(folder / "study.zarr", folder / "after.zarr")


def other_raters(folder: Path) -> None:
    (folder / "exclude.yml").write_text("mtr:\n- sub-003 # moved\n")
    (folder / "second_rater.yaml").write_text("mtr:\n- {subject: sub-003, rating: fail, reason: moved, rater: CD, date: 2026-01-31}\n")


def dicom(folder: Path) -> None:
    """The scans of the person as a scanner sends them."""
    from tests.cli.test_dicom import Scan

    scans(folder)
    shutil.move(folder / "study.zarr", folder / "healthy.zarr")
    kinds = {5: ("T2w_SPACE_sag", "sub-01_T2w", 120, 1500, ""), 8: ("GRE-MT1", "mt-on", 3, 35, "MT"), 9: ("GRE-MT0", "sub-01_mt-off_MTS", 3, 35, "")}
    for number, (words, name, te, tr, options) in kinds.items():
        scan = nib.as_closest_canonical(nib.load(folder / f"{name}.nii.gz"))
        voxels = np.clip(np.nan_to_num(scan.get_fdata()), 0, None)
        Scan(number, words, voxels * (1000 / voxels.max()), te, tr, options, affine=scan.affine).send(folder / "DICOM")


@contextmanager
def bucket(folder: Path) -> Iterator[dict[str, str]]:
    """A bucket of the name on the page, with the study and the finished store, on loopback."""
    from tests.storage import s3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "NAME", "hospital-a")
        with s3.serving() as (made, environment):
            for source in (p for p in folder.rglob("*") if p.is_file()):
                key = str(source.relative_to(folder))
                made.change(key if key.startswith("study/") else f"cohorts/{key}", source.read_bytes())
            yield environment


@contextmanager
def site_folder(folder: Path) -> Iterator[dict[str, str]]:
    """A site that has a cluster file."""
    (folder / "our-slurm.yaml").write_text("cluster: slurm\n")
    yield {}


REGISTER = "cohort-engine register mt-on.nii.gz --mask mt-mask.nii.gz --levels known_discs.nii.gz -o registered"
PROCESSED = f"""
    {REGISTER}
    mkdir -p processed/sub-01/mt processed/sub-01/t2
    cp -r registered/* processed/sub-01/mt
    cp mt-on.nii.gz processed/sub-01/mt/mt1.nii.gz; cp sub-01_mt-off_MTS.nii.gz processed/sub-01/mt/mt0_reg.nii.gz
    cp mt-mask.nii.gz processed/sub-01/mt/mt1_seg.nii.gz; cp known_mask.nii.gz processed/sub-01/t2/t2_seg.nii.gz
    cp known_discs.nii.gz processed/sub-01/t2/t2_seg_labeled_discs.nii.gz; cp study/participants.tsv processed
"""
"""What the Spinal Cord Toolbox leaves, by the names that it gives."""


@dataclass(frozen=True)
class Lies:
    """What lies in the folder of a page: a study, what is made beside it, and what the shell does first."""

    study: tuple[str, ...] = ()
    made: Callable[[Path], None] = lambda folder: None
    first: str = ""
    around: Callable[[Path], AbstractContextManager[dict[str, str]]] = lambda folder: nullcontext({})
    """What runs meanwhile, with what the environment then has."""
    then: str = "plan study.yaml"
    """What the command does once the last part of a study file is in; each part is read when it comes."""


PAGES = {
    "docs/how-to/analysis.md": Lies(("cohort",), then="analyse study.yaml --quiet"),
    "docs/how-to/buckets.md": Lies(("built",), around=bucket),
    "docs/how-to/clusters.md": Lies(("person",), around=site_folder),
    "docs/how-to/diffusion.md": Lies(("built",), scans),
    "docs/how-to/dti-study.md": Lies(made=drawn),
    "docs/how-to/explorer.md": Lies(("cohort",)),
    "docs/how-to/federated.md": Lies(("cohort",), first="cohort-engine federate share study.yaml -o site_b.json"),
    "docs/how-to/images-alone.md": Lies(("built",), scans),
    "docs/how-to/keeping-a-cohort.md": Lies(("built",), two_stores),
    "docs/how-to/motion-and-distortion.md": Lies(("person",), epi),
    "docs/how-to/mtr-and-warp.md": Lies(("built",), maps, f"""
        {REGISTER}; cp -r registered/label label
        cohort-engine warp mt-on.nii.gz --by registered --to template -o PAM50_rootlets.nii.gz; cp PAM50_rootlets.nii.gz PAM50_atlas_04.nii.gz"""),
    "docs/how-to/mtsat.md": Lies(("person",), triplet),
    "docs/how-to/norms.md": Lies(("cohort",), tables, then="analyse study.yaml --quiet"),
    "docs/how-to/one-patient.md": Lies(("person", "cohort"), dicom),
    "docs/how-to/quality-control.md": Lies(("cohort",), other_raters),
    "docs/how-to/quality.md": Lies(("built",)),
    "docs/how-to/regions.md": Lies(("built",), mean_dwi, """
        cohort-engine segment mean_dwi.nii.gz -o mean_mask.nii.gz
        cohort-engine register mean_dwi.nii.gz --mask mean_mask.nii.gz --levels known_discs.nii.gz -o registered"""),
    "docs/how-to/sct-results.md": Lies(("person",), scans, PROCESSED),
    "docs/how-to/your-files.md": Lies(("person",), second_runs),
    "docs/how-to/your-own-metric.md": Lies(("built",), maps),
}  # fmt: skip
"""Page -> what lies there before it is typed."""
OTHERS = {
    "README.md": "tests/cli/test_readme.py; make stranger", "docs/tutorials/mtr-study.md": "tests/cli/test_readme.py",
    "docs/tutorials/python.md": "tests/cli/test_readme.py",
}  # fmt: skip
"""Pages that are not typed as a whole -> where what they say is run; that their commands and keys exist is tested with all others."""


def elsewhere(title: str) -> str:
    """Where something is run that is not run here; empty of all others."""
    return next((reason for beginning, reason in ELSEWHERE.items() if title.startswith(beginning)), "")


@pytest.fixture(scope="module")
def typed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Type a page, and give what each of its steps printed; each must end well."""

    def run(page: str) -> dict[str, str]:
        lies, folder = PAGES[page], tmp_path_factory.mktemp("typed")
        for study in lies.study:
            shutil.copytree(request.getfixturevalue(study), folder, dirs_exist_ok=True)
        lies.made(folder)

        def part(text: str) -> str:
            return f"python $ROOT/tests/cli/typed.py part study.yaml {shlex.quote(json.dumps(yaml.safe_load(text)))}"

        steps = [pages.Step(0, "what lies there", lies.first)] if lies.first else []
        steps += [s for s in pages.steps(TEXTS[page], part) if not elsewhere(s.title)]
        for at in [i for i, s in enumerate(steps) if s.title.startswith("study.yaml")][-1:]:
            steps.insert(at + 1, pages.Step(steps[at].line, lies.then, f"cohort-engine {lies.then}"))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "ROOT": str(ROOT)}
        with lies.around(folder) as more:
            done = pages.run(steps, folder, environment | more, STAND_INS)
        for one in done:
            print(f"{one.seconds:6.1f} s  {page}:{one.step.line}  {one.step.title}")
            assert one.code == 0, f"{page}:{one.step.line}: {one.step.title}\n{one.printed}"
        return {one.step.title: one.printed for one in done}

    return run


# --- the pages ----------------------------------------------------------------------------------------------------------
SLOW = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(900)]


def test_every_block_says_what_it_is() -> None:
    for page, text in TEXTS.items():
        for line, language, block in pages.blocks(text):
            assert language in pages.LANGUAGES or language.startswith("{"), f"{page}:{line}: {block}"


def test_whatever_can_be_typed_is_typed_here_or_elsewhere() -> None:
    for page in TEXTS.keys() - PAGES.keys() - OTHERS.keys():
        assert not [s for s in pages.steps(TEXTS[page]) if not elsewhere(s.title)], page
    titles = [s.title for text in TEXTS.values() for s in pages.steps(text)]
    assert [beginning for beginning in ELSEWHERE if not any(t.startswith(beginning) for t in titles)] == []


@pytest.mark.parametrize("page", [pytest.param(p, marks=SLOW) for p in PAGES])
def test_a_page_runs_as_it_stands(page: str, typed: Callable[[str], dict[str, str]]) -> None:
    for printed in typed(page).values():
        assert "Traceback" not in printed
