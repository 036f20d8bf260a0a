"""What the benchmark measures: jobs on stock performer-pytorch and on ours, exactness, profile, feeding, preparation."""

from __future__ import annotations

import functools
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lazy_loader
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from performer_pytorch.performer_pytorch import linear_attention, softmax_kernel
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as record

from lib import datasets, prepare
from lib.prepare.tokens import sparse_tokens, tokenize
from lib.scbert.arithmetic import choose
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.finetune import freeze
from lib.scbert.fused import FusedMemory
from lib.scbert.model import ScBert, ScBertConfig
from lib.scbert.pretrain import IGNORED, mask_tokens, target_logits

anndata = lazy_loader.load("anndata")  # not on a bare GPU machine, nor what needs it: datasets, prepare's preprocess

JOBS = ("forward", "finetuning step", "pretraining step")
MODELS = ("stock", "ours", "ours, bf16", "ours, no gene embedding")
KEPT = "ours, frozen blocks kept"  # a step of fine-tuning alone: what the five frozen blocks give is read from a file
SMALL = {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "features": 44}  # the model of the profile laptop


def flops(genes: int, config: ScBertConfig, job: str) -> int:
    """Floating-point operations of a job for one cell: products only, a backward pass as two forwards."""
    inner, dim = config.heads * config.dim_head, config.dim
    block = 2 * (genes + 1) * (4 * dim * inner + 4 * inner * config.features + 2 * config.ff_mult * dim**2)
    passes = {"forward": config.depth, "finetuning step": config.depth + 2, "pretraining step": 3 * config.depth}
    return block * passes[job]


def make_batch(genes: int, cells: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random tokens of realistic sparsity (9 % expressed), their masked version and the targets."""
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((cells, genes + 1)) < 0.09, rng.integers(1, 6, (cells, genes + 1)), 0)
    tokens[:, -1] = 0
    tokens = torch.as_tensor(tokens)
    return tokens, *mask_tokens(tokens, torch.Generator().manual_seed(0))


def make_net(model: str, job: str, genes: int, config: ScBertConfig | None = None, stabiliser: str = "cell"):
    """A model with random weights, the same for every ``model`` of one job, and its trained parameters."""
    config = config or ScBertConfig(genes=genes, stabiliser=stabiliser)
    rng = np.random.default_rng(1)
    embedding = 0.3 * rng.standard_normal((genes, config.dim)).astype(np.float32)
    torch.manual_seed(0)
    kind = CellTypeClassifier if job == "finetuning step" else ScBert
    net = kind(config, None if model == "ours, no gene embedding" else embedding)
    if model == "stock":
        net.__class__ = _stock(kind)
    if job == "finetuning step":
        freeze(net)
    return net, [parameter for parameter in net.parameters() if parameter.requires_grad]


def make_job(
    model: str, job: str, genes: int, cells: int, config: ScBertConfig | None = None, device: str = "cpu"
) -> Callable[[], None]:
    """A function that does one of ``JOBS`` once, with one of ``MODELS``; ``config``: the paper's sizes."""
    net, trained = make_net(model, job, genes, config)
    net.to(device)
    batch = [x.to(device) for x in make_batch(genes, cells)]
    optimizer = torch.optim.Adam(trained)
    low = model == "ours, bf16" or (model == KEPT and choose(net.config.dim, device).startswith("bf16"))
    low |= device == "cuda" and model != "stock"
    kept = _kept(net.eval(), batch[0]) if model == KEPT else None

    def forward():
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=low):
            net.eval()(batch[0])

    def step():
        net.train()
        with torch.autocast(device, torch.bfloat16, enabled=low):
            loss = loss_of(net, job, *batch, kept)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return forward if job == "forward" else step


def _kept(net, tokens):
    """What the frozen blocks give of these cells, in a file (cells, genes + 1, dim), as fine-tuning keeps it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - gone when the last array over it is
    with torch.no_grad():
        states = net.blocks(net.embed(tokens), net.counts(tokens), stop=-1, tokens=tokens).float().cpu().numpy()
    kept = np.memmap(file, np.float32, "w+", shape=states.shape)
    kept[:] = states
    return kept


def loss_of(net, job, tokens, masked, targets, kept=None):
    """The loss of a training step; the cell types of fine-tuning are made up. ``kept``: the frozen blocks' output."""
    if job == "finetuning step":
        if kept is None:
            logits = net(tokens)
        else:
            states = torch.from_numpy(np.array(kept)).to(tokens.device)
            logits = net.classify(net.blocks(states, net.counts(tokens), start=-1), tokens)
        return F.cross_entropy(logits, torch.arange(len(tokens), device=tokens.device) % logits.shape[1])
    return F.cross_entropy(target_logits(net, masked, targets), targets[targets != IGNORED])


def _forward(projection, q, k, v):
    """performer-pytorch's own attention."""
    q = softmax_kernel(q, projection_matrix=projection, is_query=True)
    return linear_attention(q, softmax_kernel(k, projection_matrix=projection, is_query=False), v)


