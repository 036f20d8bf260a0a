"""A profile's cells, prepared once: what every run of it reads."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

from lib.datasets import catalogue, checks, formats
from lib.datasets import genes as symbols
from lib.errors import DataError
from lib.files import known, replacing, write_text
from lib.prepare import preprocess, screen, splits
from lib.prepare.tokens import sparse_tokens
from lib.settings import cache

# Optional entries of a profile's data: how to select from the cells and genes of the file.
SELECTIONS = ("max_cells_per_type", "min_cells_per_type", "max_cells", "variable_genes")


@dataclass(frozen=True)
class Cells:
    """Prepared cells of one data set."""

    x: sp.csr_matrix  # (cells, genes), log2(1 + counts per 10⁴), float32
    tokens: sp.csr_matrix  # (cells, genes + 1), uint8
    labels: np.ndarray  # (cells,), index into classes
    classes: np.ndarray  # names
    genes: np.ndarray  # the vocabulary, in order
    names: np.ndarray  # of the cells
    groups: np.ndarray | None = None  # (cells,), such as donors, where the split keeps them apart


@dataclass(frozen=True)
class Depths:
    """How deeply the cells were sequenced, by all measured genes, not only those that models are fed."""

    detected: np.ndarray  # (cells,), genes
    total: np.ndarray | None  # (cells,), counts; None where they are unknown
    equal: sp.csr_matrix | None  # (cells, genes), as Cells.x, of counts of which every cell has as many; None likewise


def prepared(data: dict, split: dict | None = None, read: anndata.AnnData | None = None) -> anndata.AnnData:
    """Load, align and normalise the data of a profile.

    Parameters
    ----------
    data : dict
        ``dataset``, ``label``, ``vocabulary`` (``scbert``, a file, or null), ``min_genes``, ``library_size`` (null: the
        card's) and, optionally, those of ``SELECTIONS``: ``max_cells_per_type`` (the first of each), ``min_cells_per_type``
        (rarer types are set aside), ``max_cells`` (drawn at random within each type, fixed seed; ``min_cells_per_type`` of
        each at least) and ``variable_genes``: how many of the most variable genes are kept, chosen on the training cells of
        ``split`` alone.
    split : dict, optional
        As :func:`lib.prepare.splits.holdout` takes it; needed for ``variable_genes``. Its ``group``, where there, is a column
        of ``obs``: types that whole groups held out would leave on one side are set aside.
    read : AnnData, optional
        What :func:`lib.datasets.load` gave, where it is at hand: the file is not read again. It is not changed.

    Returns
    -------
    AnnData
        As :func:`lib.prepare.prepare` gives it with ``equal_depth``. Cells without a label and, of a reader's own file, exact
        repeats are left out; ``uns["alignment"]`` also counts these (``no_label``, ``repeats``, ``repeated``) and the types
        set aside (``set_aside``, ``one_sided``), and has the ``group``.
    """
    where, group = data["dataset"], (split or {}).get("group")
    adata = _labelled(catalogue.load(where, label=data["label"]) if read is None else read, where)
    adata, report = screen.labelled(adata)
    if where not in catalogue.CARDS:  # the published sets are used as they were published
        adata, repeats = screen.once(adata, where)
        report |= repeats
    if group:
        adata = screen.grouped(adata.copy() if adata is read else adata, group, where)
    if limit := data.get("max_cells_per_type"):
        adata = adata[adata.obs.groupby("cell_type", observed=True).cumcount() < limit].copy()
    genes = None
    if data["vocabulary"] == "scbert":
        genes = formats.vocabulary()
    elif data["vocabulary"]:
        path = Path(data["vocabulary"]).expanduser()
        if not path.is_file():
            raise DataError(f"There is no gene vocabulary at {path}. Give a text file with one gene symbol a line.")
        genes = path.read_text(encoding="utf-8").split()
    if genes is not None:
        adata = symbols.to_vocabulary(adata, genes, data["dataset"])
    adata = _normalised(adata, genes, data["min_genes"], data["library_size"])
    adata.uns["alignment"] |= report | ({"group": group} if group else {})
    if least := data.get("min_cells_per_type"):
        adata = _common_types(adata, least)
    adata = _on_both_sides(adata, split) if group else adata
    if (limit := data.get("max_cells")) and limit < adata.n_obs:
        groups = adata.obs[group].to_numpy(str) if group else None
        adata = adata[splits.draw(adata.obs["cell_type"].astype(str), limit, least or 2, groups)].copy()
        adata = _on_both_sides(adata, split) if group else adata
    return _most_variable(adata, data["variable_genes"], split) if data.get("variable_genes") else adata


def _labelled(adata, source):
    if "cell_type" not in adata.obs:
        raise DataError(
            f"{source} has no column {' or '.join(checks.LABEL_COLUMNS)}. Name the column of the cell "
            f"types (-p label COLUMN); obs has: {checks.columns(adata.obs)}."
        )
    return adata


def _scale(adata):
    return adata.uns["dataset"]["values"]


def _normalised(adata, genes, min_genes, column):
    """By totals over all measured genes: those asked for, the card's, or those the reader found, if they fit the values."""
    card, how = adata.uns["dataset"], {"scale": _scale(adata), "equal_depth": True}
    column = column or card.get("library_size")
    if column is None and "library_size_from" in card and adata.obs["library_size"].notna().all():
        try:
            return preprocess.prepare(adata, genes, min_genes, library_size="library_size", **how)
        except DataError:  # nobody asked for that column: it must not stop the file
            adata.uns["dataset"] = card | {"library_size_from": "the sum of the genes used, since the totals do not fit them"}
    return preprocess.prepare(adata, genes, min_genes, library_size=column, **how)


def _on_both_sides(adata, split):
    adata, aside = screen.on_both_sides(adata, split)
    report = dict(adata.uns["alignment"])
    adata.uns["alignment"] = report | {"one_sided": report.get("one_sided", {}) | aside}
    return adata


def elsewhere(dataset: str, genes: Sequence[str], min_genes: int) -> anndata.AnnData:
    """Labelled cells of another data set with a classifier's genes: normalised by all genes they have, then aligned.

    Parameters
    ----------
    dataset : str
        Name or path, as :func:`lib.datasets.load` takes it.
    genes : sequence of str
    min_genes : int
        Of all genes of the other data set; its ``library_size``, if its card names one, is used.

    Returns
    -------
    AnnData
        As :func:`lib.prepare.prepare` gives it.
    """
    adata, _ = screen.labelled(_labelled(catalogue.load(dataset), dataset))
    adata = symbols.to_vocabulary(adata, genes, dataset)
    total = adata.uns["dataset"].get("library_size")
    adata = preprocess.prepare(adata, None, 0 if total else min_genes, library_size=total, scale=_scale(adata))
    report = adata.uns["alignment"]
    adata.uns["dataset"]["normalised"] = "log2"  # they are now: aligning must not normalise again
    adata = preprocess.prepare(adata, genes, min_genes=0)
    adata.uns["alignment"] |= {key: report[key] for key in ("values", "min_genes", "dropped_cells", "dropped")}
    return adata


def _common_types(adata, least):
    """Set aside the cells of types with fewer than ``least``; ``uns["alignment"]["set_aside"]`` counts them."""
    counts = adata.obs["cell_type"].value_counts()
    rare = {str(name): int(count) for name, count in counts.items() if count < least}
    if len(counts) - len(rare) < 2:
        report, largest = adata.uns["alignment"], ", ".join(f"{name} {count}" for name, count in counts.head(5).items())
        remedy = (
            f"Give a lower limit (-p min_cells_per_type N; now {least}), or name a column of fewer, larger types (-p label)."
        )
        if dropped := report["dropped_cells"]:
            remedy = (
                f"{dropped:,} of {adata.n_obs + dropped:,} cells were dropped, since they show fewer than "
                f"{report['min_genes']} genes: give a lower limit (-p min_genes N)."
            )
        raise DataError(
            f"{len(counts) - len(rare)} of {len(counts)} cell types have {least} cells or more, and two are needed to compare "
            f"(largest: {largest}). {remedy}"
        )
    kept = adata[~adata.obs["cell_type"].isin(rare)].copy()
    kept.obs["cell_type"] = kept.obs["cell_type"].cat.remove_unused_categories()
    report = dict(adata.uns["alignment"])
    kept.uns["alignment"] = report | {"set_aside": report.get("set_aside", {}) | rare}
    return kept


def _most_variable(adata, number, split):
    """Keep the most variable genes of the training cells, in their order; values are those of normalising by all genes."""
    import scanpy

    if number > adata.n_vars:
        raise DataError(f"variable_genes is {number}, but there are {adata.n_vars} genes.")
    groups = adata.obs[split["group"]].to_numpy(str) if split.get("group") else None
    train, _ = splits.holdout(adata.obs["cell_type"].cat.codes.to_numpy(np.int64), **split, groups=groups)
    training = adata[train].copy()
    training.X = training.X * np.float32(np.log(2))  # scanpy expects natural logarithms
    training.uns["log1p"] = {"base": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`n_top_genes` > number")  # some genes show nothing in these cells
        chosen = scanpy.pp.highly_variable_genes(training, n_top_genes=number, inplace=False)["highly_variable"].to_numpy()
    kept = adata[:, chosen].copy()
    kept.uns["alignment"] = dict(adata.uns["alignment"]) | {"variable_genes": int(chosen.sum())}
    return kept


def store(adata: anndata.AnnData) -> str:
    """Write prepared cells to ``cells/<fingerprint>.npz`` of the cache unless there; return the fingerprint.

    The fingerprint is a hash of values, genes and labels: other data, other runs.
    """
    labels = adata.obs["cell_type"].cat
    arrays = {
        "data": adata.X.data,
        "indices": adata.X.indices,
        "indptr": adata.X.indptr,
        "shape": np.array(adata.shape),
        "labels": labels.codes.to_numpy(np.int64),
        "classes": labels.categories.to_numpy(str),
        "genes": adata.var_names.to_numpy(str),
        "names": adata.obs_names.to_numpy(str),
    }
    if group := adata.uns["alignment"].get("group"):
        arrays["groups"] = adata.obs[group].to_numpy(str)
    return _kept("", arrays)


def store_depths(adata: anndata.AnnData) -> str:
    """Write how deeply prepared cells were sequenced to ``cells/depths-<hash>.npz`` of the cache; return the hash.

    A file of its own: which cells these are, and so the fingerprint of all other runs, does not depend on it.
    """
    arrays = {"detected": adata.obs["detected_genes"].to_numpy(np.int64)}
    if "total_counts" in adata.obs:
        arrays["total"] = adata.obs["total_counts"].to_numpy(np.float64)
    if "equal_depth" in adata.layers:
        x = adata.layers["equal_depth"]
        arrays |= {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": np.array(x.shape)}
    return _kept("depths-", arrays)


def note(fingerprint: str, name: str, about: dict) -> None:
    """Write beside prepared cells which profile they are of, for :mod:`lib.experiments.inventory`; nothing else reads it."""
    path = cache() / "cells" / f"{fingerprint}.{name}.json"
    with contextlib.suppress(DataError):  # on a disk that can only be read, all else may be there already
        if not path.exists():
            write_text(path, json.dumps(about))


def _kept(kind, arrays):
    """Write arrays under their hash unless they are there, whole."""
    name = kind + _hash(arrays)
    path = _path(name)
    wrong = fault(path) if path.exists() else None
    if wrong:
        print(f"The prepared cells {path} {wrong}: they are written again.", file=sys.stderr)
    if wrong or not path.exists():
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    return name.removeprefix(kind)


def _hash(arrays):
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape}".encode())
        digest.update("\n".join(array).encode() if array.dtype.kind == "U" else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _path(name):
    return cache() / "cells" / f"{name}.npz"


def fault(path: Path) -> str | None:
    """What is wrong with a file of prepared cells, or of their depths, in words; None where it holds what its name says."""
    return known(_fault, path)


def _fault(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            found = _hash(dict(file))
    except Exception as error:  # noqa: BLE001 - zipfile, zlib, ValueError, OSError: the remedy is one
        return f"are damaged ({error})"
    return None if found == Path(path).stem.removeprefix("depths-") else f"are others than their name says ({found})"


def _arrays(name):
    path = _path(name)
    if wrong := fault(path) if path.exists() else "are missing":
        raise DataError(f"The prepared cells {path} {wrong}. Load the profile again (./run_all.sh does): it writes them.")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _matrix(a):
    return sp.csr_matrix((a["data"], a["indices"], a["indptr"]), shape=tuple(a["shape"]))


@functools.lru_cache(maxsize=2)
def read_depths(fingerprint: str) -> Depths:
    """Read what :func:`store_depths` wrote."""
    a = _arrays(f"depths-{fingerprint}")
    return Depths(a["detected"], a.get("total"), _matrix(a) if "data" in a else None)


@functools.lru_cache(maxsize=2)
def read(fingerprint: str) -> Cells:
    """Read what :func:`store` wrote."""
    a = _arrays(fingerprint)
    x = _matrix(a)
    return Cells(x, sparse_tokens(x), a["labels"], a["classes"], a["genes"], a["names"], a.get("groups"))
