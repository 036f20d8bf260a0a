"""One style for all figures: every run a point, the interval named, colours that colour-blind readers can tell.

Ours are filled circles, the paper's hollow diamonds, runs whose training did not end as it should crosses. Sizes are those of a
journal: two columns are 183 mm wide, text has 7 points. Seaborn draws what it draws well, but no interval is its own: they are
Student's of :func:`lib.evaluate.measures.mean_of_runs`, or those that a table brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lazy_loader
import numpy as np
import pandas as pd

from lib import settings
from lib.arms import ARMS, colour, label
from lib.evaluate import measures
from lib.evaluate.words import LEAST

mpl, sns = lazy_loader.load("matplotlib"), lazy_loader.load("seaborn")  # a second that programs without a figure need not wait

PALETTE = {name: arm.colour for name, arm in ARMS.items()}
INK = "#222222"
MARKS = {
    "ours": {"marker": "o", "ls": ""},
    "paper": {"marker": "D", "ls": "", "mfc": "white"},
    "flagged": {"marker": "X", "ls": ""},
    "mean": {"marker": "_", "ls": "-", "ms": 7, "mew": 1.5},
    "dotted": {"ls": ":", "lw": 0.8},
    "ringed": {"marker": "o", "ls": "", "ms": 9, "mfc": "none"},
    "bar": {"marker": "_", "ls": "", "ms": 8, "mew": 1.5},
}


def style() -> None:
    """Set the style of all figures; call once in a notebook."""
    mpl.rc("font", size=7)
    mpl.rc("axes", axisbelow=True, grid=True, linewidth=0.6, titlelocation="left", titlesize=8, titleweight="bold")
    mpl.rc("axes.grid", axis="y")
    mpl.rc("axes.spines", right=False, top=False)
    mpl.rc("figure", dpi=125)
    mpl.rc("figure.constrained_layout", use=True)
    mpl.rc("grid", color="#E6E6E6", linewidth=0.6)
    mpl.rc("legend", frameon=False)
    mpl.rc("lines", linewidth=1.1, markersize=4.5)
    mpl.rc("savefig", dpi=220)
    mpl.rc("svg", fonttype="none", hashsalt="scbert")
    for axis in ("xtick", "ytick"):
        mpl.rc(f"{axis}.major", size=2.5, width=0.6)


def mm(width: float, height: float) -> tuple[float, float]:
    """A figure's size in millimetres, as matplotlib asks for it (inches); two columns of a journal are 183 wide."""
    return width / 25.4, height / 25.4


def percent(share: float) -> str:
    """A share as ticks have it: ``10 %``."""
    return f"{100 * share:.0f} %"


def legend(on: mpl.axes.Axes | mpl.figure.Figure, arms: Sequence[str] = (), ncols: int = 5, **marks: str) -> None:
    """Above the panels: the colour of each arm, then what each of ``MARKS`` stands for (``paper="the paper"``)."""
    handles = [mpl.lines.Line2D([], [], color=colour(arm), lw=1.8, label=label(arm)) for arm in arms]
    handles += [mpl.lines.Line2D([], [], color=INK, label=text, **MARKS[mark]) for mark, text in marks.items()]
    on.figure.legend(handles=handles, loc="outside upper center", ncols=ncols)


def points(ax: mpl.axes.Axes, x, y, shades, source: str = "ours", **look) -> None:
    """Filled circles for ``ours``, hollow diamonds for the ``paper``; the style's one place that says so is ``MARKS``."""
    look = {"s": 12, "alpha": 0.85, "linewidths": 0.7, "zorder": 3, "clip_on": False, "marker": MARKS[source]["marker"]} | look
    ax.scatter(x, y, color=MARKS[source].get("mfc", shades), edgecolors=shades, **look)


