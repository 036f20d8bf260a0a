"""The masked task beside rules that need no transformer: how much of its accuracy is left to explain.

A *rule* knows the bins of a cell's visible expressed genes, or of a gene's expressed values in the training cells, or both.
What a run of the task ``masked`` stores is one entry a hidden target: ``cell`` (index into ``test``), ``gene``, ``target``,
``predicted``, ``probabilities``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.evaluate.calibration import calibration_error
from lib.evaluate.differences import by_luck
from lib.evaluate.intervals import percentiles, resample
from lib.evaluate.measures import pretraining_of
from lib.prepare.tokens import BINS

BIN = np.arange(1, BINS + 1)


def rules(tokens, train, run, entries: int = 50_000, seed: int = 0) -> dict[str, np.ndarray]:
    """What three rules say of a run's hidden targets.

    Parameters
    ----------
    tokens : CSR matrix of uint8, (cells, genes + 1)
        Of all cells.
    train : int array
        Training cells: the rules learn from these alone.
    run : Run
        Of the task ``masked``.
    entries : int
        Expressed values of training cells that the additive model is fitted on, at most.

    Returns
    -------
    dict of array (hidden targets, 7)
        Probabilities of the tokens: ``cell_rule``, the bins' shares among the visible expressed genes of the cell;
        ``gene_rule``, their shares among the training cells that express the gene; ``additive``, a multinomial logistic
        regression on the logarithms of both, fitted on training cells with the value itself taken out of both counts.
    """
    p, known = run.predictions, tokens[train][:, :-1]
    by_gene, every = _counts(known.indices, known.data, known.shape[1]), known.tocoo()
    seen = tokens[p["test"]][:, :-1]
    by_cell = _counts(np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)), seen.data, seen.shape[0])
    np.subtract.at(by_cell, (p["cell"], p["target"] - 1), 1)  # hidden: a rule cannot know them
    drawn = np.random.default_rng(seed).permutation(every.nnz)[:entries]
    cell, gene, bin_ = every.row[drawn], every.col[drawn], every.data[drawn].astype(int)
    itself = np.eye(BINS)[bin_ - 1]
    of_cells = _counts(every.row, every.data, known.shape[0])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.hstack([_log_shares(of_cells[cell] - itself), _log_shares(by_gene[gene] - itself)]), bin_)
    here = [by_cell[p["cell"]], by_gene[p["gene"]]]
    additive = np.zeros((len(p["cell"]), BINS))
    additive[:, model.classes_ - 1] = model.predict_proba(np.hstack([_log_shares(counts) for counts in here]))
    overall = by_gene.sum(0) / by_gene.sum()
    found = {"cell_rule": _shares(here[0], overall), "gene_rule": _shares(here[1], overall), "additive": additive}
    return {name: np.pad(shares, ((0, 0), (1, 1))) for name, shares in found.items()}  # tokens 0 and mask are never targets


def _counts(rows, bins, size):
    """How often each bin occurs in each row, (size, BINS)."""
    return np.bincount(rows * BINS + bins.astype(int) - 1, minlength=size * BINS).reshape(size, BINS).astype(float)


def _shares(counts, overall):
    """Shares of the bins; where there is no count, the overall ones, which also decide between equals."""
    counts = counts + 1e-6 * overall
    return counts / counts.sum(1, keepdims=True)


def _log_shares(counts):
    return np.log((counts + 0.5) / (counts + 0.5).sum(1, keepdims=True))


def scores(answers: dict[str, np.ndarray], run, resamples: int = 1000) -> pd.DataFrame:
    """Scores of several answers to one run's hidden targets, and what each adds to the additive model.

    Parameters
    ----------
    answers : dict of array (hidden targets, 7)
        Probabilities, by name; ``additive`` among them.
    run : Run
        Of the task ``masked``: the targets.

    Returns
    -------
    DataFrame
        ``answer``, ``metric``, ``value``, ``low``, ``high``: ``accuracy`` (over all hidden genes, as the authors count),
        ``macro`` (mean of the recalls of the bins), ``recall[1]`` …, ``calibration_error`` (pooled), ``over_additive``
        (accuracy less that of the additive model). Percentile intervals of a bootstrap over test cells.
    """
    p = run.predictions
    cell, target = p["cell"], p["target"]
    hidden, weights = np.bincount(cell), resample(cell.max() + 1, resamples)
    counts = np.stack([np.bincount(cell, target == bin_) for bin_ in BIN], 1)  # (cells, bins)
    drawn = {}
    for name, probabilities in answers.items():
        hit = probabilities.argmax(1) == target
        hits = np.stack([np.bincount(cell, hit & (target == bin_)) for bin_ in BIN], 1)
        with np.errstate(invalid="ignore"):
            recall = (weights @ hits) / (weights @ counts)
        drawn[name] = {"accuracy": (weights @ hits.sum(1)) / (weights @ hidden), "macro": np.nanmean(recall, 1)}
        drawn[name] |= {f"recall[{bin_}]": recall[:, i] for i, bin_ in enumerate(BIN)}
        drawn[name]["calibration_error"] = calibration_error(probabilities.max(1), hit, cell, weights)
    rows = []
    for name, found in drawn.items():
        found["over_additive"] = found["accuracy"] - drawn["additive"]["accuracy"]
        for metric, values in found.items():
            low, high = percentiles(values[1:])
            rows.append({"answer": name, "metric": metric, "value": values[0], "low": low, "high": high})
    return pd.DataFrame(rows)


def over(answers: dict[str, np.ndarray], reference: str, runs: list, resamples: int = 2000) -> dict:
    """What runs of one arm, from several pre-trainings, add to the accuracy of a rule on the same hidden genes.

    Parameters
    ----------
    answers : dict of array (hidden targets, 7)
        Of the rules, ``reference`` among them.
    runs : list of Run
        Of the task ``masked``; their targets are the same, only their weights differ.

    Returns
    -------
    dict
        Of :func:`pooled`; a verdict takes three pre-trainings.
    """
    target = runs[0].predictions["target"]
    rule = answers[reference].argmax(1) == target
    gained = [(run.predictions["predicted"] == target) * 1.0 - rule for run in runs]
    return pooled(gained, runs, resamples) | {"metric": "accuracy"}


def pooled(values: list, runs: list, resamples: int = 2000) -> dict:
    """The mean of something over all hidden genes of all cells, as the authors count, in runs of one arm.

    Parameters
    ----------
    values : list of float array, (hidden targets,)
        Such as right or wrong, one array a run.
    runs : list of Run
        Of the task ``masked``: one arm, from several pre-trainings, the same genes hidden.

    Returns
    -------
    dict
        ``difference``, the mean over runs, with the rest of :func:`lib.evaluate.differences.by_luck`: its interval is for
        other cells (drawn with all their hidden genes) and other pre-trainings. ``n_runs`` in place of ``n_seeds``.
    """
    cell = runs[0].predictions["cell"]
    weights, hidden = resample(cell.max() + 1, resamples), np.bincount(cell)
    each = (weights @ np.stack([np.bincount(cell, value) for value in values], 1)) / (weights @ hidden)[:, None]
    found = by_luck(each, [(pretraining_of(run), run.spec["seed"]) for run in runs], len(hidden))
    del found["n_seeds"]
    return found | {"n_runs": len(runs)}
