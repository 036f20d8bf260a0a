"""Speed, memory and exactness against stock performer-pytorch, side by side in one run: ``python -m lib.benchmark``.

Each measurement runs in a process of its own, so that its peak memory is its own; stock and ours take turns, so that
a change in the machine's speed falls on both. Writes ``figures/benchmark/<device>.csv`` and a figure. On a GPU
(``--device cuda``) stock runs in fp32, ours in bf16 autocast; on a CPU ours runs in bf16 too where bf16 products are fast.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np

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

    from lib.pretrain import mask_tokens

    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((cells, genes + 1)) < 0.09, rng.integers(1, 6, (cells, genes + 1)), 0)
    tokens[:, -1] = 0
    tokens = torch.as_tensor(tokens)
    return tokens, *mask_tokens(tokens, torch.Generator().manual_seed(0))


def make_net(model, job, genes, config=None, stabiliser="cell"):
    """A model with random weights, the same for every ``model`` of one job, and its trained parameters."""
    import torch

    from lib.finetune import freeze
    from lib.model import CellTypeClassifier, ScBert, ScBertConfig

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
            loss = _loss(net, job, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return forward if job == "forward" else step


def _loss(net, job, tokens, masked, targets):
    import torch
    from torch.nn import functional as F

    from lib.pretrain import IGNORED, target_logits

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


def _peak(device):
    """Peak memory of this process so far, bytes."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # Linux: unlike ru_maxrss, not inherited from the process that started this one
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measure(connection, model, job, genes, cells, threads, device):
    """In a process of its own: do the job whenever asked, answer with the seconds; at the end, with the peak memory."""
    import torch

    torch.set_num_threads(threads)
    work = make_job(model, job, genes, cells, device=device)
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    base = torch.cuda.memory_allocated() if device == "cuda" else _peak(device)
    work()
    while connection.recv():
        finish()
        begun = time.perf_counter()
        work()
        finish()
        connection.send(time.perf_counter() - begun)
    connection.send(_peak(device) - base)


def compare(job, genes, cells, models, repeats=3, threads=None, device="cpu"):
    """Times and memory of some models doing one job, in turn.

    Parameters
    ----------
    cells : dict
        Cells of a batch, for each model; the result is per cell.

    Returns
    -------
    list of dict
        ``model``, ``job``, ``genes``, ``cells``, ``seconds`` (median, per cell), ``fastest`` and ``slowest``, ``bytes``
        (peak above the model and its data, per cell), ``flops``; ``ratio`` and ``memory_ratio`` to stock, if there.
    """
    import torch

    from lib.model import ScBertConfig

    threads = threads or torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    peers = {}
    for model in models:
        here, there = context.Pipe()
        process = context.Process(target=_measure, args=(there, model, job, genes, cells[model], threads, device))
        process.start()
        peers[model] = here, process
    seconds = {model: [] for model in models}
    for _ in range(repeats):
        for model, (pipe, _) in peers.items():
            pipe.send(True)
            seconds[model].append(pipe.recv() / cells[model])
    rows = []
    for model, (pipe, process) in peers.items():
        pipe.send(False)
        peak = pipe.recv()
        process.join()
        row = {"model": model, "job": job, "genes": genes, "cells": cells[model], "threads": threads,
               "seconds": statistics.median(seconds[model]), "fastest": min(seconds[model]),
               "slowest": max(seconds[model]), "bytes": peak / cells[model],
               "flops": flops(genes, ScBertConfig(), job)}  # fmt: skip
        rows.append(row)
        if (stock := rows[0])["model"] == "stock":
            row["ratio"] = stock["seconds"] / row["seconds"]
            row["memory_ratio"] = row["bytes"] / stock["bytes"] if stock["bytes"] else np.nan
    return rows


