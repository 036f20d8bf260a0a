"""Prepared cells, written once under their hash: what every run of a profile reads."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

from lib.errors import DataError
from lib.files import known, replacing, write_text
from lib.prepare.tokens import sparse_tokens
from lib.settings import cache


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
