"""The paper's question put to anyone's cells: a profile for an .h5ad file, sized to the machine and to some minutes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from lib import files, scbert, settings
from lib.datasets import catalogue
from lib.errors import DataError
from lib.experiments import classifiers, profiles
from lib.prepare import cells, splits

MIN_CELLS = 10  # of a type: with fewer, a fifth held out is one cell or none
SIZES = [(n_cells, n_genes) for n_cells in (20_000, 10_000, 5000, 3000, 2000, 1000, 500) for n_genes in (2000, 1000, 500)]
FEW = 50  # training cells of a fraction, at least: among fewer there may be a single type
# Steps until the loss is flat, where a profile trains until it is: about, and not known beforehand. Twice as many are the most.
PLATEAU = {"pretraining": 2500, "finetuning": 600}
SEEDS, FRACTIONS, FEW_SHOT_SEEDS = [0, 1, 2], [0.1, 0.3, 1.0], [0, 1]


def name(profile: str, data: str | Path | None = None) -> str:
    """The folder of figures: the profile's, or one of the file's own, so that no comparison overwrites another."""
    return profile if data is None else f"{Path(data).stem}-{profile}"


def load(profile: str, data: str | Path | None = None, label: str | None = None, minutes: float = 10) -> dict:
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
        As :func:`lib.experiments.profiles.load` gives it; ``adata.uns["sizing"]`` (dict of text) says what was chosen and why.
    """
    if data is None:
        return profiles.load(profile, label=label)
    if not minutes > 0:
        raise DataError(f"minutes is {minutes}. Give the time that the runs may take, more than 0.")
    base = profiles.read(profile)
    base |= {"reproduces": None, "seeds": SEEDS, "fractions": FRACTIONS, "few_shot_seeds": FEW_SHOT_SEEDS}
    read = catalogue.load(data, label)
    panel = read.n_vars < 1000  # a selection of genes, of which a cell need not show 200
    base["data"] = {"dataset": str(data), "label": label, "vocabulary": None, "min_genes": 1 if panel else 200}
    base["data"] |= {"library_size": None, "min_cells_per_type": MIN_CELLS}
    base["logistic_regression"] = {"C": [0.03, 0.1, 0.3, 1.0, 3.0], "folds": 3}
    for part, steps in PLATEAU.items():
        if "ends" in base[part]:
            base[part]["ends"]["most"] = 2 * steps
    base["name"] = name(profile, data)
    whole = cells.prepared(base["data"], base["split"], read)
    key = files.fingerprint(repr((cells.store(whole), base, SIZES, float(minutes))))
    path = settings.cache() / "plans" / f"{key}.json"
    if not files.sealed(path):  # not there, or damaged: the time is taken anew
        files.write_text(path, json.dumps(_plan(whole, base, minutes)))
        files.seal(path)
    plan = json.loads(path.read_text(encoding="utf-8"))
    training = (1 - base["split"]["test_size"]) * plan["cells"]
    base["fractions"] = [fraction for fraction in FRACTIONS if fraction * training >= FEW or fraction == 1]
    chosen = profiles.load(base, read, max_cells=plan["cells"], variable_genes=plan["genes"])
    chosen["adata"].uns["sizing"] = {
        "cells used": f"{chosen['adata'].n_obs:,} of {whole.n_obs:,}"
        + (", drawn at random within each type" if chosen["adata"].n_obs < whole.n_obs else ""),
        "genes used": f"{chosen['adata'].n_vars:,} of {whole.n_vars:,} seen, the most variable of the training cells",
        "time asked for": f"about {minutes:g} minutes; estimated: {plan['minutes']:.1f}"
        + ("" if plan["minutes"] <= minutes else ", since fewer cells would say little"),
    }
    return chosen


def _plan(adata, profile, minutes):
    """The most cells × genes that fit into the minutes; the smallest size if none does."""
    seconds = _seconds_a_token(profile)
    estimates = []
    for n_cells, n_genes in SIZES:
        n_cells, n_genes = min(n_cells, adata.n_obs), min(n_genes, adata.n_vars)
        training = (1 - profile["split"]["test_size"]) * n_cells
        visits = _visits(profile, n_cells, training)
        estimates.append((n_cells * n_genes, n_cells, n_genes, seconds * (n_genes + 1) * visits / 60))
    fitting = [found for found in estimates if found[3] <= minutes]
    _, n_cells, n_genes, estimate = max(fitting) if fitting else min(estimates)
    return {"cells": int(n_cells), "genes": int(n_genes), "minutes": round(float(estimate), 2)}


