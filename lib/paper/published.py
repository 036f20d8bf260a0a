"""The paper's own numbers, run by run, as the authors' notebooks print them."""

from __future__ import annotations

from functools import cache

import pandas as pd

from lib.evaluate import intervals
from lib.settings import ROOT

FOLDER = ROOT / "data" / "published"


@cache
def runs() -> pd.DataFrame:
    """Every run: experiment, dataset, model, arm, C, fraction, seed, metric, value, source. Not to be changed in place.

    ``arm`` is one of this project's: ``full``, ``no_pretraining``, ``no_gene2vec``, ``logistic_regression``, or
    ``as_reported_by_Yang_2022`` for two numbers of the original scBERT paper.
    """
    table = pd.read_csv(FOLDER / "runs.csv")
    table["arm"] = table["arm"].where(table["model"] == "scBERT", table["model"])
    return table


def masked() -> pd.DataFrame:
    """The masked task with and without gene2vec: accuracy, and that of the most common bin."""
    return pd.read_csv(FOLDER / "masked.csv")


def values(experiment: str, dataset: str, arm: str, metric: str = "accuracy", fraction: float = 1.0) -> pd.Series:
    """One value a run of an arm, from that experiment if it has the arm, else from the baseline's; none, where neither has."""
    part = runs()
    for name, value in {"dataset": dataset, "arm": arm, "metric": metric, "fraction": fraction}.items():
        part = part[part[name] == value]
    own = part["experiment"] == experiment
    return part.loc[own if own.any() else part["experiment"] == "baseline", "value"]


def difference(experiment: str, dataset: str, first: str, second: str, metric: str = "accuracy", fraction: float = 1.0):
    """The paper's difference of two arms, for :func:`lib.evaluate.words.describe`; None where it published no runs of one.

    It is that of :func:`lib.evaluate.intervals.effect`, first − second, with ``metric``.
    """
    found = intervals.effect(*(values(experiment, dataset, arm, metric, fraction) for arm in (first, second)))
    return found | {"metric": metric} if found["n_first"] and found["n_second"] else None
