"""Speed and memory against stock performer-pytorch, side by side in one run: ``python -m lib.benchmark``.

Each measurement runs in a process of its own, so that its peak memory is its own; stock and ours take turns, so that
a change in the machine's speed falls on both. Writes ``figures/benchmark/<device>.csv`` and a figure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import statistics
import sys
import time

import numpy as np

JOBS = ("forward", "finetuning step", "pretraining step")
MODELS = ("stock", "ours", "ours, no gene embedding")


def flops(genes, config, job="forward"):
    """Floating-point operations of a job for one cell: products only, a backward pass as two forwards."""
    inner, dim = config.heads * config.dim_head, config.dim
    block = 2 * (genes + 1) * (4 * dim * inner + 4 * inner * config.features + 2 * config.ff_mult * dim**2)
    passes = {"forward": config.depth, "finetuning step": config.depth + 2, "pretraining step": 3 * config.depth}
    return block * passes[job]


def make_job(model, job, genes, cells, config=None):
    """A function that does the job once on random tokens of realistic sparsity (9 % expressed).

    Parameters
    ----------
    model : one of ``MODELS``
    job : one of ``JOBS``
    genes, cells : int
    config : ScBertConfig, optional
        Default: the paper's sizes.
    """
    import torch
    from torch.nn import functional as F

    from lib.finetune import freeze
    from lib.model import CellTypeClassifier, ScBert, ScBertConfig
    from lib.preprocess import MASK
    from lib.pretrain import target_logits

    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((cells, genes + 1)) < 0.09, rng.integers(1, 6, (cells, genes + 1)), 0)
    tokens[:, -1] = 0
    tokens = torch.as_tensor(tokens)
    config = ScBertConfig(genes=genes) if config is None else config
    embedding = None if model == MODELS[2] else 0.3 * rng.standard_normal((genes, config.dim)).astype(np.float32)
    torch.manual_seed(0)
    net = (CellTypeClassifier if job == "finetuning step" else ScBert)(config, embedding)
    if model == "stock":
        net.__class__ = _stock(type(net))
    targets = torch.where((tokens > 0) & (torch.rand(tokens.shape) < 0.15), tokens, -100)
    masked = tokens.masked_fill(targets >= 0, MASK)
    if job == "finetuning step":
        freeze(net)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])

    def forward():
        with torch.no_grad():
            net.eval()(tokens)

    def step():
        net.train()
        if job == "finetuning step":
            loss = F.cross_entropy(net(tokens), torch.arange(cells) % config.classes)
        else:
            loss = F.cross_entropy(target_logits(net, masked, targets), targets[targets >= 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return forward if job == "forward" else step


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


def _measure(connection, model, job, genes, cells, threads):
    """In a process of its own: do the job whenever asked, answer with the seconds; at the end, with the peak memory."""
    import torch

    torch.set_num_threads(threads)
    work = make_job(model, job, genes, cells)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    while connection.recv():
        begun = time.perf_counter()
        work()
        connection.send(time.perf_counter() - begun)
    connection.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024)


def compare(job, genes, cells, models=MODELS[:2], repeats=3, threads=None):
    """Times and memory of some models doing one job, in turn.

    Parameters
    ----------
    cells : dict
        Cells of a batch, for each model; the result is per cell.

    Returns
    -------
    list of dict
        ``model``, ``job``, ``genes``, ``cells``, ``seconds`` (median, per cell), ``bytes`` (peak above the model and its
        data, per cell), ``flops``.
    """
    import torch

    from lib.model import ScBertConfig

    threads = threads or torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    peers = {}
    for model in models:
        here, there = context.Pipe()
        process = context.Process(target=_measure, args=(there, model, job, genes, cells[model], threads))
        process.start()
        peers[model] = here, process
    seconds = {model: [] for model in models}
    for _ in range(repeats):
        for model, (pipe, _) in peers.items():
            pipe.send(True)
            seconds[model].append(pipe.recv())
    rows = []
    for model, (pipe, process) in peers.items():
        pipe.send(False)
        peak = pipe.recv()
        process.join()
        rows.append({"model": model, "job": job, "genes": genes, "cells": cells[model], "threads": threads,
                     "seconds": statistics.median(seconds[model]) / cells[model], "bytes": peak / cells[model],
                     "flops": flops(genes, ScBertConfig(), job)})  # fmt: skip
    return rows


def matrix_rate(threads, size=2048, repeats=7):
    """The machine's fp32 matrix-product rate in FLOP/s: the median over square products."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(times)


