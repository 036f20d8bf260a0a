"""Small files of cells for the tests: one good file, and changes of it."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue, held, stored
from lib.errors import DataError
from lib.prepare import preprocess, selection, splits

CELLS, GENES = 40, 30


def good():
    """Counts of 40 cells and 30 genes, two cell types of 20."""
    x = np.random.default_rng(0).poisson(1.5, (CELLS, GENES)).astype(np.float32)
    x[:, 0] += 1
    obs = pd.DataFrame({"cell_type": ["B", "T"] * (CELLS // 2), "donor": "d1"}, index=[f"c{i}" for i in range(CELLS)])
    return anndata.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"GENE{i}A" for i in range(GENES)]))


def through(path, label=None, library_size=None, genes=None):
    """What a user's own file goes through."""
    if genes and library_size is None:  # as a profile with a vocabulary does
        (path.parent / "genes.txt").write_text("\n".join(genes))
        data = {
            "dataset": str(path),
            "label": label,
            "vocabulary": path.parent / "genes.txt",
            "min_genes": 1,
            "library_size": None,
        }
        return splits.holdout(selection.prepared(data).obs["cell_type"])
    adata = catalogue.load(path, label=label)
    prepared = preprocess.prepare(adata, genes=genes, min_genes=1, library_size=library_size)
    return splits.holdout(prepared.obs["cell_type"])


def written(change):
    """A file of ``good()`` after a change of it."""

    def write(path):
        adata = change(good())
        if isinstance(adata.X, np.ndarray) or adata.X is None:
            adata.write_h5ad(path)
        else:
            adata.X = sp.csr_matrix(adata.X)
            adata.write_h5ad(path)

    return write


def with_x(change):
    return written(lambda a: anndata.AnnData(np.float32(change(a.X.toarray())), obs=a.obs, var=a.var))


def with_value(value):
    def change(x):
        x[3, 4] = value
        return x

    return with_x(change)


def with_genes(name):
    return written(lambda a: anndata.AnnData(a.X, obs=a.obs, var=pd.DataFrame(index=[name(i) for i in range(GENES)])))


def with_labels(change):
    return written(lambda a: anndata.AnnData(a.X, obs=a.obs.assign(cell_type=change(a.obs["cell_type"])), var=a.var))


def standardised(x):
    return (x - x.mean(0)) / x.std(0)


def random_fractions(x):
    return np.random.default_rng(1).random(x.shape)


def clipped(x):
    return np.maximum(standardised(x), 0)


def logs(x, base=np.e, total=200):
    """log(1 + counts per ``total``), as of cells with few molecules."""
    return np.log1p(x * (total / x.sum(1, keepdims=True))) / np.log(base)


def half(first, second):
    """Half of the cells on one scale, half on another."""
    return lambda x: np.where((np.arange(len(x)) % 2 == 0)[:, None], first(x), second(x))


def with_layers(x, raw=None, **layers):
    """``X`` and layers, each a function of the counts; ``raw`` likewise."""

    def change(a):
        counts = a.X.toarray()
        made = anndata.AnnData(np.float32(x(counts)), obs=a.obs, var=a.var)
        if raw is not None:
            made.raw = anndata.AnnData(np.float32(raw(counts)), obs=a.obs, var=a.var)
        for name, function in layers.items():
            made.layers[name] = np.float32(function(counts))
        return made

    return written(change)


def edited(change):
    """The good file after a change of its HDF5."""

    def write(path):
        good().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return write


MARKERS = ["ACTB", "B2M", "CD74", "GAPDH", "FTL", "CD3E", "LYZ", "NKG7", "GNLY", "MS4A1", *(f"CCL{i}" for i in range(20))]


FILE, UNPACK = "cells.h5ad", "unpacked"


VOCABULARY = [f"GENE{i}A" for i in range(5)]


def refused(folder, make, arguments, words):
    """Assert that the file that ``make`` writes is refused, and that the message holds the words."""
    make(folder / FILE)
    with pytest.raises(DataError) as refusal:
        through(folder / FILE, **arguments)
    message = str(refusal.value)
    assert [word for word in words if word not in message] == [], message


def counts(n=60, genes=300, seed=0):
    """Sparse counts with a total that differs between cells."""
    rng = np.random.default_rng(seed)
    return sp.csr_matrix(rng.poisson(rng.uniform(0.3, 1.5, (n, 1)), (n, genes)).astype(np.float32))


def log2_normalised(x):
    """log2(1 + counts per 10⁴), written differently from lib.prepare."""
    dense = x.toarray().astype(np.float64)
    return sp.csr_matrix(np.log2(1 + dense / dense.sum(1, keepdims=True) * 1e4).astype(np.float32))


def forbid_dense(monkeypatch):
    """Let nothing make a sparse matrix dense."""
    for kind in (sp.csr_matrix, sp.csc_matrix):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, lambda *_, **__: pytest.fail("a matrix was made dense"))


def asked_in_blocks(monkeypatch, block):
    """Let files be read in blocks of so many cells and nothing made dense; the list that fills with what is asked for."""
    asked, really = [], held.read

    def noted(matrix, where, rows=None):
        asked.append((rows.start, rows.stop))
        return really(matrix, where, rows)

    forbid_dense(monkeypatch)
    monkeypatch.setattr(held, "read", noted)
    monkeypatch.setattr(stored, "BLOCK", block)
    return asked
