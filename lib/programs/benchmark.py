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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec

import numpy as np
import pandas as pd
import torch

from lib import arms, datasets, plots
from lib.programs.benchmark_jobs import (
    JOBS,
    MODELS,
    exactness,
    feeding,
    flops,
    make_job,
    peak,
    preparation,
    profile,
    reading,
    timed,
)
from lib.scbert.model import ScBertConfig

SPAWN = multiprocessing.get_context("spawn")


def _measure(connection, model, job, genes, cells, threads, device):
    """In a process of its own: do the job whenever asked, answer with the seconds; at the end, with the peak memory."""
    torch.set_num_threads(threads)
    work = make_job(model, job, genes, cells, device=device)
    base = torch.cuda.memory_allocated() if device == "cuda" else peak(device)
    work()
    while connection.recv():
        connection.send(timed(work, device))
    connection.send(peak(device) - base)


def compare(
    job: str, genes: int, cells: dict[str, int], models: list[str], repeats: int, threads: int, device: str
) -> list[dict]:
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
    peers, seconds, rows = {}, {model: [] for model in models}, []
    for model in models:
        here, there = SPAWN.Pipe()
        process = SPAWN.Process(target=_measure, args=(there, model, job, genes, cells[model], threads, device))
        process.start()
        there.close()  # so that a process that dies is noticed
        peers[model] = here, process
    for model in models * repeats:
        peers[model][0].send(True)
        seconds[model].append(peers[model][0].recv() / cells[model])
    for model, (pipe, process) in peers.items():
        pipe.send(False)
        row = {"model": model, "job": job, "genes": genes, "cells": cells[model], "threads": threads}
        row |= {"seconds": statistics.median(seconds[model]), "fastest": min(seconds[model]), "slowest": max(seconds[model])}
        row |= {"bytes": pipe.recv() / cells[model], "flops": flops(genes, ScBertConfig(), job)}
        process.join()
        rows.append(row)
        if (stock := rows[0])["model"] == "stock":
            row["ratio"] = stock["seconds"] / row["seconds"]
            row["memory_ratio"] = row["bytes"] / stock["bytes"] if stock["bytes"] else np.nan
    return rows


def matrix_rate(dtype: str, size: int, device: str, repeats: int = 7) -> float:
    """The machine's rate of matrix products in FLOP/s: the median over square products."""
    a, b = torch.randn(2, size, size, dtype=getattr(torch, dtype), device=device)
    a @ b
    return 2 * size**3 / statistics.median(timed(lambda: a @ b, device) for _ in range(repeats))


def apart(function: Callable[..., dict], *arguments) -> dict:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(function, *arguments).result()


