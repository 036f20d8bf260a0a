"""A Performer block streaming over the tokens: attention and feed-forward, forward and backward, chunk by chunk.

performer-pytorch computes a block layer by layer over all tokens of a cell: at scBERT's size each layer's output is 13 to
180 MB, written to memory, read again, and kept for the backward pass. Here a chunk of tokens goes through the whole block
while it is in the processor's cache, twice: once to leave its keys and values behind, once to ask with its queries. For the
backward pass nothing is kept of a block but its input and its context (heads × features × 65 numbers a cell), and the rest is
computed anew: a third more arithmetic, for memory that is a few times the input's. Where little is to be kept, as in a small
model, all is: the numbers are the same, bit for bit.

The parameters are performer-pytorch's own modules', so that its checkpoints and those of scBERT stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.scbert.attention import Memory
from lib.scbert.features import Features, Scratch
from lib.scbert.fused import FusedMemory, serves

# A linear layer by oneDNN, which in fp32 is twice as fast as PyTorch's choice, MKL, on AMD's processors with AVX-512.
ONEDNN = torch.ops.mkldnn._linear_pointwise
KEPT = 2**28  # bytes that a block may keep of a batch for its backward pass


def performer_block(
    x: Tensor,
    attention: nn.Module,
    feed_forward: nn.Module,
    counts: Tensor | None = None,
    overwrite: bool = False,
    queries: Tensor | None = None,
) -> Tensor:
    """One block: x + attention(norm(x)), then y + feed_forward(norm(y)).

    Parameters
    ----------
    x : tensor, (cells, places, dim)
    attention, feed_forward : modules
        The two parts of one layer of performer-pytorch's ``Performer``, pre-norm, without dropout.
    counts : tensor, (cells, places), optional
        How often each place occurs as a key.
    overwrite : bool
        Write the result into ``x``, where no gradient is asked for: fresh memory for each block costs time.
    queries : tensor, (cells, some places, dim), optional
        The states, among ``x``, of the places whose result is wanted: all are keys, only these ask. Default: all.

    Returns
    -------
    tensor like ``queries``, or ``x``
        Under ``torch.autocast`` the linear layers and, in bf16, the products with features run in that dtype; the
        residual stream, norms and features stay in fp32.
    """
    fast = attention.fn.fast_attention
    kind = arithmetic_of(fast, x)
    with torch.autocast(x.device.type, enabled=False):
        options = *options_of(attention), *kind, overwrite and not torch.is_grad_enabled()
        return _Block.apply(x, queries, fast.projection_matrix, counts, options, *weights_of(attention, feed_forward))


def arithmetic_of(fast: nn.Module, x: Tensor) -> tuple[torch.dtype, bool]:
    """Dtype of a block's products on ``x``, which autocast decides, and whether compiled functions do its attention."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return dtype, serves(fast, x, dtype)


def options_of(attention):
    return attention.fn.heads, attention.fn.fast_attention.stabiliser, attention.norm.eps


def weights_of(attention, feed_forward):
    fn, ff = attention.fn, feed_forward.fn.fn
    linear = (fn.to_q.weight, fn.to_k.weight, fn.to_v.weight, fn.to_out.weight, fn.to_out.bias)
    norms = [(norm.weight, norm.bias) for norm in (attention.norm, feed_forward.norm)]
    return *norms[0], *linear, *norms[1], ff.w1.weight, ff.w1.bias, ff.w2.weight, ff.w2.bias


class Parts:
    """What one pass of a block over ``x`` (cells, places, dim) needs, without gradient: features, memory and weights."""

    def __init__(self, layer, x, kind):
        attention, feed_forward = layer
        options = *options_of(attention), *kind, False
        self.stabiliser = options[1]
        self.features, self.memory = _begin(attention.fn.fast_attention.projection_matrix, x, options)
        self.weights = _Weights(options, weights_of(attention, feed_forward), self.features.scratch)


def _begin(projection, x, options):
    heads, _, _, dtype, compiled, _ = options
    features = Features(projection, x, x.shape[0], heads, x.shape[1])
    return features, (FusedMemory if compiled else Memory)(features, dtype if dtype == torch.bfloat16 else None)


