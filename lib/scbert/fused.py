"""The attention's arithmetic as one compiled function a chunk (``fused.cpp``), where there is a compiler and AVX-512.

In PyTorch each step of a chunk (product, maximum, exponential, cast, product) writes what the next one reads. Compiled, a tile
of 64 tokens goes through all of them in the processor's cache. It is compiled when it is first wanted, once a machine, and kept
in the cache folder; where that cannot be done, :class:`lib.scbert.attention.Memory` does the same.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from lib import settings
from lib.errors import DataError
from lib.files import fingerprint, replacing, seal, sealed
from lib.scbert.attention import Memory

SMALL = 100  # width below which a model is computed as it always was, bit for bit, and by one process
SOURCE = Path(__file__).with_suffix(".cpp")
COMMAND = ("c++", "-O3", "-march=native", "-std=c++17", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    if sys.platform != "linux" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    path = settings.cache() / "compiled" / f"{fingerprint(SOURCE.read_text() + ' '.join(COMMAND) + processor())}.so"
    try:
        if not sealed(path):  # not there, or damaged
            with replacing(path) as temporary:
                subprocess.run([*COMMAND, SOURCE, "-o", temporary], check=True, capture_output=True)
            seal(path)
        return ctypes.CDLL(str(path))
    except (OSError, DataError, subprocess.CalledProcessError):
        return None


@functools.cache
def processor() -> str:
    """What tells one kind of processor from another: its name, and what it can."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].split("\n") if sys.platform == "linux" else []
    kept = [line for line in lines if line.startswith(("model name", "flags"))]
    return "\n".join(kept) or platform.processor() or platform.machine()


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("tokens", "heads", "d", "m", "count")]
    _fields_ += [("scale", ctypes.c_float), ("bound", ctypes.c_float), ("columns", ctypes.c_void_p), ("rows", ctypes.c_void_p)]


def can(dtype: torch.dtype) -> bool:
    """Whether the compiled functions are to be had here, for products in this dtype."""
    there = library() if dtype in (torch.float32, torch.bfloat16) else None
    return there is not None and (dtype == torch.float32 or bool(there.has_bf16()))


def serves(attention: nn.Module, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the compiled functions are to do the attention (a FavorAttention) of a block on ``x``, (cells, places, dim)."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32 and attention.projection_matrix.shape[1] % 16 == 0
    return fits and x.shape[2] >= SMALL and attention.compiled is not False and can(dtype)


class FusedMemory(Memory):
    """:class:`lib.scbert.attention.Memory` by the compiled functions, which :func:`serves` says can do it.

    Keys, queries, values and their gradients are rows (tokens, heads · d) of one cell, fp32, or bf16 where ``product`` is.
    ``total`` and ``grad_context`` have the tokens' sums as (b, h, d + 1, m).
    """

    def __init__(self, features, product=None):
        super().__init__(features, product)
        self.low = product is not None
        self.total = self.total.transpose(2, 3).contiguous()
        self.columns, self.rows = self._packed(features.columns), self._packed(features.rows)
        m, d = features.rows.shape
        self.sizes = {"heads": features.heads, "d": d, "m": m, "count": features.count, "scale": features.scale}
        self.sizes |= {"bound": float(features.bound), "columns": self.columns.data_ptr(), "rows": self.rows.data_ptr()}

    def _packed(self, *matrices):
        """Matrices (…, rows, n) as the products want them, one after the other."""
        words = torch.empty(sum(x.numel() for x in matrices) // (2 if self.low else 1), dtype=torch.int32)
        begin = 0
        for x in matrices:
            rows, n = x.shape[-2:]
            many, x = x.numel() // (rows * n), x.contiguous()
            library().pack_matrices(int(self.low), _at(x), _at(words[begin:]), ctypes.c_int64(many), rows, n)
            begin += x.numel() // (2 if self.low else 1)
        return words

    def _call(self, name, *tensors):
        """Call for each cell of (g, h, c, d) tensors and others, which begin with the cells."""
        shape = _Shape(tokens=tensors[0].shape[2], **self.sizes)
        function = getattr(library(), name)
        for i in range(len(tensors[0])):
            given = [None if x is None else _at(x[i]) for x in tensors]
            function(int(self.low), torch.get_num_threads(), ctypes.byref(shape), *given)

    def _rows(self, x):
        """As tokens before heads, in memory."""
        x = x.to(torch.bfloat16 if self.low else torch.float32)
        return x if x.transpose(1, 2).is_contiguous() else x.transpose(1, 2).contiguous().transpose(1, 2)

    def _new(self, name, g, c):
        d, heads = self.sizes["d"], self.features.heads
        return self.features.scratch(name, torch.bfloat16 if self.low else torch.float32, g, c, heads, d).transpose(1, 2)

    def _matrices(self, both):
        """(b, h, m, d + 1) as the compiled functions take it: the first d in both directions, and the last."""
        first = both[..., :-1]
        packed = [self._packed(x, x.transpose(1, 2)) for x in first]
        return packed, both[..., -1].contiguous()

    def weigh(self, k, v, at, counts=None):
        return k  # all is computed anew in the backward pass: that is as fast as reading it

    def add(self, v, state, at, counts=None):
        cells, _ = at
        times = None if counts is None else counts[cells].float().contiguous()
        top = self.shift[cells].contiguous()
        self._call("tell_keys", self._rows(state), self._rows(v), times, self.total[cells], top)
        self.shift[cells] = top
        self._sum_values(v, cells, counts)

    def ones(self, total=None):
        return (self.total if total is None else total)[:, :, -1]

    def close(self, stabiliser):
        self.total = self.total.transpose(2, 3)
        super().close(stabiliser)
        self.packed, self.last = self._matrices(self.context)
        self.floor = self.floor.contiguous()

    def answer(self, q, at):
        cells, _ = at
        out = self._new("answer", len(q), q.shape[2])
        self._call("ask_queries", self._rows(q), self.packed[cells], self.last[cells], self.floor[cells], out)
        return out, None

    def begin_backward(self):
        b, h, m, d = self.context.shape
        self.grad_context, self.grad_floor = self.context.new_zeros(b, h, d, m), torch.zeros_like(self.floor)

    def answer_backward(self, grad, q, state, at):
        cells, _ = at
        out = self._new("grad_x", len(q), q.shape[2])
        given = self.packed[cells], self.last[cells], self.floor[cells], self.grad_context[cells], self.grad_floor[cells]
        self._call("ask_queries_back", self._rows(q), self._rows(grad), *given, out)
        return out

    def turn_backward(self):
        self.grad_context = self.grad_context.transpose(2, 3)
        super().turn_backward()
        self.packed, self.last = self._matrices(self.grad_total)
        self.grad_values = self.grad_values[..., :-1].contiguous()

    def add_backward(self, k, v, state, at, counts=None):
        cells, _ = at
        grad_k, grad_v = (self._new(name, len(k), k.shape[2]) for name in ("grad_x", "grad_value"))
        times = None if counts is None else counts[cells].float().contiguous()
        given = times, self.packed[cells], self.last[cells], self.grad_values[cells]
        self._call("tell_keys_back", self._rows(k), self._rows(v), *given, grad_k, grad_v)
        return grad_k, grad_v


def _at(x):
    return ctypes.c_void_p(x.data_ptr())
