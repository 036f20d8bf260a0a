"""Pre-training: hide some expressed genes of a cell, learn to tell their bins."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.errors import DataError
from lib.prepare.shards import Shards
from lib.prepare.tokens import MASK
from lib.scbert.model import ScBert
from lib.scbert.ranks import on_devices
from lib.scbert.rules import Epochs, Plateau
from lib.scbert.training import Fit, fit, in_batches, make_fabric, of_batches

IGNORED = -100  # PyTorch's ignore_index: not a target


def mask_tokens(
    tokens: Tensor, generator: torch.Generator | None = None, mask_prob: float = 0.15, replace_prob: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Choose the targets of the masked task and hide them.

    Parameters
    ----------
    tokens : integer tensor, (cells, genes + 1)
    generator : torch.Generator, optional
        On the CPU, where the draw is made: the same numbers on every device.
    mask_prob : float
        Share of a cell's non-zero tokens that are targets, rounded up.
    replace_prob : float
        Share of the targets that is shown as the mask token; the others are shown as they are.

    Returns
    -------
    masked : tensor like ``tokens``
    targets : int64 tensor, (cells, genes + 1)
        The true token of each target, −100 elsewhere.
    """
    cell, gene = torch.nonzero(tokens.cpu(), as_tuple=True)
    # Drawn gene by gene, so that cells get the same numbers however they are batched.
    chance, hidden = torch.rand(len(cell), 2, generator=generator, dtype=torch.float64).unbind(1)
    expressed = torch.bincount(cell, minlength=len(tokens))
    wanted = targets_of(expressed, mask_prob)
    order = torch.argsort(cell + chance)  # cell by cell, within a cell in the order of chance
    rank = torch.arange(len(cell)) - (expressed.cumsum(0) - expressed)[cell]  # cell is sorted: so is cell[order]
    chosen = order[rank < wanted[cell]]
    shown = chosen[hidden[chosen] < replace_prob]
    masked, targets = tokens.clone(), torch.full(tokens.shape, IGNORED, device=tokens.device)
    targets[cell[chosen], gene[chosen]] = tokens[cell[chosen], gene[chosen]].long()
    masked[cell[shown], gene[shown]] = MASK
    return masked, targets


def targets_of(expressed, mask_prob: float = 0.15) -> Tensor:
    """How many targets cells with so many non-zero tokens have (int64 tensor)."""
    return torch.ceil(mask_prob * torch.as_tensor(expressed).double() - 1e-9).long()


def skip_draws(expressed: int, generator: torch.Generator) -> None:
    """Draw what :func:`mask_tokens` draws for cells with so many non-zero tokens."""
    torch.rand(expressed, 2, generator=generator, dtype=torch.float64)


def target_logits(model: ScBert, masked: Tensor, targets: Tensor) -> Tensor:
    """Logits of the targets only, (targets, 7): neither the head nor the last block's queries need the other tokens."""
    return model.to_out(model.norm(model.states_at(masked, *torch.nonzero(targets != IGNORED, as_tuple=True))))


