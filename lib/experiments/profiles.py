"""Profiles: one YAML file for each rung of the ladder, and the specifications of the runs they ask for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from anndata import AnnData
from pandas.io.formats.style import Styler

from lib.datasets import downloads
from lib.errors import DataError
from lib.experiments import schema
from lib.experiments.tasks import PUBLISHED
from lib.files import digest
from lib.prepare import cells
from lib.prepare.embeddings import choose

FOLDER = Path(__file__).resolve().parent / "ladder"


def read(name: str) -> dict:
    """The content of a profile's file (dict); DataError where it says what no profile can (:mod:`lib.experiments.schema`)."""
    path = FOLDER / f"{name}.yaml"
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name not in known:
        raise DataError(f"There is no profile {name!r}. Profiles: {', '.join(known)}.")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())}. Mend that line.") from error
    schema.check(schema.Profile, found, str(path))
    for dataset, changed in found.get("for_dataset", {}).items():
        schema.check(schema.Profile, found | changed, f"{path}, for_dataset.{dataset}")
    return found | {"name": name}


def load(name: str | dict, loaded: AnnData | None = None, **overrides: Any) -> dict:
    """Read a profile and its cells; an override that is not None replaces the entry of that name.

    Parameters
    ----------
    name : str or dict
        Of a file in lib/experiments/ladder, or the content of one.
    loaded : AnnData, optional
        What :func:`lib.datasets.load` gave for its data, where it is at hand: the file is not read again.

    Returns
    -------
    dict
        The profile, with ``adata`` (the prepared cells, AnnData), their ``fingerprint`` and ``depths``, the hash of how deeply
        they were sequenced (:func:`lib.prepare.cells.read_depths`); a file of the reader's to
        pre-train on or to begin from is named by its content, so that describing runs need not open it.
    """
    profile = read(name) if isinstance(name, str) else copy.deepcopy(name)
    written = profile["protocol"]
    for key, value in overrides.items():
        if value is None:
            continue
        target = next((part for part in (profile, profile["data"]) if key in part), None)
        if key in cells.SELECTIONS:
            target = profile["data"]
        if target is None:
            there = ", ".join([*profile, *profile["data"]])
            raise DataError(f"Profile {profile['name']} has no entry {key!r}. It has: {there}.")
        target[key] = value
    if overrides.get("dataset"):  # figures of its own
        profile["name"] = f"{Path(str(overrides['dataset'])).stem}-{profile['name']}"
    for key, value in profile.get("for_dataset", {}).get(profile["data"]["dataset"], {}).items():
        profile[key] = value if overrides.get(key) is None else overrides[key]
    if profile["protocol"] not in ("paper", "clean"):
        raise DataError(f"protocol is {profile['protocol']!r}; it is one of paper, clean.")
    other = profile["other_protocol"]
    if profile["protocol"] == other["protocol"]:  # asked for: the two change places
        was = {"protocol": written, "finetuning": profile["finetuning"]}
        profile |= {"finetuning": other.get("finetuning", profile["finetuning"]), "other_protocol": other | was}
    profile |= choose(profile["gene_embedding"])
    before = profile["pretraining"]
    before |= {key: _named(before[key], key) for key in ("checkpoint", "corpus") if before.get(key)}
    adata = cells.prepared(profile["data"], profile["split"], loaded)
    return profile | {"adata": adata, "fingerprint": cells.store(adata), "depths": cells.store_depths(adata)}


def _named(given, key):
    """What a specification says of a checkpoint or corpus: a published name, or the file's content and, aside, its place."""
    if isinstance(given, dict) or given in PUBLISHED:
        return given
    path = Path(given).expanduser().resolve()
    if not path.is_file():
        raise DataError(f"There is no {key} at {path}. Give the path of a file, or one of {', '.join(PUBLISHED)}.")
    return {"sha256": digest(path), "_path": str(path)}


def external(profile: dict, dataset: str | Path | None = None) -> dict | None:
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
        if dataset is None or not (downloads.have(dataset) or Path(dataset).exists()):
            return None
    adata = cells.elsewhere(dataset, profile["adata"].var_names, profile["data"]["min_genes"])
    return {"dataset": str(dataset), "fingerprint": cells.store(adata), "adata": adata}


def describe(profile: dict) -> Styler:
    """The data of a profile in a table: the card, the alignment report and the split (DataFrame)."""
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
        **{name.replace("_", " "): card[name] for name in ("matrix", "gene_names") if name in card},
        "values found": report["values"],
        "cells dropped": f"{report['dropped_cells']} with fewer than {report['min_genes']} genes"
        + "".join(f"; {count} {name}" for name, count in report["dropped"].items()),
        "at equal depth": f"{report['equal_depth']:,} counts in every cell, as many as the poorest has: a control"
        if report["equal_depth"]
        else "no such control: these values are normalised, so that counts are unknown",
        "types set aside": ", ".join(f"{name} ({count})" for name, count in report.get("set_aside", {}).items()) or "none",
        "cell types": ", ".join(f"{name} ({count})" for name, count in types.items()),
        **adata.uns.get("sizing", {}),
        "gene embedding": profile["gene_embedding"],
        "held out": f"{profile['split']['test_size']:.0%} of each type, split seed {profile['split']['seed']}",
    }
    return pd.DataFrame({"": rows}).style.set_properties(**{"text-align": "left", "white-space": "normal"})


def environment(run) -> Styler:
    """What a run (:class:`lib.experiments.store.Run`, or a published one) was computed with, in a table (DataFrame)."""
    found = run.environment
    rows = found | {"packages": ", ".join(f"{name} {version}" for name, version in found["packages"].items())}
    return pd.DataFrame({"": rows}).style.set_properties(**{"text-align": "left", "white-space": "normal"})
