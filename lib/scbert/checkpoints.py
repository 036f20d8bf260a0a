"""Reading checkpoints safely: the original scBERT's, performer-pytorch's and our own, under one set of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from lib.errors import DataError


def read(path: str | Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The file's dictionary and its weights under this project's names."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no checkpoint at {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for foreign, truncated and unsafe files
        raise DataError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}). It is damaged, or a pickle with "
            "more than weights, which is never executed. Download it again or save its model_state_dict alone."
        ) from error
    state = checkpoint.get("model_state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(
            f"{path} holds no model_state_dict of tensors, as scBERT's checkpoints do. Save a bare state dict as "
            "{'model_state_dict': state}."
        )
    return checkpoint, _rename(state)


def _rename(state):
    """The original's names, and performer-pytorch's, to ours."""
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if name.startswith("performer.proj_updater.instance."):
            continue  # the second copy of the net
        name = {
            "pos_emb.emb.weight": "gene_embedding",
            "performer.calls_since_last_redraw": "performer.proj_updater.calls_since_last_redraw",
        }.get(name, name)
        renamed[name] = value
    return renamed


def check_gene_order(stored: Sequence[str] | None, genes: Sequence[str] | None, path: str | Path) -> None:
    """Refuse a gene vocabulary (list of str) that differs from the stored one; either may be None."""
    if stored is None or genes is None:
        return
    genes = list(genes)
    for i, (theirs, ours) in enumerate(zip(stored, genes)):
        if theirs != ours:
            raise DataError(
                f"Gene {i} of {path} is {theirs}, gene {i} of the cells is {ours}: the order differs. "
                "Prepare the cells with the checkpoint's gene vocabulary."
            )
    if len(stored) != len(genes):
        raise DataError(f"{path} was made for {len(stored)} genes, the cells have {len(genes)}.")


def check_gene_embedding(stored: torch.Tensor | None, given: ArrayLike, path: str | Path) -> None:
    """Refuse a gene embedding (genes, dim) that differs from the stored one (genes + 1, dim), if there is one."""
    if stored is None:
        return
    given = torch.as_tensor(np.asarray(given), dtype=torch.float32)
    if given.shape != stored[:-1].shape:
        raise DataError(
            f"{path} was made for {len(stored) - 1} genes × {stored.shape[1]}, the gene embedding given is "
            f"{' × '.join(map(str, given.shape))}."
        )
    differs = (given - stored[:-1]).abs().amax(1) > 1e-4
    if differs.any():
        raise DataError(
            f"The gene embedding given differs from the one in {path}, first at gene {int(differs.int().argmax())}: "
            "are the genes in the same order?"
        )


def sizes(state: dict, path: str | Path) -> dict[str, int]:
    """What a model's tensors say of its sizes, by the names of :class:`lib.scbert.model.ScBertConfig`."""
    depth = len({key.split(".")[3] for key in state if key.startswith("performer.net.layers.")})
    try:
        tokens, dim = state["token_emb.weight"].shape
        if depth == 0:  # the head alone: blocks that are not there have no sizes
            return {"tokens": tokens, "dim": dim, "depth": 0, "heads": 1}
        features, dim_head = state["performer.net.layers.0.0.fn.fast_attention.projection_matrix"].shape
        inner = state["performer.net.layers.0.0.fn.to_q.weight"].shape[0]
        hidden = state["performer.net.layers.0.1.fn.fn.w1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} holds no scBERT weights ({error} is missing or has another shape).") from error
    found = {"tokens": tokens, "dim": dim, "depth": depth, "heads": inner // dim_head, "dim_head": dim_head}
    return found | {"features": features, "ff_mult": hidden // dim}
