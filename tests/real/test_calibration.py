"""How often a disc is where the network and the chain say, by the probability that they give: on simulated strips, and on crops of real images.

The calibration is fitted to the strips of some seeds; what is printed is of other seeds, and of real images, which nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from cohort_engine import schema
from cohort_engine.cord.discs import CALIBRATION, CERTAIN, NAMED, NEAR, SEEN, Named, Seen, Strip, look, name_discs, straight_strip
from cohort_engine.cord.levels import landmarks_from_labels, level_axis
from cohort_engine.io.volume import Volume, read_volume
from cohort_engine.nn.strips import HIGHEST, LAST, STATES, StripGenerator, StripOdds, numbered_heights, spine_of
from cohort_engine.nn.weights import load_discs
from cohort_engine.template.base import Template

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.real

FITTED, JUDGED = 700_000_000, 800_000_000
STRIPS, ROWS = 160, 192
EDGES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.94, 0.98, 0.99, 1.0)
PEOPLE = {
    **{name: (f"{name}/t2/t2", f"{name}/t2/t2_manual_segmentation", f"{name}/t2/t2_landmarks_C2_T2_center", schema.BODY)
       for name in ("errsm_11", "errsm_18", "errsm_23")},
    "PAM50": (*(f"PAM50/small_icbm152/PAM50_small_{n}_icbm152" for n in ("t2", "cord", "label_disc")), schema.DISC),
}  # fmt: skip
"""Image, mask and landmarks. Of the first three people two bodies are known: discs between them to half a level, which tells names, not places."""
Judged = tuple[float, bool, bool]
"""Calibrated probability, whether right, and whether the disc would be named."""


def log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(p / (1 - p))


def judged(named: Named, truth: NDArray[np.float64], limit: float) -> Iterator[Judged]:
    """Discs that may be there, against their rows (STATES,); NaN is not in view."""
    sure = set(named.certain().tolist())
    for n in range(HIGHEST, STATES):
        if named.confidence[n] >= 0.05:
            yield float(named.confidence[n]), bool(abs(named.row[n] - truth[n]) <= limit), n in sure


def simulated(seed: int, template: Template) -> list[Judged]:
    network, generator = load_discs(device="cpu"), StripGenerator(spine_of(template), ROWS, StripOdds(thick=0.0))
    gaps, out = -np.diff(numbered_heights(template))[:LAST], []
    dtype = next(network.module.parameters()).dtype
    for k in range(STRIPS // 8):
        batch = generator.batch(8, seed + k)
        with torch.inference_mode():
            answer = network.module(batch.image.to(dtype).contiguous(memory_format=torch.channels_last)).float()
        for y, label in zip(answer, batch.label, strict=True):
            along = label[1, :, 0].numpy()
            view = np.flatnonzero(along >= 0)
            if len(view) < 40:
                continue
            rows = slice(view[0], view[-1] + 1)
            seen = Seen(y[0].sigmoid().amax(1).double().numpy()[rows], y[1:].mean(-1).softmax(0).T.double().numpy()[rows])
            order = np.argsort(along[rows])
            truth = np.interp(np.arange(STATES), along[rows][order], order.astype(float), left=np.nan, right=np.nan)
            out += judged(name_discs(seen, gaps), truth, NEAR + 0.5)
    return out


def thicker(image: Volume, millimetres: float) -> Volume:
    n = max(1, round(millimetres / float(np.linalg.norm(image.affine[:3, 2]))))
    size = image.data.shape[2] // n
    affine = np.array(image.affine)
    affine[:3, 3] += affine[:3, 2] * (n - 1) / 2
    affine[:3, 2] *= n
    return Volume(image.data[:, :, : n * size].reshape(*image.data.shape[:2], size, n).mean(-1).astype(np.float32), affine)


def crops(name: str, real_data: Path, template: Template) -> list[Judged]:
    """A person's image in slices of 1 to 4 mm, in pieces of 60 to 160 mm and whole."""
    image, mask, labels = (read_volume(real_data / f"{part}.nii.gz", what="image") for part in PEOPLE[name][:3])
    marks = landmarks_from_labels(labels.data, labels.affine, kind=PEOPLE[name][3], what="landmarks")
    network, rng = load_discs(device="cpu"), np.random.default_rng(5)
    gaps, out = -np.diff(numbered_heights(template))[:LAST], []
    for step in (1.0, 2.0, 3.0, 4.0):
        scan, cord = thicker(image, step), thicker(mask, step)
        strip = straight_strip(scan.data, scan.affine, cord.data)
        axis = level_axis(strip.centreline, marks, template)
        known = template.landmarks[schema.DISC]
        truth = np.array([float(axis.arc(known[n])) - strip.arc[0] if n in known else np.nan for n in range(STATES)])
        rows = len(strip.arc)
        for low, high in [(0, rows), *((k, k + w) for w in (60, 80, 120, 160) for k in rng.integers(0, max(1, rows - w), 4) if w < rows)]:
            part = Strip(strip.image[low:high], strip.shape[low:high], strip.inside[low:high], strip.arc[low:high], strip.centreline)
            if part.inside.sum() >= 20:
                out += judged(name_discs(look(part, network), gaps), truth - low, 4.0 if name == "PAM50" else 8.0)
    return out


def table(title: str, found: list[Judged]) -> float:
    """Print how often discs of each probability are right; the expected calibration error."""
    p, right, named = (np.array(c) for c in zip(*found, strict=True))
    print(f"\n{title}: {len(p)} discs; named {named.sum()}, of which right {right[named].mean():.4f}")
    error = 0.0
    for low, high in pairwise(EDGES):
        some = (p >= low) & (p < high)
        if some.any():
            error += abs(p[some].mean() - right[some].mean()) * some.mean()
            print(f"  {low:.2f} to {high:.2f}  n {some.sum():4d}  probability {p[some].mean():.3f}  right {right[some].mean():.3f}")
    print(f"  expected calibration error {error:.3f}; named from {CERTAIN:g}, seen {SEEN:g}, one name {NAMED:g}")
    return error


def test_the_constants_are_those_of_the_fit(pam50: Template) -> None:
    p, right, _ = (np.array(c) for c in zip(*simulated(FITTED, pam50), strict=True))
    raw = (log_odds(p) - CALIBRATION[1]) / CALIBRATION[0]
    sign = np.where(right, -1.0, 1.0)
    slope, intercept = minimize(lambda t: np.logaddexp(0, sign * (t[0] * raw + t[1])).mean(), (1.0, 0.0), method="Nelder-Mead").x
    print(f"\nslope {slope:.3f}, intercept {intercept:.3f}; in use {CALIBRATION}")
    assert abs(slope - CALIBRATION[0]) < 0.1
    assert abs(intercept - CALIBRATION[1]) < 0.3


def test_simulated_strips_of_other_seeds(pam50: Template) -> None:
    assert table("simulated", simulated(JUDGED, pam50)) < 0.05


def test_crops_of_real_images(real_data: Path, pam50: Template) -> None:
    found = {name: crops(name, real_data, pam50) for name in PEOPLE}
    for name, some in found.items():
        table(name, some)
    everybody = [f for some in found.values() for f in some]
    assert table("all", everybody) < 0.06
    assert np.mean([right for _, right, named in everybody if named]) > 0.99