def _visits(profile, n_cells, training):
    """How many cells all trainings go through together, each counted as it costs in a step of pre-training."""
    before, fine = profile["pretraining"], profile["finetuning"]
    few = [fraction for fraction in FRACTIONS if fraction < 1]
    runs = len(SEEDS) + len(few) * len(FEW_SHOT_SEEDS)
    visits = PLATEAU["pretraining"] * before["batch_size"] if "ends" in before else 0.95 * training * before["epochs"]
    # With all but the last block frozen a step costs about half, and looking at cells a tenth. The frozen blocks: once a run.
    if "ends" in fine:
        looks = PLATEAU["finetuning"] / fine["ends"]["every"]
        labelled = training * (len(SEEDS) + sum(few) * len(FEW_SHOT_SEEDS))
        visits += 0.5 * PLATEAU["finetuning"] * fine["batch_size"] * runs + 0.1 * looks * 0.2 * labelled
        return visits + 0.3 * n_cells * runs
    share = sum(few) * len(FEW_SHOT_SEEDS) + len(SEEDS)
    return visits + training * fine["epochs"] * (0.5 * share + 0.1 * (len(SEEDS) + 2 * len(FEW_SHOT_SEEDS)))


def _seconds_a_token(profile, n_cells=16, n_genes=500):
    """Time of a pre-training step of this model on this machine, for each token of a cell: the best of three."""
    import torch

    random_state = torch.get_rng_state()
    embedding = np.zeros((n_genes, profile["size"]["dim"]), np.float32)
    model = scbert.ScBert(scbert.ScBertConfig(genes=n_genes, **profile["size"]), embedding).train()
    masked, targets = scbert.pretrain.mask_tokens(torch.randint(0, 6, (n_cells, n_genes + 1)))
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        logits = scbert.pretrain.target_logits(model, masked, targets)
        torch.nn.functional.cross_entropy(logits, targets[targets != scbert.pretrain.IGNORED]).backward()
        times.append(time.perf_counter() - begun)
    torch.set_rng_state(random_state)
    return min(times) / (n_cells * (n_genes + 1))


def evaluate(make: Callable, profile: dict, arm: str, seeds: Sequence[int] | None = None) -> list[SimpleNamespace]:
    """Let a classifier learn and predict the cells that the runs of a profile learn and predict.

    Parameters
    ----------
    make : callable () -> classifier
        Called for each seed: a fresh one.
    profile : dict
        As :func:`lib.experiments.profiles.load` gives it.
    arm : str
        A name for tables and figures.
    seeds : sequence of int, optional
        Default: the profile's.

    Returns
    -------
    list
        One object a seed with ``spec``, ``predictions``, ``id`` and ``log`` like :class:`lib.experiments.store.Run`, for
        :mod:`lib.evaluate`. Nothing is stored: code that this project does not know cannot be recognised when it changes.

    Raises
    ------
    DataError
        The classifier lacks a method or gives something that is not probabilities.
    """
    adata = profile["adata"]
    labels = adata.obs["cell_type"].cat.codes.to_numpy(np.int64)
    classes = adata.obs["cell_type"].cat.categories.to_numpy(str)
    everything, test = splits.holdout(labels, **profile["split"])
    done = []
    for seed in profile["seeds"] if seeds is None else seeds:
        train = splits.few_shot(everything, 1.0, seed)
        probabilities = classifiers.learn(make(), adata.X[train], labels[train], seed, len(classes), arm)(adata.X[test])
        predictions = {"test": test, "train": train, "labels": labels[test], "classes": classes, "probabilities": probabilities}
        spec = {"task": "cell_types", "arm": arm, "fraction": 1.0, "seed": int(seed)}
        done.append(
            SimpleNamespace(spec=spec, predictions=predictions, id=f"not stored: {arm}, seed {seed}", log=pd.DataFrame())
        )
    return done
