"""Sanity checks: controls that bracket every model, and what choosing the epoch on reported cells is worth."""

from __future__ import annotations

import pandas as pd

from lib.evaluate import differences, ensembles, measures

# What must hold whatever the data, before any difference between models is looked at: (lower, upper, metric, why).
EXPECTED = [
    ("stratified_random", "majority", "accuracy", "the best guess without looking is the most common type"),
    ("majority", "stratified_random", "macro_f1", "saying one type always gets the others wrong"),
    ("majority", "nearest_neighbours", "accuracy", "genes say something about types"),
    ("majority", "logistic_regression_tokens", "accuracy", "so do tokens"),
    ("majority", "head_only", "accuracy", "so do embeddings without a transformer"),
    ("majority", "full", "accuracy", "scBERT has learnt something"),
    ("majority", "logistic_regression_equal_depth", "accuracy", "genes say something among cells of as many counts"),
    ("depth", "logistic_regression", "accuracy", "types are more than how deeply a cell was sequenced"),
    ("nearest_neighbours", "logistic_regression", "accuracy", "labels are used better than by a vote"),
    ("logistic_regression_tokens", "logistic_regression", "accuracy", "tokens hold less than the values they bin"),
    ("head_only", "full", "accuracy", "the transformer adds to its own head"),
]


def sanity(runs: list) -> pd.DataFrame:
    """Whether the controls stand in the order that they must, as one family (of :func:`lib.evaluate.differences.family`).

    ``because`` says why ``arm`` must be ahead of ``reference``; *behind* is a fault, or something to explain. Pairs of which
    an arm was not run are left out: there is none at equal depth where counts are unknown.
    """
    there = {run.spec["arm"] for run in runs}
    asked = [row for row in EXPECTED if there.issuperset(row[:2])]
    table = differences.family([(upper, lower, metric, {}) for lower, upper, metric, _ in asked], runs)
    return table.assign(because=[why for *_, why in asked])


def bracket(runs: list, metrics=differences.METRICS) -> pd.DataFrame:
    """Each arm's mean score with the interval over its test cells: arm, metric, mean, low, high, n_runs, n_flagged.

    Beside it ``ensemble``, with ``ensemble_low`` and ``ensemble_high``: the runs as one classifier
    (:func:`lib.evaluate.ensembles.ensemble`), what one gets who trains them all.
    """
    rows = []
    for arm, own in measures.by_arm(runs).items():
        counts = {"n_runs": len(own), "n_flagged": len(measures.flagged(own))}
        for metric in metrics:
            found = dict(zip(("mean", "low", "high"), differences.mean_and_interval(own, metric)))
            together = differences.mean_and_interval([ensembles.ensemble(own)], metric)
            found |= dict(zip(("ensemble", "ensemble_low", "ensemble_high"), together))
            rows.append({"arm": arm, "metric": metric} | found | counts)
    return pd.DataFrame(rows)


def trials(runs: list) -> pd.DataFrame:
    """The trials by which settings were chosen, the best of each arm first.

    Parameters
    ----------
    runs : list of Run
        Of :func:`lib.experiments.specs.tuning`; scored on training cells that they did not learn from.

    Returns
    -------
    DataFrame
        A setting in each row: ``arm``, what was ``tried``, the number of its ``runs``, the means of ``accuracy`` and
        ``macro_f1``, the ``lowest`` and ``highest`` accuracy, and how training ``ended``: *as it should*, or what
        :func:`lib.evaluate.measures.flagged` says of how many of them.
    """
    tables, flags = [], measures.flagged(runs)
    for arm, own in measures.by_arm(runs).items():
        flat = [{**run.spec["training"], **run.spec["training"].get("ends", {})} for run in own]
        varied = [key for key in flat[0] if len({str(settings.get(key)) for settings in flat}) > 1 and key != "ends"]
        rows = []
        for run, settings in zip(own, flat):
            p = run.predictions
            found = measures.scores(p["labels"], p["probabilities"].argmax(1), p["classes"])
            tried = ", ".join(f"{key.replace('_', ' ')} {settings.get(key)}" for key in varied)
            scored = {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}
            rows.append({"tried": tried} | scored | {"flag": flags.get(run.id)})
        settings = pd.DataFrame(rows).groupby("tried", sort=False)
        scored = settings[["accuracy", "macro_f1"]].mean()
        scored.insert(0, "runs", settings.size())
        scored["lowest"], scored["highest"] = settings["accuracy"].min(), settings["accuracy"].max()
        flags_of = settings["flag"].agg(lambda flag: [f"{said} ({count})" for said, count in flag.value_counts().items()])
        scored["ended"] = flags_of.map(lambda said: ", ".join(said) or "as it should")
        scored = scored.reset_index().sort_values("accuracy", ascending=False, kind="stable")
        scored.insert(0, "arm", arm)
        tables.append(scored)
    return pd.concat(tables, ignore_index=True)
