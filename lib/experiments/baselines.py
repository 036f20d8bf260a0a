"""Classifiers that need no training to speak of: what brackets logistic regression and scBERT, from the least informed up.

Each keeps the protocol of :mod:`lib.experiments.classifiers`.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax
from scipy.stats import norm, rankdata
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.errors import DataError


class Fitted:
    """What ``fit`` leaves in ``model``, one of scikit-learn's, knows the rest."""

    @property
    def classes_(self):
        return self.model.classes_

    def predict_proba(self, x):
        return self.model.predict_proba(x)


class NearestNeighbours(Fitted):
    """The types of a cell's nearest training cells, in principal components of the training cells.

    Parameters
    ----------
    components, neighbours : int
        Fewer where there are fewer cells or genes.
    """

    def __init__(self, components=50, neighbours=10):
        self.components, self.neighbours = components, neighbours

    def fit(self, x, labels, seed=0):
        components = min(self.components, min(x.shape) - 1)
        if components < 1:
            raise DataError(f"{x.shape[0]} cells × {x.shape[1]} genes have no principal component: two of each at least.")
        pca = PCA(components, svd_solver="arpack", random_state=seed)  # the solver that takes sparse cells as they are
        neighbours = KNeighborsClassifier(min(self.neighbours, x.shape[0]))
        self.model = make_pipeline(pca, neighbours).fit(x, labels)
        return self


class Depth(Fitted):
    """The types of the training cells that were sequenced most alike; which genes they express plays no part.

    ``x`` is cells × measures of depth, (cells, 2): logarithms of the total count and of the number of detected genes, or
    (cells, 1) where totals are unknown; dense. Neighbours, since a type may have any range of depths, or several; so many
    that a vote among them is a share.
    """

    def __init__(self, neighbours=25):
        self.neighbours = neighbours

    def fit(self, x, labels, seed=0):
        neighbours = KNeighborsClassifier(min(self.neighbours, x.shape[0]))
        self.model = make_pipeline(StandardScaler(), neighbours).fit(x, labels)
        return self


class NearestCentroid(Fitted):
    """The type whose mean cell is nearest: the simplest thing that looks at the genes.

    scikit-learn's gives probabilities for scaled genes, which are not those of its own answers, and makes sparse cells dense.
    """

    def fit(self, x, labels, seed=0):
        self._means(sp.csr_matrix(x), labels)
        return self

    def _means(self, x, labels, of=lambda part: part):
        self.known, codes = np.unique(labels, return_inverse=True)
        own = np.eye(len(self.known))[codes]  # (cells, classes)
        sums = sum(own[part].T @ of(x[part]) for part in _parts(x))  # ranks of all cells at once would fill the memory
        self.means = sums / own.sum(0)[:, None]  # (classes, genes)

    @property
    def classes_(self):
        return self.known

    def predict_proba(self, x):
        """Softmax of minus the squared distance: that of equal Gaussians; only its order is used."""
        x = sp.csr_matrix(x)
        far = np.asarray(x.multiply(x).sum(1)) - 2 * np.asarray(x @ self.means.T) + np.square(self.means).sum(1)
        return softmax(-far, axis=1)


class RankMeans(NearestCentroid):
    """Genes ranked within each cell, ranks as normal quantiles, projected on the types' mean cells: no parameter at all.

    The projection is by least squares, so that what types have in common counts for none of them. The quantiles and the
    projection are scTOP's (Yampolskaya et al., Development 150, dev201873, 2023), written from its description. scTOP ranks
    the mean of a type's cells; here each cell is ranked and the ranks are averaged, which serves better on cells that show
    few genes, most of whose ranks are ties as no mean's are (zheng_sorted, training cells in five folds: 0.77, not 0.65).
    """

    def fit(self, x, labels, seed=0):
        self._means(x, labels, self._quantiles)
        self.project = np.linalg.pinv(self.means)  # (genes, classes)
        return self

    def predict_proba(self, x):
        """Softmax of the projections; only its order is used."""
        return softmax(np.concatenate([self._quantiles(x[part]) @ self.project for part in _parts(x)]), axis=1)

    @staticmethod
    def _quantiles(x):
        dense = sp.csr_matrix(x).toarray()
        return norm.ppf(rankdata(dense, axis=1) / (dense.shape[1] + 1))


def _parts(x, cells=1000):
    return [slice(i, i + cells) for i in range(0, x.shape[0], cells)]


class Majority(Fitted):
    """Always the most common class of the training cells; its probabilities are their shares."""

    strategy = "prior"

    def fit(self, x, labels, seed=0):
        self.model = DummyClassifier(strategy=self.strategy, random_state=seed).fit(np.zeros((len(labels), 1)), labels)
        return self

    def predict_proba(self, x):
        return super().predict_proba(np.zeros((x.shape[0], 1))).astype(float)


class StratifiedRandom(Majority):
    """A type drawn at random, each as often as among the training cells: what chance alone gives.

    The draw depends on the seed and on the number of cells alone, so asking again gives the same answer.
    """

    strategy = "stratified"
