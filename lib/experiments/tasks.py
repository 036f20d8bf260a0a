"""What a run computes, by the task of its specification: functions from a specification to arrays.

``cell_types`` (a classifier's predictions), ``pretraining`` (weights), ``masked`` (the masked task on held-out
cells), ``representations`` (what cells and genes look like inside a model) and ``external`` (what a trained classifier
says of another data set's cells).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from lib import scbert
from lib.datasets import downloads
from lib.errors import DataError
from lib.experiments import classifiers
from lib.prepare import corpus, embeddings, splits
from lib.prepare.cells import read


def dependencies(spec):
    """Specifications of the runs that must be done before this one."""
    return [spec[name] for name in ("pretraining", "trained") if spec.get(name)]


def _load(spec):
    """Cells, and the indices of the training and test cells."""
    cells = read(spec["data"]["fingerprint"])
    return cells, *splits.holdout(cells.labels, **spec["split"])


def gene_embedding(spec, cells, train):
    """Array (genes, dim) of the kind that the specification names, or None."""
    kind, dim = spec["gene_embedding"], spec["size"]["dim"]
    if kind is None:
        return None
    if kind == "coexpression":
        return embeddings.coexpression(cells.tokens[train], dim)
    if kind == "random":
        return embeddings.random(len(cells.genes), dim)
    if kind != "gene2vec":
        raise DataError(f"gene_embedding is {kind!r}; it is one of gene2vec, coexpression, random, None.")
    return embeddings.reduce(embeddings.kept_gene2vec(cells.genes), dim)


def _new_model(spec, cells, train, seed):
    """scBERT with random weights from ``seed``."""
    import torch


    torch.manual_seed(seed)
    config = scbert.ScBertConfig(genes=len(cells.genes), **spec["size"])
    return scbert.ScBert(config, gene_embedding(spec, cells, train))


def _trunk(spec, cells, train, weights_of):
    """Pre-trained weights where the specification has a pre-training, else random ones."""
    if not spec.get("pretraining"):
        return _new_model(spec, cells, train, spec["seed"])
    return scbert.ScBert.from_checkpoint(weights_of(spec["pretraining"]), genes=cells.genes.tolist())


def _weights(model, cells):
    return {"model_state_dict": model.state_dict(), "genes": cells.genes.tolist()}


def pretraining(spec, checkpoint, weights_of):
    """Pre-train on the training cells, without their labels, or on a corpus; or take over a checkpoint's weights."""
    cells, train, _ = _load(spec)
    if given := spec.get("checkpoint"):  # the gene embedding in it must be ours, gene by gene: so the order is the same
        model = scbert.ScBert.from_checkpoint(corpus.checkpoint_path(given), gene_embedding(spec, cells, train), cells.genes)
        if other := {name: size for name, size in spec["size"].items() if getattr(model.config, name) != size}:
            raise DataError(f"The checkpoint's model has other sizes than the profile's, {other}: change size in the profile.")
        return [{"checkpoint": given}], {}, _weights(model, cells)
    tokens, used = cells.tokens[train], {"train": train}
    if "corpus" in spec:
        tokens, used = corpus.read(spec["corpus"], cells.genes), {}
    model = _new_model(spec, cells, train, spec["seed"])
    done = scbert.pretrain.pretrain(model, tokens, seed=spec["seed"], checkpoint=checkpoint,
                   name=f"pre-training, {spec['arm'].replace('_', ' ')}", **spec["training"])  # fmt: skip
    return done.log, used | {"ended": np.array(done.ended)}, _weights(model.cpu(), cells)


