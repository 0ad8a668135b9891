"""Networks of the regions judged on slices with drawn regions, from files to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.provenance import digest
from cohort_engine.report.roi_page import Evaluation, write_evaluation
from cohort_engine.report.roi_tables import judged, read_results
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.single.roi_slices import load_slices

PACKAGED: Final = "the packaged network"


def evaluate_rois(
    runs: Mapping[str, str | Path | None], data: RoiSlices | str | Path, out: str | Path, *, results: pd.DataFrame | str | Path | None = None,
    device: str = "auto", seed: int = 0, notes: Sequence[str] = (), provenance: Mapping[str, Any] | None = None,
    template_path: str | Path | None = None, say: Callable[[str], None] | None = None,
) -> Evaluation:  # fmt: skip
    """Judge networks on slices that they were not trained on, and write tables, figures and the page.

    Parameters
    ----------
    runs : mapping of name to path
        Weights (a file, or the folder of a training); None: those of the package. The first is looked at closely, and compared with each other one.
    data : RoiSlices or path
        Slices, a file of them, or a BIDS dataset or store with manual masks (`single.roi_slices.load_slices`).
    out : path
        Folder, see `roi_page.write_evaluation`.
    results : DataFrame or path, optional
        ``results.jsonl`` of a sweep whose trainings were judged on the same slices, or what `read_results` makes of it.
    device : str
    seed : int
        Of intervals over patients.
    notes, provenance
        What a reader must know besides.
    template_path : path, optional
        Where the template of a store lies, if not in the package.
    say : callable, optional
        Told which network is at work.

    Returns
    -------
    Evaluation

    Raises
    ------
    StorageError
        No such weights, slices or results.
    InputError, UnknownNameError
        A network was trained on some of the slices; they lack an image that it sees, or it has no values in the cord.
    """
    from cohort_engine.rois.train import load_rois

    images: tuple[str, ...] = ()
    nets = {name: load_rois(path, device=device) for name, path in runs.items()}
    if not isinstance(data, RoiSlices):
        seen = [image for net in nets.values() for image in net.config.input.images]
        images = tuple(dict.fromkeys([schema.B0_IMAGE, schema.FA, *seen]))
    slices = data if isinstance(data, RoiSlices) else load_slices(data, images=images, template_path=template_path)
    found = {}
    for name, net in nets.items():
        if say is not None:
            say(f"{name}: {len(slices)} slices")
        if met := int(net.seen(slices).sum()):
            raise InputError(
                expected="slices that no network was trained on", found=f"{met} of {len(slices)} that {name} was", where="slices to judge by",
                remedy="Give slices of other patients.",
            )  # fmt: skip
        found[name] = (net.masks(slices), facts_of(net))
    known = {"slices": len(slices), "patients": len(np.unique(slices.patient)), "data": content_of(slices), "seed of intervals": seed}
    sweep = results if results is None or isinstance(results, pd.DataFrame) else read_results(results)
    done = Evaluation(slices, judged(slices, found), sweep, notes, {**known, **(provenance or {})}, seed)
    write_evaluation(done, out)
    return done


def facts_of(net: Any) -> dict[str, Any]:
    """Tell what is known of a network: of its training, and all of its configuration."""
    config = net.config
    told = {k: net.facts[k] for k in ("epochs", "steps", "slices", "patients", "thresholds") if k in net.facts}
    loss = config.loss.kind if config.loss.kind != "hdl" else f"hdl-{config.loss.distance}"
    short = {"encoder": config.net.encoder, "images": " + ".join(config.input.images), "loss": loss, "split": config.split, "seed": config.seed}
    return {**short, **told, "config": config.model_dump(mode="json")}


def content_of(slices: RoiSlices) -> str:
    """Hash of slices: of images, drawn regions and patients."""
    arrays = [np.ascontiguousarray(image) for _, image in sorted(slices.images.items())]
    return digest(*(a.tobytes() for a in (*arrays, np.ascontiguousarray(slices.drawn), slices.patient)))


def name_runs(runs: Sequence[str | Path]) -> dict[str, str | Path | None]:
    """Name trainings by their folders, and tell those of one name apart; none: the packaged network.

    Examples
    --------
    >>> list(name_runs(["runs/a", "old/a", "runs/b/rois.safetensors"])), list(name_runs([]))
    (['a', 'a (2)', 'b'], ['the packaged network'])
    """
    out: dict[str, str | Path | None] = {}
    for run in runs:
        path = Path(run)
        name = path.parent.name if path.suffix else path.name
        count = sum(n == name or n.startswith(f"{name} (") for n in out)
        out[f"{name} ({count + 1})" if count else name] = run
    return out or {PACKAGED: None}
