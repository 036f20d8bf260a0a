"""Speed, memory and exactness against stock performer-pytorch, side by side in one run: ``python -m lib.benchmark``.

Each measurement runs in a process of its own, so that its peak memory is its own; stock and ours take turns, so that
a change in the machine's speed falls on both. Writes ``figures/benchmark/<device>.csv`` and a figure. On a GPU
(``--device cuda``) stock runs in fp32, ours in bf16 autocast; on a CPU ours runs in bf16 too where bf16 products are fast.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import time

import numpy as np
import pandas as pd

from lib import arms, plots
from lib.programs.benchmark_jobs import JOBS, MODELS, exactness, feeding, flops, make_job, peak, prepare_simulated, profile
from lib.scbert.model import ScBertConfig


def _measure(connection, model, job, genes, cells, threads, device):
    """In a process of its own: do the job whenever asked, answer with the seconds; at the end, with the peak memory."""
    import torch

    torch.set_num_threads(threads)
    work = make_job(model, job, genes, cells, device=device)
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    base = torch.cuda.memory_allocated() if device == "cuda" else peak(device)
    work()
    while connection.recv():
        finish()
        begun = time.perf_counter()
        work()
        finish()
        connection.send(time.perf_counter() - begun)
    connection.send(peak(device) - base)


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


def preparation(cells=68_450, measured=32_738, genes=16_906, detected=530):
    """Seconds and peak bytes to align, normalise and tokenise simulated counts of Zheng68K's size.

    Returns
    -------
    dict
        ``sparse`` (seconds to the token store) and ``bytes`` (peak of the process, the counts included); ``dense`` and
        ``bytes_dense``, with the dense array of tokens too; ``scanpy`` (seconds of its alignment and normalisation),
        ``equal``: whether the values agree, and ``detected``: genes a cell.
    """
    return _in_a_process(prepare_simulated, cells, measured, genes, detected)


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
    import torch

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

    plots.style()
    colours = dict(zip(MODELS, map(arms.colour, ("majority", "full", "no_pretraining", "no_gene2vec"))))
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
