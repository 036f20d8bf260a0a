"""What both training loops share: the device, one loop over epochs, checkpoints that resume exactly, progress."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm as tqdm_auto
from tqdm.std import tqdm as tqdm_text

from lib import settings
from lib.files import replacing
from lib.scbert import ranks
from lib.scbert.rules import Epochs, Plateau


def make_fabric(accelerator: str = "auto", arithmetic: str = "fp32"):
    """Lightning Fabric on the best device there is: CUDA, Apple, or CPU; ``arithmetic``: :func:`lib.scbert.arithmetic.settle`.

    In a process of :mod:`lib.scbert.ranks`: on its device, one of several.
    """
    from lightning_fabric import Fabric  # imported late: it takes seconds, and a rerun from stored runs needs none
    from lightning_fabric.plugins.environments import LightningEnvironment

    precision = "bf16-mixed" if arithmetic.startswith("bf16") else "32-true"
    if (number := ranks.place()[1]) == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    together = {"devices": number, "strategy": "ddp", "plugins": [LightningEnvironment()]}
    fabric = Fabric(accelerator=accelerator, precision=precision, **together)
    fabric.launch()
    return fabric


@dataclass
class Fit:
    """What :func:`fit` returns."""

    log: list = field(default_factory=list)  # one dictionary a round: an epoch, or the steps between two looks
    best: int = -1  # the round whose weights are kept
    best_outputs: dict = field(default_factory=dict)  # arrays that evaluate() gave in it
    history: list = field(default_factory=list)  # arrays to keep of every round
    ended: str = ""  # epochs, plateau, or maximum: the rule was not met


def fit(
    model,
    tokens,
    cells,
    loss_of,
    evaluate,
    *,
    rule,
    batch_size,
    seed,
    fabric,
    weight_of=len,
    skip=None,
    checkpoint=None,
    name="training",
):
    """Train by a rule, each cell once a pass, and keep the weights of the best round.

    A batch may go through the model in parts: its cells are shared among the processes of ``fabric``, and no more than
    ``SCBERT_AT_ONCE`` are computed at once. Gradients are summed over the parts before the step is made, each part draws what
    it would draw within the whole, and a batch counts as one forward: the numbers are those of the whole, but for rounding.

    Parameters
    ----------
    model : Module
        Already on ``fabric``'s device; parameters with ``requires_grad`` are trained by Adam. Ends with the
        weights of the best round.
    tokens : CSR matrix of uint8, or Shards, (cells, genes + 1)
    cells : int array
        Indices of the cells to train on.
    loss_of : callable (indices, tokens, generator) -> scalar tensor
        Mean loss of some cells, whose tokens are still on the CPU; ``generator`` is seeded anew each round from ``seed`` and
        the round.
    evaluate : callable () -> (metrics, outputs, keep)
        After each round: numbers for the log, arrays to keep for the best round, an array to keep for every one. The same
        in all processes.
    rule : Epochs or Plateau
    weight_of : callable (indices) -> number
        What some cells count for in that mean; those that count for nothing draw nothing.
    skip : callable (indices, generator), optional
        Draws what ``loss_of`` would draw for these cells, which another process computes.
    checkpoint : path, optional
        Written after each round; training goes on from it if it is there, and ends bit-identical to an
        uninterrupted one. A damaged file is set aside, and so is one that was written in a folder of another name: that is
        another run's.

    Returns
    -------
    Fit
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.0, fused=True)
    cells = np.asarray(cells)
    done, best_state = Fit(), None
    drawn, order, visited = None, cells[:0], 0  # of the present pass: the generator before, the cells, how many were visited
    at_once, number = settings.at_once(), ranks.place()[1]
    with fabric.rank_zero_first():  # who sets aside what is damaged, before the others look
        saved = load_checkpoint(checkpoint)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        ranks.restore_random_state(saved["random_state"])
        outputs = {name: value.numpy() for name, value in saved["best_outputs"].items()}
        done = Fit(saved["log"], saved["best"], outputs, [value.numpy() for value in saved["history"]])
        best_state, drawn, visited = saved["best_model"], saved["drawn"], saved["visited"]
        order = _order(cells, torch.Generator().set_state(drawn))
    steps = rule.steps(-(-len(cells) // batch_size))
    total = rule.epochs * steps if isinstance(rule, Epochs) else None
    with progress(name, total=total, initial=len(done.log) * steps, unit="step") as bar:
        while (rate := rule.rate(done.log)) is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
            round_ = len(done.log)
            generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, round_]).generate_state(1)[0]))
            batches = []
            while len(batches) < steps:
                if visited == len(order):
                    drawn, visited = generator.get_state(), 0
                    order = _order(cells, generator)
                batches.append(order[visited : visited + batch_size])
                visited += len(batches[-1])
            model.train()
            summed, redraws = 0.0, getattr(model, "redraws", 0)
            plans = [ranks.parts(batch, at_once, weight_of) for batch in batches]
            fed = iter(feed(tokens, [part for plan in plans for part, weight in plan if weight is not None], fabric.device))
            for batch, plan in zip(batches, plans, strict=True):
                optimizer.zero_grad(set_to_none=True)
                model.counting = True
                for part, weight in plan:
                    if weight is None:
                        if skip is not None:
                            skip(part, generator)
                        continue
                    part, shown = next(fed)
                    with fabric.autocast():
                        loss = loss_of(part, shown, generator if weight else torch.Generator())
                    model.counting = False
                    if weight:
                        loss = loss if weight == 1 else loss * weight
                        fabric.backward(loss)
                        summed += loss.detach() * len(batch)
                if number > 1:
                    ranks.sum_gradients(trained, fabric)
                if isinstance(rule, Plateau):
                    torch.nn.utils.clip_grad_norm_(trained, 1.0)  # one odd batch must not undo what was learnt
                optimizer.step()
                bar.update()
            model.counting = True
            model.eval()
            with torch.no_grad(), fabric.autocast():
                metrics, outputs, keep = evaluate()
            if number > 1:
                summed = fabric.all_reduce(torch.as_tensor(summed, device=fabric.device), reduce_op="sum")
            loss = float(summed) / sum(map(len, batches))
            if not np.isfinite(loss):
                raise FloatingPointError(f"{name}: the loss is {loss} after {bar.n} steps. Lower the learning rate.")
            row = {"epoch": round_, "steps": (round_ + 1) * steps, "learning_rate": rate, "loss": loss, **metrics}
            done.log.append(fabric.broadcast(row | {"redrawn": getattr(model, "redraws", 0) - redraws}))
            done.history.append(keep)
            if rule.best(done.log) == round_:
                done.best, done.best_outputs = round_, outputs
                best_state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            shown = next(iter(metrics))
            bar.set_postfix({shown: f"{metrics[shown]:.3f}"}, refresh=False)
            if checkpoint is not None and fabric.is_global_zero:
                save(
                    checkpoint,
                    {
                        "arithmetic": getattr(model, "arithmetic", None),
                        "folder": Path(checkpoint).resolve().parent.name,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "random_state": ranks.random_state(),
                        "log": done.log,
                        "best": done.best,
                        "best_model": best_state,
                        "drawn": drawn,
                        "visited": visited,
                        "best_outputs": {key: torch.as_tensor(value) for key, value in done.best_outputs.items()},
                        "history": [torch.as_tensor(value) for value in done.history],
                    },
                )
    model.load_state_dict(best_state)
    model.eval()
    done.ended = rule.ended(done.log)
    return done