def matrix_rate(threads, dtype="float32", size=2048, repeats=7, device="cpu"):
    """The machine's rate of matrix products in FLOP/s: the median over square products."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2, size, size, dtype=getattr(torch, dtype), device=device)
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    a @ b
    times = []
    for _ in range(repeats):
        finish()
        begun = time.perf_counter()
        a @ b
        finish()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(times)


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
            loss = _loss(net.train(), job, *batch)
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
    import scipy.sparse as sp

    from lib.tokens import TokenStore

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


def _prepare(connection, cells, measured, genes, detected):
    """In a process of its own: prepare and tokenise simulated counts; the same by scanpy, and whether they agree."""
    import anndata
    import pandas as pd
    import scanpy
    import scipy.sparse as sp

    from lib.preprocess import prepare, tokenize
    from lib.tokens import TokenStore

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
    sparse, peak = time.perf_counter() - begun, _peak("cpu")
    tokenize(prepared)
    ours, peak_dense, middle = time.perf_counter() - begun, _peak("cpu"), time.perf_counter()
    theirs = adata[prepared.obs_names, vocabulary].copy()
    scanpy.pp.normalize_total(theirs, target_sum=1e4)
    scanpy.pp.log1p(theirs, base=2)
    seconds = time.perf_counter() - middle
    theirs.X.sort_indices()
    equal = np.array_equal(theirs.X.indices, prepared.X.indices) and np.allclose(theirs.X.data, prepared.X.data, 1e-5)
    assert np.array_equal(store[:100], tokenize(prepared[:100]))
    connection.send({"sparse": sparse, "bytes": peak, "dense": ours, "bytes_dense": peak_dense, "scanpy": seconds,
                     "equal": bool(equal), "detected": x.nnz / cells})  # fmt: skip


def preparation(cells=68_450, measured=32_738, genes=16_906, detected=530):
    """Seconds and peak bytes to align, normalise and tokenise simulated counts of Zheng68K's size.

    Returns
    -------
    dict
        ``sparse`` (seconds to the token store) and ``bytes`` (peak of the process, the counts included); ``dense`` and
        ``bytes_dense``, with the dense array of tokens too; ``scanpy`` (seconds of its alignment and normalisation),
        ``equal``: whether the values agree, and ``detected``: genes a cell.
    """
    return _in_a_process(_prepare, cells, measured, genes, detected)


def _in_a_process(function, *arguments):
    """What a function sends through the connection that is its first argument, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=function, args=(there, *arguments))
    process.start()
    there.close()  # so that a child that dies is noticed
    found = here.recv()
    process.join()
    return found


def _exactness(connection, *arguments):
    connection.send(exactness(*arguments))


def _profile(connection, *arguments):
    connection.send(profile(*arguments))