def main(arguments: list[str]) -> None:
    """Measure everything, print it, write the table and the figure."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--genes", type=int, nargs="*", default=[1000, 4000, 16_906, 32_000], help="for the growth with genes")
    parser.add_argument("--full", type=int, default=16_906, help="genes of the comparison of the three jobs")
    parser.add_argument("--cells", type=int, default=68_450, help="cells of the preparation")
    chosen = parser.parse_args(arguments)
    full, threads, device = chosen.full, torch.get_num_threads(), chosen.device
    sizes = {"float32": 2048, "bfloat16": 256 if device == "cpu" else 8192}
    rates = {kind: matrix_rate(kind, size, device) for kind, size in sizes.items()}
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    said = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {kind}" for kind, rate in rates.items())
    print(f"{name}, {threads} threads; products: {said}")
    models = [m for m in MODELS if m != "ours, bf16" or (device == "cpu" and rates["bfloat16"] > rates["float32"])]
    batch = {"stock": 1, "ours": 1 if device == "cpu" else 8, "ours, bf16": 1, "ours, no gene embedding": 32}
    rows = []

    def measure(job, genes, models, batch):
        for row in compare(job, genes, batch, models, chosen.repeats, threads, device):
            low = row["model"] == "ours, bf16" or (device == "cuda" and row["model"] != "stock")
            best = rates["bfloat16" if low else "float32"]
            # Without gene embedding most of the arithmetic is not done, so that a rate would mean nothing.
            rate = row["flops"] / row["seconds"] if row["model"] != MODELS[3] else np.nan
            rows.append(row | {"flops_per_second": rate, "share_of_rate": rate / best, "matrix_rate": best})
            who = f"{job:17s} {genes:6d} genes × {row['cells']:3d}  {row['model']:24s}"
            cost = f"{row['seconds']:9.4f} s a cell {row.get('ratio', np.nan):8.1f}x  {row['bytes'] / 2**20:8.1f} MiB a cell"
            print(f"{who} {cost} {rate / 1e12:6.3f} TFLOP/s {rate / best:5.0%} of products", flush=True)

    def add(model, job, cells, **found):
        rows.append({"model": model, "job": job, "genes": full if ":" in job else 16_906, "cells": cells} | found)

    for job in JOBS:
        measure(job, full, models, batch)
    for genes in chosen.genes:
        if genes != full:
            measure("forward", genes, models, batch)
    for model, cells in (("ours", 2), ("ours", 4), (MODELS[3], 128), (MODELS[3], 512)):
        measure("forward", full, [model], {model: cells})
    for job in JOBS if device == "cpu" else ():
        found = apart(exactness, job, full)
        add("ours", f"{job}: error", 1, **found)
        print(f"{job}: relative error {found['error']:.1e} against performer-pytorch in float64", flush=True)
        parts = apart(profile, job, full)
        for part, seconds in parts.items():
            add(part, f"{job}: profile", 1, seconds=seconds)
        print(f"{job}: " + ", ".join(f"{seconds:.2f} s {part}" for part, seconds in parts.items()), flush=True)
    fed = feeding()
    for who, seconds in fed.items():
        add(who, "feeding", 32, seconds=seconds / 32, ratio=fed["stock"] / seconds)
    print(f"feeding a batch of 32: {1e3 * fed['ours']:.2f} ms, {fed['stock'] / fed['ours']:.0f}x one .toarray() a cell")
    if find_spec("anndata"):
        _data(chosen.cells, add, rows)
    else:
        print("preparation and reading are left out: anndata is not installed, as on a bare GPU machine")
    folder = plots.folder({"name": "benchmark"})
    table = pd.DataFrame(rows)
    table.to_csv(folder / f"{device}.csv", index=False, float_format="%.6g")
    _figure(table[table["seconds"].notna()], full, folder / device)


def _data(cells, add, rows):
    """Rows of what comes before a model: cells aligned and tokenised, files read."""
    done = apart(preparation, cells)
    for kind in ("sparse", "dense"):
        seconds, held = done[kind], done[f"bytes_{kind}"]
        add(f"ours, {kind} tokens", "preparation", cells, seconds=seconds / cells, bytes=held / cells)
        print(f"preparation of {cells:,} cells to {kind} tokens: {seconds:.1f} s, {held / 2**30:.2f} GiB")
    for name in (name for name in datasets.catalogue.CARDS if name == "pbmc68k_reduced" or datasets.downloads.have(name)):
        found = apart(reading, name)
        rows.append({"model": name, "job": "reading"} | found)
        seconds, held = (found["cells"] * found[key] for key in ("seconds", "bytes"))
        print(f"reading {name}, {found['cells']:,} cells: {seconds:.1f} s, {held / 2**30:.2f} GiB", flush=True)


def _figure(table, full, path):
    import matplotlib.pyplot as plt

    plots.style()
    colours = dict(zip(MODELS, map(arms.colour, ("majority", "full", "no_pretraining", "no_gene2vec"))))
    table = table[table["model"].isin(MODELS) & table["job"].isin(JOBS)].drop_duplicates(["model", "job", "genes"])
    models = [model for model in MODELS if model in set(table["model"])]
    fig, axes = plt.subplots(1, 2, figsize=plots.mm(183, 73))
    part = table[table["genes"] == full].pivot(index="job", columns="model").reindex(JOBS)
    part["seconds"][models].plot.bar(ax=axes[0], color=colours, width=0.8, logy=True, legend=False, rot=0)
    for model, bars in zip(models, axes[0].containers):
        labels = ["" if r == 1 else f"{r:.1f}×" if r < 100 else f"{r:,.0f}×" for r in part["ratio"][model]]
        axes[0].bar_label(bars, labels, fontsize="small")
    growth = table[table["job"] == "forward"].pivot(index="genes", columns="model", values="seconds")
    growth[models].plot(ax=axes[1], style="o-", color=colours, loglog=True, legend=False)
    axes[0].set_xticks(range(3), [f"{job}\n{full:,} genes" for job in JOBS])
    axes[0].set(title="Seconds a cell (× faster than stock)", xlabel="")
    axes[1].set(title="Forward pass, seconds a cell")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(models))
    fig.savefig(path.with_suffix(".png"), metadata={"Software": None})
    fig.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(sys.argv[1:])
