"""From stored predictions to scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from lib.errors import DataError
from lib.evaluate.intervals import confidence_interval, two_levels

HARD_PAIR = ("CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic")
# Cells of each type in Zheng68K as the authors prepared it, 68,450: more than half of them are of the hard pair.
ZHENG68K = {
    "CD8+ Cytotoxic T": 20757,
    "CD8+/CD45RA+ Naive Cytotoxic": 16645,
    "CD56+ NK": 8775,
    "CD4+/CD25 T Reg": 6185,
    "CD19+ B": 5877,
    "CD4+/CD45RO+ Memory": 3059,
    "CD14+ Monocyte": 2847,
    "Dendritic": 2095,
    "CD4+/CD45RA+/CD25- Naive T": 1871,
    "CD34+": 242,
    "CD4+ T Helper2": 97,
}
MIXES = {"zheng68k": ZHENG68K}  # how many cells of each type there are elsewhere: accuracy_zheng68k weighs types like that


def pretraining_of(run) -> int | None:
    """The seed of the pre-training that a run, or the classifier that it asks, begins from; or None."""
    return run.spec.get("trained", run.spec).get("pretraining", {}).get("seed")


def mix_weights(labels, classes, mix: dict = ZHENG68K) -> np.ndarray:
    """What each cell counts, so that types weigh as in another mix: float64, (cells,); 0 for types that it does not have.

    ``mix``: cells, or any weight, of each type by name. How much of the mix that leaves: :func:`covered`.
    """
    shares = np.array([mix.get(str(name), 0) for name in classes], float)
    if not shares[np.unique(labels)].any():
        raise DataError(f"None of the types has a weight in the mix: {', '.join(map(str, classes))}. It has {', '.join(mix)}.")
    return shares[labels] / np.bincount(labels, minlength=len(classes))[labels]


def reweighted(labels, predicted, classes, mix: dict = ZHENG68K) -> float:
    """Accuracy if the types were mixed as in ``mix``: the mean of their recalls, weighted so.

    It says nothing of types that the cells lack (:func:`covered`), nor of how one population's cells differ from another's.
    """
    return float(np.average(np.asarray(labels) == predicted, weights=mix_weights(labels, classes, mix)))


def covered(labels, classes, mix: dict = ZHENG68K) -> float:
    """The share of a mix's cells that are of types which occur among ``labels``; names must be the same."""
    return sum(mix.get(str(classes[k]), 0) for k in np.unique(labels)) / sum(mix.values())


def of_hard_pair(labels, classes) -> np.ndarray:
    """Which cells truly are of the hard pair (bool array)."""
    return np.isin(np.asarray(classes)[labels], HARD_PAIR)


def scores(labels, predicted, classes) -> dict[str, float]:
    """Accuracy, macro-F1, the recall of each type, and both scores on the hard pair.

    Parameters
    ----------
    labels, predicted : int arrays, (cells,)
    classes : array of str

    Returns
    -------
    dict
        The hard pair's accuracy is over the cells that truly are of its two types, whatever was predicted; its
        macro-F1 is the mean of the two types' F1 over all cells, as the authors compute it. Absent where the data
        lack one of them. Macro-F1 is over the types that occur among the labels.
    """
    present = np.unique(labels)
    result = {
        "accuracy": float(np.mean(labels == predicted)),
        "macro_f1": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
    }
    for k in present:
        result[f"recall[{classes[k]}]"] = float(np.mean(predicted[labels == k] == k))
    pair = [k for k in present if classes[k] in HARD_PAIR]
    if len(pair) == 2:
        hard = np.isin(labels, pair)
        result["accuracy_hard_pair"] = float(np.mean(labels[hard] == predicted[hard]))
        result["macro_f1_hard_pair"] = float(f1_score(labels, predicted, labels=pair, average="macro", zero_division=0))
    return result


def by_arm(runs: list) -> dict[str, list]:
    """The runs of each arm, every run once, in the order in which they are given."""
    found = {}
    for run in {run.id: run for run in runs}.values():
        found.setdefault(run.spec["arm"], []).append(run)
    return found


