"""Profiles: one YAML file for each rung of the ladder, and the specifications of the runs they ask for."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

from lib import cells, loaders, sources
from lib.errors import DataError

FOLDER = Path(__file__).resolve().parent / "profiles"
ARMS = ("full", "no_pretraining", "no_gene2vec", "logistic_regression", "majority")
# What brackets every model, from the least informed up; the last is scBERT's head on the embeddings, without a block.
CONTROLS = ("stratified_random", "majority", "nearest_neighbours", "logistic_regression_tokens",
            "logistic_regression_l2", "head_only")  # fmt: skip
# scBERT's arms by their factors: pre-trained or not, what is fine-tuned, and the gene embedding: the profile's own, random
# vectors, or none. "full" is the whole model; no_pretraining and no_gene2vec are the paper's ablations.
FACTORS = {
    "_".join(filter(None, (a, b, c))) or "full": {"pretrained": not b, "trained": "all" if c else "last_block", "embedding": e}
    for a, e in (("", "own"), ("random_vectors", "random"), ("no_gene2vec", None))
    for b in ("", "no_pretraining")
    for c in ("", "all_trained")
}
OF_EMBEDDING = {"own": "full", "random": "random_vectors", None: "no_gene2vec"}  # the arm that a pre-training is named after
BASELINES = {
    "logistic_regression": {"model": "logistic_regression"}, "majority": {"model": "majority"},
    "stratified_random": {"model": "stratified_random"}, "nearest_neighbours": {"model": "nearest_neighbours"},
    "logistic_regression_tokens": {"model": "logistic_regression", "input": "tokens"},
    "logistic_regression_l2": {"model": "logistic_regression"}, "pca": {"model": "pca"},
}  # fmt: skip


def read(name):
    """The content of a profile's file (dict)."""
    import yaml

    path = FOLDER / f"{name}.yaml"
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name not in known:
        raise DataError(f"There is no profile {name!r}. Profiles: {', '.join(known)}.")
    return yaml.safe_load(path.read_text()) | {"name": name}


def load(name, **overrides):
    """Read a profile and its cells; an override that is not None replaces the entry of that name.

    Parameters
    ----------
    name : str or dict
        Of a file in lib/profiles, or the content of one.

    Returns
    -------
    dict
        The profile, with ``adata`` (the prepared cells, AnnData) and their ``fingerprint``.
    """
    profile = read(name) if isinstance(name, str) else copy.deepcopy(name)
    for key, value in overrides.items():
        if value is None:
            continue
        target = next((part for part in (profile, profile["data"]) if key in part), None)
        if key in cells.SELECTIONS:
            target = profile["data"]
        if target is None:
            raise DataError(f"Profile {profile['name']} has no entry {key!r}. It has: {', '.join([*profile, *profile['data']])}.")
        target[key] = value
    if overrides.get("dataset"):  # figures of its own
        profile["name"] = f"{Path(str(overrides['dataset'])).stem}-{profile['name']}"
    for key, value in profile.get("for_dataset", {}).get(profile["data"]["dataset"], {}).items():
        profile[key] = value if overrides.get(key) is None else overrides[key]
    if profile["protocol"] not in ("paper", "clean"):
        raise DataError(f"protocol is {profile['protocol']!r}; it is one of paper, clean.")
    profile |= _gene_embedding(profile["gene_embedding"])
    adata = cells.prepared(profile["data"], profile["split"])
    return profile | {"adata": adata, "fingerprint": cells.store(adata)}


