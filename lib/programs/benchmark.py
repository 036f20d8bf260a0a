"""Speed, memory and exactness against stock performer-pytorch, side by side in one run: ``python -m lib.benchmark``.

Stock and ours take turns until the 95 % interval of their ratio is narrower than 10 %; interrupted, the same command goes on
(:mod:`lib.programs.benchmark_turns`). Writes ``figures/benchmark/<device>.csv`` and a figure. On a GPU (``--device cuda``)
stock runs in fp32, ours in bf16 autocast; on a CPU ours runs in bf16 too where that pays.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib import arms, datasets, plots
from lib.files import digest
from lib.programs.benchmark_jobs import JOBS, KEPT, MODELS, SMALL, exactness, feeding, preparation, profile, reading, timed
from lib.programs.benchmark_turns import Measured, apart, compare
from lib.scbert import fused
from lib.scbert.arithmetic import choose
from lib.scbert.model import ScBertConfig


def matrix_rate(dtype: str, size: int, device: str, repeats: int = 7) -> float:
    """The machine's rate of matrix products in FLOP/s: the median over square products."""
    a, b = torch.randn(2, size, size, dtype=getattr(torch, dtype), device=device)
    a @ b
    return 2 * size**3 / statistics.median(timed(lambda: a @ b, device) for _ in range(repeats))


