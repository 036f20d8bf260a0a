"""FAVOR+ attention as scBERT uses it, with a key stabiliser that keeps cells independent.

A Performer approximates softmax attention by positive random features: with
φ(x) = exp(P x / d^¼ − |x|² / 2√d − c) + ε, attention is φ(q) (φ(k)ᵀ v) / φ(q) Σφ(k), linear in the tokens.
The constant c only guards against overflow; it would cancel, were it not for the ε added after the exponential.
Over what the keys' maximum is taken therefore changes the result:

- ``"cell"`` (ours): per cell, over all heads, tokens and features. Equal to scBERT run one cell at a time, and a
  cell's prediction does not depend on the cells it shares a batch with.
- ``"batch"``: over the whole batch, as scBERT's own code does.
- ``"head"``: per cell and head, as performer-pytorch does.

Choromanski et al., "Rethinking attention with Performers", ICLR 2021.
"""

from __future__ import annotations

import torch
from performer_pytorch.performer_pytorch import FastAttention

STABILISERS = {"cell": (1, 2, 3), "head": (2, 3), "batch": (0, 1, 2, 3)}
EPS = 1e-4


def favor_attention(q, k, v, projection, stabiliser="cell"):
    """Attention by positive orthogonal random features.

    Parameters
    ----------
    q, k, v : float tensors, (cells, heads, tokens, dim_head)
    projection : float tensor, (features, dim_head)
        Rows are orthogonal within blocks of ``dim_head``.
    stabiliser : {"cell", "head", "batch"}
        Over what the keys' maximum is taken.

    Returns
    -------
    tensor, (cells, heads, tokens, dim_head), dtype of ``v``
    """
    dtype = v.dtype
    with torch.autocast(q.device.type, enabled=False):
        if dtype in (torch.float16, torch.bfloat16):  # the exponentials need fp32
            q, k, v = q.float(), k.float(), v.float()
        scale = q.shape[-1] ** -0.25
        projection = (projection.to(q.dtype) * scale).t()  # (d, m)
        phi_q = _features(q, projection, scale, dims=(3,))  # (b, h, n, m)
        phi_k = _features(k, projection, scale, dims=STABILISERS[stabiliser])
        # The usual factor m^-½ of both feature maps cancels and is left out.
        context = phi_k.transpose(2, 3) @ v  # (b, h, m, d)
        normaliser = phi_q @ phi_k.sum(2).unsqueeze(3)  # (b, h, n, 1)
        return ((phi_q @ context) / normaliser).to(dtype)


def _features(x, projection, scale, dims):
    """exp(P x − |x|²/2 − max) + ε, the maximum (not differentiated) over ``dims``."""
    dash = x @ projection
    shift = dash.detach().amax(dims, keepdim=True) + 0.5 * scale**2 * (x * x).sum(3, keepdim=True)
    return torch.exp(dash - shift) + EPS


class FavorAttention(FastAttention):
    """performer-pytorch's ``FastAttention`` with the stabiliser as an option; same buffer, same redraw."""

    def __init__(self, dim_heads, nb_features, stabiliser="cell"):
        super().__init__(dim_heads, nb_features)
        if stabiliser not in STABILISERS:
            raise ValueError(f"stabiliser is {stabiliser!r}; one of {', '.join(STABILISERS)}")
        self.stabiliser = stabiliser

    def forward(self, q, k, v):
        return favor_attention(q, k, v, self.projection_matrix, self.stabiliser)
