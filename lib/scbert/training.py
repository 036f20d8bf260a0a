"""What both training loops share: the device, one loop over epochs, checkpoints that resume exactly, progress."""

from __future__ import annotations

import io
import math
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


def make_fabric(accelerator: str = "auto"):
    """Lightning Fabric on the best device there is: CUDA (bf16 autocast), Apple, or CPU (fp32)."""
    from lightning_fabric import Fabric  # imported late: it takes seconds, and a rerun from stored runs needs none

    cuda = accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
    return Fabric(accelerator=accelerator, devices=1, precision="bf16-mixed" if cuda else "32-true")


@dataclass
class Fit:
    """What :func:`fit` returns."""

    log: list = field(default_factory=list)  # one dictionary an epoch
    best_epoch: int = -1
    best_outputs: dict = field(default_factory=dict)  # arrays that evaluate() gave in the best epoch
    history: list = field(default_factory=list)  # arrays to keep of every epoch


def fit(
    model,
    tokens,
    cells,
    loss_of,
    evaluate,
    *,
    epochs,
    batch_size,
    learning_rate,
    seed,
    score,
    fabric,
    checkpoint=None,
    name="training",
):
    """Train for some epochs, each cell once an epoch, and keep the weights of the best epoch.

    Parameters
    ----------
    model : Module
        Already on ``fabric``'s device; parameters with ``requires_grad`` are trained by Adam. Ends with the
        weights of the best epoch.
    tokens : CSR matrix of uint8, (cells, genes + 1)
    cells : int array
        Indices of the cells to train on.
    loss_of : callable (indices, tokens, generator) -> scalar tensor
        Loss of a batch, whose tokens are still on the CPU; ``generator`` is seeded anew each epoch from ``seed`` and
        the epoch.
    evaluate : callable () -> (metrics, outputs, keep)
        After each epoch: numbers for the log, arrays to keep for the best epoch, an array to keep for every one.
    learning_rate : callable (epoch) -> float
    score : callable (metrics) -> float
        Its maximum makes the best epoch (the first one, among equals).
    checkpoint : path, optional
        Written after each epoch; training goes on from it if it is there, and ends bit-identical to an
        uninterrupted one. A damaged file is discarded.

    Returns
    -------
    Fit
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate(0), fused=True)
    done, best_state = Fit(), None
    if saved := load_checkpoint(checkpoint):
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        _restore_random_state(saved["random_state"])
        outputs = {name: value.numpy() for name, value in saved["best_outputs"].items()}
        done = Fit(saved["log"], saved["best_epoch"], outputs, [value.numpy() for value in saved["history"]])
        best_state = saved["best_model"]
    cells = np.asarray(cells)
    steps = -(-len(cells) // batch_size)
    with progress(name, total=epochs * steps, initial=len(done.log) * steps, unit="step") as bar:
        for epoch in range(len(done.log), epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch)
            generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
            order = cells[torch.randperm(len(cells), generator=generator).numpy()]
            model.train()
            total = 0.0
            for batch, shown in feed(tokens, order, batch_size, fabric.device):
                with fabric.autocast():
                    loss = loss_of(batch, shown, generator)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                optimizer.step()
                total += loss.detach() * len(batch)
                bar.update()
            model.eval()
            with torch.no_grad(), fabric.autocast():
                metrics, outputs, keep = evaluate()
            loss = float(total) / len(cells)
            if not np.isfinite(loss):
                raise FloatingPointError(f"{name}: the loss is {loss} in epoch {epoch + 1}. Lower the learning rate.")
            done.log.append({"epoch": epoch, "learning_rate": learning_rate(epoch), "loss": loss, **metrics})
            done.history.append(keep)
            if best_state is None or score(metrics) > score(done.log[done.best_epoch]):
                done.best_epoch, done.best_outputs = epoch, outputs
                best_state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            shown = next(iter(metrics))
            bar.set_postfix({shown: f"{metrics[shown]:.3f}"}, refresh=False)
            if checkpoint is not None:
                save(
                    checkpoint,
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "random_state": _random_state(),
                        "log": done.log,
                        "best_epoch": done.best_epoch,
                        "best_model": best_state,
                        "best_outputs": {key: torch.as_tensor(value) for key, value in done.best_outputs.items()},
                        "history": [torch.as_tensor(value) for value in done.history],
                    },
                )
    model.load_state_dict(best_state)
    model.eval()
    return done


def save(path: str | Path, content: dict) -> None:
    """``torch.save``, whole or not at all."""
    with replacing(Path(path)) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: str | Path | None) -> dict | None:
    """The content of a checkpoint, or None if there is none or it is damaged (then it is set aside)."""
    if path is None or not Path(path).exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not look at the checksums that torch.save writes
            if (member := file.testzip()) is not None:
                raise ValueError(f"{member} fails its checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
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
    """A tqdm bar: live in a terminal or notebook, one line every ten seconds where output goes to a log.

    ``SCBERT_PROGRESS=log`` asks for lines, as ``run_all.sh`` does.
    """
    if settings.progress_in_lines():
        return tqdm_text(
            desc=name,
            file=_Lines(),
            mininterval=10,
            miniters=1,
            maxinterval=float("inf"),
            ncols=90,
            delay=10,
            leave=False,
            **kwargs,
        )
    return tqdm_auto(desc=name, leave=False, **kwargs)


def feed(tokens: sp.csr_matrix, order: np.ndarray, batch_size: int, device: torch.device) -> DataLoader:
    """Batches of cells in this order, dense: (indices, tokens as a uint8 tensor).

    For CUDA they are assembled by other processes ahead of time, and pinned, so that copying them overlaps computing.
    """
    ahead = {"num_workers": 2, "pin_memory": True, "prefetch_factor": 4} if device.type == "cuda" else {}
    own = torch.Generator()  # else the loader would draw from the global generator
    return DataLoader(_Batches(tokens, np.asarray(order), batch_size), batch_size=None, generator=own, **ahead)


class _Batches(Dataset):
    """What :func:`feed` hands to PyTorch's loader: an item is a batch."""

    def __init__(self, tokens, order, batch_size):
        self.tokens, self.order, self.batch_size = tokens, order, batch_size

    def __len__(self):
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        cells = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        return torch.from_numpy(cells), torch.from_numpy(self.tokens[cells].toarray())