def cell_types(spec, checkpoint, weights_of):
    """Learn the cell types of a fraction of the training cells; predict the test cells.

    With ``left_out``, the name of a type, no cell of it is learnt from or chosen by, and all of them are predicted.
    """
    cells, train_all, test = _load(spec)
    train, select = train_all, test
    if left_out := spec.get("left_out"):
        if left_out not in cells.classes:
            raise DataError(f"left_out is {left_out!r}; the cell types are {', '.join(cells.classes)}.")
        unseen = cells.labels == np.flatnonzero(cells.classes == left_out)[0]
        train, select = train_all[~unseen[train_all]], test[~unseen[test]]
        test = np.union1d(test, np.flatnonzero(unseen))
    train = splits.few_shot(train, spec["fraction"], spec["seed"])
    by_test = spec["protocol"] == "paper"
    if not by_test:  # a fifth of the labelled cells chooses the epoch, none of it is reported
        inner = splits.few_shot(train, 0.8, spec["seed"])
        train, select = inner, np.setdiff1d(train, inner)
    about = {"test": test, "train": train, "labels": cells.labels[test], "classes": cells.classes}
    if spec["model"] != "scBERT":  # has no epochs to choose among, so it learns from all labelled cells

        labelled = train if by_test else np.union1d(train, select)
        x = cells.tokens[:, :-1].astype(np.float32) if spec.get("input") == "tokens" else cells.x
        classifier = classifiers.MODELS[spec["model"]](**spec.get("training", {}))
        classifier.fit(x[labelled], cells.labels[labelled], spec["seed"])
        probabilities = np.zeros((len(test), len(cells.classes)), np.float32)
        probabilities[:, classifier.classes_] = classifier.predict_proba(x[test])
        learned = classifier.classes_[classifier.predict_proba(x[labelled]).argmax(1)]
        log = {"C": getattr(classifier, "C_", None), "train_accuracy": np.mean(learned == cells.labels[labelled])}
        return [log], about | {"train": labelled, "probabilities": probabilities}, None

    import torch


    trunk = _trunk(spec, cells, train_all, weights_of)
    torch.manual_seed(spec["seed"])
    classifier = scbert.CellTypeClassifier.from_pretrained(trunk, len(cells.classes))
    done = scbert.finetune.finetune(classifier, cells.tokens, cells.labels, train, test, select=select, seed=spec["seed"],
                    checkpoint=checkpoint, name=f"fine-tuning, {spec['arm'].replace('_', ' ')}",
                    **spec["training"])  # fmt: skip
    arrays = {"probabilities": done.probabilities, "best_epoch": np.array(done.best_epoch), "select": select,
              "ended": np.array(done.ended), "redrawn": np.array(done.redrawn)}  # fmt: skip
    if done.predicted_by_epoch is not None:
        arrays["predicted_by_epoch"] = done.predicted_by_epoch
    return done.log, about | arrays, _weights(classifier.cpu(), cells)


def masked(spec, checkpoint, weights_of):
    """The masked task on the test cells, and the bin that is most common in each cell, for comparison."""
    cells, train, test = _load(spec)
    result = scbert.pretrain.evaluate_masked(_trunk(spec, cells, train, weights_of), cells.tokens[test], seed=spec["seed"])
    counts = np.stack([(cells.tokens[test].toarray() == bin_).sum(1) for bin_ in range(1, 6)], 1)
    log = [{"loss": result.pop("loss")}]
    return log, result | {"most_common_bin": 1 + counts.argmax(1)[result["cell"]], "test": test}, None


def representations(spec, checkpoint, weights_of):
    """Cells and genes as a model represents them, with a UMAP of the cells.

    ``cells`` (cells, dim): mean over the genes of the final, normalised hidden states, or principal components;
    ``cells_closing`` (cells, dim): the hidden state of the closing token, scBERT's [CLS];
    ``genes_out`` (genes, dim): mean over the cells of the same; ``genes_in``: the gene embedding; ``umap``; ``variance``:
    what the hidden states vary with (see :func:`_hidden_means`).
    """
    cells, train, test = _load(spec)
    arrays = {"labels": cells.labels, "classes": cells.classes, "train": train, "test": test}
    if spec["model"] == "pca":
        dense = cells.x.toarray()
        width = min(spec["size"]["dim"], len(train) - 1, dense.shape[1])
        arrays["cells"] = PCA(width, random_state=0).fit(dense[train]).transform(dense).astype(np.float32)
    else:
        arrays |= _hidden_means(_trunk(spec, cells, train, weights_of), cells)
    import umap

    neighbours = min(15, len(cells.labels) - 1)
    arrays["umap"] = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(arrays["cells"])
    return [], arrays, None


