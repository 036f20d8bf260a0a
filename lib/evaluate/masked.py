"""The masked task beside rules that need no transformer: how much of its accuracy is left to explain.

A *rule* knows the bins of a cell's visible expressed genes, or of a gene's expressed values in the training cells, or both.
What a run of the task ``masked`` stores is one entry a hidden target: ``cell`` (index into ``test``), ``gene``, ``target``,
``predicted``, ``probabilities``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import lsqr
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


def neighbours_of(tokens, train, number: int = 10, block: int = 1000) -> np.ndarray:
    """Of each gene, the genes whose tokens go most with its own over the training cells, by Pearson's correlation.

    Parameters
    ----------
    tokens : CSR matrix of uint8, (cells, genes + 1)
        Of all cells.
    train : int array
        Training cells.
    block : int
        Genes that are compared with all at a time; it changes nothing but the memory.

    Returns
    -------
    int array, (genes, number)
        Nearest first.
    """
    z = _scaled(tokens[train][:, :-1].toarray(), tokens[train])
    found = []
    for first in range(0, z.shape[1], block):  # of all genes of scBERT the whole matrix would take a gigabyte
        together = z[:, first : first + block].T @ z
        together[np.arange(len(together)), first + np.arange(len(together))] = -np.inf  # not itself
        found.append(np.argsort(-together, axis=1, kind="stable")[:, :number])
    return np.concatenate(found)


def _scaled(shown, known):
    """Tokens (cells, genes) less each gene's mean over the known cells, by its deviation there; 0 where that is 0."""
    known = known[:, :-1].astype(np.float32)
    mean, square = (np.asarray(part.mean(0)).ravel() for part in (known, known.multiply(known)))
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return ((shown - mean) / np.where(deviation > 0, deviation, np.inf)).astype(np.float32)


def taken_apart(expected: np.ndarray, run, tokens, train, neighbours: np.ndarray) -> dict[str, float]:
    """What the bins that are expected at hidden genes vary with: what of it the gene explains, then the cell, and so on.

    Parameters
    ----------
    expected : float array, (hidden targets,)
        Such as the mean of a model's probabilities over the bins, or the true bins.
    run : Run
        Of the task ``masked``.
    tokens, train
        As :func:`rules` takes them.
    neighbours : int array, (genes, number)
        As :func:`neighbours_of` gives them.

    Returns
    -------
    dict
        Shares of the variance, adjusted for the number of coefficients, in this order: ``the gene`` (its mean), ``the cell`` (a
        shift of all its genes), ``the gene's neighbours in the cell`` (mean of the scaled tokens of those that are not hidden
        themselves; one slope for all genes), ``the rest``.
    """
    p, n = run.predictions, len(expected)
    beside = neighbour_level(run, tokens, train, neighbours)
    columns = [sparse.csr_matrix((np.ones(n), (np.arange(n), p[name]))) for name in ("gene", "cell")]
    columns = [part[:, np.flatnonzero(part.getnnz(0))] for part in columns] + [sparse.csr_matrix(beside[:, None])]
    explained, shares = 0.0, {}
    for k, name in enumerate(("the gene", "the cell", "the gene's neighbours in the cell"), 1):
        design = sparse.hstack(columns[:k]).tocsr()
        left = expected - design @ lsqr(design, expected, atol=1e-10, btol=1e-10)[0]
        coefficients = design.shape[1] - (k > 1)  # genes' and cells' columns both add up to one
        now = 1 - left.var() / max(expected.var(), 1e-12) * (n - 1) / max(n - coefficients, 1)
        shares[name], explained = now - explained, now
    return shares | {"the rest": 1 - explained}


def neighbour_level(run, tokens, train, neighbours: np.ndarray) -> np.ndarray:
    """Of each hidden gene, how high its visible neighbours are in that cell: float array, (hidden targets,).

    The mean of their tokens, each in standard deviations above its mean over the training cells; 0 where none is visible.
    Parameters are those of :func:`taken_apart`.
    """
    p = run.predictions
    shown = _scaled(tokens[p["test"]][:, :-1].toarray(), tokens[train])
    visible = np.ones(shown.shape, bool)
    visible[p["cell"], p["gene"]] = False
    at = (p["cell"][:, None], neighbours[p["gene"]])
    return (shown[at] * visible[at]).sum(1) / np.maximum(visible[at].sum(1), 1)
