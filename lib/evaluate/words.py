"""The verdict on a difference, in one word; and numbers in sentences and tables of text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from lib.evaluate.intervals import MARGIN
from lib.evaluate.measures import mean_of_runs

LEAST = 3  # seeds or splits: what varies from run to run cannot be told from fewer
# What marks a row of a table in which a run is flagged (lib.evaluate.measures.flagged), and what the mark says.
FLAG, FLAGGED = " †", "stopped at their maximum, learnt nothing or fell back to a guess"
FLAG_MEANS = f"†: some of the runs {FLAGGED}"
# The verdicts there are, and how a sentence says them of two arms.
SAID = {
    "ahead": "{0} is ahead of {1}",
    "behind": "{0} is behind {1}",
    "equivalent": f"{{0}} and {{1}} are equivalent within {100 * MARGIN:.0f} points either way",
    "undecided": "it is undecided whether {0} or {1} is ahead",
}


def verdict(found: dict) -> str:
    """The one place that says which of two arms is ahead.

    Parameters
    ----------
    found : dict
        A difference, first − second: ``low`` and ``high`` of its 95 % interval (nan where there is none); ``p_holm``, its p
        adjusted within its family, or ``p`` of a family of one, or neither, where the interval decides alone; ``p_equivalence``
        of two one-sided tests against the margin, if any; ``n_seeds``, ``n_runs`` or ``n_splits``, how many it rests on.

    Returns
    -------
    str
        *ahead* or *behind* (the first) where the interval excludes zero and p is below 5 %; else *equivalent* where the test of
        equivalence is; else, and with fewer than three runs whatever they say, *undecided*.

    Examples
    --------
    >>> verdict({"difference": 0.04, "low": 0.01, "high": 0.07, "p": 0.01})
    'ahead'
    >>> verdict({"difference": 0.04, "low": 0.01, "high": 0.07, "p": 0.01, "p_holm": 0.06})
    'undecided'
    >>> verdict({"difference": 0.04, "low": 0.01, "high": 0.07, "p": 0.01, "n_seeds": 2})
    'undecided'
    """
    if few(found):
        return "undecided"
    shown = found.get("p_holm", found.get("p", 0)) < 0.05
    if shown and found["low"] > 0:
        return "ahead"
    if shown and found["high"] < 0:
        return "behind"
    return "equivalent" if found.get("p_equivalence", 1) < 0.05 else "undecided"


def few(found: dict) -> bool:
    """Whether a difference rests on fewer than three runs (of fine-tuning, by their seeds), so that no verdict is given."""
    return next((found[name] for name in ("n_runs", "n_seeds", "n_splits") if name in found), LEAST) < LEAST


def runs(found: dict) -> str:
    """What a difference rests on besides cells: seeds, and the pre-trainings that they began from; or runs alone.

    >>> runs({"n_seeds": 5, "n_pretrainings": 3}), runs({"n_seeds": 8, "n_pretrainings": 3, "crossed": False})
    ('5 seeds × 3 pre-trainings', '8 seeds, each on one of 3 pre-trainings')
    """
    n, before = found.get("n_runs", found.get("n_seeds")), int(found.get("n_pretrainings", 0))
    pretrainings = f"{before} pre-training{'s' * (before > 1)}"
    if "n_runs" in found:
        return pretrainings if before == n else f"{n} runs"
    if before and not found.get("crossed", True):
        return f"{n} seeds, each on one of {pretrainings}"
    return f"{n} seeds" + (f" × {pretrainings}" if before else "")


def cell_by_cell(found: dict, first: str, second: str) -> str:
    """What :func:`lib.evaluate.ensembles.mcnemar` finds, in two sentences: the ensembles', then single runs'."""
    one, other = (
        f"{name} ({n} runs averaged)" if n > 1 else name for name, n in zip((first, second), found["averaged"], strict=True)
    )
    return (
        f"Cell by cell, {found['only_first']} test cells are named right by {one} alone, {found['only_second']} by {other} "
        f"alone; McNemar's p = {found['p']:.2g}. Of single runs, one of each ({found['pairs']} pair"
        f"{'s' * (found['pairs'] > 1)}), {first} alone names {found['pair_only_first']:g} right and {second} alone "
        f"{found['pair_only_second']:g}, p = {found['pair_p']:.2g} (medians); p is below 0.05 in {found['pairs_below']} of the "
        "pairs."
    )


def points(found: dict, template="{:+.1f} ({:+.1f} to {:+.1f})", who="") -> str:
    """A difference with its interval in points; ``who``: ``paper`` or ``ours``, for a row of the scorecard.

    >>> points({"difference": 0.045, "low": 0.032, "high": 0.058})
    '+4.5 (+3.2 to +5.8)'
    """
    names = [f"{name}_{who}" for name in ("effect", "low", "high")] if who else ["difference", "low", "high"]
    values = [100 * found[name] for name in names]
    return template.format(*values) if np.isfinite(values).all() else f"{values[0]:+.1f} (no interval)"


def describe(found: dict, first: str, second: str, where: str = "Here") -> str:
    """A difference in a sentence: the verdict, its size in points, and what the interval covers.

    Parameters
    ----------
    found : dict
        Of :func:`lib.evaluate.differences.paired_difference`, a row of :func:`lib.evaluate.differences.family`, of
        :func:`lib.paper.published.difference`, or nothing but ``difference``, ``low`` and ``high``.
    first, second : str
        The arms' names, as in the middle of a sentence.
    where : str
        What the sentence begins with, such as *On your 99 cells* or *In the paper*.
    """
    said = SAID[verdict(found)].format(first, second)
    basis = {
        "n_cells": f"; {{n_cells}} test cells, {runs(found)}",
        "n_first": "; Welch's, {n_first} against {n_second} runs",
        "p": "; p = {p:.2g}",
        "p_holm": ", by Holm's method {p_holm:.2g}",
        "p_equivalence": f"; of equivalence within {100 * MARGIN:.0f} points p = {{p_equivalence:.2g}}",
    }
    basis = "".join(text for key, text in basis.items() if key in found).format(**found)[2:]
    basis += f"; no verdict from fewer than {LEAST} runs" if few(found) else ""
    basis += "; of a single pre-training, so that its luck is not covered" if found.get("n_pretrainings") == 1 else ""
    basis += f"; {found['n_flagged']} of the runs {FLAGGED}{without_flagged(found)}" if found.get("n_flagged") else ""
    effect, low, high = points(found, "{:+.1f} {:+.1f} {:+.1f}").split()
    return (
        f"**{where} {said}**: {effect} points of {_score(found.get('metric', 'accuracy'))} for {first} minus {second}, "
        f"95 % interval {low} to {high}{basis and f' ({basis})'}."
    )


def without_flagged(found: dict) -> str:
    """The difference without the seeds of flagged runs, to follow a mention of these; nothing where there is none.

    >>> without_flagged({"difference_ended": 0.001, "low_ended": -0.007, "high_ended": 0.009})
    ' (without their seeds +0.1 points, -0.7 to 0.9)'
    """
    if not np.isfinite(found.get("difference_ended", np.nan)):
        return ""
    ended = {name: found[f"{name}_ended"] for name in ("difference", "low", "high")}
    return points(ended, " (without their seeds {:+.1f} points, {:.1f} to {:.1f})")


def power(found: dict) -> str:
    """What an undecided difference could have shown, so that *undecided* is not read as *no difference*.

    >>> power({"difference": 0.05, "low": -0.1, "high": 0.2, "detectable": 0.21})
    'With so many cells and runs, a true difference of less than 21.0 points is often missed (power below 80 %).'
    >>> power({"difference": 0.2, "low": -0.6, "high": 1.0, "detectable": 1.07})
    'So few cells and runs could hardly have shown any difference.'
    """
    if verdict(found) != "undecided" or few(found) or "detectable" not in found:
        return ""
    if found["detectable"] >= 1:
        return "So few cells and runs could hardly have shown any difference."
    return (
        f"With so many cells and runs, a true difference of less than {100 * found['detectable']:.1f} points is often missed "
        "(power below 80 %)."
    )


def caveat(found: dict) -> str:
    """What to add where scBERT learnt nothing; ``found``: its difference to the majority class."""
    if verdict(found) == "ahead":
        return ""
    return (
        "But scBERT is not shown to be ahead of the majority class here: that it learnt anything from these cells is not "
        "certain, so the answer says little of scBERT. More test cells, more `minutes` or a profile with a larger model, "
        "such as `quick` or `laptop`, would tell."
    )


def show(mean: float, half_width: float, digits: int = 3) -> str:
    """``0.767 ± 0.013``; without the interval where there is a single run."""
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f}" + (f" ± {half_width:.{digits}f}" if np.isfinite(half_width) else "")


def beside_paper(ours, paper, metrics: list[str], arms: list[str], names: Callable[[str], str] = str) -> pd.DataFrame:
    """Mean ± half width of ours and of the paper's runs, arm by arm (DataFrame of text); † where a run is flagged.

    Parameters
    ----------
    ours, paper : DataFrame
        Tidy tables with ``arm``, ``metric``, ``value``.
    metrics, arms : list of str
    names : callable
        From an arm to its label.
    """
    rows = {}
    for arm in arms:
        for who, table in (("ours", ours), ("paper", paper)):
            groups = dict(iter(table[table["arm"] == arm].groupby("metric")))
            rows[(names(arm), who)] = [
                f"{show(*mean_of_runs(groups[m]))} (n={len(groups[m])}){_mark(groups[m])}" if m in groups else "–"
                for m in metrics
            ]
    found = pd.DataFrame(rows, index=metrics).T
    return found.rename_axis(columns=FLAG_MEANS) if FLAG in str(rows) else found


def _mark(runs):
    return FLAG if "flagged" in runs and (runs["flagged"].fillna("") != "").any() else ""


def ensembles(bracket: pd.DataFrame, arms: list[str], names: Callable[[str], str]) -> str:
    """What :func:`lib.evaluate.controls.bracket` says of some arms' runs averaged into one classifier, in a sentence."""
    told = [
        f"{names(row['arm'])}, {_score(row['metric'])} {row['ensemble']:.3f} ({row['ensemble_low']:.3f} to "
        f"{row['ensemble_high']:.3f}) where its {row['n_runs']} runs have {row['mean']:.3f}"
        for row in bracket[bracket["arm"].isin(arms) & (bracket["n_runs"] > 1)].to_dict("records")
    ]
    return f"Averaged into one classifier: {'; '.join(told)}." if told else ""


