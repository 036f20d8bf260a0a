"""A profile's cells, prepared once: what every run of it reads."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from lib.errors import DataError
from lib.tokens import TokenStore

ROOT = Path(__file__).resolve().parents[1]


def cache():
    """Where downloads, prepared cells and runs live: ``SCBERT_CACHE``, or ``data/cache``."""
    return Path(os.environ.get("SCBERT_CACHE") or ROOT / "data" / "cache")


def gene2vec_path():
    """Where gene2vec's text file is looked for (data/README.md says where to get it)."""
    return cache() / "gene2vec_dim_200_iter_9.txt"


@dataclass(frozen=True)
class Cells:
    """Prepared cells of one data set."""

    x: sp.csr_matrix  # (cells, genes), log2(1 + counts per 10⁴), float32
    tokens: TokenStore  # (cells, genes + 1), uint8
    labels: np.ndarray  # (cells,), index into classes
    classes: np.ndarray  # names
    genes: np.ndarray  # the vocabulary, in order
    names: np.ndarray  # of the cells


def prepared(data):
    """Load, align and normalise the data of a profile.

    Parameters
    ----------
    data : dict
        ``dataset``, ``label``, ``vocabulary``, ``min_genes``, ``library_size`` and, optionally,
        ``max_cells_per_type``.

    Returns
    -------
    AnnData
        As :func:`lib.preprocess.prepare` gives it.
    """
    from lib import datasets, preprocess

    adata = datasets.load(data["dataset"], label=data["label"])
    if "cell_type" not in adata.obs:
        raise DataError(
            f"{data['dataset']} has no column {' or '.join(datasets.LABEL_COLUMNS)}. Name the column of the cell "
            f"types (-p label COLUMN); obs has: {', '.join(map(str, adata.obs.columns)) or 'none'}."
        )
    if limit := data.get("max_cells_per_type"):
        adata = adata[adata.obs.groupby("cell_type", observed=True).cumcount() < limit].copy()
    genes = None
    if data["vocabulary"]:
        path = Path(data["vocabulary"]).expanduser()
        if not path.is_file():
            raise DataError(f"There is no gene vocabulary at {path}. Give a text file with one gene symbol a line.")
        genes = path.read_text(encoding="utf-8").split()
    return preprocess.prepare(adata, genes, min_genes=data["min_genes"], library_size=data["library_size"])


def store(adata):
    """Write prepared cells to ``cells/<fingerprint>.npz`` of the cache unless there; return the fingerprint.

    The fingerprint is a hash of values, genes and labels: other data, other runs.
    """
    labels = adata.obs["cell_type"].cat
    arrays = {
        "data": adata.X.data, "indices": adata.X.indices, "indptr": adata.X.indptr, "shape": np.array(adata.shape),
        "labels": labels.codes.to_numpy(np.int64), "classes": labels.categories.to_numpy(str),
        "genes": adata.var_names.to_numpy(str), "names": adata.obs_names.to_numpy(str),
    }  # fmt: skip
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape}".encode())
        digest.update("\n".join(array).encode() if array.dtype.kind == "U" else np.ascontiguousarray(array).tobytes())
    fingerprint = digest.hexdigest()[:16]
    path = _path(fingerprint)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{fingerprint}.{os.getpid()}.npz")
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, path)
    return fingerprint


def _path(fingerprint):
    return cache() / "cells" / f"{fingerprint}.npz"


@functools.lru_cache(maxsize=2)
def read(fingerprint):
    """Read what :func:`store` wrote."""
    path = _path(fingerprint)
    try:
        with np.load(path, allow_pickle=False) as file:
            a = dict(file)
    except Exception as error:  # zipfile, zlib, ValueError, OSError: the remedy is one
        raise DataError(
            f"The prepared cells {path} are missing or damaged ({error}). Delete that file and rerun."
        ) from error
    x = sp.csr_matrix((a["data"], a["indices"], a["indptr"]), shape=tuple(a["shape"]))
    return Cells(x, TokenStore.of(x), a["labels"], a["classes"], a["genes"], a["names"])
