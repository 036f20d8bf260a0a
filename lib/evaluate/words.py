"""Numbers in words and tables of text."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.evaluate.intervals import confidence_interval


def answer(found, cells, first="logistic regression", second="scBERT"):
    """The answer in a sentence, from what :func:`lib.evaluate.differences.paired_difference` found; ``cells``: which, in words."""
    points, low, high = (100 * found[key] for key in ("difference", "low", "high"))
    interval = f"(95 % interval {low:.1f} to {high:.1f} for {first} minus {second})"
    if low <= 0 <= high:
        return (
            f"On {cells} {first} and {second} cannot be told apart: {points:+.1f} points of accuracy "
            f"{interval}."
        )
    ahead, behind = (first, second) if low > 0 else (second, first)
    return f"On {cells} {ahead} is ahead of {behind} by {abs(points):.1f} points of accuracy {interval}."


def caveat(found):
    """What to add where scBERT learnt nothing; ``found``: its :func:`lib.evaluate.differences.paired_difference` to the majority class."""
    if found["low"] > 0:
        return ""
    return (
        "scBERT is not ahead of the majority class here: in this size and training it has learnt nothing from these cells, "
        "so the answer says nothing of scBERT. Take a profile with a larger model, such as `quick`, or more `minutes`."
    )


def describe_difference(found, first, second):
    """A sentence for what :func:`paired_difference` found."""
    points, low, high = (100 * found[key] for key in ("difference", "low", "high"))
    verdict = "ahead of" if low > 0 else "behind" if high < 0 else "not distinguishable from"
    return (
        f"**{first} is {verdict} {second}**: {points:+.1f} points of accuracy, 95 % interval {low:+.1f} to "
        f"{high:+.1f} (bootstrap over {found['n_cells']} test cells and {found['n_seeds']} seeds; p = {found['p']:.2g})."
    )


def show(mean, half_width, digits=3):
    """``0.767 ± 0.013``; without the interval where there is a single run."""
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f}" + (f" ± {half_width:.{digits}f}" if np.isfinite(half_width) else "")


def beside_paper(ours, paper, metrics, arms, names=None):
    """Mean ± half width of ours and of the paper's runs, arm by arm (DataFrame of text).

    Parameters
    ----------
    ours, paper : DataFrame
        Tidy tables with ``arm``, ``metric``, ``value``.
    metrics, arms : list of str
    names : callable, optional
        From an arm to its label.
    """
    rows = {}
    for arm in arms:
        for who, table in (("ours", ours), ("paper", paper)):
            groups = dict(iter(table[table["arm"] == arm].groupby("metric")["value"]))
            rows[(names(arm) if names else arm, who)] = [
                f"{show(*confidence_interval(groups[m]))} (n={len(groups[m])})" if m in groups else "–" for m in metrics
            ]
    return pd.DataFrame(rows, index=metrics).T


def summary(name, table):
    """A family of differences in a sentence: how many are said to be what, and their range in points."""
    counts = table["says"].value_counts()
    said = ", ".join(f"{counts[word]} {word}" for word in ("ahead", "behind", "equivalent", "undecided") if word in counts)
    low, high = 100 * table["difference"].min(), 100 * table["difference"].max()
    return f"- {name}: differences from {low:+.1f} to {high:+.1f} points; of {len(table)} questions {said}."


def show_family(table, names):
    """A family of differences as text: points with intervals, p, Holm's p, and the verdict (styled DataFrame)."""
    rows = []
    for row in table.to_dict("records"):
        points = [100 * row[key] for key in ("difference", "low", "high")]
        shown = {"": names(row["arm"]), "minus": names(row["reference"])}
        if "fraction" in row:
            shown["labels"] = f"{row['fraction']:.0%}"
        shown |= {"metric": row["metric"].replace("_", "-"), "points": "{:+.1f} ({:+.1f} to {:+.1f})".format(*points),
                  "p": f"{row['p']:.2g}", "p, Holm": f"{row['p_holm']:.2g}"}  # fmt: skip
        if "p_equivalence" in row:
            shown["p, equivalence"] = f"{row['p_equivalence']:.2g}"
        shown["first is"] = row["says"]
        splits = f"{row['n_splits']} splits" if "n_splits" in row else None
        shown["n"] = splits or f"{row['n_cells']} cells, {row['n_seeds']} seeds"
        rows.append(shown)
    return pd.DataFrame(rows).style.hide()