def _order(cells, generator):
    """The cells in the order of a pass. A checkpoint holds the generator, some kilobytes, and not this."""
    return cells[torch.randperm(len(cells), generator=generator).numpy()]


def save(path: str | Path, content: dict) -> None:
    """``torch.save``, whole or not at all."""
    with replacing(Path(path)) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: str | Path | None) -> dict | None:
    """The content of a checkpoint, or None if there is none, or it is damaged or of another folder (then it is set aside)."""
    if path is None or not Path(path).exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not look at the checksums that torch.save writes
            if (member := file.testzip()) is not None:
                raise ValueError(f"{member} fails its checksum")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if (folder := saved["folder"]) == Path(path).resolve().parent.name:
            return saved
        print(f"The checkpoint {path} is another run's, of the folder {folder}: training starts again.", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 - whatever a truncated zip raises, the remedy is the same
        print(f"The checkpoint {path} is damaged ({type(error).__name__}): training starts again.", file=sys.stderr)
    os.replace(path, f"{path}.damaged")
    return None


class _Lines(io.TextIOBase):
    """A file for tqdm that prints lines, since carriage returns are lost in logs."""

    def write(self, text):
        if text := text.strip("\r\n "):
            print(text, flush=True)
        return len(text)


def progress(name: str, **kwargs) -> tqdm_text:
    """A tqdm bar: live in a terminal or notebook, one line every half minute in a log (``SCBERT_PROGRESS``)."""
    if settings.progress() == "log":
        return tqdm_text(
            desc=name,
            file=_Lines(),
            mininterval=30,
            miniters=1,
            maxinterval=float("inf"),
            ncols=90,
            delay=30,
            leave=False,
            **kwargs,
        )
    kind = tqdm_text if settings.progress() else tqdm_auto
    return kind(desc=name, leave=False, disable=settings.progress() == "off", **kwargs)


def feed(tokens: sp.csr_matrix, batches: list[np.ndarray], device: torch.device) -> DataLoader:
    """Batches of cells: of each array of indices, (indices, tokens as a uint8 tensor).

    For CUDA they are assembled by other processes ahead of time, and pinned, so that copying them overlaps computing.
    """
    ahead = {"num_workers": 2, "pin_memory": True, "prefetch_factor": 4} if device.type == "cuda" else {}
    own = torch.Generator()  # else the loader would draw from the global generator
    return DataLoader(_Batches(tokens, batches), batch_size=None, generator=own, **ahead)


def of_batches(tokens, batches: list[np.ndarray], device, function: Callable, skip: Callable | None = None) -> list:
    """What a function of (indices, tokens) gives for each batch, in their order: each computed by one of the processes.

    ``skip``: of the indices of a batch that another process computes; it draws what the function would draw.
    """
    rank, number = ranks.place()
    fed, mine = iter(feed(tokens, batches[rank::number], device)), []
    for k, batch in enumerate(batches):
        if k % number == rank:
            mine.append(function(*next(fed)))
        elif skip is not None:
            skip(batch)
    return ranks.in_order(mine)


def in_batches(cells: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cells in their order, as arrays of at most ``batch_size``."""
    return [cells[i : i + batch_size] for i in range(0, len(cells), batch_size)]


class _Batches(Dataset):
    """What :func:`feed` hands to PyTorch's loader: an item is a batch."""

    def __init__(self, tokens, batches):
        self.tokens, self.batches = tokens, batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        return torch.from_numpy(self.batches[i]), torch.from_numpy(self.tokens[self.batches[i]].toarray())