def flagged(runs: list) -> dict[str, str]:
    """Runs whose training did not end well, and why: what must be visible in every table that they enter.

    Returns
    -------
    dict
        Reason by run id: it *stopped at its maximum* of steps, before its loss was flat; it *learnt nothing*: its loss never
        left that of a guess by more than a twentieth (ln(types), or, where types do not weigh alike, the entropy of their
        shares), or its accuracy that of naming the most common type, by more than a twentieth of what lies above that; or it
        *fell back to a guess*, where its loss was at the end, as after a redraw of the random features that no token of any
        cell passes the head's ReLU behind.
    """
    found = {}
    for run in (run for run in runs if "ended" in run.predictions):  # others are not trained in steps
        reasons = ["stopped at its maximum"] if str(run.predictions["ended"]) == "maximum" else []
        reasons += ["learnt nothing"] if _learnt_nothing(run) else ["fell back to a guess"] if _guesses(run)[-1] else []
        if reasons:
            found[run.id] = ", ".join(reasons)
    return found


def _learnt_nothing(run):
    return all(_guesses(run)) or _names_the_most_common(run)


def _names_the_most_common(run):
    """Whether a run's accuracy is not a twentieth of the way from the share of the most common type to all right."""
    p = run.predictions
    if "labels" not in p:
        return False
    met = p["classes"][p["labels"]] != run.spec.get("left_out", "")  # a type that was left out cannot be named
    labels, named = p["labels"][met], p["probabilities"][met].argmax(1)
    share = np.bincount(labels).max() / len(labels)
    return bool((labels == named).mean() <= share + 0.05 * (1 - share) and share < 1)


def _guesses(run):
    """Of each round of a run, whether its loss on trained cells was that of a guess."""
    if "labels" not in run.predictions:
        return [False]
    shares = np.unique(run.predictions["labels"], return_counts=True)[1] / len(run.predictions["labels"])
    alike = run.spec.get("training", {}).get("weighted", True)
    return (run.log["loss"] > 0.95 * (np.log(len(shares)) if alike else -(shares * np.log(shares)).sum())).tolist()


def table(runs: list) -> pd.DataFrame:
    """One row for each run and metric: arm, fraction, pretraining (its seed, or missing), seed, metric, value, run, flagged.

    ``accuracy_last_epoch`` stands beside ``accuracy`` for scBERT: what is left when the epoch is not chosen on
    the reported cells. ``flagged``: why, or empty (:func:`flagged`).
    """
    rows, reasons = [], flagged(runs)
    for run in runs:
        p, spec = run.predictions, run.spec
        found = scores(p["labels"], p["probabilities"].argmax(1), p["classes"])
        if "predicted_by_epoch" in p:
            found["accuracy_last_epoch"] = float(np.mean(p["labels"] == p["predicted_by_epoch"][-1]))
        if "predicted_by_epoch" not in p and "train_accuracy" in (log := run.log):
            found["train_accuracy"] = float(log["train_accuracy"].iloc[0])
        common = {"arm": spec["arm"], "fraction": spec["fraction"], "pretraining": pretraining_of(run), "seed": spec["seed"]}
        about = {"run": run.id, "flagged": reasons.get(run.id, "")}
        rows += [common | {"metric": metric, "value": value} | about for metric, value in found.items()]
    return pd.DataFrame(rows).astype({"pretraining": "Int64"})


def mean_of_runs(table: pd.DataFrame) -> tuple[float, float]:
    """Mean and half width over runs of one arm, rows of :func:`table` or of the paper's: over both levels where there are."""
    if "pretraining" not in table or table["pretraining"].isna().all():
        return confidence_interval(table["value"])
    return two_levels(table["value"], table["pretraining"], table["seed"])


