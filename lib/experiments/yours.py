"""The paper's question put to anyone's cells: a profile for a file, sized to the machine and to some minutes."""

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
from lib.experiments import classifiers, notes, profiles
from lib.prepare import cells, screen, selection, splits

MIN_CELLS = 10  # of a type: with fewer, a fifth held out is one cell or none
MIN_GENES = 200  # the paper's; of a whole measurement
WHOLE = 7000  # genes: fewer are no whole transcriptome but a panel or a selection, of which a sound cell may show few
SIZES = [(n_cells, n_genes) for n_cells in (20_000, 10_000, 5000, 3000, 2000, 1000, 500) for n_genes in (2000, 1000, 500)]
FEW = 50  # training cells of a fraction, at least: among fewer there may be a single type
# Steps until the loss is flat, where a profile trains until it is: about, and not known beforehand. Twice as many are the most.
PLATEAU = {"pretraining": 2500, "finetuning": 600}
SEEDS, FRACTIONS = [0, 1, 2], [0.1, 0.3, 1.0]  # three runs a share of the labels: fewer give neither interval nor verdict


def load(
    profile: str,
    data: str | Path | None = None,
    label: str | None = None,
    minutes: float = 5,
    *,
    labels: str | Path | None = None,
    group: str | None = None,
    min_genes: int | None = None,
    min_cells_per_type: int | None = None,
) -> dict:
    """A profile for the cells of a file, in the model and training of a rung of the ladder.

    Parameters
    ----------
    profile : str
        Whose model and training are used; its own cells where no ``data`` are given.
    data : str or path, optional
        A file (or the name of a data set); see :func:`lib.datasets.load` for what it must hold.
    label : str, optional
        Column of ``obs``, or of ``labels``, with the cell types.
    minutes : float
        What the runs may take on this machine, about: it decides how many cells and genes are used. The decision is
        stored and taken again when the same file is loaded with the same arguments.
    labels : str or path, optional
        A table with the cells' labels, joined by their names.
    group : str, optional
        Column of ``obs`` whose values, such as donors, are each kept on one side of the split.
    min_genes : int, optional
        Cells with fewer detected genes are dropped. Default: 200, or, where the file holds a selection of genes, 1.
    min_cells_per_type : int, optional
        Types with fewer cells are set aside; as many of each other type are used, however few the minutes. Default: 10.

    Returns
    -------
    dict
        As :func:`lib.experiments.profiles.load` gives it; ``adata.uns["sizing"]`` (dict of text) says what was chosen and why,
        ``notes`` (list of str) what the reader should know of his file before he believes a number, ``groups`` names
        columns that look as ``group`` should, if it is not given, ``time_apart`` says whether the minutes suffice to do
        all again by the first of them, as :func:`apart` does, and ``could_be`` how many cells and genes could be used.
    """
    given = {"minutes": minutes, "min_genes": min_genes, "min_cells_per_type": min_cells_per_type}
    for name, value in given.items():
        kind = int | float if name == "minutes" else int
        if value is not None and not (isinstance(value, kind) and not isinstance(value, bool)):
            raise DataError(f"{name} is {value!r}. Give a number, as in -p {name} 5.")
    if not minutes > 0:
        raise DataError(f"minutes is {minutes}. Give the time that the runs may take, more than 0.")
    if min_cells_per_type is not None and min_cells_per_type < 2:
        raise DataError(
            f"min_cells_per_type is {min_cells_per_type}. Give 2 or more: a type stands on both sides of the split."
        )
    if data is None:
        return profiles.load(profile, label=label) | {"notes": [], "groups": [], "time_apart": False}
    base, read = _base(profile, data, label, labels, group, min_genes, min_cells_per_type)
    whole = selection.prepared(base["data"], base["split"], read)
    seen = screen.group_columns(whole.obs) if group is None else []
    groups = [column for column in seen if screen.divides(whole, base["split"], column)]
    key = files.fingerprint(repr((cells.store(whole), base, SIZES, float(minutes), bool(groups))))
    path = settings.cache() / "plans" / f"{key}.json"
    if not files.sealed(path):  # not there, or damaged: the time is taken anew
        files.write_text(path, json.dumps(_plan(whole, base, minutes, bool(groups))))
        files.seal(path)
    plan = json.loads(path.read_text(encoding="utf-8"))
    chosen = _sized(base, read, whole, plan)
    asked = (profile, data, label, labels, min_genes, min_cells_per_type)
    said = notes.about_cells(chosen, read, whole) + (
        notes.about_groups(whole, seen, groups, base["split"]) if group is None else []
    )
    said += notes.about_sides(chosen) + notes.about_time(plan)
    about = {"groups": groups, "time_apart": plan["apart"], "asked": asked, "plan": plan, "notes": said}
    return chosen | about | {"could_be": whole.shape}


