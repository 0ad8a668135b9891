"""Figures of an opened cohort for a notebook: ``ds.cohort.plot``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import optional, unknown_name
from cohort_engine.pictures.paint import GROUP_COLOURS
from cohort_engine.query.cells import Names
from cohort_engine.query.reader import PROFILE_VARIABLES
from cohort_engine.query.spread import FloatArray, healthy_word, mean_of, reference_range, spread_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVERYBODY = "everybody"
UNKNOWN = "not known"
GREY = "0.6"


@dataclass(frozen=True)
class Groups:
    """People by a column.

    Attributes
    ----------
    of : (subject,) object
        Group of each.
    reference : str
        With whom the others are compared; empty: nobody.
    """

    of: NDArray[Any]
    reference: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names, that of the reference first, people of no known group last."""
        return tuple(sorted({str(g) for g in self.of}, key=lambda g: (g != self.reference, g == UNKNOWN, g)))

    @property
    def colours(self) -> dict[str, str]:
        """Colour of each."""
        return {name: GROUP_COLOURS[i % len(GROUP_COLOURS)] for i, name in enumerate(self.names)}


class CohortPlots:
    """Figures of what `open_cohort` returned, or of a selection of its subjects; each returns the matplotlib axes that it drew on.

    Every figure takes ``by``, a column of the subject table (by default ``group``, where there is one), ``reference``, the value of that column whose
    people the others are compared with (by default the word for healthy people), and ``ax`` to draw on (by default a new figure).

    Parameters
    ----------
    ds : Dataset

    Examples
    --------
    ::

        ds.cohort.plot.profile("mtr", "lateral corticospinal tract")
        ds.cohort.plot.profile("area")
        ds.cohort.plot.groups("fa", "white matter", "C2:C3", by="site")
        ds.cohort.plot.heat("mtr")
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds if schema.SUBJECT in ds.dims else ds.expand_dims(schema.SUBJECT)

    # --- figures ---
    def profile(
        self, metric: str, region: str = "white matter", *, by: str | None = None, reference: str | None = None, ax: Axes | None = None, **choice: Any
    ) -> Axes:
        """Draw the mean of each group along the cord, with the range that holds 95 % of the reference (mean ± 1.96 SD).

        Parameters
        ----------
        metric : str
            A metric, by level; or a measure of the cord, slice by slice of the template.
        region : str
            Of a metric; a measure is of the whole cord.
        by, reference, ax
            As of the class.
        **choice
            ``estimator``, ``space``, ``min_coverage``: as of ``ds.cohort.table``.

        Raises
        ------
        UnknownNameError
            A metric, region, column or reference that the cohort does not have.
        """
        people, axes = self._groups(by, reference), self._axes(ax)
        if metric in PROFILE_VARIABLES and PROFILE_VARIABLES[metric] in self._ds:
            stored = self._ds[PROFILE_VARIABLES[metric]]
            z, number = (self._ds[n].to_numpy() for n in (schema.Z, schema.Z_LEVEL))
            names = {float(z[number == n].mean()): schema.LEVEL_NAMES[n - 1] for n in np.unique(number[number > 0])}
            at, values, units, title = z.astype(float), stored.to_numpy().astype(float), stored.attrs.get("units", "1"), "spinal cord"
        else:
            table = self._ds.cohort.table(metric, region, **choice)
            names = {float(n): str(level) for n, level in zip(table[schema.LEVEL_NUMBER].to_numpy(), table[schema.LEVEL].to_numpy(), strict=True)}
            at, values = table[schema.LEVEL_NUMBER].to_numpy(), table[schema.VALUE].to_numpy()[:, :, 0]
            units, title = table[schema.VALUE].attrs.get("units", "1"), str(table[schema.REGION].to_numpy()[0])
        if people.reference:
            low, high = reference_range(values[people.of == people.reference])
            axes.fill_between(at, low, high, color=GREY, alpha=0.3, linewidth=0, label=f"95 % of {people.reference}")
        for name, colour in people.colours.items():
            here = values[people.of == name]
            marker = "o" if len(at) == len(names) else ""
            axes.plot(at, mean_of(here), color=colour, marker=marker, markersize=4, label=f"{name} (n = {int((~np.isnan(here)).any(axis=1).sum())})")
        seen = at[~np.isnan(values).all(axis=0)]
        first, last = (seen.min(), seen.max()) if len(seen) else (at.min(), at.max())
        shown = {where: name for where, name in names.items() if first <= where <= last}
        axes.set_xticks(list(shown), list(shown.values()))
        if first < last:
            axes.set_xlim(first, last)
        if _falls(names):
            axes.invert_xaxis()  # the head at the left
        axes.set(xlabel="level", ylabel=_label(self._ds, metric, units), title=title)
        axes.legend(frameon=False)
        return axes

    def groups(
        self, metric: str, region: str = "white matter", level: str | None = None, *, by: str | None = None, reference: str | None = None,
        ax: Axes | None = None, **choice: Any,
    ) -> Axes:  # fmt: skip
        """Draw every person, and the median and quartiles of each group.

        Parameters
        ----------
        metric, region : str
            As of `profile`.
        level : str, optional
            A level or a range such as ``C2:C3``; by default the whole cord.
        by, reference, ax, **choice
            As of `profile`.
        """
        people, axes = self._groups(by, reference), self._axes(ax)
        where = level or "all"
        measure = metric in PROFILE_VARIABLES and metric not in self._ds.cohort.metrics
        table = self._ds.cohort.profile(metric, where) if measure else self._ds.cohort.table(metric, region, where, **choice)
        values = table[schema.VALUE].to_numpy()[:, 0, 0].astype(float)
        random, ticks = np.random.default_rng(0), []
        for i, (name, colour) in enumerate(people.colours.items()):
            here = values[people.of == name]
            there = here[~np.isnan(here)]
            missing = len(here) - len(there)
            ticks.append(f"{name}\nn = {len(there)}{f', {missing} missing' if missing else ''}")
            axes.scatter(i + random.uniform(-0.2, 0.2, len(there)), there, s=14, color=colour, alpha=0.6, linewidths=0)
            if len(there):
                axes.boxplot([there], positions=[i], widths=0.6, showfliers=False, medianprops={"color": "black"}, manage_ticks=False)
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.6, len(ticks) - 0.4)
        axes.set_ylabel(_label(self._ds, metric, table[schema.VALUE].attrs.get("units", "1")))
        axes.set_title(f"{table[schema.REGION].to_numpy()[0]}, {'whole cord' if where == 'all' else where}")
        return axes

    def heat(
        self, metric: str, regions: Names | None = None, levels: Names | None = None, *, by: str | None = None, reference: str | None = None,
        ax: Axes | None = None, **choice: Any,
    ) -> Axes:  # fmt: skip
        """Draw every region at every level: the others minus the reference in its standard deviations; without both, the mean of all.

        Parameters
        ----------
        metric : str
            One that has maps.
        regions, levels : str or sequence of str, optional
            By default all.
        by, reference, ax, **choice
            As of `profile`.
        """
        people, axes = self._groups(by, reference), self._axes(ax, tall=regions is None)
        table = self._ds.cohort.table(metric, regions, levels, **choice)
        values = table[schema.VALUE].to_numpy().astype(float)
        is_reference = people.of == people.reference
        compared = bool(is_reference.any() and not is_reference.all())
        shown = mean_of(values)
        label = f"mean {_label(self._ds, metric, table[schema.VALUE].attrs.get('units', '1'))}"
        if compared:
            spread = spread_of(values[is_reference])
            with np.errstate(invalid="ignore", divide="ignore"):
                shown = np.where(spread > 0, (mean_of(values[~is_reference]) - mean_of(values[is_reference])) / spread, np.nan)
            label = f"others minus {people.reference}, in SD of {people.reference}"
        low, high = _ends(shown, compared)
        drawn = axes.imshow(shown.T, aspect="auto", cmap="RdBu_r" if compared else "viridis", interpolation="nearest", vmin=low, vmax=high)
        axes.set_facecolor("0.85")  # no value
        axes.set_xticks(range(shown.shape[0]), [str(n) for n in table[schema.LEVEL].to_numpy()])
        axes.set_yticks(range(shown.shape[1]), [str(n) for n in table[schema.REGION].to_numpy()], fontsize=7)
        axes.figure.colorbar(drawn, ax=axes, label=label, shrink=0.6)
        return axes

    # --- inside ---
    def _groups(self, by: str | None, reference: str | None) -> Groups:
        columns = [str(n) for n, c in self._ds.coords.items() if c.dims == (schema.SUBJECT,) and n != schema.SUBJECT]
        by = (schema.GROUP if schema.GROUP in columns else "") if by is None else by
        if by and by not in columns:
            raise unknown_name("column of the subject table", by, columns, where="plot")
        given = self._ds[by].to_numpy().astype(str).astype(object) if by else np.full(self._ds.sizes[schema.SUBJECT], EVERYBODY, object)
        of = np.where(given == "", UNKNOWN, given)
        known = sorted({str(g) for g in of})
        if reference and reference not in known:
            raise unknown_name(f"value of {by}", reference, known, where="plot")
        return Groups(of, healthy_word(known) if reference is None else reference)

    def _axes(self, ax: Axes | None, *, tall: bool = False) -> Axes:
        if ax is not None:
            return ax
        with optional("matplotlib", "figures", where="plot"):
            from matplotlib import pyplot
        return pyplot.subplots(figsize=(7.5, 8.5) if tall else (6, 4), layout="constrained")[1]


def _falls(names: dict[float, str]) -> bool:
    """Whether the first levels stand at the largest places, as heights in mm do."""
    top = min(names, key=lambda where: schema.level_number(names[where]))
    return top > min(names)


def _label(ds: xr.Dataset, metric: str, units: str) -> str:
    words = ds[metric].attrs.get("label") if metric in ds else None
    return schema.with_unit(str(words or metric.replace("_", " ")), schema.scale(units))


def _ends(shown: FloatArray, compared: bool) -> tuple[float, float] | tuple[None, None]:
    """Choose the ends of the colours: the same on both sides of a difference."""
    finite = np.abs(shown[np.isfinite(shown)])
    end = max(0.5, float(finite.max(initial=0.0)))
    return (-end, end) if compared else (None, None)
