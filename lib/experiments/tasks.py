"""What a run computes, by the task of its specification: functions from a specification to arrays.

``cell_types`` (a classifier's predictions), ``pretraining`` (weights), ``masked`` (the masked task on held-out
cells), ``representations`` (what cells and genes look like inside a model) and ``external`` (what a trained classifier
says of another data set's cells).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from lib import scbert
from lib.datasets import downloads
from lib.errors import DataError
from lib.experiments import classifiers
from lib.files import digest
from lib.prepare import corpus, embeddings, splits
from lib.prepare.cells import Cells, read, read_depths

PUBLISHED = {"original": "checkpoint", "panglao": "panglao"}  # what a profile may name in place of a path: what is fetched


def dependencies(spec: dict) -> list[dict]:
    """Specifications of the runs that must be done before this one."""
    return [spec[name] for name in ("pretraining", "trained") if spec.get(name)]


def _load(spec):
    """Cells, and the indices of the training and test cells."""
    cells = read(spec["data"]["fingerprint"])
    return cells, *splits.holdout(cells.labels, **spec["split"], groups=cells.groups)


def _file(given):
    """Where a checkpoint or corpus is that a specification names: the published one, or the user's, if it is the same."""
    if isinstance(given, str):
        return downloads.fetch(PUBLISHED[given])
    if (place := given.get("_path")) is None:
        raise DataError(
            f"These runs are pre-trained on a corpus whose content has the hash {given['sha256'][:12]}…, and are not published "
            "here. To compute them, give where it lies: pretraining: {corpus: PATH} in a profile's file."
        )
    try:
        same = corpus.content(place) == given["sha256"]
    except (DataError, OSError):
        same = False
    if not same:
        raise DataError(f"{place} is not there any more, or another file than when the profile was loaded. Load it again.")
    return place if isinstance(place, list) else Path(place)


def gene_embedding(spec: dict, cells: Cells, train: np.ndarray) -> np.ndarray | None:
    """Array (genes, dim) of the kind that the specification names, or None."""
    kind, dim = spec["gene_embedding"], spec["size"]["dim"]
    if kind is None:
        return None
    if kind == "coexpression":
        return embeddings.coexpression(cells.tokens[train], dim)
    if kind == "random":
        return embeddings.random(len(cells.genes), dim, spec["seed"])
    if kind != "gene2vec":
        raise DataError(f"gene_embedding is {kind!r}; it is one of gene2vec, coexpression, random, None.")
    return embeddings.reduce(embeddings.kept_gene2vec(cells.genes, spec["gene2vec"]), dim)


def _random_trunk(spec, cells, train):
    return classifiers.random_trunk(spec["size"], len(cells.genes), gene_embedding(spec, cells, train), spec["seed"])


def _trunk(spec, cells, train, weights_of):
    """Pre-trained weights where the specification has a pre-training, else random ones."""
    if not spec.get("pretraining"):
        return _random_trunk(spec, cells, train)
    return scbert.ScBert.from_checkpoint(weights_of(spec["pretraining"]), genes=cells.genes.tolist())


def _taken_over(spec, cells, train):
    """The model of a checkpoint, whose gene embedding must be ours, gene by gene: so the order is the same."""
    path = _file(spec["checkpoint"])
    model = scbert.ScBert.from_checkpoint(path, gene_embedding(spec, cells, train), cells.genes)
    published = downloads.registry()["checkpoint"]["holds"] if spec["checkpoint"] == "original" else {}
    if any(getattr(model.config, name) != size for name, size in published.items()):
        raise DataError(f"{path} is not scBERT's checkpoint: that has the sizes {published}. Delete it, or mend it.")
    if other := {name: size for name, size in spec["size"].items() if getattr(model.config, name) != size}:
        raise DataError(f"The checkpoint's model has other sizes than the profile's, {other}: change size in the profile.")
    return model, [{"checkpoint": digest(path)}]


def _how(what, spec, checkpoint):
    """What both trainings are told: settings, seed, where to go on from, and a name for progress."""
    name = f"{what}, {spec['arm'].replace('_', ' ')}"
    return spec["training"] | {"seed": spec["seed"], "checkpoint": checkpoint, "name": name}