@on_devices
def pretrain(
    model: ScBert,
    tokens,
    *,
    epochs: int | None = None,
    ends: dict | None = None,
    batch_size: int = 32,
    max_lr: float = 1e-4,
    seed: int = 0,
    validation: float = 0.05,
    checkpoint: Path | None = None,
    accelerator: str = "auto",
    name: str = "pre-training",
) -> Fit:
    """Pre-train on the masked task, all weights trained; ``devices``: see :func:`lib.scbert.ranks.on_devices`.

    Parameters
    ----------
    model : ScBert
        Trained in place; ends with the weights of the round with the lowest loss on the validation cells.
    tokens : CSR matrix of uint8, array, or :class:`lib.prepare.shards.Shards`, (cells, genes + 1)
    epochs : int, optional
        A fixed number of passes: the rate warms up over a tenth of them and falls by a cosine to a hundredth.
    ends : dict, optional
        Instead: until the validation loss is flat, with these settings of :class:`lib.scbert.rules.Plateau`.
    max_lr : float
        Adam's highest rate.
    validation : float
        Share of the cells set aside to judge by.
    checkpoint, accelerator
        See :func:`lib.scbert.training.fit` and :func:`lib.scbert.training.make_fabric`.

    Returns
    -------
    Fit
        Its log has ``steps``, ``learning_rate``, ``loss``, ``validation_loss`` and ``validation_accuracy`` of each round.
    """
    if tokens.shape[0] < 2:
        raise DataError(f"{tokens.shape[0]} cells are too few to pre-train on and validate.")
    if model.gene_embedding is not None and tokens.shape[1] != len(model.gene_embedding):
        raise DataError(f"The cells have {tokens.shape[1] - 1} genes, the model {len(model.gene_embedding) - 1}.")
    fabric = make_fabric(accelerator, model.arithmetic)
    model = fabric.to_device(model)
    order = np.random.RandomState(seed).permutation(tokens.shape[0])
    held_out = max(1, round(validation * tokens.shape[0]))
    tokens = tokens if isinstance(tokens, Shards) else sp.csr_matrix(tokens, dtype=np.uint8)
    judged, expressed = tokens[order[:held_out]], tokens.count_nonzero(axis=1)  # (cells,)

    def loss_of(_, shown, generator):
        masked, targets = (x.to(fabric.device, non_blocking=True) for x in mask_tokens(shown, generator))
        return F.cross_entropy(target_logits(model, masked, targets).float(), targets[targets != IGNORED])

    def evaluate():
        result = evaluate_masked(model, judged, seed=seed, batch_size=batch_size)
        accuracy = float((result["predicted"] == result["target"]).mean())
        return {"validation_loss": result["loss"], "validation_accuracy": accuracy}, {}, np.zeros(0)

    if ends is None:
        rule = Epochs(epochs, lambda epoch: warm_cosine(epoch, epochs, max_lr), lambda row: -row["validation_loss"])
    else:
        rule = Plateau(max_lr, **ends)
    return fit(
        model,
        tokens,
        order[held_out:],
        loss_of,
        evaluate,
        rule=rule,
        batch_size=batch_size,
        seed=seed,
        fabric=fabric,
        weight_of=lambda cells: int(targets_of(expressed[cells]).sum()),
        skip=lambda cells, generator: skip_draws(int(expressed[cells].sum()), generator),
        checkpoint=checkpoint,
        name=name,
    )


def warm_cosine(epoch: int, epochs: int, max_lr: float) -> float:
    """A tenth of the epochs of linear warm-up, then a cosine down to ``max_lr`` / 100."""
    warmup = max(1, epochs // 10)
    if epoch < warmup:
        return max_lr * (epoch + 1) / warmup
    return max_lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup))))


@torch.no_grad()
def evaluate_masked(model: ScBert, tokens, seed: int = 0, batch_size: int = 32) -> dict:
    """The masked task on held-out cells (tokens as :func:`pretrain` takes them), scored on the targets that are hidden.

    The tenth of the targets that is shown as it is would only have to be copied.

    Returns
    -------
    dict
        ``cell``, ``gene``, ``target``, ``predicted`` (int arrays, one entry a hidden target), ``probabilities``
        (hidden targets × 7) and ``loss`` (mean cross-entropy).
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = sp.csr_matrix(tokens, dtype=np.uint8)

    def scored(batch, shown):
        masked, targets = mask_tokens(shown, generator)
        targets[masked != MASK] = IGNORED
        cell, gene = torch.nonzero(targets != IGNORED, as_tuple=True)
        found = torch.stack([batch[cell], gene, targets[cell, gene]])
        return target_logits(model, masked.to(device), targets.to(device)).float().cpu(), found

    def skip(batch):
        skip_draws(int(expressed[batch].sum()), generator)

    batches, expressed = in_batches(np.arange(tokens.shape[0]), batch_size), tokens.count_nonzero(axis=1)
    logits, found = zip(*of_batches(tokens, batches, device, scored, skip), strict=True)
    logits, (cell, gene, target) = torch.cat(logits), torch.cat(found, 1)
    return {
        "cell": cell.numpy(),
        "gene": gene.numpy(),
        "target": target.numpy(),
        "predicted": logits.argmax(1).numpy(),
        "probabilities": logits.softmax(1).numpy(),
        "loss": float(F.cross_entropy(logits, target)),
    }
