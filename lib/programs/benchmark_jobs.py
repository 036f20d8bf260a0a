"""What the benchmark measures: jobs on stock performer-pytorch and on ours, exactness, profile, feeding, preparation."""

from __future__ import annotations

import re
import resource
import statistics
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.prepare.preprocess import prepare, tokenize
from lib.prepare.tokens import TokenStore
from lib.scbert.finetune import freeze
from lib.scbert.model import CellTypeClassifier, ScBert, ScBertConfig
from lib.scbert.pretrain import IGNORED, mask_tokens, target_logits

JOBS = ("forward", "finetuning step", "pretraining step")
MODELS = ("stock", "ours", "ours, bf16", "ours, no gene embedding")


def flops(genes, config, job="forward"):
    """Floating-point operations of a job for one cell: products only, a backward pass as two forwards."""
    inner, dim = config.heads * config.dim_head, config.dim
    block = 2 * (genes + 1) * (4 * dim * inner + 4 * inner * config.features + 2 * config.ff_mult * dim**2)
    passes = {"forward": config.depth, "finetuning step": config.depth + 2, "pretraining step": 3 * config.depth}
    return block * passes[job]


def make_batch(genes, cells):
    """Random tokens of realistic sparsity (9 % expressed), their masked version and the targets."""
    import torch

    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((cells, genes + 1)) < 0.09, rng.integers(1, 6, (cells, genes + 1)), 0)
    tokens[:, -1] = 0
    tokens = torch.as_tensor(tokens)
    return tokens, *mask_tokens(tokens, torch.Generator().manual_seed(0))


def make_net(model, job, genes, config=None, stabiliser="cell"):
    """A model with random weights, the same for every ``model`` of one job, and its trained parameters."""
    import torch

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


