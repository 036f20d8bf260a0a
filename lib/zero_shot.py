"""What representations hold without any training on labels: cells of one type together, genes beside which genes."""

from __future__ import annotations

import numpy as np


def cells(representation, labels, train, test, level=0.95, resamples=1000, clusterings=10, most=5000, seed=0):
    """How well a representation of cells separates their types, four ways (list of dict).

    Parameters
    ----------
    representation : float array, (cells, dim)
        As it is: distances are Euclidean.
    labels : int array, (cells,)
    train, test : int arrays
        For the nearest neighbours only.
    most : int
        More cells than these are thinned at random for the other three: silhouettes need all distances.

    Returns
    -------
    list of dict
        ``metric``, ``value``, ``low``, ``high``: ``knn_accuracy`` (see :func:`lib.stats.knn_accuracy`, Wilson's interval);
        ``silhouette`` (−1 … 1, of the true types); ``ari`` and ``nmi``, agreement of k-means with the types, k their number,
        mean over ``clusterings``. Percentile intervals of a bootstrap over cells; the clusterings are not done again in it, and
        the draws of ``ari`` and ``nmi``, which repeated cells raise, are centred on the value.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples

    from lib import inference, stats

    share = stats.knn_accuracy(representation, labels, train, test)
    _, low, high = inference.wilson(round(share * len(test)), len(test))
    found = [{"metric": "knn_accuracy", "value": share, "low": low, "high": high}]
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(labels))[:most])
    x, y = np.asarray(representation[some], np.float64), np.asarray(labels)[some]
    types = len(np.unique(y))
    each = silhouette_samples(x, y)
    given = [KMeans(types, n_init=3, random_state=k).fit_predict(x) for k in range(clusterings)]
    drawn = [np.arange(len(y)), *(rng.integers(0, len(y), len(y)) for _ in range(resamples))]
    values = {"silhouette": [each[cells].mean() for cells in drawn]}
    few = drawn[: 1 + resamples // 10]  # each takes all clusterings, which takes time
    for name, score in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        values[name] = [np.mean([score(y[cells], clusters[cells]) for clusters in given]) for cells in few]
    for name, value in values.items():
        shift = 0 if name == "silhouette" else value[0] - np.mean(value[1:])  # cells drawn twice agree with themselves
        low, high = shift + np.quantile(value[1:], [0.5 - level / 2, 0.5 + level / 2])
        found.append({"metric": name, "value": float(value[0]), "low": float(low), "high": float(high)})
    return found


def nearest_genes(embedding, genes, asked, neighbours=5):
    """The nearest genes (cosine) of some genes, as text by gene (dict); genes that the vocabulary lacks are left out."""
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    place = {gene: i for i, gene in enumerate(genes)}
    found = {}
    for gene in asked:
        if gene in place:
            order = np.argsort(-(unit @ unit[place[gene]]), kind="stable")
            found[gene] = ", ".join([genes[i] for i in order if i != place[gene]][:neighbours])
    return found
