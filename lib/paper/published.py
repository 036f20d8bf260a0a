"""The paper's own numbers, run by run, as the authors' notebooks print them."""

from __future__ import annotations

import pandas as pd

from lib.evaluate import measures
from lib.settings import ROOT

FOLDER = ROOT / "data" / "published"


def runs():
    """Every run: experiment, dataset, model, arm, C, fraction, seed, metric, value, source (DataFrame).

    ``arm`` is one of this project's: ``full``, ``no_pretraining``, ``no_gene2vec``, ``logistic_regression``, or
    ``as_reported_by_Yang_2022`` for two numbers of the original scBERT paper.
    """
    table = pd.read_csv(FOLDER / "runs.csv")
    table["arm"] = table["arm"].where(table["model"] == "scBERT", table["model"])
    return table


def masked():
    """The masked task with and without gene2vec: accuracy, and that of the most common bin (DataFrame)."""
    return pd.read_csv(FOLDER / "masked.csv")


def summary(metric, dataset="zheng68k", experiment=None):
    """Mean and 95 % Student interval of a metric, for each experiment, arm and fraction (DataFrame)."""
    table = runs().query("metric == @metric and dataset == @dataset")
    if experiment is not None:
        table = table.query("experiment == @experiment")
    return measures.summarise(table, ["experiment", "arm", "fraction"])
