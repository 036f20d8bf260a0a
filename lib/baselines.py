"""Models without a transformer: L1 logistic regression, and the majority class as a control.

Each has ``fit(x, labels, seed)`` and ``predict_proba(x)``; ``x`` is log2(1 + counts per 10⁴), cells × genes.
"""

from __future__ import annotations

import warnings

import numpy as np

from lib.errors import DataError


class LogisticRegression:
    """One-vs-rest L1 logistic regression; C by cross-validation on the training cells.

    Parameters
    ----------
    C : float or sequence of float
        Inverse strength of the penalty; of several, the one with the best mean accuracy over the folds is used
        (the smallest, among equals).
    folds : int
        Stratified folds; fewer if the rarest but one of the classes has fewer cells.

    Attributes
    ----------
    C_ : float
        The one used.
    """

    def __init__(self, C=0.1, folds=5):
        self.C, self.folds = np.atleast_1d(np.asarray(C, float)), folds

    def fit(self, x, labels, seed=0):
        from sklearn.model_selection import StratifiedKFold

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

    @staticmethod
    def _classifier(C, seed):
        from sklearn.linear_model import LogisticRegression as Binary
        from sklearn.multiclass import OneVsRestClassifier

        # scikit-learn >= 1.8 spells the L1 penalty l1_ratio=1; liblinear no longer takes several classes itself.
        return OneVsRestClassifier(Binary(l1_ratio=1, solver="liblinear", C=C, random_state=seed))


class Majority:
    """Always the most common class of the training cells."""

    def fit(self, x, labels, seed=0):
        self.classes_, counts = np.unique(labels, return_counts=True)
        self.share = counts / counts.sum()
        return self

    def predict_proba(self, x):
        return np.tile(self.share, (x.shape[0], 1))
