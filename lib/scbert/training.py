"""What both training loops share: the device, one loop over epochs, checkpoints that resume exactly, progress."""

from __future__ import annotations

import io
import os
import sys
import zipfile
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
from lib.scbert.rules import Epochs, Plateau


def make_fabric(accelerator: str = "auto"):
    """Lightning Fabric on the best device there is: CUDA (bf16 autocast), Apple, or CPU (fp32)."""
    from lightning_fabric import Fabric  # imported late: it takes seconds, and a rerun from stored runs needs none

    cuda = accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
    return Fabric(accelerator=accelerator, devices=1, precision="bf16-mixed" if cuda else "32-true")


@dataclass
class Fit:
    """What :func:`fit` returns."""

    log: list = field(default_factory=list)  # one dictionary a round: an epoch, or the steps between two looks
    best: int = -1  # the round whose weights are kept
    best_outputs: dict = field(default_factory=dict)  # arrays that evaluate() gave in it
    history: list = field(default_factory=list)  # arrays to keep of every round
    ended: str = ""  # epochs, plateau, or maximum: the rule was not met


def fit(model, tokens, cells, loss_of, evaluate, *, rule, batch_size, seed, fabric, checkpoint=None, name="training"):
    """Train by a rule, each cell once a pass, and keep the weights of the best round.

    Parameters
    ----------
    model : Module
        Already on ``fabric``'s device; parameters with ``requires_grad`` are trained by Adam. Ends with the
        weights of the best round.
    tokens : CSR matrix of uint8, (cells, genes + 1)
    cells : int array
        Indices of the cells to train on.
    loss_of : callable (indices, tokens, generator) -> scalar tensor
        Loss of a batch, whose tokens are still on the CPU; ``generator`` is seeded anew each round from ``seed`` and
        the round.
    evaluate : callable () -> (metrics, outputs, keep)
        After each round: numbers for the log, arrays to keep for the best round, an array to keep for every one.
    rule : Epochs or Plateau
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
    done, best_state, left = Fit(), None, cells[:0]  # left: cells that the present pass has still to visit
    if saved := load_checkpoint(checkpoint):
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        _restore_random_state(saved["random_state"])
        outputs = {name: value.numpy() for name, value in saved["best_outputs"].items()}
        done = Fit(saved["log"], saved["best"], outputs, [value.numpy() for value in saved["history"]])
        best_state, left = saved["best_model"], saved["left"].numpy()
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
                if not len(left):
                    left = cells[torch.randperm(len(cells), generator=generator).numpy()]
                batches.append(left[:batch_size])
                left = left[batch_size:]
            model.train()
            summed, drawn = 0.0, getattr(model, "redraws", 0)
            for batch, shown in feed(tokens, batches, fabric.device):
                with fabric.autocast():
                    loss = loss_of(batch, shown, generator)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                if isinstance(rule, Plateau):
                    torch.nn.utils.clip_grad_norm_(trained, 1.0)  # one odd batch must not undo what was learnt
                optimizer.step()
                summed += loss.detach() * len(batch)
                bar.update()
            model.eval()
            with torch.no_grad(), fabric.autocast():
                metrics, outputs, keep = evaluate()
            loss = float(summed) / sum(map(len, batches))
            if not np.isfinite(loss):
                raise FloatingPointError(f"{name}: the loss is {loss} after {bar.n} steps. Lower the learning rate.")
            row = {"epoch": round_, "steps": (round_ + 1) * steps, "learning_rate": rate, "loss": loss, **metrics}
            done.log.append(row | {"redrawn": getattr(model, "redraws", 0) - drawn})
            done.history.append(keep)
            if rule.best(done.log) == round_:
                done.best, done.best_outputs = round_, outputs
                best_state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            shown = next(iter(metrics))
            bar.set_postfix({shown: f"{metrics[shown]:.3f}"}, refresh=False)
            if checkpoint is not None:
                save(
                    checkpoint,
                    {
                        "folder": Path(checkpoint).resolve().parent.name,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "random_state": _random_state(),
                        "log": done.log,
                        "best": done.best,
                        "best_model": best_state,
                        "left": torch.as_tensor(left),
                        "best_outputs": {key: torch.as_tensor(value) for key, value in done.best_outputs.items()},
                        "history": [torch.as_tensor(value) for value in done.history],
                    },
                )
    model.load_state_dict(best_state)
    model.eval()
    done.ended = rule.ended(done.log)
    return done


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


def _random_state():
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state):
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


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
