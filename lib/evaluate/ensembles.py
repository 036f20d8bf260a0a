"""An arm's runs averaged into one classifier, and two such classifiers cell by cell."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar as test

from lib.errors import DataError


def mcnemar(first: list, second: list) -> dict:
    """McNemar's test on the cells that only one of two arms names right: of all runs together, and of each pair of runs.

    An arm's runs together are an *ensemble*: one answer a cell, from the mean of their probabilities. That is another, mostly
    better classifier than any of its runs, and the more so the more they differ; so single runs stand beside it.

    Parameters
    ----------
    first, second : list of Run
        Of two arms on the same test cells, as :func:`lib.evaluate.differences.pair` gives them.

    Returns
    -------
    dict
        Of the ensembles: ``only_first``, ``only_second`` (cells), ``odds`` (their ratio), ``p`` (exact below 25 such cells),
        and ``averaged``, how many different runs each is of. Of single runs: ``pairs``, and over them the medians
        ``pair_only_first``, ``pair_only_second``, ``pair_p``, and ``pairs_below``, how many have p below 5 %. Pairs share
        test cells and runs: that many is no count of independent findings. In words: :func:`lib.evaluate.words.cell_by_cell`.
    """
    found = _discordant(*(ensemble(arm) for arm in (first, second)))
    found["averaged"] = tuple(len({id(run) for run in arm}) for arm in (first, second))
    singly = pd.DataFrame([_discordant(a, b) for a, b in zip(first, second, strict=True)])
    medians = singly[["only_first", "only_second", "p"]].median().add_prefix("pair_")
    return found | medians.to_dict() | {"pairs": len(singly), "pairs_below": int((singly["p"] < 0.05).sum())}


def ensemble(runs: list) -> SimpleNamespace:
    """An arm's runs as one classifier, like a run: each different run's probabilities count alike."""
    once = list({id(run): run.predictions for run in runs}.values())
    if any(not np.array_equal(p["test"], once[0]["test"]) for p in once):
        raise DataError("Runs of other test cells cannot be averaged. Take those of one split.")
    together = once[0] | {"probabilities": np.mean([p["probabilities"] for p in once], axis=0)}
    return SimpleNamespace(id=f"{len(once)} runs", spec=runs[0].spec, predictions=together)


def _discordant(*two):
    """McNemar's test of two runs."""
    right = [run.predictions["probabilities"].argmax(1) == run.predictions["labels"] for run in two]
    only = [int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))]
    exact = sum(only) < 25
    p = test([[0, only[0]], [only[1], 0]], exact=exact).pvalue if sum(only) else 1.0
    odds = only[0] / only[1] if only[1] else (float("inf") if only[0] else float("nan"))
    return {"only_first": only[0], "only_second": only[1], "odds": odds, "p": float(min(1, p))}
