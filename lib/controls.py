"""Is the bench sound: controls that bracket every model, and what choosing the epoch on reported cells is worth."""

from __future__ import annotations

import numpy as np

from lib import stats
from lib.inference import pair


def epoch_choice(runs, halves=200, seed=0):
    """Accuracy of scBERT's runs by how the epoch is chosen (DataFrame: protocol, seed, rule, value).

    Rules: ``reported``, the best epoch on the very cells that are reported (the authors'); ``third``, the best on
    cells that are not reported (runs of the protocol ``clean``); ``last``, the last epoch; ``halves``, chosen on a
    random half of the test cells and scored on the other, the mean over both ways and ``halves`` such splits. The
    last is free of the choice and uses the same training; it chooses from half as many cells, so the distance to it
    is, if anything, more than what the choice is worth.
    """
    import pandas as pd

    rows = []
    for run in {run.id: run for run in runs}.values():
        p = run.predictions
        right = p["predicted_by_epoch"] == p["labels"]  # (epochs, test cells)
        found = {"reported": right.mean(1).max(), "last": right[-1].mean(), "halves": _halves(right, halves, seed)}
        if run.spec["protocol"] == "clean":
            found["third"] = right[int(p["best_epoch"])].mean()
        common = {"protocol": run.spec["protocol"], "seed": run.spec["seed"], "run": run.id}
        rows += [common | {"rule": rule, "value": float(value)} for rule, value in found.items()]
    return pd.DataFrame(rows)


def _halves(right, repeats, seed):
    rng, n, scores = np.random.default_rng(seed), right.shape[1], []
    for _ in range(repeats):
        order = rng.permutation(n)
        for chosen, scored in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            scores.append(right[right[:, chosen].mean(1).argmax()][scored].mean())
    return np.mean(scores)


# What must hold whatever the data, before any difference between models is looked at: (lower, upper, metric, why).
EXPECTED = [
    ("stratified_random", "majority", "accuracy", "the best guess without looking is the most common type"),
    ("majority", "stratified_random", "macro_f1", "saying one type always gets the others wrong"),
    ("majority", "nearest_neighbours", "accuracy", "genes say something about types"),
    ("majority", "logistic_regression_tokens", "accuracy", "so do tokens"),
    ("majority", "head_only", "accuracy", "so do embeddings without a transformer"),
    ("majority", "full", "accuracy", "scBERT has learnt something"),
    ("nearest_neighbours", "logistic_regression", "accuracy", "labels are used better than by a vote"),
    ("logistic_regression_tokens", "logistic_regression", "accuracy", "tokens hold less than the values they bin"),
    ("head_only", "full", "accuracy", "the transformer adds to its own head"),
]


def sanity(runs):
    """Whether the controls stand in the order that they must (DataFrame).

    ``holds``: *yes* where the upper is ahead by the paired bootstrap's 95 % interval, *not contradicted* where that
    covers zero, *no* where the upper is behind.
    """
    import pandas as pd

    rows = []
    for lower, upper, metric, why in EXPECTED:
        found = stats.paired_difference(*pair(runs, upper, lower), metric=metric)
        holds = "yes" if found["low"] > 0 else "no" if found["high"] < 0 else "not contradicted"
        effect = {key: found[key] for key in ("difference", "low", "high")}
        rows.append({"lower": lower, "upper": upper, "metric": metric, "because": why, **effect, "holds": holds})
    return pd.DataFrame(rows)


def choice_worth(choice):
    """What the authors' choice of the epoch adds to accuracy, against each honest rule (DataFrame with a sentence).

    Paired within the same training; Student's interval over the runs.
    """
    import pandas as pd

    values = choice.pivot(index=["protocol", "seed"], columns="rule", values="value")
    words = {
        "halves": "choosing on one half of the test cells and scoring on the other",
        "last": "taking the last epoch",
        "third": "choosing on a fifth of the labelled cells that is not reported",
    }
    rows = []
    for protocol, rule in (("paper", "halves"), ("paper", "last"), ("clean", "third")):
        if protocol not in values.index:
            continue
        gain = (values["reported"] - values[rule]).loc[protocol]
        mean, half = stats.confidence_interval(gain)
        text = (
            f"Choosing the epoch on the reported cells instead of {words[rule]} adds **{100 * mean:.1f} points** of "
            f"accuracy (95 % Student interval ± {100 * half:.1f}, {len(gain)} runs of protocol {protocol})."
        )
        row = {"protocol": protocol, "against": rule, "gain": mean, "half_width": half, "n": len(gain)}
        rows.append(row | {"sentence": text})
    return pd.DataFrame(rows)


def bracket(runs, metrics=("accuracy", "macro_f1")):
    """Each arm's mean score with the interval over its test cells (DataFrame: arm, metric, mean, low, high, n_runs)."""
    import pandas as pd

    rows = []
    for arm in dict.fromkeys(run.spec["arm"] for run in runs):
        own = list({run.id: run for run in runs if run.spec["arm"] == arm}.values())
        for metric in metrics:
            mean, low, high = stats.mean_and_interval(own, metric)
            rows.append({"arm": arm, "metric": metric, "mean": mean, "low": low, "high": high, "n_runs": len(own)})
    return pd.DataFrame(rows)
