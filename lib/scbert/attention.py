"""FAVOR+ attention as scBERT uses it, streaming over the tokens, with a key stabiliser that keeps cells independent.

A Performer approximates softmax attention by positive random features: with
φ(x) = exp(P x / d^¼ − |x|² / 2√d − c) + ε, attention is φ(q) (φ(k)ᵀ v) / φ(q) Σφ(k), linear in the tokens.
The constant c only guards against overflow; it would cancel, were it not for the ε added after the exponential.
Over what the keys' maximum is taken therefore changes the result:

- ``"cell"`` (ours): per cell, over all heads, tokens and features. Equal to scBERT run one cell at a time, and a
  cell's prediction does not depend on the cells it shares a batch with.
- ``"batch"``: over the whole batch, as scBERT's own code does.
- ``"head"``: per cell and head, as performer-pytorch does.

The features of a whole cell are never held: 10 heads × 16,907 tokens × 266 features are 180 MB, for queries and keys
alike, and stock code passes over them about eight times. Here c is taken out of the sum,
φ(k)ᵀ v = e^(−c) Σ exp(P k − |k|²/2) vᵀ + ε Σ v, so that tokens can be taken in chunks that stay in the processor's
cache, in one pass, with c known only at its end. The factor exp(−|k|²/2) goes to the values, which are a quarter as
wide as the features. The backward pass computes the features anew, chunk by chunk.

Choromanski et al., "Rethinking attention with Performers", ICLR 2021.
"""

from __future__ import annotations

import torch
from performer_pytorch.performer_pytorch import FastAttention
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.scbert.features import Features

STABILISERS = {"cell": (1, 2, 3), "head": (2, 3), "batch": (0, 1, 2, 3)}
EPS = 1e-4


def favor_attention(
    q: Tensor, k: Tensor, v: Tensor, projection: Tensor, stabiliser: str = "cell", counts: Tensor | None = None
) -> Tensor:
    """Attention by positive orthogonal random features.

    Parameters
    ----------
    q, k, v : float tensors, (cells, heads, tokens, dim_head)
    projection : float tensor, (features, dim_head)
        Rows are orthogonal within blocks of ``dim_head``.
    stabiliser : {"cell", "head", "batch"}
        Over what the keys' maximum is taken.
    counts : tensor, (cells, tokens), optional
        How often each key occurs in its cell; keys that occur 0 times are ignored. Default: once.

    Returns
    -------
    tensor, (cells, heads, tokens, dim_head), dtype of ``v``
        Computed in fp32 where the inputs are narrower: the exponentials need it.
    """
    with torch.autocast(q.device.type, enabled=False):
        return _Favor.apply(q, k, v, projection, stabiliser, counts)