def make_job(model, job, genes, cells, config=None, device="cpu"):
    """A function that does the job once.

    Parameters
    ----------
    model : one of ``MODELS``
    job : one of ``JOBS``
    genes, cells : int
    config : ScBertConfig, optional
        Default: the paper's sizes.
    device : str
    """
    import torch

    net, trained = make_net(model, job, genes, config)
    net.to(device)
    batch = [x.to(device) for x in make_batch(genes, cells)]
    optimizer = torch.optim.Adam(trained)
    low = model == "ours, bf16" or (device == "cuda" and model != "stock")

    def forward():
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=low):
            net.eval()(batch[0])

    def step():
        net.train()
        with torch.autocast(device, torch.bfloat16, enabled=low):
            loss = loss_of(net, job, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return forward if job == "forward" else step


def loss_of(net, job, tokens, masked, targets):
    import torch
    from torch.nn import functional as F

    if job == "finetuning step":
        logits = net(tokens)
        return F.cross_entropy(logits, torch.arange(len(tokens), device=tokens.device) % logits.shape[1])
    return F.cross_entropy(target_logits(net, masked, targets), targets[targets != IGNORED])


def _stock(kind):
    """The same model with performer-pytorch's own forward, its attention included."""
    from performer_pytorch.performer_pytorch import linear_attention, softmax_kernel

    class Stock(kind):
        def blocks(self, x, counts=None, start=0, stop=None):
            for attention, _ in self.performer.net.layers:
                fast = attention.fn.fast_attention
                fast.forward = lambda q, k, v, fast=fast: linear_attention(
                    softmax_kernel(q, projection_matrix=fast.projection_matrix, is_query=True),
                    softmax_kernel(k, projection_matrix=fast.projection_matrix, is_query=False), v)  # fmt: skip
            return self.performer.net(x)

    return Stock


def peak(device):
    """Peak memory of this process so far, bytes."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # Linux: unlike ru_maxrss, not inherited from the process that started this one
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def exactness(job, genes, bf16=False, config=None):
    """How far ours is from performer-pytorch in float64, on one cell.

    Returns
    -------
    dict
        ``error``: of the logits, the largest difference over the largest value; of a training step, the largest over
        the parameters of ‖difference‖ / ‖gradient‖. ``error_overall``: the latter of all parameters as one vector.
        ``agreement``: share of the masked tokens with the same arg-max.
    """
    import torch

    batch = make_batch(genes, 1)
    results = []
    for model, dtype in (("stock", torch.float64), ("ours", torch.float32)):
        net, trained = make_net(model, job, genes, config, stabiliser="head")
        net.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and model == "ours"):
            if job == "forward":
                with torch.no_grad():
                    results.append([net.eval()(batch[1]).double()])
                continue
            loss = loss_of(net.train(), job, *batch)
        results.append([grad.double() for grad in torch.autograd.grad(loss, trained)])
    exact, found = results
    if job != "forward":
        error = max(float((a - b).norm() / a.norm()) for a, b in zip(exact, found) if a.norm() > 0)
        a, b = (torch.cat([grad.flatten() for grad in grads]) for grads in results)
        return {"error": error, "error_overall": float((a - b).norm() / a.norm())}
    a, b = exact[0], found[0]
    same = (a.argmax(-1) == b.argmax(-1))[batch[2] >= 0].double().mean()
    return {"error": float((a - b).abs().max() / a.abs().max()), "agreement": float(same)}


PARTS = {
    "matrix products": {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_"},
    "exponentials": {"aten::exp", "aten::exp_", "aten::exp2", "aten::exp2_"},
}


def profile(job, genes, repeats=3):
    """Where the time of ours goes: seconds a cell in matrix products, exponentials, and the rest (dict)."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    work = make_job("ours", job, genes, 1)
    work()
    begun = time.perf_counter()
    with record(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            work()
    total = (time.perf_counter() - begun) / repeats
    own = {event.key: event.self_cpu_time_total / 1e6 / repeats for event in found.key_averages()}
    seconds = {part: sum(own.get(name, 0) for name in names) for part, names in PARTS.items()}
    return seconds | {"the rest": total - sum(seconds.values())}


def feeding(cells=2048, genes=16_906, batch=32):
    """Seconds a batch to fetch tokens: from the sparse store, against one ``.toarray()`` a cell, as the authors do."""
    x = sp.random(cells, genes, 0.03, "csr", np.float32, random_state=0) * 6
    tokens = TokenStore.of(x)
    order = np.random.default_rng(0).permutation(cells).reshape(-1, batch)
    times = {"ours": [], "stock": []}
    for indices in order:  # in turn
        begun = time.perf_counter()
        ours = tokens[indices]
        middle = time.perf_counter()
        stock = np.stack([np.append(np.minimum(x[i].toarray()[0], 5), 0).astype(np.uint8) for i in indices])
        times["ours"].append(middle - begun)
        times["stock"].append(time.perf_counter() - middle)
        assert np.array_equal(ours, stock)
    return {who: statistics.median(seconds) for who, seconds in times.items()}


def prepare_simulated(connection, cells, measured, genes, detected):
    """In a process of its own: prepare and tokenise simulated counts; the same by scanpy, and whether they agree."""
    import scanpy

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
    begun = time.perf_counter()
    prepared = prepare(adata, vocabulary, min_genes=1)
    store = TokenStore.of(prepared.X)
    sparse, peak_sparse = time.perf_counter() - begun, peak("cpu")
    tokenize(prepared)
    ours, peak_dense, middle = time.perf_counter() - begun, peak("cpu"), time.perf_counter()
    theirs = adata[prepared.obs_names, vocabulary].copy()
    scanpy.pp.normalize_total(theirs, target_sum=1e4)
    scanpy.pp.log1p(theirs, base=2)
    seconds = time.perf_counter() - middle
    theirs.X.sort_indices()
    equal = np.array_equal(theirs.X.indices, prepared.X.indices) and np.allclose(theirs.X.data, prepared.X.data, 1e-5)
    assert np.array_equal(store[:100], tokenize(prepared[:100]))
    connection.send({"sparse": sparse, "bytes": peak_sparse, "dense": ours, "bytes_dense": peak_dense, "scanpy": seconds,
                     "equal": bool(equal), "detected": x.nnz / cells})  # fmt: skip