def apart(chosen: dict) -> dict:
    """The same cells and sizes as :func:`load` gave, with the first of ``groups`` kept on one side of the split."""
    profile, data, label, labels, *limits = chosen["asked"]
    base, read = _base(profile, data, label, labels, chosen["groups"][0], *limits)
    other = _sized(base, read, selection.prepared(base["data"], base["split"], read), chosen["plan"])
    return other | {"notes": notes.about_sides(other)}


def _base(profile, data, label, labels, group, min_genes, least):
    """The profile without its size, and what the file holds."""
    base = profiles.read(profile)
    base |= {"reproduces": None, "seeds": SEEDS, "fractions": FRACTIONS, "few_shot_seeds": SEEDS}
    read = catalogue.load(data, label, **({} if labels is None else {"labels": labels}))
    selection = read.uns["dataset"].get("selection", False) or read.n_vars < WHOLE
    least_genes = (1 if selection else MIN_GENES) if min_genes is None else min_genes
    base["data"] = {"dataset": str(data), "label": label, "vocabulary": None, "min_genes": least_genes}
    base["data"] |= {"library_size": None, "min_cells_per_type": MIN_CELLS if least is None else least}
    base["logistic_regression"] = {"C": [0.03, 0.1, 0.3, 1.0, 3.0], "folds": 3}
    base["split"] |= {} if group is None else {"group": group}
    for part, steps in PLATEAU.items():
        if "ends" in base[part]:
            base[part]["ends"]["most"] = 2 * steps
    base["name"] = profiles.figures(profile, data, label, labels, group)
    return base, read


def _sized(base, read, whole, plan):
    training = (1 - base["split"]["test_size"]) * plan["cells"]
    fractions = [fraction for fraction in FRACTIONS if fraction * training >= FEW or fraction == 1]
    chosen = profiles.load(base | {"fractions": fractions}, read, max_cells=plan["cells"], variable_genes=plan["genes"])
    kept, of = chosen["adata"], whole.obs["cell_type"].value_counts()
    kept.uns["sizing"] = {
        "cells used": (f"{kept.n_obs:,} of the {read.n_obs:,}" if kept.n_obs < read.n_obs else f"all {kept.n_obs:,}")
        + " in the file"
        + (f"; {whole.n_obs:,} could be, these were drawn at random within each type" if kept.n_obs < whole.n_obs else ""),
        "cell types": ", ".join(
            f"{name} ({n:,}" + (f" of {of[name]:,})" if of[name] > n else ")")
            for name, n in kept.obs["cell_type"].value_counts().items()
        ),
        "genes used": f"{kept.n_vars:,} of {whole.n_vars:,}"
        + (", the most variable of the training cells" if kept.n_vars < whole.n_vars else ""),
        "time asked for": f"about {plan['asked']:g} min; estimated: {plan['minutes']:.1f} min"
        + (f", since {plan['because']}" if plan["because"] else ""),
    }
    if base["data"]["min_genes"] == 1 and not kept.uns["alignment"]["dropped_cells"]:
        kept.uns["sizing"]["cells dropped"] = (
            f"none: no limit, since {read.n_vars:,} genes are a panel or a selection, of which a sound cell may show few"
        )
    return chosen


def where(chosen: dict, whose: str = "your") -> str:
    """On which cells an answer was found, as a sentence begins."""
    said, split, obs = f"On {whose} {chosen['adata'].n_obs:,} cells", chosen["split"], chosen["adata"].obs
    if column := split.get("group"):
        groups = obs[column].to_numpy(str)
        _, test = splits.holdout(obs["cell_type"].cat.codes.to_numpy(np.int64), **split, groups=groups)
        held, of = len(set(groups[test])), len(set(groups))
        said += f", judged on {held} of the {of} values of {column!r}, none of whose cells was learnt from,"
    return said


