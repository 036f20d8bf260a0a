"""Profiles: one YAML file for each rung of the ladder, and the specifications of the runs they ask for."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from anndata import AnnData
from filelock import FileLock
from pandas.io.formats.style import Styler

from lib.datasets import catalogue, checks, downloads, stored
from lib.errors import DataError
from lib.experiments import schema
from lib.experiments.tasks import PUBLISHED
from lib.files import digest, fingerprint, writable, write_text
from lib.prepare import cells, corpus, selection
from lib.prepare.embeddings import choose
from lib.prepare.splits import holdout
from lib.settings import cache

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
        if key in selection.SELECTIONS:
            target = profile["data"]
        if target is None:
            there = ", ".join([*profile, *profile["data"]])
            raise DataError(f"Profile {profile['name']} has no entry {key!r}. It has: {there}.")
        target[key] = value
    if overrides.get("dataset"):  # figures of its own
        profile["name"] = figures(profile["name"], overrides["dataset"], overrides.get("label"))
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
    adata = selection.prepared(profile["data"], profile["split"], loaded)
    prepared = {"adata": adata, "fingerprint": cells.store(adata), "depths": cells.store_depths(adata)}
    how = {"profile": name if isinstance(name, str) else None, "dataset": overrides.get("dataset")}
    cells.note(prepared["fingerprint"], profile["name"], how)
    return profile | prepared


def figures(
    profile: str,
    data: str | Path | None = None,
    label: str | None = None,
    labels: str | Path | None = None,
    group: str | None = None,
) -> str:
    """The folder of figures: the profile's, or one of a file's own, so that no comparison takes another's place.

    Returns
    -------
    str
        ``<file>-<profile>`` for whoever comes first; another file of that name, or the same with another label, table of labels
        or group, adds these and, where that is not enough, some digits of a hash of all. Who came first is kept in the cache.
    """
    if data is None:
        return profile
    path, table = Path(data).expanduser(), Path(labels).expanduser() if labels else None
    plain = f"{path.stem}-{profile}"
    if str(data) in catalogue.CARDS or not path.exists():
        return plain
    asked = [stored.content(path), label or checks.LABEL_COLUMNS[0], table and stored.content(table), group]
    whose = fingerprint(repr(asked))
    added = "-".join([path.stem, *(str(word) for word in (label, table and table.stem, group) if word)])
    added = re.sub(r"[^\w.+-]+", "_", added)
    known_by, place = [plain, f"{added}-{profile}", f"{added}-{whose[:6]}-{profile}"], cache() / "figures.json"
    with writable(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            taken = _taken(place)
            chosen = next(found for found in known_by if taken.get(found, whose) == whose)
            if chosen not in taken:
                write_text(place, json.dumps(taken | {chosen: whose}, indent=1))
    return chosen


def _taken(place):
    """Whose each folder of figures is; what cannot be read is begun anew, since only names depend on it."""
    try:
        found = dict(json.loads(place.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        print(
            f"{place} is damaged ({error}): it is begun anew, and files of one name may change their folders.", file=sys.stderr
        )
        return {}
    return found


def _named(given, key):
    """What a specification says of a checkpoint or corpus: a published name, or the file's content and, aside, its place."""
    if isinstance(given, dict) or (isinstance(given, str) and given in PUBLISHED):
        return given
    if key == "corpus":
        paths = [str(path) for path in stored.sources(given)]
        return {"sha256": corpus.content(paths), "_path": paths if len(paths) > 1 else paths[0]}
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
    adata = selection.elsewhere(dataset, profile["adata"].var_names, profile["data"]["min_genes"])
    return {"dataset": str(dataset), "fingerprint": cells.store(adata), "adata": adata}


def _held_out(profile):
    """Which cells are held out, in words."""
    split, obs = profile["split"], profile["adata"].obs
    if column := split.get("group"):
        _, test = holdout(obs["cell_type"].cat.codes.to_numpy(np.int64), **split, groups=obs[column].to_numpy(str))
        names = sorted(set(obs[column].iloc[test]))
        share = f"{len(test):,} cells, {len(test) / len(obs):.0%}"
        return f"{len(names)} of {obs[column].nunique()} {column!r}, {share}: {', '.join(names[:12])}{' …' * (len(names) > 12)}"
    return f"{split['test_size']:.0%} of each type, split seed {split['seed']}"


def describe(profile: dict) -> Styler:
    """The data of a profile in a table: the card, the alignment report and the split (DataFrame)."""
    adata = profile["adata"]
    card, report = adata.uns["dataset"], adata.uns["alignment"]
    types = adata.obs["cell_type"].value_counts()

    def counted(entry):
        return ", ".join(f"{name} ({count:,})" for name, count in report.get(entry, {}).items()) or "none"

    rows = {
        "data set": card["title"],
        "source": card["source"],
        "citation": card.get("citation", "–"),
        "cells × genes": f"{adata.n_obs:,} × {adata.n_vars:,}",
        "genes matched / missing": f"{report['matched']:,} / {len(report['missing']):,}"
        if profile["data"]["vocabulary"]
        else "the data's own genes: no vocabulary was asked for",
        **(card.get("report", {}) | ({"library size from": card["library_size_from"]} if "library_size_from" in card else {})),
        "values found": report["values"],
        "cells dropped": f"{report['dropped_cells']} with fewer than {report['min_genes']} genes"
        + "".join(f"; {count} {name}" for name, count in report["dropped"].items())
        if report["min_genes"] > 1
        else f"{report['dropped_cells']} without any gene",
        "at equal depth": f"{report['equal_depth']:,} counts in every cell, as many as the poorest has: a control"
        if report["equal_depth"]
        else "no such control: these values are normalised, so that counts are unknown",
        "cells without a type": counted("no_label"),
        "cells repeated": f"{report['repeats']:,}, each used once" if "repeats" in report else "none",
        "types set aside": counted("set_aside"),
        "cell types": ", ".join(f"{name} ({count})" for name, count in types.items()),
        "gene embedding": profile["gene_embedding"],
        "held out": _held_out(profile),
    }
    rows |= adata.uns.get("sizing", {})
    return pd.DataFrame({"": rows}).style.set_properties(**{"text-align": "left", "white-space": "normal"})


def environment(run) -> Styler:
    """What a run (:class:`lib.experiments.store.Run`, or a published one) was computed with, in a table (DataFrame)."""
    found = run.environment
    rows = found | {"packages": ", ".join(f"{name} {version}" for name, version in found["packages"].items())}
    return pd.DataFrame({"": rows}).style.set_properties(**{"text-align": "left", "white-space": "normal"})