def summary(name: str, table: pd.DataFrame) -> str:
    """A family of differences in a sentence: how many are said to be what, and their range in points."""
    counts = table["verdict"].value_counts()
    low, high = 100 * table["difference"].min(), 100 * table["difference"].max()
    if len(table) == 1:
        return f"- {name}: {low:+.1f} points, {table['verdict'].iloc[0]}."
    said = ", ".join(f"{counts[word]} {word}" for word in SAID if word in counts)
    return f"- {name}: differences from {low:+.1f} to {high:+.1f} points; of {len(table)} questions {said}."


def by_fraction(table: pd.DataFrame, first: str, second: str, same: pd.DataFrame | None = None) -> str:
    """The family of few labels in a sentence: at which fractions, and by which score, the first is what.

    ``same``: the same questions where both learn from the same four fifths of the labels, if they were asked.
    """
    told = [_by_verdict(table)]
    if same is not None and not same.empty:
        told.append(f"both from the same four fifths of them: {_by_verdict(same)}")
    none = "" if "behind" in " ".join(told) else f" **At no fraction is {second} shown to be ahead of {first}.**"
    return f"By shares of the labels, {first} against {second}: {'; '.join(told)}.{none}"


def _by_verdict(table):
    """What is said with which fractions, and by which scores."""
    at = {}
    for row in table.to_dict("records"):
        at.setdefault(row["verdict"], {}).setdefault(f"{row['fraction']:.0%}", []).append(_score(row["metric"]))
    return "; ".join(
        f"{word} with {', '.join(share + ' (' + ', '.join(scores) + ')' for share, scores in at[word].items())}"
        for word in SAID
        if word in at
    )


