"""The motion of one subject's diffusion series as a figure: where each slice of each volume lay, and which were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cohort_engine import schema
from cohort_engine.figures import drawing
from cohort_engine.query.accessor import motion_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ("to the right", "to the front")
LOST_COLOUR, MOVED_COLOUR = "#D55E00", "#000000"
SMALLEST = 0.5
"""Range of the colours at least, mm."""


def draw_motion(ds: xr.Dataset, who: int | str, session: str | None = None) -> Figure:
    """Draw the motion of a subject's diffusion series.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`.
    who : int or str
        Row number or participant.
    session : str, optional
        Where a participant has several.

    Returns
    -------
    Figure
        Above, the b-value of each volume; then displacement to the right and to the front (mm), a column a volume and a row a slice, from the lowest.
        A dot marks a slice that jumped, a cross one that was lost. `drawing.render` turns it into a file.

    Raises
    ------
    UnknownNameError
        No such subject.
    StoreError
        No series of the subject was corrected here.
    """
    found = motion_of(ds, who, session)
    shift, flags = found[schema.MOTION_SHIFT].to_numpy(), found[schema.MOTION_FLAG].to_numpy()
    volumes, slices = flags.shape
    limit = max(SMALLEST, float(np.nanpercentile(np.abs(shift), 99)) if np.isfinite(shift).any() else SMALLEST)
    with drawing.style():
        figure = drawing.page(2 * (12 + 2.2 * min(slices, 40)) + 30)
        axes = figure.subplots(3, 1, sharex=True, height_ratios=(1, 2, 2))
        axes[0].bar(np.arange(volumes), found[schema.MOTION_B].to_numpy(), color=drawing.FAINT, width=0.8)
        axes[0].set_ylabel("b (s/mm²)")
        for axis, way, values in zip(axes[1:], WAYS, np.moveaxis(shift, -1, 0), strict=True):
            shown = axis.imshow(values.T, cmap=drawing.DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower", interpolation="nearest")
            axis.set_facecolor(drawing.MISSING)
            for bits, mark, colour in ((schema.MOVED, ".", MOVED_COLOUR), (schema.LOST, "x", LOST_COLOUR)):
                at = np.argwhere((flags & bits) > 0)
                axis.plot(at[:, 0], at[:, 1], mark, color=colour, ms=4, mew=1.0, linestyle="none")
            axis.set(ylabel="slice", title=f"displacement {way}")
        axes[-1].set_xlabel("volume")
        figure.colorbar(shown, ax=axes[1:], label="mm", fraction=0.03)
    return figure