def runs(ax: mpl.axes.Axes, table: pd.DataFrame, at, source="ours", spread=0.1, beside=0.18, orient="x", **mean) -> None:
    """Every run of ``table`` (``arm``, ``value``) a point at ``at``, and their mean with Student's interval ``beside`` them.

    The interval is that of the tables (:func:`lib.evaluate.measures.mean_of_runs`): over pre-trainings and seeds, where there
    are; fewer than three runs have neither interval nor mean, unless means alone are asked for (``errorbar=None``). Runs at one
    place are spread evenly, so that no point hides another and a rerun draws the same figure; those with a ``flagged`` reason
    are crosses. ``orient="y"``: places are rows. ``mean`` goes to :func:`seaborn.pointplot`.
    """
    at, value = np.asarray(at, float), table["value"].to_numpy()
    group = table.groupby(at)["value"]
    n, k = group.transform("size").to_numpy(), group.cumcount().to_numpy()
    place = at + spread * (2 * k - n + 1) / np.maximum(n - 1, 1)
    shades, wrong = table["arm"].map(PALETTE).to_numpy(), flags(table)
    for chosen, look in ((~wrong, {}), (wrong, {"marker": MARKS["flagged"]["marker"], "s": 22})):
        if chosen.any():
            x, y = (place, value) if orient == "x" else (value, place)
            points(ax, x[chosen], y[chosen], shades[chosen], source, **look)
    enough = n >= (1 if mean.get("errorbar", "student") is None else LEAST)
    if not enough.any():
        return

    def student(values):  # seaborn hands over the values at one place, numbered by their rows
        middle, half = measures.mean_of_runs(table[enough].iloc[values.index])
        return middle - half, middle + half

    look = {"palette": PALETTE, "errorbar": student, "marker": "_" if orient == "x" else "|", "linestyle": "none", "lw": 1.1}
    look |= {"ms": 6.5, "mew": 1.6, "zorder": 4, "native_scale": True, "legend": False} | mean
    x, y = (at + beside, value) if orient == "x" else (value, at + beside)
    sns.pointplot(x=x[enough], y=y[enough], hue=table["arm"].to_numpy()[enough], orient=orient, ax=ax, **look)


def flags(table: pd.DataFrame) -> np.ndarray:
    """Which rows are of runs whose training did not end as it should (bool array)."""
    return (table["flagged"].fillna("") != "").to_numpy() if "flagged" in table else np.zeros(len(table), bool)


def crosses(*tables: pd.DataFrame) -> dict[str, str]:
    """What a legend says of crosses, where there are any."""
    return {"flagged": "learnt nothing, fell back, or not ended"} if any(flags(table).any() for table in tables) else {}


def means(table: pd.DataFrame, by: Sequence[str]) -> dict[str, str]:
    """What a legend says of means, where :func:`runs` draws any; ``by``: the columns whose values a place stands for."""
    return {"mean": "mean, 95 % Student interval"} if (table.groupby(list(by)).size() >= LEAST).any() else {}


def estimates(ax: mpl.axes.Axes, table: pd.DataFrame, at, columns="value low high", source="ours", orient="y", **look) -> None:
    """A point and its interval for each row of ``table`` (``arm`` and three ``columns``) at ``at``; without ends, the point."""
    value, low, high = table[columns.split()].to_numpy(float).T
    shades = table["arm"].map(PALETTE)
    (ax.hlines if orient == "y" else ax.vlines)(at, low, high, colors=shades, lw=1.1)
    points(ax, *((value, at) if orient == "y" else (at, value)), shades, source, **{"s": 20, "alpha": 1} | look)


def rows(ax: mpl.axes.Axes, names: Sequence[str], **look) -> None:
    """Name the rows 0, 1, … of a panel, the first on top."""
    ax.set_yticks(range(len(names)), names, **look)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(True, axis="x")


def folder(profile: dict) -> Path:
    """``figures/<profile>``, or below ``SCBERT_FIGURES``."""
    path = settings.figures() / profile["name"]
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(fig: mpl.figure.Figure, name: str, table: pd.DataFrame, profile: dict) -> None:
    """Write a figure, with the profile and its cells in it, as png and svg, and the tidy table behind it as CSV.

    The same bytes at every rerun.
    """
    cells, genes = profile["adata"].shape
    note = f"profile {profile['name']}: {Path(profile['data']['dataset']).name}, {cells:,} cells × {genes:,} genes"
    fig.supxlabel(note, fontsize="small", color="#666666", x=0.99, ha="right")
    if "run" in table:  # 234e7969240439a0, taken for a number, ends pandas' parser, and Python
        table = table.assign(run="run-" + table["run"])
    target = folder(profile)
    fig.savefig(target / f"{name}.png", metadata={"Software": None})
    fig.savefig(target / f"{name}.svg", metadata={"Date": None, "Creator": None})
    table.to_csv(target / f"{name}.csv", index=False, float_format="%.6g")