def _score(metric):
    """A metric's name in a text."""
    return metric.replace("_f1", "-F1").replace("_zheng68k", " (types as in Zheng68K)").replace("_", " ")


def show_family(table: pd.DataFrame, names: Callable[[str], str]):
    """A family of differences as text: points with intervals, p, Holm's p, and the verdict (styled DataFrame)."""
    rows = []
    for row in table.to_dict("records"):
        shown = {"": names(row["arm"]), "first is": row["verdict"] + (FLAG if row.get("n_flagged", 0) > 0 else "")}
        shown["minus"] = names(row["reference"])
        if "fraction" in row:
            shown["labels"] = f"{row['fraction']:.0%}"
        if "protocol" in row:
            shown["protocol"] = row["protocol"]
        if "corpus" in row:
            shown["pre-trained on"] = row["corpus"] or "the training cells, or nothing"
        if "because" in row:
            shown["because"] = row["because"]
        shown |= {"metric": _score(row["metric"]), "points": points(row), "p": f"{row['p']:.2g}"}
        shown["p, Holm"] = f"{row['p_holm']:.2g}"
        if "p_equivalence" in row:
            shown["p, equivalence"] = f"{row['p_equivalence']:.2g}"
        splits = f"{row['n_splits']} splits" if "n_splits" in row else None
        shown["n"] = splits or f"{row['n_cells']} cells, {runs(row)}"
        rows.append(shown)
    styled = pd.DataFrame(rows).style.hide()
    return styled.set_caption(FLAG_MEANS) if any(row["first is"].endswith(FLAG) for row in rows) else styled