def main(arguments):
    import pandas as pd
    import torch

    from lib import plots

    parser = argparse.ArgumentParser(prog="python -m lib.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--genes", type=int, nargs="*", default=[1000, 4000, 16_906, 32_000],
                        help="for the growth of the forward pass with genes")  # fmt: skip
    parser.add_argument("--full", type=int, default=16_906, help="genes of the comparison of the three jobs")
    parser.add_argument("--cells", type=int, default=68_450, help="cells of the preparation")
    chosen = parser.parse_args(arguments)
    threads, device = torch.get_num_threads(), chosen.device
    rates = {kind: matrix_rate(threads, kind, size, device=device)
             for kind, size in (("float32", 2048), ("bfloat16", 256 if device == "cpu" else 8192))}  # fmt: skip
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {threads} threads; products: "
          + ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {kind}" for kind, rate in rates.items()))  # fmt: skip
    models = [m for m in MODELS if m != "ours, bf16" or (device == "cpu" and rates["bfloat16"] > rates["float32"])]
    batch = {"stock": 1, "ours": 1 if device == "cpu" else 8, "ours, bf16": 1, "ours, no gene embedding": 32}
    rows = []

    def measure(job, genes, models, batch):
        for row in compare(job, genes, batch, models, chosen.repeats, threads, device):
            kind = "bfloat16" if row["model"] == "ours, bf16" or (device == "cuda" and row["model"] != "stock") else "float32"
            # Without gene embedding most of the arithmetic is not done, so that a rate would mean nothing.
            rate = row["flops"] / row["seconds"] if row["model"] != MODELS[3] else np.nan
            row |= {"flops_per_second": rate, "share_of_rate": rate / rates[kind], "matrix_rate": rates[kind]}
            rows.append(row)
            print(f"{job:17s} {genes:6d} genes × {row['cells']:3d}  {row['model']:24s} {row['seconds']:9.4f} s a cell "
                  f"{row.get('ratio', np.nan):8.1f}x  {row['bytes'] / 2**20:8.1f} MiB a cell "
                  f"{rate / 1e12:6.3f} TFLOP/s {row['share_of_rate']:5.0%} of products", flush=True)  # fmt: skip

    for job in JOBS:
        measure(job, chosen.full, models, batch)
    for genes in chosen.genes:
        if genes != chosen.full:
            measure("forward", genes, models, batch)
    for cells in (2, 4):
        measure("forward", chosen.full, ["ours"], {"ours": cells})
    for cells in (128, 512):
        measure("forward", chosen.full, [MODELS[3]], {MODELS[3]: cells})
    for job in JOBS if device == "cpu" else ():
        found = _in_a_process(_exactness, job, chosen.full)
        rows.append({"model": "ours", "job": f"{job}: error", "genes": chosen.full, "cells": 1} | found)
        print(f"{job}: relative error {found['error']:.1e} against performer-pytorch in float64", flush=True)
        parts = _in_a_process(_profile, job, chosen.full)
        rows += [{"model": part, "job": f"{job}: profile", "genes": chosen.full, "cells": 1, "seconds": seconds}
                 for part, seconds in parts.items()]  # fmt: skip
        print(f"{job}: " + ", ".join(f"{seconds:.2f} s {part}" for part, seconds in parts.items()), flush=True)
    fed = feeding()
    rows += [{"model": who, "job": "feeding", "genes": 16_906, "cells": 32, "seconds": seconds / 32,
              "ratio": fed["stock"] / seconds} for who, seconds in fed.items()]  # fmt: skip
    print(f"feeding a batch of 32: {1e3 * fed['ours']:.2f} ms, {fed['stock'] / fed['ours']:.0f}x one .toarray() a cell")
    done = preparation(chosen.cells)
    rows += [{"model": f"ours, {kind} tokens", "job": "preparation", "genes": 16_906, "cells": chosen.cells,
              "seconds": done[kind] / chosen.cells, "bytes": done[held] / chosen.cells}
             for kind, held in (("sparse", "bytes"), ("dense", "bytes_dense"))]  # fmt: skip
    print(f"preparation of {chosen.cells:,} cells, {done['detected']:.0f} genes a cell: {done['sparse']:.1f} s, {done['bytes'] / 2**30:.2f} GiB to sparse "
          f"tokens; {done['dense']:.1f} s, {done['bytes_dense'] / 2**30:.2f} GiB with dense ones; scanpy "
          f"{done['scanpy']:.1f} s without tokens; values {'equal' if done['equal'] else 'DIFFER'}")  # fmt: skip
    table = pd.DataFrame(rows)
    folder = plots.folder({"name": "benchmark"})
    table.to_csv(folder / f"{device}.csv", index=False, float_format="%.6g")
    _figure(table[table["seconds"].notna()], chosen.full, folder / device)


def _figure(table, full, path):
    import matplotlib.pyplot as plt

    from lib import plots

    plots.style()
    colours = dict(zip(MODELS, map(plots.colour, ("majority", "full", "no_pretraining", "no_gene2vec"))))
    models = [model for model in MODELS if model in set(table["model"])]
    fig, axes = plt.subplots(1, 2, figsize=(10, 4))
    part = table[table["genes"] == full].drop_duplicates(["model", "job"])
    for k, model in enumerate(models):
        rows = part[part["model"] == model].set_index("job").reindex(JOBS)
        place = np.arange(3) + 0.27 * (k - (len(models) - 1) / 2)
        bars = axes[0].bar(place, rows["seconds"], 0.25, color=colours[model], label=model)
        labels = ["" if r == 1 else f"{r:.1f}×" if r < 100 else f"{r:,.0f}×" for r in rows["ratio"]]
        axes[0].bar_label(bars, labels, fontsize=8)
        growth = table[(table["model"] == model) & (table["job"] == "forward")].sort_values("genes")
        growth = growth.drop_duplicates("genes")
        axes[1].plot(growth["genes"], growth["seconds"], "o-", color=colours[model], label=model)
    axes[0].set_xticks(range(3), [f"{job}\n{full:,} genes" for job in JOBS])
    axes[0].set(yscale="log", title="Seconds a cell (× faster than stock)")
    axes[1].set(xscale="log", yscale="log", xlabel="genes", title="Forward pass, seconds a cell")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(models))
    fig.savefig(path.with_suffix(".png"), metadata={"Software": None})
    fig.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(sys.argv[1:])
