"""What names cell types, behind one protocol: logistic regression, simpler ones, some that look at no gene, scBERT.

Each has ``fit(x, labels, seed)``, ``predict_proba(x)`` and, once fitted, ``classes_``: the labels it has met, in the
order of the columns of ``predict_proba``. ``x`` is cells × genes, log2(1 + counts per 10⁴) or scBERT's tokens, sparse;
:class:`lib.experiments.baselines.Depth` is given none of it.
:func:`learn` and :func:`probabilities` hold every classifier to it, those of a run and a reader's own.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression as Binary
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier

from lib import scbert
from lib.errors import DataError
from lib.experiments.baselines import Depth, Fitted, Majority, NearestCentroid, NearestNeighbours, RankMeans, StratifiedRandom
from lib.prepare import embeddings, splits
from lib.prepare.tokens import sparse_tokens


class LogisticRegression(Fitted):
    """One-vs-rest logistic regression, L1 as in the paper; C by cross-validation on the training cells.

    Parameters
    ----------
    C : float or sequence of float
        Inverse strength of the penalty; of several, the one with the best mean accuracy over the folds is used
        (the smallest, among equals).
    folds : int
        Stratified folds; where ``fit`` is told the cells' groups, such as donors, each is in one fold.
    penalty : {"l1", "l2"}
    class_weight : {None, "balanced"}
        Balanced: each class counts alike in every one-vs-rest model's loss.

    Attributes
    ----------
    C_ : float
        The one used.
    """

    def __init__(self, C=0.1, folds=5, penalty="l1", class_weight=None):
        if penalty not in ("l1", "l2"):
            raise DataError(f"penalty is {penalty!r}; it is one of l1, l2.")
        if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):  # there l1_ratio alone changes nothing
            remedy = "Install what requirements.txt names."
            raise DataError(f"scikit-learn is {sklearn.__version__}; below 1.8 the L1 penalty would silently be L2.", remedy)
        self.C, self.folds, self.penalty = np.atleast_1d(np.asarray(C, float)), folds, penalty
        self.class_weight = class_weight

    def fit(self, x, labels, seed=0, groups=None):
        labels = np.asarray(labels)
        if len(np.unique(labels)) < 2:
            raise DataError(f"All {len(labels)} training cells are of one class: logistic regression needs two.")
        self.C_ = float(self.C[0])
        if len(self.C) > 1:
            number = 1 if groups is None else min(self.folds, len(np.unique(groups)))
            kind, number = (StratifiedGroupKFold, number) if number > 1 else (StratifiedKFold, self.folds)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The least populated class")  # then some folds lack it
                parts = list(kind(number, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups))
            parts = [part for part in parts if all(map(len, part))]  # few groups may leave a fold empty
            accuracy = [np.mean([self._score(C, x, labels, fit, held_out, seed) for fit, held_out in parts]) for C in self.C]
            self.C_ = float(self.C[int(np.argmax(accuracy))])
        self.model = self._classifier(self.C_, seed).fit(x, labels)
        return self

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
        how = {"l1_ratio": l1_ratio, "solver": "liblinear", "C": C, "random_state": seed}
        return OneVsRestClassifier(Binary(**how, class_weight=self.class_weight))


MODELS = {
    "logistic_regression": LogisticRegression,
    "nearest_neighbours": NearestNeighbours,
    "nearest_centroid": NearestCentroid,
    "rank_means": RankMeans,
    "depth": Depth,
    "majority": Majority,
    "stratified_random": StratifiedRandom,
}


def learn(
    classifier: Any, x, labels: np.ndarray, seed: int, n_classes: int, name: str, groups: np.ndarray | None = None
) -> Callable:
    """Fit a classifier, ours or a stranger's; return what tells the probabilities of cells, see :func:`probabilities`.

    Parameters
    ----------
    classifier : object with ``fit`` and ``predict_proba``
        Without ``classes_``, its columns are taken for the sorted labels.
    x : cells × genes
    labels : int array, (cells,)
        In 0 … n_classes − 1; not every class need be among them.
    name : str
        For a refusal.
    groups : array, (cells,), optional
        Such as donors, which the split keeps apart; a classifier whose ``fit`` takes ``groups`` is told them.

    Raises
    ------
    DataError
        A method is missing, or ``classes_`` does not hold labels that it was given.
    """
    for method in ("fit", "predict_proba"):
        if not callable(getattr(classifier, method, None)):
            raise DataError(f"{name} has no method {method}: it needs fit(x, labels, seed) and predict_proba(x).")
    told = {"groups": groups} if groups is not None and "groups" in inspect.signature(classifier.fit).parameters else {}
    classifier.fit(x, labels, seed, **told)
    known = np.asarray(getattr(classifier, "classes_", np.unique(labels)))
    if not np.isin(known, labels).all() or len(np.unique(known)) != len(known):
        raise DataError(f"classes_ of {name} is {known.tolist()}; it must hold labels that fit was given, each once.")
    return functools.partial(probabilities, classifier, known, n_classes, name)


def probabilities(classifier: Any, known: np.ndarray, n_classes: int, name: str, x) -> np.ndarray:
    """What a fitted classifier says of cells: float64, (cells, n_classes), zero for classes that it does not know.

    Parameters
    ----------
    known : int array
        The class of each column of its ``predict_proba``.

    Raises
    ------
    DataError
        It gives something that is not probabilities of these classes.
    """
    found, shape = np.asarray(classifier.predict_proba(x), float), (x.shape[0], len(known))
    if found.shape != shape or not np.allclose(found.sum(1), 1, atol=1e-3) or found.min() < 0:
        raise DataError(
            f"predict_proba of {name} gave an array of shape {found.shape}, rows summing to {found.sum(-1).min():.3g} … "
            f"{found.sum(-1).max():.3g}; it must be {shape}, probabilities of the types in classes_."
        )
    aligned = np.zeros((len(found), n_classes))
    aligned[:, known] = found
    return aligned


class ScBertClassifier:
    """scBERT as a classifier: pre-trained on the cells it is given, then fine-tuned on them.

    Parameters
    ----------
    size, pretraining, finetuning : dict
        As in a profile; ``pretraining`` None: from random weights.
    gene_embedding : {"coexpression", None} or array (genes, dim)
    """

    def __init__(self, size: dict, pretraining: dict | None, finetuning: dict, gene_embedding: Any = "coexpression"):
        self.size, self.pretraining, self.finetuning, self.gene_embedding = size, pretraining, finetuning, gene_embedding

    @classmethod
    def stored(cls, path: Path, genes: list[str]) -> ScBertClassifier:
        """One that was fine-tuned before, from its weights; its classes are numbers."""
        known = cls({}, None, {})
        known.model = scbert.CellTypeClassifier.from_checkpoint(path, genes=genes)
        known.classes_ = np.arange(known.model.config.classes)
        return known

    def fit(self, x, labels, seed=0):
        """Learn; a fifth of the cells chooses the epoch."""
        tokens, embedding = sparse_tokens(x), self.gene_embedding
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if isinstance(embedding, str):
            if embedding != "coexpression":
                raise DataError(f"gene_embedding is {embedding!r}; give 'coexpression', an array (genes, dim), or None.")
            embedding = embeddings.coexpression(tokens, self.size["dim"])
        trunk = random_trunk(self.size, x.shape[1], embedding, seed)
        if self.pretraining:
            how = ("epochs", "ends", "batch_size", "max_lr", "validation")
            wanted = {key: self.pretraining[key] for key in how if key in self.pretraining}
            scbert.pretrain.pretrain(trunk, tokens, seed=seed, **wanted)
        train, select = chosen_by(np.arange(len(codes)), seed)
        self.model, _ = fine_tuned(trunk, tokens, codes, len(self.classes_), train, select, seed=seed, **self.finetuning)
        return self

    def predict_proba(self, x, batch_size=32):
        import torch

        if x.shape[1] != self.model.config.genes:
            raise DataError(f"The cells have {x.shape[1]} genes, the model learnt from {self.model.config.genes}.")
        fabric, parts = scbert.training.make_fabric(arithmetic=scbert.arithmetic.settle(self.model)), []
        model = fabric.to_device(self.model)
        with torch.no_grad(), fabric.autocast():
            batches = scbert.training.in_batches(np.arange(x.shape[0]), batch_size)
            for _, shown in scbert.training.feed(sparse_tokens(x), batches, fabric.device):
                parts.append(model(shown.to(fabric.device)).float().softmax(1).cpu())
        return torch.cat(parts).numpy()


def random_trunk(size: dict, genes: int, gene_embedding: np.ndarray | None, seed: int) -> scbert.ScBert:
    """scBERT with random weights from ``seed``."""
    import torch

    torch.manual_seed(seed)
    return scbert.ScBert(scbert.ScBertConfig(genes=genes, **size), gene_embedding)


def fine_tuned(trunk: scbert.ScBert, tokens, labels, classes: int, train, test, *, seed: int, **training) -> tuple:
    """A new head on a copy of the trunk, fine-tuned: the classifier, and :class:`lib.scbert.finetune.FineTuned`."""
    import torch

    torch.manual_seed(seed)
    model = scbert.CellTypeClassifier.from_pretrained(trunk, classes)
    return model, scbert.finetune.finetune(model, tokens, labels, train, test, seed=seed, **training)


def chosen_by(
    labelled: np.ndarray, seed: int, labels: np.ndarray | None = None, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labelled cells in four fifths to train on and, in order, a fifth that chooses the epoch.

    With ``groups`` of all cells, such as donors, whole groups are taken that come nearest to a fifth and leave cells of every
    type to train on; one group alone is parted as cells are.
    """
    if groups is not None and len(np.unique(groups[labelled])) > 1:
        select = splits.apart(labels[labelled], groups[labelled], 0.2, seed, learn_all=True)
        return labelled[~select], np.sort(labelled[select])
    train = splits.few_shot(labelled, 0.8, seed)
    return train, np.setdiff1d(labelled, train)