class _Weights:
    """The parameters of a block, in the dtype of its products, and what is done with them and their gradients."""

    def __init__(self, options, weights, scratch=None, grads=False):
        self.heads, _, self.eps, self.dtype, compiled, _ = options
        self.onednn = compiled and self.dtype == torch.float32
        self.scratch = scratch
        self.norms = {1: weights[0:2], 2: weights[7:9]}
        names = ("q", "k", "v", "o", "w1", "w2")
        self.matrices = {name: weights[i].to(self.dtype) for name, i in zip(names, (2, 3, 4, 5, 9, 11))}
        self.biases = {name: weights[i].to(self.dtype) for name, i in zip(("o", "w1", "w2"), (6, 10, 12))}
        if grads:
            self.grads = [torch.zeros_like(weight) for weight in weights]

    def linear(self, x, name):
        """A linear layer on rows; the result is in scratch memory, valid until the layer is used again."""
        matrix, bias, x = self.matrices[name], self.biases.get(name), x.to(self.dtype)
        if self.onednn:
            return ONEDNN(x, matrix, bias, "none", [], "")
        matrix = matrix.t()
        out = self.scratch(name, self.dtype, len(x), matrix.shape[1])
        return torch.mm(x, matrix, out=out) if bias is None else torch.addmm(bias, x, matrix, out=out)

    def gelu(self, x):
        return torch.ops.aten.gelu.out(x, out=self.scratch("gelu", x.dtype, *x.shape))

    def norm(self, x, which):
        """Normalised rows, and the mean and deviation that the backward pass needs; in scratch memory."""
        out = [self.scratch(f"norm{which}{i}", x.dtype, len(x), width) for i, width in enumerate((x.shape[1], 1, 1))]
        return torch.ops.aten.native_layer_norm.out(
            x, x.shape[1:], *self.norms[which], self.eps, out0=out[0], out1=out[1], out2=out[2]
        )

    def add(self, x, layer):
        """The residual: rows and the result of a linear layer, in its place where the dtype allows."""
        return layer.add_(x) if layer.dtype == x.dtype else x + layer

    def split(self, x, g):
        """Rows (g · c, h · d) to (g, h, c, d)."""
        return x.view(g, -1, self.heads, x.shape[1] // self.heads).transpose(1, 2)

    def linear_backward(self, grad, x, name):
        """Gradient of a linear layer's input; that of its parameters is added to ``grads``."""
        grad = grad.to(self.dtype)
        at, bias = {"q": (2, None), "k": (3, None), "v": (4, None), "o": (5, 6), "w1": (9, 10), "w2": (11, 12)}[name]
        if self.onednn:
            self.grads[at] += ONEDNN(grad.t(), x.t(), None, "none", [], "")
        elif grad.dtype == self.grads[at].dtype:
            self.grads[at].addmm_(grad.t(), x)
        else:
            self.grads[at] += grad.t() @ x.to(self.dtype)
        if bias is not None:
            self.grads[bias] += grad.sum(0)
        matrix = self.matrices[name]
        if self.onednn:
            return ONEDNN(grad, matrix.t(), None, "none", [], "")
        return torch.mm(grad, matrix, out=self.scratch(f"grad_{name}", grad.dtype, len(grad), matrix.shape[1]))

    def norm_backward(self, grad, x, mean, deviation, which):
        weight, bias = self.norms[which]
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
            grad.to(x.dtype), x, x.shape[1:], mean, deviation, weight, bias, [True, True, True]
        )
        at = {1: 0, 2: 7}[which]
        self.grads[at] += grad_weight
        self.grads[at + 1] += grad_bias
        return grad_x


def _merge(x):
    """(g, h, c, d) to rows (g · c, h · d)."""
    return x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], -1)


class _Chunks(list):
    """Chunks of a pass over the tokens, and what each keeps for the backward pass, in scratch memory of its own."""

    def __init__(self, chunks, device, keep):
        super().__init__(chunks)
        self.kept = [(Scratch(device), []) for _ in chunks] if keep else None

    def each(self, w, memory, compute):
        """Yield each chunk and what ``compute(chunk)`` gives, which is computed once, or each time if nothing is kept."""
        for k, at in enumerate(self):
            if self.kept is None:
                yield at, compute(at)
                continue
            scratch, found = self.kept[k]
            w.scratch = memory.features.scratch = scratch
            if not found:
                found.append(compute(at))
            yield at, found[0]


def _bytes(w, features, asking):
    """What all chunks of a block would keep together, roughly."""
    a_key = features.heads * (len(features.rows) + 4 * features.dim) + 2 * asking.shape[2]
    a_query = features.heads * (len(features.rows) + 5 * features.dim) + 4 * asking.shape[2] + 2 * len(w.matrices["w1"])
    return features.cells * (features.places * a_key + asking.shape[1] * a_query) * features.rows.itemsize