def _weights(model, cells):
    return {"model_state_dict": model.cpu().state_dict(), "genes": cells.genes.tolist()}


def pretraining(spec: dict, checkpoint: Path, weights_of: Callable) -> tuple:
    """Pre-train on the training cells, without their labels, or on a corpus; or take over a checkpoint's weights."""
    cells, train, _ = _load(spec)
    if "checkpoint" in spec:
        model, log = _taken_over(spec, cells, train)
        return log, {}, _weights(model, cells)
    tokens, used = cells.tokens[train], {"train": train}
    if given := spec.get("corpus"):
        tokens, used = corpus.tokens(_file(given["file"]), cells.genes.tolist(), given["min_genes"]), {}
    model = _random_trunk(spec, cells, train)
    done = scbert.pretrain.pretrain(model, tokens, **_how("pre-training", spec, checkpoint))
    return done.log, used | {"ended": np.array(done.ended), "best_epoch": np.array(done.best)}, _weights(model, cells)


def sides(spec):
    """Cells, and the indices of those to train on, to choose the epoch by and to predict; and all training cells.

    With ``left_out``, the name of a type, no cell of it is learnt from or chosen by, and all of them are predicted. Where
    ``held_out`` is ``tuning``, a fifth of the training cells takes the place of the test cells.
    """
    cells, everything, test = _load(spec)
    kept_apart = {"labels": cells.labels, "groups": cells.groups}
    tuned = spec.get("held_out") == "tuning"
    train, test = classifiers.chosen_by(everything, seed=0, **kept_apart) if tuned else (everything, test)
    select = test
    if left_out := spec.get("left_out"):
        if left_out not in cells.classes:
            raise DataError(f"left_out is {left_out!r}; the cell types are {', '.join(cells.classes)}.")
        unseen = cells.labels == np.flatnonzero(cells.classes == left_out)[0]
        train, select = train[~unseen[train]], test[~unseen[test]]
        test = np.union1d(test, np.flatnonzero(unseen))
    train = splits.few_shot(train, spec["fraction"], spec["seed"])
    if spec["protocol"] != "paper":  # a fifth of the labelled cells chooses the epoch, none of it is reported
        train, select = classifiers.chosen_by(train, spec["seed"], **kept_apart)
    return cells, train, select, test, everything


def fed(spec, cells):
    """What a classifier without a transformer learns from and predicts."""
    if spec.get("input") == "tokens":
        return cells.tokens[:, :-1].astype(np.float32)
    if spec.get("input") == "equal_depth":
        return read_depths(spec["depths"]).equal
    if spec.get("input") == "depth":
        depths = read_depths(spec["depths"])
        return np.log1p(np.stack([depths.detected] if depths.total is None else [depths.total, depths.detected], 1))
    return (cells.x > 0).astype(np.float32) if spec.get("input") == "detected" else cells.x


def learnt(spec, cells, train, select):
    """A classifier without a transformer that has learnt: what tells its probabilities, what it learnt from, and itself.

    It has no epochs to choose among, so it learns from all labelled cells (``labelled``: or only from those that scBERT is
    trained on, as a control); in seconds, so that its weights are not stored.
    """
    labelled = train if spec["protocol"] == "paper" or spec.get("labelled") == "as scBERT" else np.union1d(train, select)
    classifier = classifiers.MODELS[spec["model"]](**spec.get("training", {}))
    x, labels = fed(spec, cells)[labelled], cells.labels[labelled]
    groups = None if cells.groups is None else cells.groups[labelled]
    told = classifiers.learn(classifier, x, labels, spec["seed"], len(cells.classes), spec["arm"], groups)
    return told, labelled, classifier