class _Favor(torch.autograd.Function):
    """Forward and backward of :func:`favor_attention`; the projection is not differentiated."""

    @staticmethod
    def forward(ctx, q, k, v, projection, stabiliser, counts):
        features = Features(projection, q, *q.shape[:3])
        memory = Memory(features)
        for at in features.chunks:
            key, value = (_chunk(x, at) for x in (k, v))
            memory.add(value, memory.weigh(key, value, at, counts), at, counts)
        memory.close(stabiliser)
        out = torch.empty(q.shape, dtype=v.dtype, device=v.device)
        for at in features.chunks:
            out[at[0], :, at[1]] = memory.answer(_chunk(q, at), at)[0]
        features.scratch.clear()
        ctx.memory = memory
        ctx.save_for_backward(q, k, v, counts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, counts = ctx.saved_tensors
        memory = ctx.memory
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        memory.begin_backward()
        for at in memory.features.chunks:
            query = _chunk(q, at)
            _, state = memory.answer(query, at)
            grad_q[at[0], :, at[1]] = memory.answer_backward(_chunk(grad, at), query, state, at)
        memory.turn_backward()
        for at in memory.features.chunks:
            key, value = (_chunk(x, at) for x in (k, v))
            grads = memory.add_backward(key, value, memory.weigh(key, value, at, counts), at, counts)
            grad_k[at[0], :, at[1]], grad_v[at[0], :, at[1]] = grads
        memory.features.scratch.clear()
        return grad_q, grad_k, grad_v, None, None, None


def _chunk(x, at):
    return x[at[0], :, at[1]]


class Memory:
    """What the keys and values of the cells leave behind: context = Σ φ(k) [v, 1], (b, h, m, d + 1).

    Filled by :meth:`add`, chunk by chunk, finished by :meth:`close`, read by :meth:`answer`. What a method returns is
    in scratch memory, valid until it is called again.

    Parameters
    ----------
    features : Features
    product : dtype, optional
        Of the products with features, where it is narrower than theirs.
    """

    def __init__(self, features, product=None):
        self.features, self.product = features, product
        like = features.rows
        b, h, m, d = features.cells, features.heads, *like.shape
        self.total, self.values = like.new_zeros(b, h, m, d + 1), like.new_zeros(b, h, 1, d + 1)
        self.shift = like.new_full((b, h, 1, 1), -torch.inf)

    def _product(self, name, a, b):
        """(g, h, i, j) times (g, h, j, k)."""
        g, h, i, _ = a.shape
        a, b = a.flatten(0, 1), b.flatten(0, 1)
        if self.product is not None:
            return (a.to(self.product) @ b.to(self.product)).to(self.features.dtype).view(g, h, i, -1)
        out = self.features.scratch(name, a.dtype, g * h, i, b.shape[2])
        return torch.bmm(a, b, out=out).view(g, h, i, -1)

    def _weighted(self, v, factor, counts, cells):
        """Values with a column of ones, times the keys' factors and counts: (g, h, c, d + 1)."""
        weight = factor.exp()
        if counts is not None:
            weight = weight * counts[cells, None, :, None]
        g, _, c, d = v.shape
        weighted = self.features.empty("weighted", g, c, d + 1)
        torch.mul(v, weight, out=weighted[..., :d])
        weighted[..., d:] = weight
        return weighted

    def weigh(self, k, v, at, counts=None):
        """What :meth:`add` and its backward pass need of the keys and values (g, h, c, d) of a chunk; ``counts`` (b, n)."""
        exp, factor, largest = self.features(k)
        return exp, factor, largest, self._weighted(v, factor, counts, at[0])

    def add(self, v, state, at, counts=None):
        """Take in the keys and values of a chunk, as :meth:`weigh` has them in ``state``."""
        cells, _ = at
        exp, _, largest, weighted = state
        self.total[cells] += self._product("total", exp.transpose(2, 3), weighted)
        times = self._sum_values(v, cells, counts)
        if counts is not None:
            largest = largest.masked_fill(times <= 0, -torch.inf)
        self.shift[cells] = torch.maximum(self.shift[cells], largest.amax(2, keepdim=True))

    def _sum_values(self, v, cells, counts):
        times = v.new_ones(1, 1, v.shape[2], 1) if counts is None else counts[cells, None, :, None]
        self.values[cells, ..., :-1] += (v if counts is None else v * times).sum(2, True, dtype=self.features.dtype)
        self.values[cells, ..., -1:] += times.sum(2, keepdim=True)
        return times

    def ones(self, total=None):
        """Sums of the keys' features alone, (b, h, m), before :meth:`close`."""
        return (self.total if total is None else total)[..., -1]

    def close(self, stabiliser):
        """All keys are in: apply the stabiliser and the ε."""
        shift = self.shift.amax(STABILISERS[stabiliser], keepdim=True)
        self.rate = torch.exp(self.features.bound - shift)  # (b or 1, h or 1, 1, 1)
        self.context = (self.rate * self.total).add_(self.values, alpha=EPS)
        self.context[:, :, self.features.count :] = 0
        self.floor = EPS * self.context.sum(2, keepdim=True)  # what the ε of φ(q) contributes, (b, h, 1, d + 1)
        self.total = self.values = self.shift = None

    def answer(self, q, at):
        """Attention of the queries of a chunk, (g, h, c, d), and what its backward pass needs."""
        cells, _ = at
        g, _, c, d = q.shape
        exp, factor, largest = self.features(q)
        # In the exponent stands P q, and of the factor what is not left over; φ(q) wants P q − |q|²/2 − its maximum.
        scale = torch.exp(factor - largest + self.features.bound)
        raw = self._product("raw", exp, self.context[cells])  # (g, h, c, d + 1)
        sums = torch.addcmul(self.floor[cells], raw, scale, out=self.features.scratch("sums", raw.dtype, *raw.shape))
        out = self.features.scratch("answer", raw.dtype, g, c, self.features.heads, d).transpose(1, 2)
        torch.div(sums[..., :-1], sums[..., -1:], out=out)
        return out, (exp, scale, raw, sums, out)

    def begin_backward(self):
        self.grad_context, self.grad_floor = torch.zeros_like(self.context), torch.zeros_like(self.floor)

    def answer_backward(self, grad, q, state, at):
        """From the gradient of the answers of a chunk to that of its queries, both (g, h, c, d)."""
        cells, _ = at
        exp, scale, raw, sums, out = state
        g, _, c, d = out.shape
        grad_sums = self.features.empty("grad_sums", g, c, d + 1)
        torch.div(grad, sums[..., -1:], out=grad_sums[..., :d])
        torch.neg(self.features.dot(grad_sums[..., :d], out), out=grad_sums[..., d:])
        self.grad_floor[cells] += grad_sums.sum(2, keepdim=True)
        grad_raw = grad_sums.mul_(scale)
        self.grad_context[cells] += self._product("total", exp.transpose(2, 3), grad_raw)
        grad_exponent = exp.mul_(self._product("grad_features", grad_raw, self.context[cells].transpose(2, 3)))
        return self.features.gradient(grad_exponent, self.features.dot(grad_raw, raw), q)

    def turn_backward(self):
        """All answers have been gone through: what they leave for the keys and values."""
        self.grad_context.add_(self.grad_floor, alpha=EPS)
        self.grad_context[:, :, self.features.count :] = 0
        self.grad_values = EPS * self.grad_context.sum(2, keepdim=True)
        self.grad_total = self.grad_context.mul_(self.rate)

    def add_backward(self, k, v, state, at, counts=None):
        """Gradients of the keys and values (g, h, c, d) of a chunk."""
        cells, _ = at
        exp, factor, _, weighted = state
        raw = self._product("raw", exp, self.grad_total[cells])  # (g, h, c, d + 1)
        g, _, c, d = v.shape
        grad_v = self.features.scratch("answer", raw.dtype, g, c, self.features.heads, d).transpose(1, 2)
        torch.addcmul(self.grad_values[cells, ..., :-1], raw[..., :-1], factor.exp(), out=grad_v)
        if counts is not None:
            grad_v *= counts[cells, None, :, None]
        grad_exponent = exp.mul_(self._product("grad_features", weighted, self.grad_total[cells].transpose(2, 3)))
        return self.features.gradient(grad_exponent, self.features.dot(weighted, raw), k), grad_v


class FavorAttention(FastAttention):
    """performer-pytorch's ``FastAttention`` with our arithmetic; same buffer, same redraw."""

    compiled = None  # whether blocks may use compiled functions for it; None: where they are to be had

    def __init__(self, dim_heads, nb_features, stabiliser="cell"):
        super().__init__(dim_heads, nb_features)
        if stabiliser not in STABILISERS:
            raise ValueError(f"stabiliser is {stabiliser!r}; one of {', '.join(STABILISERS)}")
        self.stabiliser = stabiliser

    def forward(self, q: Tensor, k: Tensor, v: Tensor, counts: Tensor | None = None) -> Tensor:
        return favor_attention(q, k, v, self.projection_matrix, self.stabiliser, counts)
