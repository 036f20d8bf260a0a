"""Tables of speed in our texts, made from ``figures/benchmark/<device>.csv``; costs are computed from it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.programs.texts import Load, head, line

MODELS = ("stock", "ours", "ours, bf16", "ours, no gene embedding")
KEPT = "ours, frozen blocks kept"
FULL, STEPS = 16_906, {"forward": "forward", "finetuning step": "fine-tuning step", "pretraining step": "pre-training step"}
COSTS = (
    ("fine-tuning, 10 epochs of 54,760 cells", "finetuning step", 10 * 54_760),
    ("pre-training, one pass over 1.1 million cells", "pretraining step", 1.1e6),
    ("naming 10,000 cells", "forward", 10_000),
)


def _read(load):
    """The table of the benchmark by job, genes and model, the first batch size of each; the parts of profiles are left out."""
    table = load("benchmark")["cpu.csv"]
    table = table[table["part"].isna()].drop_duplicates(["job", "genes", "model"])
    return table.set_index(["job", "genes", "model"]).sort_index()


def _models(table):
    return [model for model in MODELS if ("forward", FULL, model) in table.index]


def _faster(found):
    """How many times faster than stock, with the interval."""
    one, low, high = (
        f"{value:.1f}" if value < 100 else f"{value:,.0f}" for value in found[["ratio", "ratio_low", "ratio_high"]]
    )
    return f"{one}× ({low} to {high})"


def short(load: Load) -> str:
    """README's three lines: seconds of stock for a cell at the paper's size, and how many times faster ours is."""
    table = _read(load)
    models = [model for model in _models(table) if model in MODELS[1:3]]
    names = {"ours": "ours, fp32"}
    lines = head("a cell, 16,906 genes", "performer-pytorch", *(f"{names.get(model, model)}, faster by" for model in models))
    for job, name in STEPS.items():
        found = [table.loc[(job, FULL, model)] for model in ("stock", *models)]
        lines.append(line(name, f"{found[0]['seconds']:.3g} s", *map(_faster, found[1:])))
    return "\n".join(lines) + "\n"


def tables(load: Load) -> str:
    """All that was measured: the full size, the small model, exactness, costs, where the time goes, what feeds a model."""
    table = _read(load)
    models = _models(table)
    machine = table.loc["products", "machine"].iloc[0]
    rates = table.loc["products", "matrix_rate"].droplevel(0) / 1e9
    threads = int(table.loc[("forward", FULL, "stock"), "threads"])
    said = ", ".join(f"{rate:,.0f} GFLOP/s in {kind}" for kind, rate in rates.items())
    lines = [f"Measured on {machine}, {threads} threads, where products of matrices reach {said}.", ""]
    lines += head("16,906 genes, a cell", *models, KEPT)
    for job, name in STEPS.items():
        lines.append(line(name, *(_cost(table, job, FULL, model) for model in (*models, KEPT))))
    shares = [table.loc[("forward", FULL, model), "share_of_rate"] for model in models]
    lines.append(
        line(
            "forward: rate over that of products, zeros counted",
            *("" if np.isnan(share) else f"{share:.0%}" for share in shares),
            "",
        )
    )
    small = table[table["size"] == "small"].index.get_level_values("genes")[0]
    alone = [model for model in models if ("forward", small, model) in table.index]
    lines += ["", *head(f"the small model of `laptop`, {small:,.0f} genes, a cell of 32", *alone)]
    for job, name in STEPS.items():
        lines.append(line(name, *(_cost(table, job, small, model) for model in alone)))
    compared = [model for model in models if ("forward: error", FULL, model) in table.index]
    lines += ["", *head("error against performer-pytorch in float64", *compared)]
    for job, name in STEPS.items():
        rows = [table.loc[(f"{job}: error", FULL, model)] for model in compared]
        whole = ["" if np.isnan(found["error_overall"]) else f", {found['error_overall']:.0e} of all" for found in rows]
        lines.append(line(name, *(f"{found['error']:.0e}{text}" for found, text in zip(rows, whole, strict=True))))
    same = [f"{table.loc[('forward: error', FULL, model), 'agreement']:.2%}" for model in compared]
    lines.append(line("hidden genes with the same answer", *same))
    lines += ["", *head("*computed* from the above", *models)]
    for name, job, cells in COSTS:
        lines.append(line(name, *(duration(cells * table.loc[(job, FULL, model), "seconds"]) for model in models)))
    lines += ["", *head("a forward's time (profile)", *compared)]
    profiles = load("benchmark")["cpu.csv"].query("job == 'forward: profile'").set_index(["model", "part"])["seconds"]
    parts = [profiles[model] for model in compared]
    lines += [line(part, *(f"{found[part] / found.sum():.0%}" for found in parts)) for part in parts[0].index]
    fed, made = table.loc["feeding"].droplevel(0), table.loc["preparation"].droplevel(0)
    took = []
    for kind in ("sparse", "dense"):
        found = made.loc[f"ours, {kind} tokens"]
        took.append(f"{found.seconds * found.cells:.0f} s and {found.bytes * found.cells / 2**30:.1f} GiB ({kind} tokens)")
    return "\n".join(lines) + (
        f"\n\nA batch of 32 cells is fed in {32e3 * fed.loc['ours', 'seconds']:.2f} ms, {fed.loc['ours', 'ratio']:.0f}× faster "
        f"than by one `.toarray()` a cell. To align, normalise and tokenise {int(made['cells'].iloc[0]):,} simulated cells "
        f"of 32,738 genes takes {' and '.join(took)}.\n"
    )


def _cost(table: pd.DataFrame, job: str, genes: int, model: str) -> str:
    """Time and memory of a job for one cell, and how many times faster than stock; a dash where it was not measured."""
    if (job, genes, model) not in table.index:
        return "–"
    found = table.loc[(job, genes, model)]
    seconds = f"{found['seconds']:.3g} s" if found["seconds"] >= 0.1 else f"{1e3 * found['seconds']:.3g} ms"
    ratio = "" if model == "stock" else f", {_faster(found)}"
    memory = found["bytes"] / 2**20
    return f"{seconds}{ratio}, {memory:.0f} MiB" if memory >= 1 else f"{seconds}{ratio}"


def duration(seconds: float) -> str:
    """A time in the largest unit of which it has more than one and a half.

    >>> duration(49), duration(7200), duration(3_110_400)
    ('49 s', '2 hours', '36 days')
    """
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.2g} {unit}" if seconds < 99 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
