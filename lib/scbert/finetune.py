"""Fine-tuning: name cell types with the last block, the final norm and a new head; the rest stays frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from lib.errors import DataError
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.frozen import FrozenBlocks
from lib.scbert.ranks import on_devices
from lib.scbert.rules import Epochs, Plateau
from lib.scbert.training import feed, fit, in_batches, make_fabric, of_batches


def learning_rate(
    epoch: int,
    max_lr: float = 1e-4,
    min_lr: float = 1e-6,
    warmup: int = 5,
    cycle: int = 15,
    cycle_mult: float = 2,
    gamma: float = 0.9,
) -> float:
    """The authors' schedule, epoch by epoch: warm-up, then cosine, in cycles.

    Parameters
    ----------
    epoch : int
        From 0.
    warmup, cycle : int
        Epochs of linear warm-up from ``min_lr``, and of the first cycle including it.
    cycle_mult, gamma : float
        Each next cycle is longer by ``cycle_mult`` in what follows the warm-up, and its peak lower by ``gamma``.
    """
    peak = max_lr
    while epoch >= cycle:
        epoch -= cycle
        cycle = int((cycle - warmup) * cycle_mult) + warmup
        peak *= gamma
    if epoch < warmup:
        return min_lr + (peak - min_lr) * epoch / warmup
    return min_lr + (peak - min_lr) * (1 + math.cos(math.pi * (epoch - warmup) / (cycle - warmup))) / 2


@dataclass
class FineTuned:
    """What :func:`finetune` returns."""

    probabilities: np.ndarray  # (test cells, classes), of the best round
    predicted_by_epoch: np.ndarray | None  # (epochs, test cells); None where training ended by a plateau
    log: list
    best_epoch: int  # or round
    ended: str  # epochs, plateau, or maximum: the rule was not met
    redrawn: int  # how often the head was drawn again, since no token passed it
    passing: np.ndarray  # (2, 6): what :func:`passing` gives of some test cells, before and after


TRAINED = ("last_block", "all")


def freeze(model: CellTypeClassifier, trained: str = "last_block") -> None:
    """Leave trainable what the paper trains: the last block (where there is one), the final norm and the head.

    ``trained="all"`` leaves everything trainable but the gene embedding, which is no parameter.
    """
    if trained not in TRAINED:
        raise DataError(f"trained is {trained!r}; it is one of {', '.join(TRAINED)}.")
    model.requires_grad_(trained == "all")
    for part in (*model.performer.net.layers[-1:], model.norm, model.to_out):
        part.requires_grad_(True)


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """1 / class count in the *training* cells, (classes,); 0 for a class without any."""
    counts = np.bincount(labels, minlength=classes)
    return np.divide(1.0, counts, out=np.zeros(classes), where=counts > 0).astype(np.float32)


@torch.no_grad()
def redraw_dead_head(model: CellTypeClassifier, tokens: sp.csr_matrix, train: np.ndarray, batch_size: int = 32) -> int:
    """Draw the head's convolution again until some token of some training cell passes its ReLU; return how often.

    About one drawn head in a hundred lets no token of any cell pass: then every cell looks alike to the layers behind it, no
    gradient reaches the convolution, and training changes nothing.
    """
    device = next(model.parameters()).device

    def alive():
        for _, shown in feed(tokens, in_batches(np.asarray(train), batch_size), device):
            shown = shown.to(device)
            states = model.blocks(model.embed(shown), model.counts(shown), tokens=shown)
            if (model.to_out.squeeze(model.norm(states)) > 0).any():
                return True
        return False

    for redrawn in range(100):
        if alive():
            return redrawn
        model.to_out.conv1.reset_parameters()
    raise DataError(
        "No token of any training cell passes the head's ReLU, though it was drawn 100 times: the states are all alike."
    )


@torch.no_grad()
def passing(model: CellTypeClassifier, tokens: sp.csr_matrix, cells: np.ndarray) -> np.ndarray:
    """Of the genes of some cells that show each of the tokens 0 … 5, the share that passes the head's ReLU; (6,), float32.

    It tells what the layers behind see of a cell: where zeros stay behind and the others pass, which genes are detected.
    NaN for a token that none of the cells shows.
    """
    shown = torch.from_numpy(tokens[cells].toarray()).to(next(model.parameters()).device)
    states = model.blocks(model.embed(shown), model.counts(shown), tokens=shown)
    passed = (model.spread(model.to_out.squeeze(model.norm(states)), shown) > 0).cpu()
    shown = shown.cpu()
    return np.array([passed[shown == token].float().mean() for token in range(6)], np.float32)


@on_devices
def finetune(
    model: CellTypeClassifier,
    tokens,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    select: np.ndarray | None = None,
    epochs: int = 10,
    ends: dict | None = None,
    batch_size: int = 32,
    schedule: dict | None = None,
    seed: int = 0,
    trained: str = "last_block",
    weighted: bool = True,
    checkpoint: Path | None = None,
    accelerator: str = "auto",
    cache_bytes: int = 2**30,
    name: str = "fine-tuning",
) -> FineTuned:
    """Fine-tune a classifier as the paper does, and predict the test cells; ``devices``: :func:`lib.scbert.ranks.on_devices`.

    Parameters
    ----------
    model : CellTypeClassifier
        Trained in place; ends with the weights of the best epoch.
    tokens : CSR matrix of uint8, or array, (cells, genes + 1)
    labels : int array, (cells,)
        In 0 … classes − 1.
    train, test : int arrays
        Indices of cells.
    select : int array, optional
        Cells on which accuracy chooses the weights, and loss the end. Default: ``test``, the paper's protocol.
    epochs, schedule : int, dict
        The authors' way: a fixed number of passes; arguments of :func:`learning_rate`.
    ends : dict, optional
        Instead: until the loss on ``select`` is flat, with these settings of :class:`lib.scbert.rules.Plateau`.
    trained : {"last_block", "all"}
        The paper's choice (see :func:`freeze`), or every block and the token embedding too.
    weighted : bool
        Each cell counts as 1 / cells of its class, as the authors have it; False: all cells count alike.
    cache_bytes : int
        Memory for the frozen blocks' output; beyond it, a file beside the checkpoint keeps it, where the disk has room; else
        they are computed anew in each step (:class:`lib.scbert.frozen.FrozenBlocks`).
    checkpoint, accelerator
        See :func:`lib.scbert.training.fit` and :func:`lib.scbert.training.make_fabric`.

    Returns
    -------
    FineTuned
    """
    labels, train, test = np.asarray(labels), np.asarray(train), np.asarray(test)
    select = test if select is None else np.asarray(select)
    if not (len(train) and len(test) and len(select)):
        raise DataError(f"Fine-tuning needs cells to train on ({len(train)}), select by ({len(select)}), test ({len(test)}).")
    if tokens.shape[1] != model.config.genes + 1:
        raise DataError(f"The cells have {tokens.shape[1] - 1} genes, the model was made for {model.config.genes}.")
    classes = model.config.classes
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"Labels go from {labels.min()} to {labels.max()}, the model has {classes} classes.")
    fabric = make_fabric(accelerator, model.arithmetic)
    model = fabric.to_device(model)
    freeze(model, trained)
    tokens, targets = sp.csr_matrix(tokens, dtype=np.uint8), fabric.to_device(torch.as_tensor(labels).long())
    per_class = class_weights(labels[train], classes) if weighted else np.ones(classes, np.float32)
    weights = fabric.to_device(torch.as_tensor(per_class)) if weighted else None
    frozen = FrozenBlocks(model, tokens, np.concatenate([train, select, test]), batch_size, cache_bytes, checkpoint)

    def logits(cells, shown):
        shown = shown.to(fabric.device, non_blocking=True)
        if trained == "all":
            return model.classify(model.blocks(model.embed(shown), model.counts(shown)), shown).float()
        return model.classify(model.blocks(frozen(cells), model.counts(shown), start=-1), shown).float()

    def loss_of(batch, shown, _):
        if model.count_forward():
            frozen.forget()
        return F.cross_entropy(logits(batch, shown), targets[batch.to(fabric.device)], weight=weights)

    def logits_of(cells):
        return torch.cat(of_batches(tokens, in_batches(cells, batch_size), fabric.device, logits)).to(fabric.device)

    def probabilities(cells):
        return logits_of(cells).softmax(1).cpu().numpy()

    def loss_and_accuracy():
        found = logits_of(select)
        right = targets[torch.as_tensor(select, device=fabric.device)]
        loss = float(F.cross_entropy(found, right, weight=weights))
        return {"validation_loss": loss, "accuracy": float((found.argmax(1) == right).float().mean())}, {}, np.zeros(0)

    def evaluate():
        result = probabilities(test)
        chosen = result if select is test else probabilities(select)
        accuracy = float((chosen.argmax(1) == labels[select]).mean())
        return {"accuracy": accuracy}, {"probabilities": result}, result.argmax(1).astype(np.int16)

    if ends is None:
        rule = Epochs(epochs, lambda epoch: learning_rate(epoch, **(schedule or {})), lambda row: row["accuracy"])
    else:
        shares = np.bincount(labels[train]) / len(train)
        shares = shares[shares > 0]
        rule = Plateau(**ends, guess=np.log(len(shares)) if weighted else float(-(shares * np.log(shares)).sum()))
    redrawn = redraw_dead_head(model, tokens, train, batch_size)

    def passed():
        with fabric.autocast():
            return passing(model, tokens, test[:batch_size])

    before = passed()
    done = fit(
        model,
        tokens,
        train,
        loss_of,
        evaluate if ends is None else loss_and_accuracy,
        rule=rule,
        batch_size=batch_size,
        seed=seed,
        fabric=fabric,
        weight_of=lambda cells: float(per_class[labels[cells]].sum(dtype=np.float64)),
        checkpoint=checkpoint,
        name=name,
    )
    if ends is None:
        found, history = done.best_outputs["probabilities"], np.stack(done.history)
    else:
        with torch.no_grad(), fabric.autocast():
            found, history = probabilities(test), None
    frozen.remove()
    return FineTuned(found, history, done.log, done.best, done.ended, redrawn, np.stack([before, passed()]))