def cell_types(spec: dict, checkpoint: Path, weights_of: Callable) -> tuple:
    """Learn the cell types of a fraction of the training cells; predict the test cells."""
    cells, train, select, test, everything = sides(spec)
    about = {"test": test, "train": train, "labels": cells.labels[test], "classes": cells.classes}
    if spec["model"] != "scBERT":
        probabilities, labelled, classifier = learnt(spec, cells, train, select)
        x = fed(spec, cells)
        accuracy = np.mean(probabilities(x[labelled]).argmax(1) == cells.labels[labelled])
        log = [{"C": getattr(classifier, "C_", None), "train_accuracy": accuracy}]
        return log, about | {"train": labelled, "probabilities": probabilities(x[test]).astype(np.float32)}, None
    trunk, how = _trunk(spec, cells, everything, weights_of), _how("fine-tuning", spec, checkpoint) | {"select": select}
    classifier, done = classifiers.fine_tuned(trunk, cells.tokens, cells.labels, len(cells.classes), train, test, **how)
    arrays = {"probabilities": done.probabilities, "best_epoch": np.array(done.best_epoch), "select": select}
    arrays |= {"ended": np.array(done.ended), "redrawn": np.array(done.redrawn), "passing": done.passing}
    arrays |= {} if done.predicted_by_epoch is None else {"predicted_by_epoch": done.predicted_by_epoch}
    return done.log, about | arrays, _weights(classifier, cells)


def masked(spec: dict, checkpoint: Path, weights_of: Callable) -> tuple:
    """The masked task on the test cells, and the bin that is most common in each cell, for comparison."""
    cells, train, test = _load(spec)
    result = scbert.pretrain.evaluate_masked(_trunk(spec, cells, train, weights_of), cells.tokens[test], seed=spec["seed"])
    counts = np.stack([(cells.tokens[test].toarray() == bin_).sum(1) for bin_ in range(1, 6)], 1)
    log = [{"loss": result.pop("loss")}]
    return log, result | {"most_common_bin": 1 + counts.argmax(1)[result["cell"]], "test": test}, None


def representations(spec: dict, checkpoint: Path, weights_of: Callable) -> tuple:
    """Cells and genes as a model represents them, with a UMAP of the cells.

    ``cells`` (cells, dim): mean over the genes of the final, normalised hidden states, or principal components;
    ``cells_closing`` (cells, dim): the hidden state of the closing token, scBERT's [CLS];
    ``genes_out`` (genes, dim): mean over the cells of the same; ``genes_in``: the gene embedding; ``umap``.
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
    """Means of the final, normalised hidden states, over each cell's genes and each gene's cells."""
    import torch

    model.eval()
    per_cell, closing, per_gene = [], [], 0.0
    with torch.no_grad():
        for i in range(0, cells.tokens.shape[0], batch_size):
            tokens = torch.as_tensor(cells.tokens[i : i + batch_size].toarray())
            hidden = model.norm(model.hidden(tokens))  # (b, genes + 1, d)
            per_cell.append(hidden[:, :-1].mean(1).numpy())
            closing.append(hidden[:, -1].numpy())
            per_gene = per_gene + hidden[:, :-1].double().sum(0)
    arrays = {"cells": np.concatenate(per_cell), "cells_closing": np.concatenate(closing)}
    arrays["genes_out"] = (per_gene / cells.tokens.shape[0]).float().numpy()
    if model.gene_embedding is not None:
        arrays["genes_in"] = model.gene_embedding[:-1].numpy()
    return arrays


def external(spec: dict, checkpoint: Path, weights_of: Callable) -> tuple:
    """What a classifier of the task ``cell_types``, named by ``trained``, says of all cells of another data set.

    ``probabilities`` (cells, ``classes``); ``labels`` are the other data set's own, indices into ``label_names``.
    """
    trained, there = spec["trained"], read(spec["data"]["fingerprint"])
    cells, train, select, *_ = sides(trained)
    if not np.array_equal(cells.genes, there.genes):
        raise DataError("The other cells were prepared with other genes than the classifier's. Align them to its genes.")
    if trained["model"] == "scBERT":
        classifier = classifiers.ScBertClassifier.stored(weights_of(trained), cells.genes.tolist())
        found = classifiers.probabilities(classifier, classifier.classes_, len(cells.classes), trained["arm"], there.x)
    else:
        found = learnt(trained, cells, train, select)[0](fed(trained, there))
    arrays = {"probabilities": found.astype(np.float32), "classes": cells.classes}
    return [], arrays | {"labels": there.labels, "label_names": there.classes}, None


TASKS = {task.__name__: task for task in (pretraining, cell_types, masked, representations, external)}
