"""Positive random features of chunks of tokens, and the memory they are written to.

A chunk is as many tokens as let its features stay in the processor's cache; see :mod:`lib.scbert.attention`, which sums over
them.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

# Entries of one chunk's features: on a CPU 8 MB, so that they stay in its cache; on a GPU 1 GB, for few large launches.
CHUNK = {"cpu": 2**21, "cuda": 2**28}
SAFE = 60.0  # exp of this, times exp of as much again, is finite in fp32


class Scratch(dict):
    """Memory by name, written anew by every chunk: fresh memory costs as much as the arithmetic that fills it."""

    def __init__(self, device):
        self.device = device

    def __call__(self, name, dtype, *shape):
        size = math.prod(shape)
        if (name, dtype) not in self or self[name, dtype].numel() < size:
            self[name, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return self[name, dtype][:size].view(shape)


class Features:
    """exp(P x / d^¼ − |x|²/2√d) of chunks of tokens, as a product of exp(P x / d^¼) and a factor for each token.

    Shapes here and in :class:`Memory`: b cells, g cells of a chunk, h heads, n tokens, c tokens of a chunk,
    d dim_head, m features. A chunk is all tokens of some cells, or some tokens of one cell: ``(cells, tokens)``.
    In memory, one cell keeps tokens before heads, as the linear layers give them, so that nothing is copied.
    """

    def __init__(self, projection, like, cells, heads, tokens):
        device = like.device
        self.dtype = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
        self.cells, self.heads, self.places = cells, heads, tokens
        self.dim, self.count = projection.shape[1], len(projection)
        self.scale = self.dim**-0.25
        projection = projection.to(self.dtype)
        # P x − |x|²/2 ≤ |P|²/2, whatever x, by completing the square; where that is below 50, its exp is safe as it is.
        self.bound = (0.5 * projection.square().sum(1).max() - 50).clamp(min=0)
        # Rows of whole 64 bytes make the products faster: some features are added that count for nothing.
        self.rows = F.pad(projection * self.scale, (0, 0, 0, -self.count % 16))  # (m, d)
        self.columns = (self.rows * math.log2(math.e)).t().contiguous()  # (d, m); powers of two are faster than exp
        self.scratch, self.branch = Scratch(device), device.type == "cpu"
        self.chunks = self.chunks_of(tokens)

    def chunks_of(self, tokens):
        """Chunks of all cells with so many tokens each."""
        wanted = max(1, CHUNK.get(self.scratch.device.type, 2**24) // (self.heads * len(self.rows)))  # tokens of a chunk
        if wanted >= 2 * tokens:
            step = wanted // tokens
            return [(slice(i, min(i + step, self.cells)), slice(None)) for i in range(0, self.cells, step)]
        step = max(64, -(-tokens // max(1, round(tokens / wanted))))
        spans = [slice(i, min(i + step, tokens)) for i in range(0, tokens, step)]
        return [(slice(i, i + 1), span) for i in range(self.cells) for span in spans]

    def empty(self, name, g, c, width):
        """Scratch memory of shape (g, h, c, width)."""
        if g == 1:
            return self.scratch(name, self.dtype, 1, c, self.heads, width).transpose(1, 2)
        return self.scratch(name, self.dtype, g, self.heads, c, width)

    def __call__(self, x):
        """Features of x (g, h, c, d): exponentials (g, h, c, m), log factors and P x's maxima (g, h, c, 1).

        The feature is exp · e^factor, less ``bound``. The exponentials are valid until the next call.
        """
        g, h, c, d = x.shape
        rows = (x.transpose(1, 2) if g == 1 else x).reshape(-1, d).to(self.dtype)
        exponent = torch.mm(rows, self.columns, out=self.scratch("features", self.dtype, len(rows), len(self.rows)))
        largest = exponent[:, : self.count].amax(1, keepdim=True).mul_(math.log(2))
        factor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).square_()
        factor.mul_(-0.5 * self.scale**2).sub_(self.bound)
        # Mostly exp(P x) is far from overflow and its factor can wait; else it is taken in before the exponential.
        if self.branch and float(largest.max()) < SAFE and float(factor.min()) > -SAFE:
            rest = factor
        else:
            exponent.add_(factor, alpha=math.log2(math.e))
            rest = torch.zeros_like(factor)
        exponent.exp2_()
        shape = (1, c, h, -1) if g == 1 else (g, h, c, -1)
        return (y.view(shape).transpose(1, 2) if g == 1 else y.view(shape) for y in (exponent, rest, largest))

    def gradient(self, grad, row_sums, x):
        """From gradients of the exponents (g, h, c, m) and their sums over m to the gradient of x (g, h, c, d)."""
        g, _, c, d = x.shape
        rows = (grad.transpose(1, 2) if g == 1 else grad).reshape(-1, grad.shape[3])
        result = self.empty("grad_x", g, c, d)
        torch.mm(rows, self.rows, out=(result.transpose(1, 2) if g == 1 else result).view(-1, d))
        return result.addcmul_(row_sums, x, value=-(self.scale**2))

    def dot(self, a, b):
        """Sums over the last dimension of a · b, both (g, h, c, width): (g, h, c, 1)."""
        g, _, c, width = a.shape
        return torch.mul(a, b, out=self.empty("dot", g, c, width)).sum(3, keepdim=True)
