"""scBERT: token embedding plus gene embedding, a Performer, and a head for masked tokens.

Written from the paper's description (Yang et al., Nat. Mach. Intell. 4, 852–866, 2022) on performer-pytorch's
``Performer``. Parameters carry the names of the original, so that its checkpoints can be read; weights are never
redistributed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from lib.errors import DataError
from lib.scbert import checkpoints
from lib.scbert.attention import FavorAttention
from lib.scbert.blocks import arithmetic_of, performer_block, weights_of
from lib.scbert.fused import SMALL
from lib.scbert.zeros import first_block

with warnings.catch_warnings():  # performer-pytorch 1.1.4 imports deprecated names
    warnings.simplefilter("ignore")
    from performer_pytorch import Performer


@dataclass(frozen=True)
class ScBertConfig:
    """Sizes of the model; the defaults are the paper's."""

    genes: int = 16_906  # a gene embedding, where given, decides
    tokens: int = 7  # five bins, zero, and the mask
    dim: int = 200
    depth: int = 6
    heads: int = 10
    dim_head: int = 64
    features: int = 266  # random features of the attention
    ff_mult: int = 4
    redraw_interval: int = 1000  # training forwards between two draws of the random features
    stabiliser: str = "cell"
    classes: int = 11  # of CellTypeClassifier


