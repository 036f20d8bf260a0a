"""Any classifier of cells beside ours: what it must offer, scBERT in that form, and the comparison.

A classifier is an object with

- ``fit(x, labels, seed)``: learn from cells; ``x`` is cells × genes, log2(1 + counts per 10⁴), CSR float32, and
  ``labels`` are integers, one a cell;
- ``predict_proba(x)``: probabilities, (cells, classes);
- ``classes_``, once fitted: the labels that the columns stand for.

:mod:`lib.baselines` has logistic regression, nearest neighbours and two that look at no gene; :class:`ScBertClassifier`
is scBERT. A scikit-learn estimator becomes one by a ``fit`` that takes the seed (notebook 06).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from lib import splits
from lib.errors import DataError
from lib.tokens import TokenStore


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

        from lib import embeddings
        from lib.finetune import finetune
        from lib.model import CellTypeClassifier, ScBert, ScBertConfig
        from lib.pretrain import pretrain

        tokens = TokenStore.of(x)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        embedding = self.gene_embedding
        if isinstance(embedding, str):
            if embedding != "coexpression":
                raise DataError(f"gene_embedding is {embedding!r}; give 'coexpression', an array (genes, dim), or None.")
            embedding = embeddings.coexpression(tokens[:], self.size["dim"])
        torch.manual_seed(seed)
        trunk = ScBert(ScBertConfig(genes=x.shape[1], **self.size), embedding)
        if self.pretraining:
            wanted = {key: self.pretraining[key] for key in ("epochs", "batch_size", "max_lr") if key in self.pretraining}
            pretrain(trunk, tokens, seed=seed, **wanted)
        self.model = CellTypeClassifier.from_pretrained(trunk, len(self.classes_))
        everything = np.arange(len(codes))
        train = splits.few_shot(everything, 0.8, seed)
        select = np.setdiff1d(everything, train)
        finetune(self.model, tokens, codes, train, select, seed=seed, **self.finetuning)
        return self

    def predict_proba(self, x, batch_size=32):
        import torch

        if x.shape[1] != self.model.config.genes:
            raise DataError(f"The cells have {x.shape[1]} genes, the model learnt from {self.model.config.genes}.")
        tokens, device = TokenStore.of(x), next(self.model.parameters()).device
        with torch.no_grad():
            parts = [self.model(shown.to(device)).float().softmax(1).cpu()
                     for _, shown in tokens.feed(np.arange(len(tokens)), batch_size, device)]  # fmt: skip
        return torch.cat(parts).numpy()


def evaluate(make, profile, arm, seeds=None):
    """Let a classifier learn and predict the cells that the runs of a profile learn and predict.

    Parameters
    ----------
    make : callable () -> classifier
        Called for each seed: a fresh one.
    profile : dict
        As :func:`lib.profiles.load` gives it.
    arm : str
        A name for tables and figures.
    seeds : sequence of int, optional
        Default: the profile's.

    Returns
    -------
    list
        One object a seed with ``spec``, ``predictions``, ``id`` and ``log`` like :class:`lib.runs.Run`, for
        :mod:`lib.stats`. Nothing is stored: code that this project does not know cannot be recognised when it changes.

    Raises
    ------
    DataError
        The classifier lacks a method or gives something that is not probabilities.
    """
    import pandas as pd

    adata = profile["adata"]
    labels = adata.obs["cell_type"].cat.codes.to_numpy(np.int64)
    classes = adata.obs["cell_type"].cat.categories.to_numpy(str)
    train_all, test = splits.holdout(labels, **profile["split"])
    done = []
    for seed in profile["seeds"] if seeds is None else seeds:
        train = splits.few_shot(train_all, 1.0, seed)
        classifier = make()
        for method in ("fit", "predict_proba"):
            if not callable(getattr(classifier, method, None)):
                raise DataError(f"{arm} has no method {method}: it needs fit(x, labels, seed) and predict_proba(x).")
        classifier.fit(adata.X[train], labels[train], seed)
        probabilities = np.zeros((len(test), len(classes)))
        found = np.asarray(classifier.predict_proba(adata.X[test]), float)
        known = np.asarray(getattr(classifier, "classes_", np.unique(labels[train])))
        if not np.isin(known, labels).all() or len(np.unique(known)) != len(known):
            raise DataError(f"classes_ of {arm} is {known.tolist()}; it must hold labels that fit was given, each once.")
        if found.ndim != 2 or found.shape != (len(test), len(known)) or not np.allclose(found.sum(1), 1, atol=1e-3) or found.min() < 0:
            raise DataError(
                f"predict_proba of {arm} gave an array of shape {found.shape}, rows summing to {found.sum(-1).min():.3g} … "
                f"{found.sum(-1).max():.3g}; it must be {(len(test), len(known))}, probabilities of the types in classes_."
            )
        probabilities[:, known] = found
        predictions = {"test": test, "train": train, "labels": labels[test], "classes": classes,
                       "probabilities": probabilities}  # fmt: skip
        spec = {"task": "cell_types", "arm": arm, "fraction": 1.0, "seed": int(seed)}
        done.append(SimpleNamespace(spec=spec, predictions=predictions, id="not stored", log=pd.DataFrame()))
    return done
