"""Cells that stay on the disk and are read in blocks, to pre-train on: .h5ad, AnnData as .zarr, 10x Genomics .h5."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata.io import read_elem, sparse_dataset

from lib.datasets import h5ad
from lib.errors import DataError
from lib.files import digest, fingerprint, known

ENDINGS = (".h5ad", ".zarr", ".h5")


def sources(given: str | Path | Sequence) -> list[Path]:
    """The files of cells that are meant by a path, several, or a folder of such files; each .zarr is one."""
    if isinstance(given, list | tuple):
        return [path for one in given for path in sources(one)]
    path = Path(given).expanduser().resolve()
    if not path.is_dir() or path.suffix == ".zarr":
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
    if not found:
        raise DataError(f"The folder {path} holds no file of cells. Put some there: {', '.join(ENDINGS)}.")
    return found


def content(path: Path) -> str:
    """The hash of a file of cells (known from then on, as long as it looks the same), or of all files of a .zarr."""
    if not path.is_dir():
        return known(digest, path)
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    return fingerprint(" ".join(f"{file.relative_to(path).as_posix()} {known(digest, file)}" for file in inside))


@contextlib.contextmanager
def opened(path: Path) -> Iterator:
    """A file of cells as :func:`lib.datasets.h5ad.blocks` takes it: ``X``, ``n_obs``, ``obs_names``, ``var``, ``filename``."""
    if path.suffix == ".zarr":
        with _refusing(path, "AnnData in zarr"):
            held = zarr.open_group(path, mode="r")
            x, obs, var = held["X"], read_elem(held["obs"]), read_elem(held["var"])
            x = sparse_dataset(x) if isinstance(x, zarr.Group) else x
        yield _described(path, x, obs.index.astype(str), var)
    elif path.suffix == ".h5":
        with contextlib.ExitStack() as stack:
            with _refusing(path, "a 10x Genomics .h5 file (cellranger 3 or later)"):
                held = stack.enter_context(h5py.File(path, "r"))["matrix"]
                x = _TenX(held)
                features = held["features"]
                var = pd.DataFrame({"gene_symbols": features["name"].asstr()[:]}, index=features["id"].asstr()[:])
                names = pd.Index(held["barcodes"].asstr()[:])
            yield _described(path, x, names, var[x.genes])
    else:
        with h5ad.opened(path) as backed:
            yield backed


def _described(path, x, names, var):
    if x.shape != (len(names), len(var)):
        raise DataError(f"The matrix of {path} has shape {x.shape}, for {len(names)} cells × {len(var)} genes.")
    return SimpleNamespace(filename=path, X=x, n_obs=len(names), obs_names=names, var=var)


@contextlib.contextmanager
def _refusing(path, kind):
    """Whatever zarr and h5py raise for a damaged or foreign file is one refusal."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{path} cannot be read as {kind} ({type(error).__name__}: {error}). Copy it again.") from error


class _TenX:
    """The counts of a 10x file, cell by cell: its columns are cells, so that as CSR it is cells × genes."""

    def __init__(self, held):
        self.held, self.indptr = held, held["indptr"][:]
        kinds = held["features"]["feature_type"].asstr()[:] if "feature_type" in held["features"] else None
        self.genes = np.full(held["shape"][0], True) if kinds is None else kinds == "Gene Expression"  # not antibodies
        self.shape = (int(held["shape"][1]), int(self.genes.sum()))

    def __getitem__(self, cells):
        indptr = self.indptr[cells.start : cells.stop + 1]
        inside = slice(indptr[0], indptr[-1])
        arrays = (self.held["data"][inside], self.held["indices"][inside], indptr - indptr[0])
        return sp.csr_matrix(arrays, shape=(len(indptr) - 1, len(self.genes)))[:, self.genes]