class ScBert(nn.Module):
    """scBERT with the masked-token head.

    Parameters
    ----------
    config : ScBertConfig, optional
    gene_embedding : array, (genes, dim), optional
        Frozen and added to the token embedding; the closing token's zero row is added here. None: no gene
        embedding, and the model cannot tell one gene from another.
    """

    counting = True  # of a batch in parts, only the first counts as a forward

    def __init__(self, config: ScBertConfig | None = None, gene_embedding: ArrayLike | None = None):
        super().__init__()
        config = config or ScBertConfig()
        if gene_embedding is not None:
            gene_embedding = torch.as_tensor(np.asarray(gene_embedding), dtype=torch.float32)
            if gene_embedding.ndim != 2 or gene_embedding.shape[1] != config.dim:
                raise DataError(
                    f"The gene embedding has shape {tuple(gene_embedding.shape)}, the model needs genes × {config.dim}."
                )
            config = replace(config, genes=gene_embedding.shape[0])
            gene_embedding = torch.cat([gene_embedding, gene_embedding.new_zeros(1, config.dim)])
        self.config, self.redraws = config, 0  # how often the random features were drawn anew, since this model was made
        self.register_buffer("gene_embedding", gene_embedding)  # (genes + 1, dim) or None
        self.token_emb = nn.Embedding(config.tokens, config.dim)
        self.performer = _performer(config)
        self.norm = nn.LayerNorm(config.dim)
        self.to_out = self._head(config)

    def _head(self, config):
        return nn.Linear(config.dim, config.tokens)

    # Without a gene embedding, all genes of a cell that show the same token enter the first block with the same
    # hidden state, attend to the same keys, and so leave every block with the same hidden state. It is enough to
    # compute the 7 distinct ones, each key counting as often as its token occurs in the cell. Below, a "place" is a
    # gene (or the closing token) where there is a gene embedding, and a token value where there is none.

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (cells, genes + 1), any integer dtype, to logits (cells, genes + 1, 7)."""
        return self.spread(self.to_out(self.norm(self.states(tokens))), tokens)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Hidden states before the final norm, (cells, genes + 1, dim)."""
        return self.spread(self.states(tokens), tokens)

    def states(self, tokens: Tensor) -> Tensor:
        """Hidden states before the final norm, (cells, places, dim)."""
        self.count_forward()
        return self.blocks(self.embed(tokens), self.counts(tokens), tokens=tokens)

    def states_at(self, tokens: Tensor, cell: Tensor, gene: Tensor) -> Tensor:
        """Hidden states before the final norm of some genes of some cells, (targets, dim): the last block computes no others.

        Parameters
        ----------
        cell, gene : int tensors, (targets,)
            ``cell`` ascending.
        """
        if self.gene_embedding is None:  # there are but 7 states a cell
            return self.states(tokens)[cell, tokens[cell, gene].long()]
        self.count_forward()
        x = self.blocks(self.embed(tokens), stop=-1, tokens=tokens)
        wanted = torch.bincount(cell, minlength=len(tokens))
        slot = torch.arange(len(cell), device=cell.device) - (wanted.cumsum(0) - wanted)[cell]
        place = gene.new_zeros(len(tokens), max(1, int(wanted.max())))  # filled up with gene 0, whose answer is not used
        place[cell, slot] = gene
        queries = x.gather(1, place[:, :, None].expand(-1, -1, x.shape[2]))
        return performer_block(x, *self.performer.net.layers[-1], queries=queries)[cell, slot]

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embedding plus gene embedding, (cells, places, dim)."""
        if self.gene_embedding is None:
            return self.token_emb.weight.expand(len(tokens), -1, -1)
        if tokens.shape[1] != len(self.gene_embedding):
            raise DataError(
                f"Cells have {tokens.shape[1] - 1} genes and a closing token, the model's gene embedding "
                f"{len(self.gene_embedding) - 1} genes. Prepare the cells with the model's gene vocabulary."
            )
        return self.token_emb(tokens.long()).add_(self.gene_embedding)

    def counts(self, tokens: Tensor) -> Tensor | None:
        """How often each token occurs in each cell, (cells, 7); None where places are genes."""
        if self.gene_embedding is not None:
            return None
        zeros = torch.zeros(len(tokens), self.config.tokens, dtype=self.token_emb.weight.dtype, device=tokens.device)
        return zeros.scatter_add_(1, tokens.long(), zeros.new_ones(()).expand(tokens.shape))

    def spread(self, values: Tensor, tokens: Tensor) -> Tensor:
        """From places to genes: (cells, places, …) to (cells, genes + 1, …)."""
        if self.gene_embedding is not None:
            return values
        return values[torch.arange(len(tokens), device=tokens.device)[:, None], tokens.long()]

    def blocks(
        self, x: Tensor, counts: Tensor | None = None, start: int = 0, stop: int | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Run blocks ``start`` to ``stop`` of the Performer on hidden states (cells, places, dim).

        ``tokens``: where the states are their embeddings, so that the zeros among them need not be computed.
        """
        for i, (attention, feed_forward) in enumerate(self.performer.net.layers[start:stop]):
            found = self._first(attention, feed_forward, x, tokens) if i == 0 and tokens is not None else None
            if found is None:
                found = performer_block(x, attention, feed_forward, counts, overwrite=i > 0)
            x = found
        return x

    def _first(self, attention, feed_forward, x, tokens):
        if self.gene_embedding is None or self.config.dim < SMALL or x.device.type != "cpu" or torch.is_grad_enabled():
            return None
        kind = arithmetic_of(attention.fn.fast_attention, x)
        with torch.autocast(x.device.type, enabled=False):
            weights = weights_of(attention, feed_forward)[:5]
            of = [self.gene_embedding, self.token_emb.weight[0], *weights, attention.fn.fast_attention.projection_matrix]
            return first_block((attention, feed_forward), x, tokens, kind, self, of)

    def count_forward(self) -> bool:
        """Count a training forward; every ``redraw_interval`` redraw the random features of all blocks.

        Returns
        -------
        bool
            Whether they were redrawn.
        """
        if not (self.config.depth and self.counting):  # of the head alone, performer-pytorch would look for a block's device
            return False
        updater = self.performer.proj_updater
        updater.redraw_projections()
        redrawn = self.training and int(updater.calls_since_last_redraw) == 0
        self.redraws += redrawn
        return redrawn

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        gene_embedding: ArrayLike | None = None,
        genes: Sequence[str] | None = None,
        stabiliser: str = "cell",
    ) -> Self:
        """Read a checkpoint of the original scBERT or of this project; sizes are read off its tensors.

        Parameters
        ----------
        path : str or path
            A ``.pth`` with ``model_state_dict`` (keys with or without ``module.``); read with
            ``weights_only=True``, so that nothing in the file is executed.
        gene_embedding : array, (genes, dim), optional
            For a checkpoint that has none; one that has its own must agree with it.
        genes : sequence of str, optional
            Gene vocabulary of the cells. Compared with the one in the file, if it has one.
        stabiliser : {"cell", "head", "batch"}

        Raises
        ------
        DataError
            Not a checkpoint, another head, sizes that do not fit, or genes in another order.
        """
        checkpoint, state = checkpoints.read(path)
        checkpoints.check_gene_order(checkpoint.get("genes"), genes, path)
        stored = state.pop("gene_embedding", None)
        if gene_embedding is not None:
            checkpoints.check_gene_embedding(stored, gene_embedding, path)
        elif stored is not None:
            gene_embedding = stored[:-1].numpy()
        if stored is not None and stored[-1].any():
            raise DataError(f"The gene embedding in {path} ends with a row that is not zero: no closing token's.")
        config = cls._head_sizes(ScBertConfig(**checkpoints.sizes(state, path)), state, path)
        if gene_embedding is None and genes is not None:
            config = replace(config, genes=len(genes))
        if genes is not None and gene_embedding is not None and len(genes) != len(gene_embedding):
            raise DataError(f"{path} was made for {len(gene_embedding)} genes, the cells have {len(genes)}.")
        model = cls(replace(config, stabiliser=stabiliser), gene_embedding)
        fits = model.config.genes
        if (own := cls._head_genes(state)) not in (None, fits):
            raise DataError(f"The head of {path} was made for {own} genes, the gene embedding has {fits}.")
        own = {name: value for name, value in model.state_dict().items() if name != "gene_embedding"}
        wrong = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
        if own.keys() != state.keys() or wrong:
            raise DataError(
                f"{path} does not fit {cls.__name__}: missing {sorted(own.keys() - state.keys())[:5]}, "
                f"unknown {sorted(state.keys() - own.keys())[:5]}, other sizes {sorted(wrong)[:5]}."
            )
        model.load_state_dict(state, strict=False)  # only the gene embedding, already in place, is not in state
        return model.eval()

    @classmethod
    def _head_sizes(cls, config, state, path):
        if "to_out.weight" not in state:
            raise DataError(f"{path} has no masked-token head. Read a fine-tuned checkpoint with CellTypeClassifier.")
        return config

    @staticmethod
    def _head_genes(state):
        """How many genes a checkpoint's head was made for; None: any."""
        return None


def _performer(config):
    """performer-pytorch's Performer with our attention inside."""
    if config.dim % config.heads:
        raise DataError(f"performer-pytorch wants dim ({config.dim}) to be a multiple of heads ({config.heads}).")
    performer = Performer(
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
        dim_head=config.dim_head,
        nb_features=config.features,
        ff_mult=config.ff_mult,
        feature_redraw_interval=config.redraw_interval,
        qkv_bias=False,
        attn_out_bias=True,
    )
    for attention, _ in performer.net.layers:
        attention.fn.fast_attention = FavorAttention(config.dim_head, config.features, config.stabiliser)
    # The updater holds the net a second time; as a plain attribute it is not saved a second time.
    updater = performer.proj_updater
    net = updater._modules.pop("instance")
    object.__setattr__(updater, "instance", net)
    return performer