def _plan(adata, profile, minutes, groups):
    """The most cells × genes that fit into the minutes, with the split by groups beside it if that fits; else the smallest."""
    seconds, counts = _seconds_a_token(profile), adata.obs["cell_type"].value_counts()
    needed = int(counts.clip(upper=profile["data"]["min_cells_per_type"]).sum())
    few = [fraction for fraction in FRACTIONS if fraction < 1]
    for beside in (True, False) if groups else (False,):
        estimates = []
        for n_cells, n_genes in SIZES:
            n_cells, n_genes = max(min(n_cells, adata.n_obs), needed), min(n_genes, adata.n_vars)
            training = (1 - profile["split"]["test_size"]) * n_cells
            visits = _visits(profile, n_cells, training, few) + (_visits(profile, n_cells, training, []) if beside else 0)
            estimates.append((n_cells * n_genes, n_cells, n_genes, seconds * (n_genes + 1) * visits / 60))
        if fitting := [found for found in estimates if found[3] <= minutes]:
            break
    _, n_cells, n_genes, estimate = max(fitting) if fitting else min(estimates)
    because = "" if fitting else "fewer cells or genes would say little"
    if not fitting and n_cells == needed:
        because = f"{profile['data']['min_cells_per_type']} cells of each of the {len(counts)} types are needed"
    plan = {"cells": int(n_cells), "genes": int(n_genes), "minutes": round(float(estimate), 2), "asked": minutes}
    return plan | {"because": because, "apart": bool(fitting) and beside}


def _visits(profile, n_cells, training, few):
    """How many cells all trainings go through together, each counted as it costs in a step of pre-training."""
    before, fine = profile["pretraining"], profile["finetuning"]
    runs, share = len(SEEDS) * (1 + len(few)), len(SEEDS) * (1 + sum(few))
    visits = PLATEAU["pretraining"] * before["batch_size"] if "ends" in before else 0.95 * training * before["epochs"]
    # With all but the last block frozen a step costs about half, and looking at cells a tenth. The frozen blocks: once a run.
    if "ends" in fine:
        looks = PLATEAU["finetuning"] / fine["ends"]["every"]
        visits += 0.5 * PLATEAU["finetuning"] * fine["batch_size"] * runs + 0.1 * looks * 0.2 * training * share
        return visits + 0.3 * n_cells * runs
    return visits + training * fine["epochs"] * (0.5 * share + 0.1 * runs)


def _seconds_a_token(profile, n_cells=16, n_genes=500):
    """Time of a pre-training step of this model on this machine, for each token of a cell: the best of some."""
    import torch

    random_state = torch.get_rng_state()
    embedding = np.zeros((n_genes, profile["size"]["dim"]), np.float32)
    model = scbert.ScBert(scbert.ScBertConfig(genes=n_genes, **profile["size"]), embedding).train()
    masked, targets = scbert.pretrain.mask_tokens(torch.randint(0, 6, (n_cells, n_genes + 1)))
    times = []
    while len(times) < 3 or (sum(times) < 1 and len(times) < 20):  # another program may be at work meanwhile
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
    column = profile["split"].get("group")
    groups = adata.obs[column].to_numpy(str) if column else None
    everything, test = splits.holdout(labels, **profile["split"], groups=groups)
    done = []
    for seed in profile["seeds"] if seeds is None else seeds:
        train = splits.few_shot(everything, 1.0, seed)
        told = None if groups is None else groups[train]
        probabilities = classifiers.learn(make(), adata.X[train], labels[train], seed, len(classes), arm, told)(adata.X[test])
        predictions = {"test": test, "train": train, "labels": labels[test], "classes": classes, "probabilities": probabilities}
        spec = {"task": "cell_types", "arm": arm, "fraction": 1.0, "seed": int(seed)}
        done.append(
            SimpleNamespace(spec=spec, predictions=predictions, id=f"not stored: {arm}, seed {seed}", log=pd.DataFrame())
        )
    return done