class _Block(torch.autograd.Function):
    """Forward and backward of :func:`performer_block`; the projection is not differentiated."""

    @staticmethod
    def forward(ctx, x, queries, projection, counts, options, *weights):
        (features, memory), places = _begin(projection, x, options), x.shape[1]
        w = _Weights(options, weights, features.scratch)
        asking = x if queries is None else queries
        keep = any(ctx.needs_input_grad) and _bytes(w, features, asking) < KEPT
        ctx.keys, ctx.queries = (_Chunks(features.chunks_of(n), x.device, keep) for n in (places, asking.shape[1]))
        for _ in ctx.keys.each(w, memory, lambda at: told(w, memory, x[at], at, counts, add=True)):
            pass
        memory.close(options[1])
        out = asking if options[-1] else torch.empty_like(asking, memory_format=torch.contiguous_format)
        for at, (_, _, _, _, _, middle, _, _, _, inner) in ctx.queries.each(
            w, memory, lambda at: _asked(w, memory, asking[at], at)
        ):
            torch.add(middle, w.linear(inner, "w2"), out=out[at].view_as(middle))
        if not keep:
            features.scratch.clear()
        ctx.memory, ctx.options = memory, options
        ctx.save_for_backward(x, queries, counts, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, queries, counts, *weights = ctx.saved_tensors
        memory, dim = ctx.memory, x.shape[2]
        w = _Weights(ctx.options, weights, memory.features.scratch, grads=True)
        asking = x if queries is None else queries
        grad_asking = torch.empty_like(asking, memory_format=torch.contiguous_format)
        grad_x = grad_asking if queries is None else torch.zeros_like(x, memory_format=torch.contiguous_format)
        memory.begin_backward()
        for at, found in ctx.queries.each(w, memory, lambda at: _asked(w, memory, asking[at], at)):
            normed, stats, query, answer, state, middle, normed_2, stats_2, before, inner = found
            part = asking[at]
            rows, g, grad_out = part.reshape(-1, dim), len(part), grad[at].reshape(-1, dim)
            grad_inner = w.linear_backward(grad_out, inner, "w2")
            grad_inner = torch.ops.aten.gelu_backward.grad_input(grad_inner, before, grad_input=grad_inner)
            grad_normed = w.linear_backward(grad_inner, normed_2, "w1")
            grad_middle = grad_out + w.norm_backward(grad_normed, middle, *stats_2, 2)
            grad_answer = w.split(w.linear_backward(grad_middle, answer, "o"), g)
            grad_query = _merge(memory.answer_backward(grad_answer, query, state, at))
            grad_normed = w.linear_backward(grad_query, normed, "q")
            grad_asking[at] = (grad_middle + w.norm_backward(grad_normed, rows, *stats, 1)).view_as(part)
        memory.turn_backward()
        for at, found in ctx.keys.each(w, memory, lambda at: told(w, memory, x[at], at, counts)):
            normed, stats, key, value, state = found
            part = x[at]
            grad_key, grad_value = memory.add_backward(key, value, state, at, counts)
            grad_normed = w.linear_backward(_merge(grad_key), normed, "k")
            grad_normed += w.linear_backward(_merge(grad_value), normed, "v")
            grad_x[at] += w.norm_backward(grad_normed, part.reshape(-1, dim), *stats, 1).view_as(part)
        ctx.memory = ctx.keys = ctx.queries = None
        return grad_x, None if queries is None else grad_asking, None, None, None, *w.grads


def told(w, memory, part, at, counts, add=False):
    """Keys and values of a chunk; with ``add``, they are put into the memory."""
    normed, *stats = w.norm(part.reshape(-1, part.shape[2]), 1)
    key, value = (w.split(w.linear(normed, name), len(part)) for name in "kv")
    state = memory.weigh(key, value, at, counts)
    if add:
        memory.add(value, state, at, counts)
    return normed, stats, key, value, state


def _asked(w, memory, part, at):
    """What a chunk asks and is answered, up to the last linear layer."""
    rows = part.reshape(-1, part.shape[2])
    normed, *stats = w.norm(rows, 1)
    query = w.split(w.linear(normed, "q"), len(part))
    return normed, stats, query, *answered(w, memory, rows, query, at)


def answered(w, memory, rows, query, at):
    """The same from the queries on."""
    answer, state = memory.answer(query, at)
    answer = _merge(answer)
    middle = w.add(rows, w.linear(answer, "o"))
    normed_2, *stats_2 = w.norm(middle, 2)
    before = w.linear(normed_2, "w1")
    return answer, state, middle, normed_2, stats_2, before, w.gelu(before)