def main(arguments: list[str]) -> None:
    """Measure everything, print it, write the table and the figure."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--turns", type=int, nargs=2, default=[5, 30], help="the fewest and the most, for each job")
    parser.add_argument("--genes", type=int, nargs="*", default=[1000, 4000, 16_906, 32_000], help="for the growth with genes")
    parser.add_argument("--full", type=int, default=16_906, help="genes of the comparison of the three jobs")
    parser.add_argument("--small", type=int, default=2000, help="genes of the model of the profile laptop")
    parser.add_argument("--cells", type=int, default=68_450, help="cells of the preparation")
    chosen = parser.parse_args(arguments)
    full, threads, device = chosen.full, torch.get_num_threads(), chosen.device
    name = torch.cuda.get_device_name() if device == "cuda" else fused.processor().split("\n")[0].split(":")[-1].strip()
    code = sorted([*Path(fused.__file__).parent.glob("*.*"), *Path(__file__).parent.glob("benchmark*.py")])
    measured = Measured(f"{name} {threads} {torch.__version__} {arguments} {[digest(file) for file in code]}")
    low = device == "cuda" or choose(ScBertConfig().dim, device).startswith("bf16")
    sizes = {"float32": 2048, "bfloat16": (8192 if device == "cuda" else 2048) if low else 256}
    rates = {row["model"]: row["matrix_rate"] for row in measured("rates", _rates, sizes, device, name)}
    said = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {kind}" for kind, rate in rates.items())
    print(f"{name}, {threads} threads; products: {said}", flush=True)
    stock, ours, ours_low, alone = MODELS
    models = {stock: 1, ours: 1 if device == "cpu" else 8}
    models |= {ours_low: 1} if low and device == "cpu" else {}

    def measure(job, genes, cells, turns, size=None):
        key = f"{job}, {genes} genes, {cells}, {size}"
        for row in measured(key, _compared, job, genes, cells, threads, device, turns, size, rates):
            who = f"{job:17s} {genes:6d} genes × {row['cells']:3d}  {row['model']:24s}"
            times = f"{row['ratio']:8.1f}x ({row['ratio_low']:.1f} to {row['ratio_high']:.1f})" if "ratio" in row else ""
            cost = f"{row['seconds']:9.4f} s a cell {times:26s}  {row['bytes'] / 2**20:8.1f} MiB a cell"
            print(f"{who} {cost} {row['share_of_rate']:5.0%} of products, {row['turns']} turns", flush=True)

    for job in JOBS:
        measure(job, full, models | {alone: 32} | ({KEPT: 1} if job == JOBS[1] else {}), chosen.turns)
        measure(job, chosen.small, {stock: 32, ours: 32, alone: 32}, chosen.turns, SMALL)
    few = [min(3, most) for most in chosen.turns]
    for genes in chosen.genes:
        if genes != full:
            measure("forward", genes, models | {alone: 32}, few)
    for model, cells in ((ours, 2), (ours, 4), (alone, 128), (alone, 512)):
        measure("forward", full, {model: cells}, few)
    for job in JOBS if device == "cpu" else ():
        for model in models:
            if model == stock:
                continue
            [found] = measured(f"{job}, {model}: error", _error, model, job, full)
            print(f"{job}, {model}: relative error {found['error']:.1e} against performer-pytorch in float64", flush=True)
            parts = measured(f"{job}, {model}: profile", _parts, model, job, full)
            print(f"{job}, {model}: " + ", ".join(f"{row['seconds']:.2f} s {row['part']}" for row in parts), flush=True)
    fed = {row["model"]: row for row in measured("feeding", _fed)}
    print(f"feeding a batch of 32: {32e3 * fed['ours']['seconds']:.2f} ms, {fed['ours']['ratio']:.0f}x one .toarray() a cell")
    if find_spec("anndata"):
        for row in measured("data", _data, chosen.cells):
            seconds, held = row["cells"] * row["seconds"], row["cells"] * row["bytes"] / 2**30
            print(f"{row['job']}, {row['model']}, {row['cells']:,} cells: {seconds:.1f} s, {held:.2f} GiB", flush=True)
    else:
        print("preparation and reading are left out: anndata is not installed, as on a bare GPU machine")
    folder = plots.folder({"name": "benchmark"})
    table = pd.DataFrame(measured.rows)
    table.to_csv(folder / f"{device}.csv", index=False, float_format="%.6g")
    _figure(table[table["seconds"].notna() & table["cells"].notna()], full, folder / device)
    measured.path.unlink(missing_ok=True)


def _rates(sizes, device, name):
    return [
        {"model": kind, "job": "products", "matrix_rate": matrix_rate(kind, size, device), "machine": name}
        for kind, size in sizes.items()
    ]


def _compared(job, genes, cells, threads, device, turns, size, rates):
    rows = compare(job, genes, cells, threads, device, turns, size)
    for row in rows:
        low = row["model"] == MODELS[2] or (row["model"] == KEPT and MODELS[2] in cells)
        best = rates["bfloat16" if low or (device == "cuda" and row["model"] != "stock") else "float32"]
        # Without a gene embedding, and where blocks are kept, most of the arithmetic is not done: a rate would mean nothing.
        rate = row["flops"] / row["seconds"] if row["model"] in MODELS[:3] else np.nan
        row |= {"size": "small" if size else "full", "share_of_rate": rate / best, "matrix_rate": best}
    return rows


def _error(model, job, genes):
    found = apart(exactness, job, genes, model == MODELS[2])
    return [{"model": model, "job": f"{job}: error", "genes": genes} | found]


def _parts(model, job, genes):
    parts = apart(profile, model, job, genes)
    return [
        {"model": model, "job": f"{job}: profile", "part": part, "genes": genes, "seconds": seconds}
        for part, seconds in parts.items()
    ]


def _fed():
    fed = feeding()
    about = {"job": "feeding", "genes": 16_906, "cells": 32}
    return [about | {"model": who, "seconds": fed[who] / 32, "ratio": fed["stock"] / fed[who]} for who in fed]


def _data(cells):
    """Rows of what comes before a model: cells aligned and tokenised, files read."""
    done, rows = apart(preparation, cells), []
    for kind in ("sparse", "dense"):
        cost = {"seconds": done[kind] / cells, "bytes": done[f"bytes_{kind}"] / cells}
        rows.append({"model": f"ours, {kind} tokens", "job": "preparation", "genes": 16_906, "cells": cells} | cost)
    there = [name for name in datasets.catalogue.CARDS if name == "pbmc68k_reduced" or datasets.downloads.have(name)]
    return rows + [{"model": name, "job": "reading"} | apart(reading, name) for name in there]


def _figure(table, full, path):
    import matplotlib.pyplot as plt

    plots.style()
    colours = dict(zip(MODELS, map(arms.colour, ("majority", "full", "no_pretraining", "no_gene2vec"))))
    table = table[table["model"].isin(MODELS) & table["job"].isin(JOBS) & (table["size"] == "full")]
    table = table.drop_duplicates(["model", "job", "genes"])
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
