"""Motion and distortion of one diffusion series, from files to files: what the command `moco` calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import warn
from cohort_engine.io.gradients import Gradients, read_gradients
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import decode_series, read_mask, read_raw, write_volume
from cohort_engine.provenance import versions
from cohort_engine.qmri.moco import Motion
from cohort_engine.single.columns import Columns
from cohort_engine.single.moco import CORD, SERIES, MocoSettings, correct
from cohort_engine.single.mtr import sidecar
from cohort_engine.single.undistort import AXES, REVERSE

FloatArray = NDArray[Any]
DIRECTIONS = ("to the right", "to the front")


def moco_image(
    series: str | Path, out: str | Path, *, bval: str | Path, bvec: str | Path, mask: str | Path | None = None, reverse: str | Path | None = None,
    mean: str | Path | None = None, settings: MocoSettings = MocoSettings(),  # noqa: B008 (frozen)
) -> dict[str, Any]:  # fmt: skip
    """Correct a diffusion series, from its files.

    Parameters
    ----------
    series : path or URL
        4-D image as it was scanned.
    out : path
        Corrected series to write, float32, on the series' own voxels in their order; beside it ``.json`` (how, and numbers), ``_motion.tsv``
        (displacement and flags of every slice of every volume) and, where matplotlib is installed, ``_motion.png``.
    bval, bvec : path or URL
        See `io.gradients.gradients_of`. Shifts turn nothing, so that the directions stay as they are.
    mask : path or URL, optional
        Cord mask on the series' voxels; by default the cord is segmented in its mean.
    reverse : path or URL, optional
        Image or series without diffusion weighting, of the same slices with the opposite phase encoding.
    mean : path, optional
        Write the mean of the corrected diffusion-weighted volumes here.
    settings : MocoSettings

    Returns
    -------
    dict
        What the JSON file says; no paths.

    Raises
    ------
    GeometryError, InputError, CordError, StorageError
        As of `single.moco.correct`, or the files cannot be read or written.
    """
    scan = decode_series(read_raw(series, what=SERIES), what=SERIES)
    gradients = read_gradients(bval, bvec, scan)
    cord = None if mask is None else read_mask(mask, what=CORD)
    back = None if reverse is None else decode_series(read_raw(reverse, what=REVERSE), what=REVERSE)
    found = correct(scan, gradients, cord=cord, reverse=back, settings=settings)
    write_volume(out, found.series)
    if mean is not None:
        write_volume(mean, found.mean)
    named = sidecar(out)
    facts = {
        "Description": "Diffusion series, motion corrected slice by slice" + ("" if reverse is None else ", and distortion along phase encoding"),
        "Sources": {
            name: None if path is None else Path(path).name
            for name, path in (("series", series), ("bval", bval), ("bvec", bvec), ("cord mask", mask), ("reverse", reverse))
        },
        "CordMask": "segmented in the mean of the series" if mask is None else "given",
        "Interleaved": found.motion.interleaved,
        "EddyCurrents": "stretch and shear of each slice" if settings.eddy else None,
        "PhaseEncodingAxis": AXES[settings.phase_axis],
        "Quality": {name: None if np.isnan(value) else round(value, 4) for name, value in found.quality.items()},
        "Flags": flagged(found.motion),
        "Interpolation": "one, cubic spline within slices",
        "Missing": "NaN",
        "GeneratedBy": {"Name": "cohort_engine", "Version": versions()["cohort_engine"]},
    }  # fmt: skip
    motion_table(found.motion, gradients).write(named.with_name(f"{named.stem}_motion.tsv"))
    with storage_errors("sidecar of the corrected series"):
        named.write_text(json.dumps(facts, indent=2) + "\n")
        try:
            draw_motion(named.with_name(f"{named.stem}_motion.png"), found.motion, gradients.b0)
        except ModuleNotFoundError:
            warn("no picture of its motion was drawn: matplotlib is not installed", where=SERIES)
    return facts


def flagged(motion: Motion) -> dict[str, dict[str, list[int]]]:
    """Say for each flag that occurs, and each volume that has it, in which slices (from 0 at the bottom)."""
    out: dict[str, dict[str, list[int]]] = {}
    for bit, word in schema.MOTION_FLAGS.items():
        has = (motion.flags & bit) > 0
        if has.any():
            out[word] = {f"volume {t}": np.flatnonzero(has[t]).tolist() for t in np.flatnonzero(has.any(1))}
    return out


def motion_table(motion: Motion, gradients: Gradients) -> Columns:
    """One row a slice of a volume: displacement that was corrected, agreement with the target, and flags; both counted from 0."""
    volumes, slices = motion.flags.shape
    numbers = {
        "volume": np.repeat(np.arange(volumes), slices), "slice": np.tile(np.arange(slices), volumes), "b": np.repeat(gradients.bvals, slices),
        "right_mm": motion.shifts[..., 0].round(4), "front_mm": motion.shifts[..., 1].round(4), "stretch": motion.scale[..., 0].round(6),
        "shear": motion.scale[..., 1].round(6), "agreement": motion.agreement.round(4),
    }  # fmt: skip
    words = [" ".join(word for bit, word in schema.MOTION_FLAGS.items() if flag & bit) or "none" for flag in motion.flags.ravel()]
    return Columns({name: values.ravel().tolist() for name, values in numbers.items()} | {"flags": words})


def draw_motion(path: str | Path, motion: Motion, b0: NDArray[np.bool_]) -> None:
    """Draw displacement over volumes (lines: median of the slices, bands: all), and of every slice, with its flags; PNG."""
    from matplotlib.figure import Figure

    volumes, slices = motion.flags.shape
    figure = Figure(figsize=(7.5, 6.5), dpi=130, layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(1.2, 1, 1))
    volume = np.arange(volumes)
    for a, (name, colour) in enumerate(zip(DIRECTIONS, ("#0072B2", "#D55E00"), strict=True)):
        part = motion.shifts[..., a]
        axes[0].fill_between(volume, part.min(1), part.max(1), color=colour, alpha=0.2, linewidth=0)
        axes[0].plot(volume, np.median(part, axis=1), color=colour, linewidth=1.2, label=name)
    axes[0].plot(volume[b0], np.full(int(b0.sum()), motion.shifts.min()), "|", color="0.3", label="without diffusion weighting")
    axes[0].set_ylabel("mm")
    axes[0].legend(frameon=False, fontsize=7, ncols=3, loc="best")
    limit = max(float(np.percentile(np.abs(motion.shifts), 99)), 0.5)
    marks = {schema.MOVED: "s", schema.DROPPED: "x", schema.LIMIT: "^", schema.UNCERTAIN: "."}
    for a, (name, ax) in enumerate(zip(DIRECTIONS, axes[1:], strict=True)):
        picture = ax.imshow(
            motion.shifts[..., a].T, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
            extent=(-0.5, volumes - 0.5, -0.5, slices - 0.5),
        )  # fmt: skip
        for bit, word in schema.MOTION_FLAGS.items():
            t, z = np.nonzero(motion.flags & bit)
            if len(t):
                ax.scatter(t, z, marker=marks[bit], s=14, linewidths=0.7, color="k", label=word)
        ax.set_ylabel("slice")
        figure.colorbar(picture, ax=ax, label=f"{name}, mm")
    if motion.flags.any():
        axes[2].legend(frameon=True, fontsize=7, loc="upper left", ncols=4)
    axes[2].set_xlabel("volume")
    figure.savefig(path)
