"""The paper's question put to anyone's cells: a profile for an .h5ad file, sized to the machine and to some minutes."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np

from lib import cells, datasets, profiles
from lib.errors import DataError

MIN_CELLS = 10  # of a type: with fewer, a fifth held out is one cell or none
SIZES = [(n_cells, n_genes) for n_cells in (20_000, 10_000, 5000, 3000, 2000, 1000, 500) for n_genes in (2000, 1000, 500)]
FEW = 50  # training cells of a fraction, at least: among fewer there may be a single type
SEEDS, FRACTIONS, FEW_SHOT_SEEDS = [0, 1, 2], [0.1, 0.3, 1.0], [0, 1]


def name(profile, data=None):
    """The folder of figures: the profile's, or one of the file's own, so that no comparison overwrites another."""
    return profile if data is None else f"{Path(data).stem}-{profile}"


def load(profile, data=None, label=None, minutes=10):
    """A profile for the cells of a file, in the model and training of a rung of the ladder.

    Parameters
    ----------
    profile : str
        Whose model and training are used; its own cells where no ``data`` are given.
    data : str or path, optional
        An .h5ad file (or the name of a data set); see :func:`lib.datasets.load` for what it must hold.
    label : str, optional
        Column of ``obs`` with the cell types.
    minutes : float
        What the runs may take on this machine, about: it decides how many cells and genes are used. The decision is
        stored and taken again when the same file is loaded with the same arguments.

    Returns
    -------
    dict
        As :func:`lib.profiles.load` gives it; ``adata.uns["sizing"]`` (dict of text) says what was chosen and why.
    """
    if data is None:
        return profiles.load(profile, label=label)
    if not minutes > 0:
        raise DataError(f"minutes is {minutes}. Give the time that the runs may take, more than 0.")
    base = profiles.read(profile)
    base |= {"reproduces": None, "seeds": SEEDS, "fractions": FRACTIONS, "few_shot_seeds": FEW_SHOT_SEEDS}
    read = datasets.load(data, label)
    panel = read.n_vars < 1000  # a selection of genes, of which a cell need not show 200
    base["data"] = {"dataset": str(data), "label": label, "vocabulary": None, "min_genes": 1 if panel else 200,
                    "library_size": read.uns["dataset"].get("library_size"), "min_cells_per_type": MIN_CELLS}  # fmt: skip
    base["logistic_regression"] = {"C": [0.03, 0.1, 0.3, 1.0, 3.0], "folds": 3}
    base["name"] = name(profile, data)
    whole = cells.prepared(base["data"], base["split"], read)
    del read
    key = hashlib.sha256(repr((cells.store(whole), base, SIZES, float(minutes))).encode()).hexdigest()[:16]
    plan = _remembered(cells.cache() / "plans" / f"{key}.json", lambda: _plan(whole, base, minutes))
    training = (1 - base["split"]["test_size"]) * plan["cells"]
    base["fractions"] = [fraction for fraction in FRACTIONS if fraction * training >= FEW or fraction == 1]
    chosen = profiles.load(base, max_cells=plan["cells"], variable_genes=plan["genes"])
    chosen["adata"].uns["sizing"] = {
        "cells used": f"{chosen['adata'].n_obs:,} of {whole.n_obs:,}" + _drawn(chosen["adata"].n_obs, whole.n_obs),
        "genes used": f"{chosen['adata'].n_vars:,} of {whole.n_vars:,} seen, the most variable of the training cells",
        "time asked for": f"about {minutes:g} minutes; estimated: {plan['minutes']:.1f}"
        + ("" if plan["minutes"] <= minutes else ", since fewer cells would say little"),
    }
    return chosen


def _drawn(used, available):
    return ", drawn at random within each type" if used < available else ""


def _remembered(path, compute):
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    plan = compute()
    with cells.replacing(path) as temporary:
        temporary.write_text(json.dumps(plan), encoding="utf-8")
    return plan


def _plan(adata, profile, minutes):
    """The most cells × genes that fit into the minutes; the smallest size if none does."""
    seconds = _seconds_a_token(profile)
    estimates = []
    for n_cells, n_genes in SIZES:
        n_cells, n_genes = min(n_cells, adata.n_obs), min(n_genes, adata.n_vars)
        training = (1 - profile["split"]["test_size"]) * n_cells
        passes = 0.95 * profile["pretraining"]["epochs"]
        share = sum(FRACTIONS[:-1]) * len(FEW_SHOT_SEEDS) + len(SEEDS)
        # With all but the last block frozen a step costs about half; each epoch ends with a look at the test cells.
        passes += profile["finetuning"]["epochs"] * (0.5 * share + 0.1 * (len(SEEDS) + 2 * len(FEW_SHOT_SEEDS)))
        estimates.append((n_cells * n_genes, n_cells, n_genes, seconds * training * (n_genes + 1) * passes / 60))
    fitting = [found for found in estimates if found[3] <= minutes]
    _, n_cells, n_genes, estimate = max(fitting) if fitting else min(estimates)
    return {"cells": int(n_cells), "genes": int(n_genes), "minutes": round(float(estimate), 2)}


def _seconds_a_token(profile, n_cells=16, n_genes=500):
    """Time of a pre-training step of this model on this machine, for each token of a cell: the best of three."""
    import torch

    from lib.model import ScBert, ScBertConfig
    from lib.pretrain import IGNORED, mask_tokens, target_logits

    random_state = torch.get_rng_state()
    embedding = np.zeros((n_genes, profile["size"]["dim"]), np.float32)
    model = ScBert(ScBertConfig(genes=n_genes, **profile["size"]), embedding).train()
    masked, targets = mask_tokens(torch.randint(0, 6, (n_cells, n_genes + 1)))
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(target_logits(model, masked, targets), targets[targets != IGNORED])
        loss.backward()
        times.append(time.perf_counter() - begun)
    torch.set_rng_state(random_state)
    return min(times) / (n_cells * (n_genes + 1))


def answer(found, cells, first="logistic regression", second="scBERT"):
    """The answer in a sentence, from what :func:`lib.stats.paired_difference` found; ``cells``: which, in words."""
    points, low, high = (100 * found[key] for key in ("difference", "low", "high"))
    interval = f"(95 % interval {low:.1f} to {high:.1f} for {first} minus {second})"
    if low <= 0 <= high:
        return (
            f"On {cells} {first} and {second} cannot be told apart: {points:+.1f} points of accuracy "
            f"{interval}."
        )
    ahead, behind = (first, second) if low > 0 else (second, first)
    return f"On {cells} {ahead} is ahead of {behind} by {abs(points):.1f} points of accuracy {interval}."


def caveat(found):
    """What to add where scBERT learnt nothing; ``found``: its :func:`lib.stats.paired_difference` to the majority class."""
    if found["low"] > 0:
        return ""
    return (
        "scBERT is not ahead of the majority class here: in this size and training it has learnt nothing from these cells, "
        "so the answer says nothing of scBERT. Take a profile with a larger model, such as `quick`, or more `minutes`."
    )