def summarise(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean, half width of the interval, and number of values for each group of a tidy table."""
    rows = [(*key, *mean_of_runs(part), len(part)) for key, part in table.groupby(by, sort=False)]
    return pd.DataFrame(rows, columns=[*by, "mean", "half_width", "n"])


def epoch_choice(runs: list, halves: int = 200, seed: int = 0) -> pd.DataFrame:
    """Accuracy of scBERT's runs by how its end and its weights are chosen: protocol, pretraining, seed, run, rule, value.

    Rules of runs with a fixed number of epochs: ``reported``, the best epoch on the very cells that are reported (the
    authors'); ``third``, the best on cells that are not reported (protocol ``clean``); ``last``, the last epoch; ``halves``,
    chosen on a random half of the test cells and scored on the other, the mean over both ways and ``halves`` such splits. The
    last is free of the choice and uses the same training; it chooses from half as many cells, so the distance to it is, if
    anything, more than what the choice is worth. Of runs that end by a plateau: ``plateau``, their accuracy.
    """
    rows = []
    for run in {run.id: run for run in runs}.values():
        p, protocol = run.predictions, run.spec["protocol"]
        if "predicted_by_epoch" in p:
            right = p["predicted_by_epoch"] == p["labels"]  # (epochs, test cells)
            found = {"reported": right.mean(1).max(), "last": right[-1].mean(), "halves": _halves(right, halves, seed)}
            if protocol == "clean":
                found["third"] = right[int(p["best_epoch"])].mean()
        else:
            found = {"plateau": np.mean(p["probabilities"].argmax(1) == p["labels"])}
        common = {"protocol": protocol, "pretraining": pretraining_of(run), "seed": run.spec["seed"], "run": run.id}
        rows += [common | {"rule": rule, "value": float(value)} for rule, value in found.items()]
    return pd.DataFrame(rows)


def _halves(right, repeats, seed):
    rng, n, scores = np.random.default_rng(seed), right.shape[1], []
    for _ in range(repeats):
        order = rng.permutation(n)
        for chosen, scored in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            scores.append(right[right[:, chosen].mean(1).argmax()][scored].mean())
    return np.mean(scores)


def choice_worth(choice: pd.DataFrame) -> pd.DataFrame:
    """What the authors' choice of the epoch adds to accuracy, against each honest rule, with a sentence.

    Paired within the same training, or, against runs that end by a plateau, by pre-training and seed; Student's interval.
    """
    before = pd.to_numeric(choice["pretraining"]).fillna(-1) if "pretraining" in choice else -1  # a pivot drops what is missing
    choice = choice.assign(pretraining=before)
    values = choice.pivot_table(index=["pretraining", "seed"], columns=["protocol", "rule"], values="value", aggfunc="mean")
    words = {
        ("paper", "halves"): "choosing on one half of the test cells and scoring on the other",
        ("paper", "last"): "taking the last epoch",
        ("clean", "third"): "choosing on a fifth of the labelled cells that is not reported",
        ("clean", "plateau"): "training to a plateau that is judged, as are the weights, on such a fifth",
    }
    rows = []
    for (protocol, rule), text in words.items():
        reported = ("paper" if rule == "plateau" else protocol, "reported")
        if not {reported, (protocol, rule)} <= set(values):
            continue
        gain = (values[reported] - values[protocol, rule]).dropna()
        if gain.empty:
            continue
        mean, half = two_levels(gain, *zip(*gain.index))
        said = (
            f"Choosing the epoch on the reported cells instead of {text} adds **{100 * mean:.1f} points** of "
            f"accuracy (95 % Student interval ± {100 * half:.1f}, {len(gain)} runs of protocol {reported[0]})."
        )
        rows.append({"protocol": protocol, "against": rule, "gain": mean, "half_width": half, "n": len(gain), "sentence": said})
    columns = ["protocol", "against", "gain", "half_width", "n", "sentence"]
    return pd.DataFrame(rows, columns=columns)


def endings(runs: list) -> pd.DataFrame:
    """How training ended, a row an arm: what a reader must know before its scores are compared.

    Returns
    -------
    DataFrame
        ``arm``, ``runs``, ``steps`` (the fewest and the most), ``ended``: after fixed *epochs*, at a *plateau* of the loss on
        cells that are not reported, or at the *maximum*, which is no end; ``best``: where between begin (0) and end (1) the
        weights that are kept lie, the mean; ``heads drawn again``, since no token of any cell passed them; ``learnt nothing``:
        runs whose loss, or accuracy, never left that of a guess; ``fell back``: those that were there again at the end
        (:func:`flagged`).
    """
    rows = []
    for arm in dict.fromkeys(run.spec["arm"] for run in runs if "ended" in run.predictions):
        own = [run for run in {run.id: run for run in runs}.values() if run.spec["arm"] == arm]
        steps = [int(run.log["steps"].iloc[-1]) for run in own]
        best = [(int(p["best_epoch"]) + 1) / len(run.log) for run in own if "best_epoch" in (p := run.predictions)]
        ended = pd.Series([str(run.predictions["ended"]) for run in own]).value_counts()
        rows.append(
            {
                "arm": arm,
                "runs": len(own),
                "steps": f"{min(steps):,} to {max(steps):,}" if len(set(steps)) > 1 else f"{steps[0]:,}",
                "ended": ", ".join(f"{name} ({count})" for name, count in ended.items()),
                "best": f"{np.mean(best):.2f}" if best else "–",
                "heads drawn again": sum(int(run.predictions.get("redrawn", 0)) for run in own),
                "learnt nothing": sum(map(_learnt_nothing, own)),
                "fell back": sum(_guesses(run)[-1] and not _learnt_nothing(run) for run in own),
            }
        )
    return pd.DataFrame(rows)
