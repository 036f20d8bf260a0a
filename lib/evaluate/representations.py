"""What representations hold without any training on labels: cells of one type together, genes beside which genes."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from lib.evaluate.differences import by_luck
from lib.evaluate.intervals import percentiles, resample, wilson
from lib.evaluate.measures import pretraining_of


def cells(representation, labels, train, test, resamples=1000, clusterings=10, most=5000, seed=0) -> list[dict]:
    """How well a representation of cells separates their types, four ways.

    Parameters
    ----------
    representation : float array, (cells, dim)
        Distances are Euclidean, once every column has the mean 0 and the variance 1 among the training cells: for all four.
    labels : int array, (cells,)
    train, test : int arrays
        The nearest neighbours of test cells are looked for among training cells; the other three take all cells.
    most : int
        More cells than these are thinned at random for the other three: silhouettes need all distances.

    Returns
    -------
    list of dict
        ``metric``, ``value``, ``low``, ``high``: ``knn_accuracy`` (see :func:`knn_accuracy`, Wilson's interval);
        ``silhouette`` (−1 … 1, of the true types); ``ari`` and ``nmi``, agreement of k-means with the types, k their number,
        mean over ``clusterings``. Percentile intervals of a bootstrap over cells; the clusterings are not done again in it, and
        the draws of ``ari`` and ``nmi``, which repeated cells raise, are centred on the value.
    """
    share = knn_accuracy(representation, labels, train, test)
    _, low, high = wilson(round(share * len(test)), len(test))
    found = [{"metric": "knn_accuracy", "value": share, "low": low, "high": high}]
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(labels))[:most])
    x, y = _scaled(representation, train)[some], np.asarray(labels)[some]
    types = len(np.unique(y))
    each = silhouette_samples(x, y)
    given = [KMeans(types, n_init=3, random_state=k).fit_predict(x) for k in range(clusterings)]
    drawn = [np.arange(len(y)), *(rng.integers(0, len(y), len(y)) for _ in range(resamples))]
    values = {"silhouette": [each[cells].mean() for cells in drawn]}
    weights = [np.bincount(cells, minlength=len(y)) for cells in drawn]
    agreements = np.mean([agreement(y, clusters, weights) for clusters in given], axis=0)  # (1 + resamples, 2)
    values |= {"ari": agreements[:, 0], "nmi": agreements[:, 1]}
    for name, value in values.items():
        shift = 0 if name == "silhouette" else value[0] - np.mean(value[1:])  # cells drawn twice agree with themselves
        low, high = percentiles(value[1:])
        found.append({"metric": name, "value": float(value[0]), "low": float(shift + low), "high": float(shift + high)})
    return found


def agreement(labels, clusters, weights) -> np.ndarray:
    """Adjusted Rand index and normalised mutual information of two groupings, for each weighting of the cells.

    What scikit-learn's two functions give for cells repeated ``weights`` times, from one table for each weighting: they take
    no weights, and a bootstrap by them takes minutes.

    Parameters
    ----------
    labels, clusters : int arrays, (cells,)
    weights : int array, (weightings, cells)
        How often each cell counts.

    Returns
    -------
    float64 array, (weightings, 2)
        Normalised by the mean of the two entropies. Hubert & Arabie, J. Classif. 1985; Strehl & Ghosh, JMLR 2002.
    """
    (_, labels), (_, clusters) = (np.unique(x, return_inverse=True) for x in (labels, clusters))
    shape = labels.max() + 1, clusters.max() + 1
    place = labels * shape[1] + clusters
    tables = np.stack([np.bincount(place, weights=w, minlength=shape[0] * shape[1]).reshape(shape) for w in weights])
    n, rows, columns = tables.sum((1, 2)), tables.sum(2), tables.sum(1)
    # Ordered pairs of cells that are together in both, in labels, in clusters.
    pairs, row_pairs, column_pairs = ((x * (x - 1)).reshape(len(n), -1).sum(1) for x in (tables, rows, columns))
    chance, most = row_pairs * column_pairs / (n * (n - 1)), (row_pairs + column_pairs) / 2
    both, one, other = (np.log(n) - xlogy(x, x).reshape(len(n), -1).sum(1) / n for x in (tables, rows, columns))
    # Where both have a single group, they agree.
    with np.errstate(invalid="ignore"):
        ari = np.where(most == chance, 1.0, (pairs - chance) / (most - chance))
        nmi = np.where(one + other == 0, 1.0, (one + other - both) / ((one + other) / 2))
    return np.stack([ari, nmi], 1)


def _unit(embedding):
    return embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)


def nearest_genes(embedding, genes, asked: list[str], neighbours: int = 5) -> dict[str, str]:
    """The nearest genes (cosine) of some genes, as text by gene; genes that the vocabulary lacks are left out."""
    unit = _unit(embedding)
    place = {gene: i for i, gene in enumerate(genes)}
    found = {}
    for gene in asked:
        if gene in place:
            order = np.argsort(-(unit @ unit[place[gene]]), kind="stable")
            found[gene] = ", ".join([genes[i] for i in order if i != place[gene]][:neighbours])
    return found


def knn_accuracy(representation, labels, train, test, neighbours: int = 10) -> float:
    """Share of test cells whose type the majority of their nearest training cells has; arguments are those of :func:`cells`."""
    return float(_named_right(representation, labels, train, test, neighbours).mean())


def _named_right(representation, labels, train, test, neighbours=10):
    x = _scaled(representation, train)
    model = KNeighborsClassifier(min(neighbours, len(train))).fit(x[train], labels[train])
    return model.predict(x[test]) == labels[test]


def _scaled(representation, train):
    """Columns of one variance, so that none counts more for its unit."""
    x = np.asarray(representation, np.float64)
    return StandardScaler().fit(x[train]).transform(x)


def against(runs: list, reference, resamples: int = 1000, clusterings: int = 10, most: int = 5000, seed: int = 0) -> list[dict]:
    """Runs of one arm against another representation of the same cells, by the four measures of :func:`cells`.

    Parameters
    ----------
    runs : list of Run
        Of the task ``representations``: one arm, from several pre-trainings or draws of random weights.
    reference : Run
        Such as that of principal components.

    Returns
    -------
    list of dict
        ``metric`` (*knn_accuracy*, over the test cells; *silhouette*, *ari* and *nmi*, over all, or ``most`` of them at
        random) and what :func:`lib.evaluate.differences.by_luck` finds of arm − reference on the same cells, with ``n_runs``
        in place of ``n_seeds``; a verdict takes three runs. Both sides have the same scaling, and the same cells in every
        resample; the clusterings are not done again.
    """
    p = reference.predictions
    some = np.sort(np.random.default_rng(seed).permutation(len(p["labels"]))[:most])
    weights = {"test": resample(len(p["test"]), resamples), "all": resample(len(some), resamples)}
    *drawn, base = (_resampled(run.predictions, some, weights, clusterings) for run in (*runs, reference))
    found = []
    for metric, values in base.items():
        each = np.stack([values_of[metric] - values for values_of in drawn], 1)  # (1 + resamples, runs)
        n_cells = len(p["test"] if metric == "knn_accuracy" else some)
        row = by_luck(each, [(pretraining_of(run), run.spec["seed"]) for run in runs], n_cells)
        del row["n_seeds"]
        found.append({"arm": runs[0].spec["arm"], "reference": reference.spec["arm"], "metric": metric} | row)
    return [row | {"n_runs": len(runs)} for row in found]


def _resampled(p, some, weights, clusterings):
    """The four measures of one representation on resampled cells, by name: (1 + resamples,)."""
    x, y = _scaled(p["cells"], p["train"])[some], p["labels"][some]
    right = _named_right(p["cells"], p["labels"], p["train"], p["test"])
    given = [KMeans(len(np.unique(y)), n_init=3, random_state=k).fit_predict(x) for k in range(clusterings)]
    found = {
        "knn_accuracy": weights["test"] @ right / len(right),
        "silhouette": weights["all"] @ silhouette_samples(x, y) / len(y),
    }
    agreements = np.mean([agreement(y, clusters, weights["all"]) for clusters in given], axis=0)
    return found | {"ari": agreements[:, 0], "nmi": agreements[:, 1]}


def neighbour_overlap(first, second, neighbours: int = 10) -> float:
    """Mean share of each row's nearest rows (cosine) that two embeddings of the same genes have in common.

    By chance it is ``neighbours / (genes − 1)``.
    """
    found = []
    for embedding in (first, second):
        unit = _unit(embedding)
        index = NearestNeighbors(n_neighbors=neighbours + 1).fit(unit)
        found.append(index.kneighbors(unit, return_distance=False))
    shared = [len((set(a) - {i}) & (set(b) - {i})) / neighbours for i, (a, b) in enumerate(zip(found[0], found[1]))]
    return float(np.mean(np.minimum(shared, 1.0)))