def _gene_embedding(kind):
    """Which gene embedding: ``auto`` is gene2vec where its file is, else the stand-in from the training cells."""
    path = cells.gene2vec_path()
    if kind == "auto":
        kind = "gene2vec" if path.exists() else "coexpression"
    if kind == "gene2vec":
        if not path.exists():
            path = sources.fetch("gene2vec")
        return {"gene_embedding": kind, "gene2vec": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
    if kind != "coexpression":
        raise DataError(f"gene_embedding is {kind!r}; it is one of auto, gene2vec, coexpression.")
    return {"gene_embedding": kind}


def external(profile, dataset=None):
    """Cells from elsewhere for the classifiers of a profile, or None where there are none.

    Parameters
    ----------
    profile : dict
        As :func:`load` gives it. Its entry ``external`` names a data set that is used if its file is there already.
    dataset : str, optional
        Name or path of another one.

    Returns
    -------
    dict
        ``dataset``, ``fingerprint`` and ``adata`` (aligned to the profile's genes).
    """
    if dataset is None:
        dataset = profile.get("external")
        if dataset is None or not (sources.have(dataset) or Path(dataset).exists()):
            return None
    adata = cells.elsewhere(dataset, profile["adata"].var_names, profile["data"]["min_genes"])
    return {"dataset": str(dataset), "fingerprint": cells.store(adata), "adata": adata}


def describe(profile):
    """The data of a profile in a table: the card, the alignment report and the split (DataFrame)."""
    import pandas as pd

    adata = profile["adata"]
    card, report = adata.uns["dataset"], adata.uns["alignment"]
    types = adata.obs["cell_type"].value_counts()
    rows = {
        "data set": card["title"],
        "source": card["source"],
        "citation": card.get("citation", "–"),
        "cells × genes": f"{adata.n_obs:,} × {adata.n_vars:,}",
        "genes matched / missing": f"{report['matched']:,} / {len(report['missing']):,}"
        if profile["data"]["vocabulary"]
        else "the data's own genes: no vocabulary was asked for",
        **{key: card[name] for key, name in (("matrix", "matrix"), ("gene names", "gene_names")) if name in card},
        "values found": report["values"],
        "cells dropped": f"{report['dropped_cells']} with fewer than {report['min_genes']} genes"
        + "".join(f"; {count} {name}" for name, count in report["dropped"].items()),
        "types set aside": ", ".join(f"{name} ({count})" for name, count in report.get("set_aside", {}).items()) or "none",
        "cell types": ", ".join(f"{name} ({count})" for name, count in types.items()),
        **adata.uns.get("sizing", {}),
        "gene embedding": profile["gene_embedding"],
        "held out": f"{profile['split']['test_size']:.0%} of each type, split seed {profile['split']['seed']}",
    }
    return pd.DataFrame({"": rows}).style.set_properties(**{"text-align": "left", "white-space": "normal"})


def specs(profile, arms, fractions=(1.0,), seeds=None):
    """Specifications of cell-type runs: arms × fractions × seeds, the same subset of cells for every arm."""
    seeds = profile["seeds"] if seeds is None else seeds
    return [
        _cell_types(profile, arm, float(fraction), int(seed))
        for arm in arms
        for fraction in fractions
        for seed in seeds
    ]


def masked_specs(profile, arms=("full", "no_gene2vec")):
    """Specifications of the masked task on held-out cells."""
    return [_base(profile, "masked", arm) | {"seed": 0} for arm in arms]


def representation_specs(profile, arms=("pca", "full", "no_pretraining", "no_gene2vec")):
    """Specifications of cell and gene representations."""
    return [_base(profile, "representations", arm) | {"seed": 0} for arm in arms]


def control_specs(profile, arms=CONTROLS):
    """Specifications of the controls; ``controls`` of the profile, where there, thins their seeds and searches for C."""
    thin = profile.get("controls", {})
    settings = {"logistic_regression": thin.get("logistic_regression", profile["logistic_regression"])}
    return specs(profile | settings, arms, seeds=_thinned(profile, thin.get("seeds")))


def _thinned(profile, seeds):
    """Those of ``seeds`` that the profile's runs have, so that runs stay paired; all of them where there are none."""
    return [seed for seed in profile["seeds"] if seed in (seeds or [])] or profile["seeds"]


def clean_specs(profile):
    """Specifications of scBERT under the protocol ``clean``, for ``clean_seeds`` of the profile, else all its seeds."""
    return specs(profile | {"protocol": "clean"}, ["full"], seeds=_thinned(profile, profile.get("clean_seeds")))


def repeated_specs(profile):
    """Specifications of the same comparison on many stratified splits, each split with a seed of its own.

    ``repeated`` of the profile says how many ``splits``, the ``logistic_regression`` on them (default: the profile's),
    and which arm stands for ``scbert`` on how many of them.
    """
    chosen = {"splits": 20, "scbert": "full", "scbert_splits": 5} | profile.get("repeated", {})
    cheap = profile | {"logistic_regression": chosen.get("logistic_regression", profile["logistic_regression"])}
    found = []
    for k in range(chosen["splits"]):
        split = {"split": profile["split"] | {"seed": k}}
        arms = ["logistic_regression", "logistic_regression_l2", "nearest_neighbours", "majority"]
        found += specs(cheap | split, arms, seeds=[k])
        if k < chosen["scbert_splits"]:
            found += specs(profile | split, [chosen["scbert"]], seeds=[k])
    return found


def factorial_specs(profile):
    """Specifications of all of ``FACTORS``, on the same subsets of cells.

    ``factorial`` of the profile, where there, thins them: a ``fraction`` of the labels, and the ``seeds`` of those arms that
    are not the paper's.
    """
    thin = profile.get("factorial", {})
    fraction, seeds = thin.get("fraction", 1.0), _thinned(profile, thin.get("seeds"))
    found = []
    for arm in FACTORS:
        whole = arm in ARMS and fraction == 1  # these are run anyway
        found += specs(profile, [arm], [fraction], profile["seeds"] if whole else seeds)
    return found


def effect_specs(profile):
    """Specifications of pre-training's effect by the fraction of labels, on the subsets of the few-shot experiment.

    ``pretraining_effect`` of the profile, where there, thins their ``fractions`` and ``seeds``.
    """
    thin = profile.get("pretraining_effect", {})
    fractions = [fraction for fraction in profile["fractions"] if fraction in thin.get("fractions", profile["fractions"])]
    seeds = [seed for seed in profile["few_shot_seeds"] if seed in thin.get("seeds", profile["few_shot_seeds"])]
    seeds = seeds or profile["few_shot_seeds"]
    return specs(profile, ["full", "no_pretraining"], fractions or profile["fractions"], seeds)


def unknown_specs(profile, arms=("logistic_regression", "nearest_neighbours", "no_gene2vec", "full")):
    """Specifications of classifiers from which one cell type was left out, every type once.

    ``unknown`` of the profile, where there, says on how many of the types, the most common first, an arm is tried.
    Logistic regression has the C of ``repeated``.
    """
    types = profile["adata"].obs["cell_type"].value_counts().index.tolist()
    thin = profile.get("unknown", {})
    quick = profile.get("repeated", {}).get("logistic_regression", profile["logistic_regression"])
    return [
        _cell_types(profile | {"logistic_regression": quick}, arm, 1.0, profile["seeds"][0]) | {"left_out": str(name)}
        for arm in arms
        for name in types[: thin.get(arm)]
    ]


def external_specs(there, trained):
    """What the classifiers of these specifications say of the cells that :func:`external` gives."""
    data = {"dataset": there["dataset"], "fingerprint": there["fingerprint"]}
    return [{"task": "external", "arm": spec["arm"], "seed": spec["seed"], "fraction": spec["fraction"], "trained": spec, "data": data}
            for spec in trained]  # fmt: skip


def _base(profile, task, arm):
    """What all specifications of an arm have in common."""
    spec = {
        "task": task, "arm": arm, **BASELINES.get(arm, {"model": "scBERT"}),
        "data": {"dataset": profile["data"]["dataset"], "fingerprint": profile["fingerprint"]}, "split": profile["split"],
    }  # fmt: skip
    if spec["model"] == "pca":
        spec["size"] = {"dim": profile["size"]["dim"]}
    if spec["model"] == "scBERT":
        factors = FACTORS.get(arm, {"pretrained": False, "embedding": "own"})  # head_only has no block to pre-train
        embedding = factors["embedding"]
        spec["size"] = profile["size"] | ({"depth": 0} if arm == "head_only" else {})
        spec["gene_embedding"] = profile["gene_embedding"] if embedding == "own" else embedding
        if spec["gene_embedding"] == "gene2vec":
            spec["gene2vec"] = profile["gene2vec"]  # the file's hash: another file, other runs
        if task != "pretraining" and factors["pretrained"]:
            training = dict(profile["pretraining"])
            given, tokens_of = training.pop("checkpoint", None), training.pop("corpus", None)
            before = _base(profile, "pretraining", OF_EMBEDDING[embedding]) | {"seed": training.pop("seed"), "training": training}
            if given and embedding == "own":  # the original's weights were trained with gene2vec: only for arms that have it
                before |= {"checkpoint": loaders.checkpoint(given), "training": {}}
            elif tokens_of:
                before["corpus"] = loaders.corpus(tokens_of, tuple(profile["adata"].var_names))
            spec["pretraining"] = before
    return spec


def _cell_types(profile, arm, fraction, seed):
    known = dict.fromkeys((*ARMS, *CONTROLS, *FACTORS))
    if arm not in known:
        raise DataError(f"There is no arm {arm!r}. Arms: {', '.join(known)}.")
    spec = _base(profile, "cell_types", arm) | {"fraction": fraction, "seed": seed, "protocol": profile["protocol"]}
    if spec["model"] == "logistic_regression":
        spec["training"] = profile["logistic_regression"] | ({"penalty": "l2"} if arm.endswith("l2") else {})
    if spec["model"] == "scBERT":
        all_trained = FACTORS.get(arm, {}).get("trained") == "all"
        spec["training"] = profile["finetuning"] | ({"trained": "all"} if all_trained else {})
    return spec
