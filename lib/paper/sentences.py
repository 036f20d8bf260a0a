"""The sentences that findings are made of: verdicts, differences, what runs rest on; no number in them is without a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from lib.arms import label
from lib.evaluate import words

SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def verdicts(rows: pd.DataFrame, first: str, second: str) -> str:
    """Differences between the same two in one sentence, those of one verdict together; sizes in points.

    Parameters
    ----------
    rows : DataFrame
        ``difference``, ``low``, ``high``, ``verdict``, and ``of``, what each is a difference of, in words.

    Examples
    --------
    >>> row = {"difference": 0.04, "low": -0.01, "high": 0.09, "verdict": "undecided", "of": "accuracy"}
    >>> verdicts(pd.DataFrame([row]), "the one", "the other")
    'it is undecided whether the one or the other is ahead in accuracy (+4.0 points, −1.0 to 9.0)'
    """
    told = []
    for verdict, sentence in words.SAID.items():
        if of := [f"{row['of']} ({points(row)})" for row in rows[rows["verdict"] == verdict].to_dict("records")]:
            told.append(f"{sentence.format(first, second)} in {listed(of)}")
    return "; ".join(told)


def points(row: Mapping, who: str = "") -> str:
    """A difference and its interval, with a minus sign: ``+4.2 points, 0.5 to 7.8``; ``who`` as in :func:`words.points`."""
    return words.points(row, "{:+.1f} points, {:.1f} to {:.1f}", who).replace("-", "−")


def placed(others: pd.DataFrame) -> str:
    """Where several arms stand beside *it*, by verdict; sizes of what is shown, of the undecided from where to where.

    Parameters
    ----------
    others : DataFrame
        ``arm``, ``difference`` (the arm minus it), ``low``, ``high``, ``verdict``.
    """
    found = []
    for verdict, said in {"ahead": "ahead of it", "behind": "behind it", "equivalent": "equivalent to it"}.items():
        rows = others[others["verdict"] == verdict].to_dict("records")
        if rows:
            names = listed([f"{label(row['arm'])} ({points(row)})" for row in rows])
            found.append(f"{said} {'are' if rows[1:] else 'is'} {names}")
    if len(rest := others[others["verdict"] == "undecided"]):
        names, low, high = listed(list(rest["arm"].map(label))), rest["difference"].min(), rest["difference"].max()
        span = f"{100 * low:+.1f} to {100 * high:+.1f} points" if len(rest) > 1 else f"{100 * low:+.1f} points"
        found.append(f"undecided {'are' if len(rest) > 1 else 'is'} {names} ({minus(span)})")
    return "; ".join(found)


def flagged(rows: pd.DataFrame, names: Callable[[dict], str]) -> str:
    """How many runs did not end as they should, and the difference without them: a sentence and a blank, or nothing."""
    told = [
        f"{row['n_flagged']} of those of {names(row)}{minus(words.without_flagged(row))}"
        for row in rows.to_dict("records")
        if row["n_flagged"]
    ]
    return f"Of the runs, {listed(told)} {words.FLAGGED}. " if told else ""


def minus(text: str) -> str:
    """With a true minus sign before numbers."""
    return text.replace("-", "−")


def basis(rows: pd.DataFrame) -> str:
    """How many cells and runs a family of differences rests on."""
    row = rows.to_dict("records")[0]
    return f"{int(row['n_cells'])} test cells, {words.runs(row)} of scBERT."


def adjusted(family: pd.DataFrame, of: str = "") -> str:
    """p before and after Holm's method, where that turns what is said; a sentence with a blank behind it, or nothing.

    ``of``: what the sentence begins with, where it is not clear which family is meant.
    """
    turned = family[(family["p"] < 0.05) & (family["p_holm"] >= 0.05) & (family["verdict"] == "undecided")]
    if turned.empty:
        return ""
    names, shares = list(turned["metric"].map(SCORES)), family.get("fraction", pd.Series(dtype=float))
    if shares.nunique() > 1:
        names = [f"{name} at {percent(share)}" for name, share in zip(names, turned["fraction"], strict=True)]
    p, holm = (listed([f"{value:.2g}" for value in turned[column]]) for column in ("p", "p_holm"))
    return joined([f"{of}in {listed(names)} p is {p}, adjusted for the {len(family)} questions of the family {holm}"]) + " "


def paper(card: pd.DataFrame, experiment: str, arm: str, name: str = "") -> str:
    """What the paper has for this difference, ``name`` saying of what where several stand together."""
    rows = card[(card["experiment"] == experiment) & (card["arm"] == arm) & (card["metric"] == "accuracy")]
    if rows.empty:
        return f"The paper published no runs of both{name and f' ({name})'} on cells of this kind."
    row = rows.iloc[0]
    few = f" with {percent(row['fraction'])} of the labels" if row["fraction"] < 1 else ""
    return f"In the paper the difference{name and f' of {name}'} is {points(row, 'paper')}{few}, in accuracy."


def percent(value: float, digits: int = 0) -> str:
    """A share as text has it: ``10 %``."""
    return f"{100 * value:.{digits}f} %"


def listed(told: list[str]) -> str:
    """With commas, and *and* before the last."""
    return " and ".join([*([", ".join(told[:-1])] if told[1:] else []), told[-1]])


def joined(told: list[str]) -> str:
    """Sentences, which begin with a capital, but for scBERT."""
    return " ".join(f"{text if text.startswith('scBERT') else text[0].upper() + text[1:]}." for text in told if text)
