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
cache, in one pass, with c known only at its end. What is left of c in the exponent is a constant: by completing the
square, P k − |k|²/2 ≤ |P|²/2, whatever k. The backward pass computes the features anew, chunk by chunk.

Choromanski et al., "Rethinking attention with Performers", ICLR 2021.
"""

from __future__ import annotations

import torch
from performer_pytorch.performer_pytorch import FastAttention

STABILISERS = {"cell": (1, 2, 3), "head": (2, 3), "batch": (0, 1, 2, 3)}
EPS = 1e-4
CHUNK = 2**20  # entries of one chunk's features: 4 MB, about a core's share of the cache


def favor_attention(q, k, v, projection, stabiliser="cell", counts=None):
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
    """Forward and backward of :func:`favor_attention`; the projection is not differentiated.

    Shapes: b cells, h heads, n tokens, c tokens of a chunk, d dim_head, m features.
    """

    @staticmethod
    def forward(ctx, q, k, v, projection, stabiliser, counts):
        kernel = _Kernel(projection, q)
        dims = STABILISERS[stabiliser]
        total = shift = values = 0.0
        for at in kernel.chunks(k):
            exp, largest = kernel.features(k[:, :, at], counts if counts is None else counts[:, at])
            weighted = kernel.values(v[:, :, at], counts if counts is None else counts[:, at])  # (b, h, c, d + 1)
            total = total + exp.transpose(2, 3) @ weighted  # (b, h, m, d + 1)
            values = values + weighted.sum(2, keepdim=True)  # (b, h, 1, d + 1)
            largest = largest.amax(dims, keepdim=True)
            shift = largest if isinstance(shift, float) else torch.maximum(shift, largest)
        rate = torch.exp(kernel.bound - shift)  # the keys' stabiliser, (b or 1, h or 1, 1, 1)
        context = rate * total + EPS * values  # Σ φ(k) [v, 1], (b, h, m, d + 1)
        floor = EPS * context.sum(2, keepdim=True)  # what the ε of φ(q) contributes, (b, h, 1, d + 1)
        out = torch.empty(q.shape, dtype=v.dtype, device=v.device)
        for at in kernel.chunks(q):
            exp, largest = kernel.features(q[:, :, at])
            sums = torch.exp(kernel.bound - largest) * (exp @ context) + floor  # (b, h, c, d + 1)
            out[:, :, at] = sums[..., :-1] / sums[..., -1:]
        ctx.save_for_backward(q, k, v, projection, counts, context, floor, rate)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, projection, counts, context, floor, rate = ctx.saved_tensors
        kernel = _Kernel(projection, q)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        grad_context = grad_floor = 0.0
        for at in kernel.chunks(q):
            exp, largest = kernel.features(q[:, :, at])
            scale = torch.exp(kernel.bound - largest)
            sums = scale * (exp @ context) + floor
            g = grad[:, :, at].to(sums.dtype) / sums[..., -1:]
            out = sums[..., :-1] / sums[..., -1:]
            g = torch.cat([g, -(g * out).sum(3, keepdim=True)], 3)  # gradient of the sums, (b, h, c, d + 1)
            grad_floor = grad_floor + g.sum(2, keepdim=True)
            g = g * scale
            grad_context = grad_context + exp.transpose(2, 3) @ g  # (b, h, m, d + 1)
            grad_q[:, :, at] = kernel.gradient(exp.mul_(g @ context.transpose(2, 3)), q[:, :, at])
        grad_context = grad_context + EPS * grad_floor
        grad_values = EPS * grad_context.sum(2, keepdim=True)
        grad_total = rate * grad_context
        for at in kernel.chunks(k):
            part = counts if counts is None else counts[:, at]
            exp, _ = kernel.features(k[:, :, at], part)
            g = exp @ grad_total + grad_values  # gradient of the weighted values
            weighted = kernel.values(v[:, :, at], part)
            grad_k[:, :, at] = kernel.gradient(exp.mul_(weighted @ grad_total.transpose(2, 3)), k[:, :, at])
            grad_v[:, :, at] = g[..., :-1] if part is None else g[..., :-1] * part[:, None, :, None]
        return grad_q, grad_k, grad_v, None, None, None


class _Kernel:
    """exp(P x / d^¼ − |x|²/2√d − bound) of chunks of tokens, with the norm taken into the product as a column."""

    def __init__(self, projection, like):
        dtype = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
        projection = projection.to(dtype)
        self.dtype, self.scale = dtype, like.shape[-1] ** -0.25
        # Where |P|²/2 is below 50, the exponential is safe as it is.
        self.bound = (0.5 * projection.square().sum(1).max() - 50).clamp(min=0)
        ones = projection.new_ones(len(projection), 1)
        self.columns = torch.cat([projection * self.scale, ones], 1).t().contiguous()  # (d + 1, m)
        cells, heads, tokens, width = like.shape
        self.size = min(tokens, max(64, CHUNK // (cells * heads * len(projection))))
        # Written anew by every chunk: fresh memory for each would cost as much as the arithmetic.
        self.padded = projection.new_empty(cells, heads, self.size, width + 1)
        self.exponent = projection.new_empty(cells, heads, self.size, len(projection))

    def chunks(self, x):
        return [slice(start, min(start + self.size, x.shape[2])) for start in range(0, x.shape[2], self.size)]

    def features(self, x, counts=None):
        """The exponentials (b, h, c, m), and each token's largest P x / d^¼ (b, h, c, 1); valid until the next call."""
        padded, exponent = self.padded[:, :, : x.shape[2]], self.exponent[:, :, : x.shape[2]]
        if x.shape[2] < self.size:
            padded, exponent = padded.contiguous(), exponent.contiguous()
        padded[..., :-1] = x
        norm = 0.5 * self.scale**2 * padded[..., :-1].square().sum(3, keepdim=True) + self.bound
        padded[..., -1:] = -norm
        torch.matmul(padded, self.columns, out=exponent)
        largest = exponent.amax(3, keepdim=True) + norm
        if counts is not None:
            absent = (counts == 0)[:, None, :, None]
            exponent.masked_fill_(absent, -torch.inf)
            largest.masked_fill_(absent, -torch.inf)
        return exponent.exp_(), largest

    def values(self, v, counts):
        """Values with a column of ones, times the counts: (b, h, c, d + 1)."""
        v = torch.cat([v.to(self.dtype), v.new_ones(*v.shape[:3], 1, dtype=self.dtype)], 3)
        return v if counts is None else v * counts[:, None, :, None].to(self.dtype)

    def gradient(self, grad_exponent, x):
        """Gradient of the exponents (b, h, c, m) back to x (b, h, c, d); overwrites nothing."""
        g = grad_exponent @ self.columns.t()
        return g[..., :-1] - g[..., -1:] * self.scale**2 * x.to(self.dtype)


class FavorAttention(FastAttention):
    """performer-pytorch's ``FastAttention`` with our arithmetic; same buffer, same redraw."""

    def __init__(self, dim_heads, nb_features, stabiliser="cell"):
        super().__init__(dim_heads, nb_features)
        if stabiliser not in STABILISERS:
            raise ValueError(f"stabiliser is {stabiliser!r}; one of {', '.join(STABILISERS)}")
        self.stabiliser = stabiliser

    def forward(self, q, k, v, counts=None):
        return favor_attention(q, k, v, self.projection_matrix, self.stabiliser, counts)
