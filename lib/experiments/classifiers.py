"""Models without a transformer: logistic regression, nearest neighbours, and two that look at no gene.

Each has ``fit(x, labels, seed)``, ``predict_proba(x)`` and, once fitted, ``classes_``: the labels it has met, in the
order of the columns of ``predict_proba``. ``x`` is cells × genes, log2(1 + counts per 10⁴) or scBERT's tokens, sparse.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression as Binary
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from lib import scbert
from lib.errors import DataError
from lib.prepare import embeddings, splits
from lib.prepare.tokens import sparse_tokens


class LogisticRegression:
    """One-vs-rest logistic regression, L1 as in the paper; C by cross-validation on the training cells.

    Parameters
    ----------
    C : float or sequence of float
        Inverse strength of the penalty; of several, the one with the best mean accuracy over the folds is used
        (the smallest, among equals).
    folds : int
        Stratified folds; fewer if the rarest but one of the classes has fewer cells.
    penalty : {"l1", "l2"}

    Attributes
    ----------
    C_ : float
        The one used.
    """

    def __init__(self, C=0.1, folds=5, penalty="l1"):
        if penalty not in ("l1", "l2"):
            raise DataError(f"penalty is {penalty!r}; it is one of l1, l2.")
        self.C, self.folds, self.penalty = np.atleast_1d(np.asarray(C, float)), folds, penalty

    def fit(self, x, labels, seed=0):
        labels = np.asarray(labels)
        if len(np.unique(labels)) < 2:
            raise DataError(f"All {len(labels)} training cells are of one class: logistic regression needs two.")
        self.C_ = float(self.C[0])
        if len(self.C) > 1:
            folds = StratifiedKFold(self.folds, shuffle=True, random_state=seed)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The least populated class")  # then some folds lack it
                parts = list(folds.split(np.zeros(len(labels)), labels))
            accuracy = [
                np.mean([self._score(C, x, labels, fit, held_out, seed) for fit, held_out in parts]) for C in self.C
            ]
            self.C_ = float(self.C[int(np.argmax(accuracy))])
        self.model = self._classifier(self.C_, seed).fit(x, labels)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, x):
        return self.model.predict_proba(x)

    @property
    def coefficients(self):
        """Weights, (classes, genes)."""
        return np.vstack([estimator.coef_ for estimator in self.model.estimators_])

    def _score(self, C, x, labels, fit, held_out, seed):
        if len(np.unique(labels[fit])) < 2:
            return np.mean(labels[held_out] == labels[fit][0])
        return self._classifier(C, seed).fit(x[fit], labels[fit]).score(x[held_out], labels[held_out])

    def _classifier(self, C, seed):
        # scikit-learn >= 1.8 spells the penalty by l1_ratio; liblinear no longer takes several classes itself.
        l1_ratio = 1 if self.penalty == "l1" else 0
        return OneVsRestClassifier(Binary(l1_ratio=l1_ratio, solver="liblinear", C=C, random_state=seed))


class NearestNeighbours:
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
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, x):
        return self.model.predict_proba(x)


class Majority:
    """Always the most common class of the training cells."""

    def fit(self, x, labels, seed=0):
        self.classes_, counts = np.unique(labels, return_counts=True)
        self.share = counts / counts.sum()
        return self

    def predict_proba(self, x):
        return np.tile(self.share, (x.shape[0], 1))


class StratifiedRandom:
    """A type drawn at random, each as often as among the training cells: what chance alone gives.

    The draw depends on the seed and on the number of cells alone, so asking again gives the same answer.
    """

    def fit(self, x, labels, seed=0):
        self.model = DummyClassifier(strategy="stratified", random_state=seed).fit(np.zeros((len(labels), 1)), labels)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, x):
        return self.model.predict_proba(np.zeros((x.shape[0], 1))).astype(float)


MODELS = {
    "logistic_regression": LogisticRegression, "nearest_neighbours": NearestNeighbours, "majority": Majority,
    "stratified_random": StratifiedRandom,
}  # fmt: skip


class ScBertClassifier:
    """scBERT as a classifier: pre-trained on the cells it is given, then fine-tuned on them.

    Parameters
    ----------
    size, pretraining, finetuning : dict
        As in a profile; ``pretraining`` None: from random weights.
    gene_embedding : {"coexpression", None} or array (genes, dim)
    """

    def __init__(self, size, pretraining, finetuning, gene_embedding="coexpression"):
        self.size, self.pretraining, self.finetuning = size, pretraining, finetuning
        self.gene_embedding = gene_embedding

    def fit(self, x, labels, seed=0):
        """Learn; a fifth of the cells chooses the epoch."""
        import torch


        tokens = sparse_tokens(x)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        embedding = self.gene_embedding
        if isinstance(embedding, str):
            if embedding != "coexpression":
                raise DataError(f"gene_embedding is {embedding!r}; give 'coexpression', an array (genes, dim), or None.")
            embedding = embeddings.coexpression(tokens, self.size["dim"])
        torch.manual_seed(seed)
        trunk = scbert.ScBert(scbert.ScBertConfig(genes=x.shape[1], **self.size), embedding)
        if self.pretraining:
            wanted = {key: self.pretraining[key] for key in ("epochs", "batch_size", "max_lr") if key in self.pretraining}
            scbert.pretrain.pretrain(trunk, tokens, seed=seed, **wanted)
        self.model = scbert.CellTypeClassifier.from_pretrained(trunk, len(self.classes_))
        everything = np.arange(len(codes))
        train = splits.few_shot(everything, 0.8, seed)
        select = np.setdiff1d(everything, train)
        scbert.finetune.finetune(self.model, tokens, codes, train, select, seed=seed, **self.finetuning)
        return self

    def predict_proba(self, x, batch_size=32):
        import torch

        if x.shape[1] != self.model.config.genes:
            raise DataError(f"The cells have {x.shape[1]} genes, the model learnt from {self.model.config.genes}.")
        tokens, device = sparse_tokens(x), next(self.model.parameters()).device
        with torch.no_grad():
            parts = [self.model(shown.to(device)).float().softmax(1).cpu()
                     for _, shown in scbert.training.feed(tokens, scbert.training.in_batches(np.arange(tokens.shape[0]), batch_size), device)]  # fmt: skip
        return torch.cat(parts).numpy()