def _stock(kind):
    """The same model with performer-pytorch's own forward, its attention included."""

    class Stock(kind):
        def blocks(self, x, counts=None, start=0, stop=None, tokens=None):
            for attention, _ in self.performer.net.layers:
                fast = attention.fn.fast_attention
                fast.forward = functools.partial(_forward, fast.projection_matrix)
            return self.performer.net(x)

        def states_at(self, tokens, cell, gene):
            return self.states(tokens)[cell, gene]

    return Stock


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of doing something once."""
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    finish()
    begun = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - begun


def peak(device: str) -> int:
    """Peak memory of this process so far, bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # Linux: unlike ru_maxrss, not inherited from the process that started this one
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def exactness(job: str, genes: int, bf16: bool = False, config: ScBertConfig | None = None) -> dict[str, float]:
    """How far ours is from performer-pytorch in float64, on one cell.

    Returns
    -------
    dict
        ``error``: of the logits, the largest difference over the largest value; of a training step, the largest over
        the parameters of ‖difference‖ / ‖gradient‖. ``error_overall``: the latter of all parameters as one vector.
        ``agreement``: share of the masked tokens with the same arg-max.
    """
    batch = make_batch(genes, 1)
    results = []
    for model, dtype in (("stock", torch.float64), ("ours", torch.float32)):
        net, trained = make_net(model, job, genes, config, stabiliser="head")
        net.to(dtype)
        forward, low = job == "forward", bf16 and model == "ours"
        with torch.autocast("cpu", torch.bfloat16, enabled=low), torch.set_grad_enabled(not forward):
            given = net.eval()(batch[1]) if forward else loss_of(net.train(), job, *batch)
        results.append([x.double() for x in ([given] if forward else torch.autograd.grad(given, trained))])
    if job != "forward":
        error = max(float((a - b).norm() / a.norm()) for a, b in zip(*results) if a.norm() > 0)
        a, b = (torch.cat([grad.flatten() for grad in grads]) for grads in results)
        return {"error": error, "error_overall": float((a - b).norm() / a.norm())}
    (a,), (b,) = results
    same = (a.argmax(-1) == b.argmax(-1))[batch[2] >= 0].double().mean()
    return {"error": float((a - b).abs().max() / a.abs().max()), "agreement": float(same)}


PARTS = {
    "compiled functions": {"compiled"},
    "matrix products": {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_"},
    "exponentials": {"aten::exp", "aten::exp_", "aten::exp2", "aten::exp2_"},
}


def profile(model: str, job: str, genes: int, repeats: int = 3) -> dict[str, float]:
    """Where a model's time goes: seconds a cell in compiled functions, matrix products outside them, exponentials, the rest."""
    call = FusedMemory._call
    FusedMemory._call = lambda *arguments: record_function("compiled")(call)(*arguments)  # in a process of its own
    work = make_job(model, job, genes, 1)
    work()
    with record(activities=[ProfilerActivity.CPU]) as found:
        total = timed(lambda: [work() for _ in range(repeats)], "cpu") / repeats
    own = {event.key: event.self_cpu_time_total / 1e6 / repeats for event in found.key_averages()}
    seconds = {part: sum(own.get(name, 0) for name in names) for part, names in PARTS.items()}
    return seconds | {"the rest": total - sum(seconds.values())}


def feeding(cells: int = 2048, genes: int = 16_906, batch: int = 32) -> dict[str, float]:
    """Seconds a batch to fetch tokens: one ``.toarray()`` for all its cells, against one for each, as the authors do."""
    x = sp.random(cells, genes, 0.03, "csr", np.float32, random_state=0) * 6
    tokens = sparse_tokens(x)
    ways = {
        "ours": lambda rows: tokens[rows].toarray(),
        "stock": lambda rows: np.stack([np.append(np.minimum(x[i].toarray()[0], 5), 0).astype(np.uint8) for i in rows]),
    }
    times = {who: [] for who in ways}
    for rows in np.random.default_rng(0).permutation(cells).reshape(-1, batch):  # in turn
        for who, way in ways.items():
            times[who].append(timed(functools.partial(way, rows), "cpu"))
        assert np.array_equal(*(way(rows) for way in ways.values()))
    return {who: statistics.median(seconds) for who, seconds in times.items()}


def preparation(cells: int = 68_450, measured: int = 32_738, genes: int = 16_906, detected: int = 530) -> dict[str, float]:
    """Seconds and peak bytes to align, normalise and tokenise simulated counts of Zheng68K's size.

    Returns
    -------
    dict
        ``sparse`` (seconds to the token store) and ``bytes_sparse`` (peak of the process, the counts included); ``dense``
        and ``bytes_dense``, with the dense array of tokens too; ``detected``: genes a cell.
    """
    rng = np.random.default_rng(0)
    indptr = np.concatenate([[0], np.cumsum(rng.poisson(1.03 * detected, cells))])
    # Some genes are seen far more often than others; what is drawn twice is summed, hence the 3 % more.
    indices = (rng.random(indptr[-1], dtype=np.float32) ** 1.5 * measured).astype(np.int32)
    counts = rng.geometric(0.6, indptr[-1]).astype(np.float32)
    x = sp.csr_matrix((counts, indices, indptr), shape=(cells, measured))
    x.sum_duplicates()
    del indices, counts
    names = np.array([f"GENE{i}" for i in range(measured)])
    adata = anndata.AnnData(x, obs=pd.DataFrame(index=np.arange(cells).astype(str)), var=pd.DataFrame(index=names))
    vocabulary = rng.permutation(names)[:genes]
    begun, found = time.perf_counter(), {"detected": x.nnz / cells}
    prepared = prepare.prepare(adata, vocabulary, min_genes=1)
    store = sparse_tokens(prepared.X)
    found |= {"sparse": time.perf_counter() - begun, "bytes_sparse": peak("cpu")}
    dense = tokenize(prepared)
    found |= {"dense": time.perf_counter() - begun, "bytes_dense": peak("cpu")}
    assert np.array_equal(store[:100].toarray(), dense[:100])
    return found


def reading(name: str) -> dict[str, float]:
    """Seconds and peak bytes of the process to read a data set that is there already, both a cell, and its size."""
    begun = time.perf_counter()
    cells, genes = datasets.load(name).shape
    return {"genes": genes, "cells": cells, "seconds": (time.perf_counter() - begun) / cells, "bytes": peak("cpu") / cells}
