"""The first block without gradient: what zero tokens do in it is the same in every cell, and is computed once.

Nine of ten genes of a cell, or more, show the zero token. In front of the first block such a gene has the same state in every
cell, and so the same query, key and value. The sums over the keys of a cell are those of a cell of zeros, less the zeros of the
genes that are not zero, plus these genes' own; what is subtracted is a small part of the sums, or else the block is computed as
ever. Queries of zeros are looked up, and only answered. It holds dim + heads · d numbers a gene.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from lib.scbert.blocks import Parts, answered, told

KEPT = weakref.WeakKeyDictionary()  # of each model, the last Zeros
MOST = 0.3  # share of genes that are not zero, beyond which nothing would be won
LEFT = 0.1  # what must be left of a sum when zeros are subtracted: a digit of seven is lost at most
STEP = 1024  # rows at a time


class Zeros:
    """A cell of zeros in the first block: sums over its keys, its keys' largest products, its queries."""

    def __init__(self, layer, states, kind, of):
        self.of, self.kind, self.states = [x.clone() for x in of], kind, states  # (places, dim)
        parts = Parts(layer, states[None], kind)
        self.largest, self.queries = [], []
        for at in parts.features.chunks:
            normed, _, key, _, _ = told(parts.weights, parts.memory, states[None][at], at, None, add=True)
            self.queries.append(parts.weights.linear(normed, "q").clone())
            _, _, largest = parts.features(key)
            self.largest.append(largest[0, :, :, 0].clone())
        self.queries, self.largest = torch.cat(self.queries), torch.cat(self.largest, 1)  # (places, h · d), (h, places)
        self.total, self.values = parts.memory.total, parts.memory.values

    def are(self, kind, of):
        """Whether these are still the zeros of a model with such weights, features and arithmetic."""
        return kind == self.kind and all(
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in zip(self.of, of, strict=True)
        )


def first_block(
    layer: nn.ModuleList, x: Tensor, tokens: Tensor, kind: tuple, owner: nn.Module, of: list[Tensor]
) -> Tensor | None:
    """What :func:`lib.scbert.blocks.performer_block` gives, or None where that has to do it.

    Parameters
    ----------
    layer : modules
        Attention and feed-forward of the first block.
    x : tensor, (cells, places, dim)
        Token embedding plus gene embedding; overwritten by the result.
    kind : tuple
        The arithmetic, as :class:`lib.scbert.blocks.Parts` takes it.
    owner, of : module, tensors
        Whose zeros are kept, and what they depend on: gene embedding, embedding of the zero token, the layer's weights and
        features.
    """
    shown = tokens != 0
    if float(shown.float().mean()) > MOST:
        return None
    zeros = KEPT.get(owner)
    if zeros is None or not zeros.are(kind, of):
        zeros = KEPT[owner] = Zeros(layer, of[0] + of[1], kind, of)
    parts = Parts(layer, x, kind)
    weights, memory, features = parts.weights, parts.memory, parts.features
    memory.total += zeros.total
    memory.values += zeros.values
    for cell in range(len(x)):
        here = shown[cell]
        rows = torch.cat([x[cell, here], zeros.states[here]])[None]  # its own, added; what stood for them, subtracted
        signs = torch.ones(rows.shape[:2], device=x.device)
        signs[:, rows.shape[1] // 2 :] = -1
        for i in range(0, rows.shape[1], STEP):
            at, counts = (slice(cell, cell + 1), slice(i, i + STEP)), signs[:, i : i + STEP].expand(len(x), -1)
            told(weights, memory, rows[:, i : i + STEP], at, counts, add=True)
        largest = zeros.largest.masked_fill(here, -torch.inf).amax(1)[:, None, None]
        memory.shift[cell] = torch.maximum(memory.shift[cell], largest)
    if (memory.ones() < LEFT * memory.ones(zeros.total)).any():
        return None
    memory.close(parts.stabiliser)
    for at in features.chunks:
        part, here = x[at], shown[at]
        queries = zeros.queries[at[1]].expand(len(part), -1, -1).clone()
        if here.any():
            queries[here] = weights.linear(weights.norm(part[here], 1)[0], "q")
        rows = part.reshape(-1, part.shape[2])
        query = weights.split(queries.flatten(0, 1), len(part))
        *_, middle, _, _, _, inner = answered(weights, memory, rows, query, at)
        x[at] = torch.add(middle, weights.linear(inner, "w2")).view_as(part)
    return x
