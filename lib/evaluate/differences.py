"""Differences between two arms on the same cells: paired, over cells, seeds and splits, in families of questions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t

from lib.errors import DataError
from lib.evaluate import measures
from lib.evaluate.intervals import LEVEL, MARGIN, corrected_t, freedom, holm, over_runs, percentiles, resample
from lib.evaluate.words import LEAST, verdict

METRICS = ("accuracy", "macro_f1")


def pair(runs: list, first: str, second: str, **where) -> tuple[list, list]:
    """Runs of two arms with the same seeds, and from the same pre-trainings where both have them, in the same order.

    A run of an arm without pre-training stands beside every pre-training of the other.

    Parameters
    ----------
    runs : list of Run
    first, second : str
        Arms.
    **where
        Entries of the specification that the runs must have, such as ``fraction=0.1``.
    """
    asked = [run for run in runs if all(run.spec.get(key) == value for key, value in where.items())]
    pairs = matched(*([run for run in asked if run.spec["arm"] == arm] for arm in (first, second)))
    if not pairs:
        raise DataError(f"No run of {first} has the seed of a run of {second}{f' with {where}' if where else ''}.")
    return [one for one, _ in pairs], [other for _, other in pairs]


def matched(first: list, second: list) -> list[tuple]:
    """Runs of one arm beside those of another, as :func:`pair` says, for runs of any task: (one, other), …"""
    one, other = ({drawn(run): run for run in runs} for runs in (first, second))
    return [
        (run, other[key])
        for (before, seed), run in one.items()
        for key in other
        if key[1] == seed and (None in (before, key[0]) or before == key[0])
    ]


def drawn(run, beside=None) -> tuple:
    """What was left to chance in a run, or in a pair: its pre-training (None where neither has one), and its seed."""
    before = measures.pretraining_of(run)
    return measures.pretraining_of(beside) if beside is not None and before is None else before, run.spec["seed"]


def over_splits(runs: list, first: str, second: str, metric: str = "accuracy") -> dict:
    """:func:`corrected_t` of first − second over the splits on which both arms have a run."""
    values, sizes = {first: {}, second: {}}, {}
    for run in runs:
        if (arm := run.spec["arm"]) in values:
            p, split = run.predictions, run.spec["split"]["seed"]
            values[arm][split] = measures.scores(p["labels"], p["probabilities"].argmax(1), p["classes"])[metric]
            sizes[split] = len(p["train"]), len(p["test"])
    splits = [split for split in values[first] if split in values[second]]
    if not splits:
        raise DataError(f"{first} and {second} have no split in common.")
    return corrected_t([values[first][k] - values[second][k] for k in splits], *sizes[splits[0]])


def family(questions: list, runs: list) -> pd.DataFrame:
    """One family of questions, each the difference of two arms on the same test cells.

    Parameters
    ----------
    questions : list of (first, second, metric, where)
        Two arms, *accuracy* or *macro_f1*, and what else the runs must have (dict, such as ``{"fraction": 0.1}``).
    runs : list of Run

    Returns
    -------
    DataFrame
        ``arm``, ``reference``, ``metric``, what is asked of the runs, what :func:`paired_difference` finds, ``n_flagged``, how
        many of the runs are :func:`lib.evaluate.measures.flagged`, and what :func:`judged` adds. Where some are, beside it, for
        no verdict: ``difference_ended``, ``low_ended`` and ``high_ended``, without the seeds of which a run is flagged.
    """
    rows, reasons = [], measures.flagged(runs)
    for first, second, metric, where in questions:
        pairs = pair(runs, first, second, **where)
        found = paired_difference(*pairs, metric)
        if flagged := {run.id: run.spec["seed"] for run in sum(pairs, []) if run.id in reasons}:
            found |= _without(flagged.values(), pairs, metric)
        found["n_flagged"] = len(flagged)
        rows.append({"arm": first, "reference": second, **where, "metric": metric, **found})
    return judged(rows)


def _without(seeds, pairs, metric):
    """The difference of the same arms without some seeds, where enough are left to tell: what one bad run weighs."""
    kept = [pair for pair in zip(*pairs, strict=True) if pair[0].spec["seed"] not in seeds]
    if len({one.spec["seed"] for one, _ in kept}) < LEAST:
        return {}
    found = paired_difference(*map(list, zip(*kept, strict=True)), metric)
    return {f"{name}_ended": found[name] for name in ("difference", "low", "high")}


def judged(rows: list[dict]) -> pd.DataFrame:
    """Differences of one family, with ``p_holm``, adjusted over all of them, and :func:`lib.evaluate.words.verdict`."""
    if not rows:
        raise DataError("A family needs a question, and none is left that these runs can answer.")
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    return table.assign(verdict=[verdict(row) for row in table.to_dict("records")])


def unasked(questions: list, *families: pd.DataFrame) -> list:
    """Those questions that none of ``families`` has answered, whichever arm comes first: a pair is judged once."""

    def key(first, second, metric, where):
        return frozenset([first, second]), metric, where.get("fraction", 1.0)

    rows = [row for table in families for row in table.to_dict("records")]
    asked = {key(row["arm"], row["reference"], row["metric"], row) for row in rows}
    return [question for question in questions if key(*question) not in asked]


def splits_family(runs: list, reference: str = "logistic_regression") -> pd.DataFrame:
    """Every arm that has learnt against ``reference``, in both scores, over the splits they share, as one family."""
    # That anything beats the majority is no question, and would cost power.
    arms = [arm for arm in measures.by_arm(runs) if arm not in (reference, "majority")]
    asked = [{"arm": arm, "reference": reference, "metric": metric} for arm in arms for metric in METRICS]
    return judged([row | over_splits(runs, row["arm"], reference, row["metric"]) for row in asked])


def paired_difference(first: list, second: list, metric="accuracy", resamples=2000, seed=0, margin=MARGIN) -> dict:
    """Difference of two arms on the same test cells, with an interval for other test cells and for other luck in training.

    Parameters
    ----------
    first, second : list of Run
        Runs of two arms, pair by pair, as :func:`pair` gives them, on the same test cells.
    metric : str
        *accuracy* or *macro_f1*; with ``_hard_pair``, on the hard pair; ``accuracy_zheng68k``: types weighted as in Zheng68K
        (:func:`lib.evaluate.measures.mix_weights`).
    margin : float
        Differences smaller than this are taken as meaningless.

    Returns
    -------
    dict
        ``difference`` (first − second), ``low`` and ``high`` of the interval, ``p`` (two-sided), ``p_equivalence``, the larger
        p of the two one-sided tests against ± margin, ``detectable``, the true difference that would have been shown in
        four of five such experiments at 5 % (before Holm), ``n_cells`` (on the hard pair: of its two types), ``n_seeds``,
        ``n_pretrainings`` (0 where neither arm has one), and whether seeds and pre-trainings are ``crossed``, each with each.

    The variance over test cells is a bootstrap's, that over training :func:`lib.evaluate.intervals.over_runs`'s; interval and
    tests are Student's with Satterthwaite's degrees of freedom. Cells are drawn within types, as the split was; for plain
    accuracy from all of them, which is if anything wider. Runs differ also because each errs on other cells, and drawing
    cells covers that too: it is counted twice, which makes intervals a few hundredths wider. Taking it out again was tried,
    and left them too narrow with three seeds (coverage 0.92). How often they cover: :mod:`lib.programs.coverage`.
    """
    for a, b in zip(first, second, strict=True):
        if not matched([a], [b]) or not np.array_equal(a.predictions["test"], b.predictions["test"]):
            raise ValueError(f"Runs {a.id} and {b.id} are not paired: they differ in seed or test cells.")
    labels = first[0].predictions["labels"]
    cells = resample(len(labels), resamples, seed, None if metric == "accuracy" else labels)
    each = _scores(first, cells, metric) - _scores(second, cells, metric)
    return by_luck(each, list(map(drawn, first, second)), _counted(first[0], metric), margin)


def _counted(run, metric):
    """How many cells a score rests on: on the hard pair, those that truly are of it."""
    p = run.predictions
    return int(measures.of_hard_pair(p["labels"], p["classes"]).sum()) if metric.endswith("_hard_pair") else len(p["labels"])


def by_luck(each, drawn, n_cells: int, margin: float = MARGIN) -> dict:
    """A difference, found in several runs, with an interval for other test cells and for other luck in training.

    Parameters
    ----------
    each : float array, (1 + resamples, runs)
        As found in each run, and in each resample of the cells.
    drawn : list of (pre-training or None, seed)
        What was left to chance in each run.

    Returns
    -------
    dict
        As :func:`paired_difference` says.
    """
    delta, by_cells = each[0], each[1:]
    over_cells = by_cells.mean(1).var(ddof=1)
    training, parts = over_runs(delta, *zip(*drawn))
    variance = over_cells + (training if parts else 0.0)
    df = freedom(variance, [*parts, (over_cells, n_cells - 1)])
    seeds, before = ({one[k] for one in drawn} - {None} for k in (1, 0))
    found = {"difference": round(float(delta.mean()), 12)}  # a difference of nothing is not one of 1e-17
    if variance > 1e-24:
        found |= _student(found["difference"], np.sqrt(variance), df, margin)
    else:
        found |= _alike(found["difference"], n_cells, margin)
    counts = {"n_cells": n_cells, "n_seeds": len(seeds), "n_pretrainings": len(before)}
    return found | counts | {"crossed": len(set(drawn)) == len(seeds) * max(1, len(before))}


def _alike(difference, n_cells, margin):
    """Where nothing varies, mostly since two arms name every cell alike: as many other cells may still differ as n allow.

    None of n cells differs by chance (1 − share)ⁿ where that share of all cells does.
    """
    if difference:
        same = abs(difference) < margin
        return {"low": difference, "high": difference, "p": 0.0, "p_equivalence": float(not same), "detectable": 0.0}
    wide = float(1 - ((1 - LEVEL) / 2) ** (1 / n_cells))
    return {"low": -wide, "high": wide, "p": 1.0, "p_equivalence": float((1 - margin) ** n_cells), "detectable": wide}


def _student(difference, error, df, margin):
    """Interval, tests and power of a difference with this standard error."""
    wide = t.ppf(0.5 + LEVEL / 2, df) * error
    return {
        "low": float(difference - wide),
        "high": float(difference + wide),
        "p": float(2 * t.sf(abs(difference) / error, df)),
        "p_equivalence": float(max(t.sf((margin + difference) / error, df), t.sf((margin - difference) / error, df))),
        "detectable": float(wide + t.ppf(0.8, df) * error),
    }


def _scores(runs, weights, metric):
    """A score of each run on cells that count as often as ``weights`` (resamples, cells) says: (resamples, runs)."""
    answers = [(run.predictions["labels"], run.predictions["probabilities"].argmax(1)) for run in runs]
    labels, names = answers[0][0], runs[0].predictions["classes"]
    pair = np.flatnonzero(np.isin(names, measures.HARD_PAIR))
    of = {"accuracy": 1, "accuracy_hard_pair": np.isin(labels, pair)}
    mix = measures.MIXES.get(metric.removeprefix("accuracy_"))
    if mix or metric in of:
        counts = measures.mix_weights(labels, names, mix) if mix else of[metric]
        right = np.stack([labels == predicted for labels, predicted in answers], 1).astype(float)  # (cells, runs)
        return (weights * counts) @ right / (weights * counts).sum(1, keepdims=True)
    if metric not in ("macro_f1", "macro_f1_hard_pair"):
        known = ", ".join(f"accuracy_{name}" for name in measures.MIXES)
        raise ValueError(f"metric is {metric!r}; it is accuracy or macro_f1, or one of them on the hard pair, or {known}.")
    found = []
    for labels, predicted in answers:
        classes = np.arange(max(labels.max(), predicted.max()) + 1)
        true, given = (weights @ (answer[:, None] == classes) for answer in (labels, predicted))  # (resamples, classes)
        hit = weights @ ((labels == predicted)[:, None] & (labels[:, None] == classes))
        f1 = np.divide(2 * hit, true + given, out=np.zeros_like(hit, float), where=true + given > 0)
        counted = (true > 0) & (np.isin(classes, pair) if metric == "macro_f1_hard_pair" else True)
        found.append((f1 * counted).sum(1) / counted.sum(1))  # over the types that occur among the labels
    return np.stack(found, 1)


def mean_and_interval(runs: list, metric="accuracy", resamples=2000) -> tuple[float, float, float]:
    """Mean score of one arm's runs and its interval (mean, low, high) by a bootstrap over its test cells (runs kept).

    It covers what another draw of as many test cells might have given these trained models.
    """
    labels = runs[0].predictions["labels"]
    weights = resample(len(labels), resamples, types=None if metric == "accuracy" else labels)
    drawn = _scores(runs, weights, metric).mean(1)
    return float(drawn[0]), *percentiles(drawn[1:])