def _hidden_means(model, cells, batch_size=32):
    """Means of the final, normalised hidden states, and what they vary with.

    ``variance`` (4,): shares of the variance of the genes' hidden states over all cells, genes and dimensions: what the
    gene explains, then the gene's token in the cell, then the cell (by its mean over genes), and the rest.
    """
    import torch

    model.eval()
    genes, width, dim = len(cells.genes), model.config.tokens, model.config.dim
    per_cell, closing = [], []
    sums, counts, squares = np.zeros((genes * width, dim)), np.zeros(genes * width), 0.0
    batches = range(0, cells.tokens.shape[0], batch_size)
    with torch.no_grad():
        for i in batches:
            tokens = cells.tokens[i : i + batch_size].toarray()
            hidden = model.norm(model.hidden(torch.as_tensor(tokens))).numpy()  # (b, genes + 1, d)
            per_cell.append(hidden[:, :-1].mean(1))
            closing.append(hidden[:, -1])
            for shown, states in zip(tokens, hidden):  # in each cell, a gene has one token: no place occurs twice
                at = np.arange(genes) * width + shown[:-1]
                sums[at] += states[:-1]
                counts[at] += 1
                squares += np.square(states[:-1], dtype=np.float64).sum()
    per_cell = np.concatenate(per_cell)
    means = sums / np.maximum(counts, 1)[:, None]  # of a gene with a token
    left = np.zeros(per_cell.shape)  # of each cell's mean over genes, once genes and tokens are taken out
    for c in range(len(per_cell)):
        left[c] = per_cell[c] - means[np.arange(genes) * width + cells.tokens[c].toarray()[0, :-1]].mean(0)
    per_gene = sums.reshape(genes, width, dim).sum(1) / len(per_cell)
    explained = [len(per_cell) * genes * np.square(per_gene.mean(0)).sum(), len(per_cell) * np.square(per_gene).sum(),
                 (counts[:, None] * np.square(means)).sum()]  # fmt: skip
    explained += [explained[-1] + genes * np.square(left).sum(), squares]
    arrays = {"cells": per_cell, "cells_closing": np.concatenate(closing), "genes_out": per_gene.astype(np.float32),
              "variance": np.diff(explained) / (explained[-1] - explained[0])}  # fmt: skip
    if model.gene_embedding is not None:
        arrays["genes_in"] = model.gene_embedding[:-1].numpy()
    return arrays


def external(spec, checkpoint, weights_of):
    """What a classifier of the task ``cell_types``, named by ``trained``, says of all cells of another data set.

    ``probabilities`` (cells, ``classes``); ``labels`` are the other data set's own, indices into ``label_names``.
    """
    trained, there = spec["trained"], read(spec["data"]["fingerprint"])
    cells, train, _ = _load(trained)
    if not np.array_equal(cells.genes, there.genes):
        raise DataError("The other cells were prepared with other genes than the classifier's. Align them to its genes.")
    if trained["model"] == "scBERT":
        import torch


        fabric = scbert.training.make_fabric()
        path = weights_of(trained)
        classifier = fabric.to_device(scbert.CellTypeClassifier.from_checkpoint(path, genes=cells.genes.tolist()))
        probabilities = []
        with torch.no_grad(), fabric.autocast():
            for _, shown in scbert.training.feed(there.tokens, scbert.training.in_batches(np.arange(len(there.labels)), 32), fabric.device):
                probabilities.append(classifier(shown.to(fabric.device)).float().softmax(1).cpu().numpy())
        probabilities = np.concatenate(probabilities)
    else:  # learns in seconds, the same again from the same seed: its weights are not stored

        labelled = splits.few_shot(train, trained["fraction"], trained["seed"])
        labelled = np.sort(labelled) if trained["protocol"] == "clean" else labelled  # the order of ``cell_types``
        classifier = classifiers.MODELS[trained["model"]](**trained.get("training", {}))
        classifier.fit(cells.x[labelled], cells.labels[labelled], trained["seed"])
        probabilities = np.zeros((len(there.labels), len(cells.classes)), np.float32)
        probabilities[:, classifier.classes_] = classifier.predict_proba(there.x)
    return [], {"probabilities": probabilities, "classes": cells.classes, "labels": there.labels,
                "label_names": there.classes}, None  # fmt: skip


TASKS = {"pretraining": pretraining, "cell_types": cell_types, "masked": masked, "representations": representations,
         "external": external}  # fmt: skip


@functools.lru_cache
def checkpoint(given="original"):
    """The SHA-256 under which a pre-trained checkpoint is kept, after its sizes were checked.

    Parameters
    ----------
    given : str
        ``original`` (downloaded) or the path of the user's own copy.
    """
    path = downloads.fetch("checkpoint") if given == "original" else Path(given).expanduser()
    config = scbert.ScBert.from_checkpoint(path).config  # refuses what is no checkpoint of a pre-trained scBERT
    if given == "original":
        holds = downloads.registry()["checkpoint"]["holds"]
        wrong = {name: getattr(config, name) for name, size in holds.items() if getattr(config, name) != size}
        if wrong:
            raise DataError(f"{path} is not scBERT's checkpoint: it has {wrong}, where scBERT has other sizes.")
    return corpus.keep_checkpoint(path)
