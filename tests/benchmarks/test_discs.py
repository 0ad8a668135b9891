"""How often discs get the right names on strips and phantoms that the network was not trained on, and how long it takes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.discs import Seen, label_discs, name_discs
from cohort_engine.cord.levels import landmarks_from_labels
from cohort_engine.nn.strips import HIGHEST, LAST, StripGenerator, StripOdds, numbered_heights, spine_of
from cohort_engine.nn.weights import load_discs
from cohort_engine.phantom.subject import make_subject
from cohort_engine.template import load_template
from cohort_engine.template.parametric import parametric_cord

torch = pytest.importorskip("torch")

ROWS, BLOCK, HELD_OUT = 224, 16, 1 << 41
STRIPS = int(os.environ.get("COHORT_ENGINE_BENCH_STRIPS", "480"))
PHANTOMS = int(os.environ.get("COHORT_ENGINE_BENCH_PHANTOMS", "24"))
WRONG, INSIDE = 6.0, 5
"""A name is wrong where its disc is farther away than this, mm; a disc is in view where it lies this many rows inside the strip."""


USUAL = StripOdds(strange=0.0, noise=0.06, thick=0.0, dropout=0.0)
"""Every anatomy, mask and field of view, but sagittal T1, T2 and T2* scans of fair quality."""


def strips(template, network, count, odds, seed=2):
    """What the network sees, where the discs are (number -> row), and which are in view."""
    generator = StripGenerator(spine_of(template), ROWS, odds)
    for block in range(count // BLOCK):
        image, label = generator.batch(BLOCK, HELD_OUT + 1000 * seed + block)
        with torch.inference_mode():
            out = network.module(image.contiguous(memory_format=torch.channels_last)).float()
        heat, number = out[:, 0].sigmoid().amax(2).double().numpy(), out[:, 1:].mean(-1).softmax(1).mT.double().numpy()
        for k, along in enumerate(label[:, 1, :, 0].numpy()):
            rows = np.flatnonzero(along >= 0)
            if len(rows) >= 40:
                part = slice(rows[0], rows[-1] + 1)
                a = along[part]
                inner = [n for n in range(HIGHEST, LAST) if a[-INSIDE] < n < a[INSIDE]]
                yield Seen(heat[k][part], number[k][part]), {n: float(np.interp(-n, -a, np.arange(len(a)))) for n in range(HIGHEST, LAST + 1)}, inner


def judged(named, truth):
    """right, wrong or unsure; whether the best guess is right; distances (mm) of named discs."""
    off = {n: abs(named.row[n] - truth[n]) for n in range(HIGHEST, LAST + 1)}
    sure = np.array([off[n] for n in named.certain()])
    verdict = "unsure" if len(sure) < 2 else "wrong" if sure.max() > WRONG else "right"
    return verdict, bool(off[HIGHEST + int(named.confidence[HIGHEST:].argmax())] <= WRONG), sure if verdict == "right" else sure[:0]


def told(title, rows):
    n = len(rows)
    share = {v: 100 * sum(r[0] == v for r in rows) / n for v in ("right", "wrong", "unsure")}
    guess, off = 100 * sum(r[1] for r in rows) / n, np.concatenate([r[2] for r in rows])
    print(
        f"\n{title} ({n}): named right {share['right']:.1f} %, named wrong {share['wrong']:.1f} %, asks {share['unsure']:.1f} %; "
        f"likeliest name right {guess:.1f} %; error {off.mean():.2f} mm, 99 % below {np.percentile(off, 99):.1f}, worst {off.max():.1f}", end="",
    )  # fmt: skip
    return share, guess, off


@pytest.fixture(scope="module")
def pam50():
    folder = Path(os.environ.get("COHORT_ENGINE_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "PAM50"
    if not folder.is_dir():
        pytest.skip("PAM50 not found")
    return load_template("PAM50", path=folder)


@pytest.mark.parametrize(("odds", "least", "most"), [(USUAL, 97, 1.0), (StripOdds(), 95, 1.0)], ids=["usual", "hard"])
def test_names_on_strips(benchmark, pam50, odds, least, most):
    """Strips like those of the training, and without those that a person could not read either."""
    network = load_discs(device="cpu")
    gaps = -np.diff(numbered_heights(pam50))[:LAST]
    found = list(strips(pam50, network, STRIPS, odds))
    named = benchmark.pedantic(lambda: [name_discs(seen, gaps) for seen, _, _ in found], rounds=1)
    rows = [(HIGHEST in inner, len(inner) > 1, judged(n, truth)) for n, (_, truth, inner) in zip(named, found, strict=True)]
    share, guess, off = told("strips with C2/C3 in view", [r for top, several, r in rows if top and several])
    assert guess >= least
    assert share["wrong"] <= most
    assert np.percentile(off, 99) < 3
    share, _, _ = told("strips without C2/C3", [r for top, several, r in rows if several and not top])
    assert share["wrong"] <= most


def test_names_on_phantoms(benchmark):
    """None is named wrong. Many are asked about: the image ends below the skull, and the dens is as bright and smooth as a body."""
    template, network = parametric_cord(), load_discs(device="cpu")
    subjects = [make_subject(template, number=k, seed=11, group=("HC", "DCM")[k % 2], site=k % 3).images for k in range(PHANTOMS)]

    def label():
        return [
            label_discs(s[schema.T2W].data, s[schema.T2W].affine, s["t2w_mask"].data.astype(np.float32), template, network=network) for s in subjects
        ]

    rows = []
    for s, found in zip(subjects, benchmark.pedantic(label, rounds=1), strict=True):
        points = s["t2w_landmarks"]
        marks = landmarks_from_labels(points.data, points.affine, kind=schema.DISC, what="discs")
        truth = dict(zip(marks.numbers.tolist(), found.centreline.project(marks.xyz)[0], strict=True))
        off = np.array([abs(a - truth[n]) if n in truth else 0.0 for n, a in zip(found.numbers.tolist(), found.arc, strict=True)])
        verdict = "unsure" if found.flags else "wrong" if off.max() > WRONG else "right"
        rows.append((verdict, verdict == "right", off if verdict == "right" else off[:0]))
    share, _, off = told("phantoms", rows)
    assert share["wrong"] == 0
    assert share["right"] >= 30
    assert off.max() < 3