def feeding(cells=2048, genes=16_906, batch=32):
    """Seconds a batch to fetch tokens: stored once as uint8, against one ``.toarray()`` a cell, as the authors do."""
    import scipy.sparse as sp

    from lib.preprocess import tokenize

    x = sp.random(cells, genes, 0.03, "csr", np.float32, random_state=0) * 6
    tokens = tokenize(x)
    order = np.random.default_rng(0).permutation(cells).reshape(-1, batch)
    begun = time.perf_counter()
    ours = [tokens[indices] for indices in order]
    middle = time.perf_counter()
    stock = []
    for indices in order:
        rows = [np.append(np.minimum(x[i].toarray()[0], 5), 0).astype(np.uint8) for i in indices]
        stock.append(np.stack(rows))
    ended = time.perf_counter()
    assert all(np.array_equal(a, b) for a, b in zip(ours, stock))
    return {"ours": (middle - begun) / len(order), "stock": (ended - middle) / len(order)}


def main(arguments):
    import pandas as pd
    import torch

    from lib import plots

    parser = argparse.ArgumentParser(prog="python -m lib.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="cpu", help="name of the files in figures/benchmark")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--genes", type=int, nargs="*", default=[1000, 2000, 4000, 8000, 16_906, 32_000],
                        help="for the growth of the forward pass with genes")  # fmt: skip
    parser.add_argument("--full", type=int, default=16_906, help="genes of the comparison of the three jobs")
    chosen = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    rate = matrix_rate(threads)
    print(f"{platform.processor() or platform.machine()}, {threads} threads, {rate / 1e9:.0f} GFLOP/s in fp32 products")
    rows = []
    batch = {"stock": 1, "ours": 1, "ours, no gene embedding": 32}
    plan = [(job, chosen.full) for job in JOBS] + [("forward", genes) for genes in chosen.genes if genes != chosen.full]
    for job, genes in plan:
        found = compare(job, genes, batch, MODELS, chosen.repeats, threads)
        stock = found[0]
        for row in found:
            row |= {"ratio": stock["seconds"] / row["seconds"], "memory_ratio": row["bytes"] / stock["bytes"] if stock["bytes"] else np.nan,
                    "share_of_rate": row["flops"] / row["seconds"] / rate if row["cells"] == 1 else np.nan,
                    "matrix_rate": rate}  # fmt: skip
            print(f"{row['job']:18s} {row['genes']:6d} genes  {row['model']:24s} {row['seconds']:9.4f} s a cell  "
                  f"{row['ratio']:7.1f}x  {row['bytes'] / 2**20:8.1f} MiB a cell", flush=True)  # fmt: skip
        rows += found
    fed = feeding()
    rows += [{"model": who, "job": "feeding", "genes": 16_906, "cells": 32, "seconds": seconds / 32,
              "ratio": fed["stock"] / seconds} for who, seconds in fed.items()]  # fmt: skip
    print(f"feeding a batch of 32: {1e3 * fed['ours']:.2f} ms, {fed['stock'] / fed['ours']:.0f}x one .toarray() a cell")
    table = pd.DataFrame(rows)
    folder = plots.folder({"name": "benchmark"})
    table.to_csv(folder / f"{chosen.name}.csv", index=False, float_format="%.6g")
    _figure(table, chosen.full, folder / chosen.name)


def _figure(table, full, path):
    import matplotlib.pyplot as plt

    from lib import plots

    plots.style()
    colours = dict(zip(MODELS, (plots.colour("majority"), plots.colour("full"), plots.colour("no_gene2vec"))))
    fig, axes = plt.subplots(1, 2, figsize=(10, 4))
    part = table[table["genes"] == full]
    for k, model in enumerate(MODELS):
        rows = part[part["model"] == model].set_index("job").reindex(JOBS)
        bars = axes[0].bar(np.arange(3) + 0.27 * (k - 1), rows["seconds"], 0.25, color=colours[model], label=model)
        axes[0].bar_label(
            bars, ["" if r == 1 else f"{r:.1f}×" if r < 100 else f"{r:,.0f}×" for r in rows["ratio"]], fontsize=8
        )
        growth = table[(table["model"] == model) & (table["job"] == "forward")].sort_values("genes")
        axes[1].plot(growth["genes"], growth["seconds"], "o-", color=colours[model], label=model)
    axes[0].set_xticks(range(3), [f"{job}\n{full:,} genes" for job in JOBS])
    axes[0].set(yscale="log", title="Seconds a cell (× faster than stock)")
    axes[1].set(xscale="log", yscale="log", xlabel="genes", title="Forward pass, seconds a cell")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    fig.savefig(path.with_suffix(".png"), metadata={"Software": None})
    fig.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(sys.argv[1:])
