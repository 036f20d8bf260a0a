"""Whatever is wrong with a user's file, the refusal says what, where, and what to do."""

import gzip

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from lib import datasets, preprocess, profiles, splits
from lib.errors import DataError
from lib.model import CellTypeClassifier, ScBertConfig

CELLS, GENES = 40, 30


def good():
    """Counts of 40 cells and 30 genes, two cell types of 20."""
    x = np.random.default_rng(0).poisson(1.5, (CELLS, GENES)).astype(np.float32)
    x[:, 0] += 1
    obs = pd.DataFrame({"cell_type": ["B", "T"] * (CELLS // 2), "donor": "d1"}, index=[f"c{i}" for i in range(CELLS)])
    return anndata.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"GENE{i}A" for i in range(GENES)]))


def through(path, label=None, library_size=None, genes=None):
    """What a user's own file goes through."""
    adata = datasets.load(path, label=label)
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


def truncated(path):
    good().write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zipped(path):
    good().write_h5ad(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def standardised(x):
    return (x - x.mean(0)) / x.std(0)


def random_fractions(x):
    return np.random.default_rng(1).random(x.shape)


def clipped(x):
    return np.maximum(standardised(x), 0)


FILE, UNPACK = "cells.h5ad", "unpacked"
VOCABULARY = [f"GENE{i}A" for i in range(5)]
BAD = {
    # what is wrong: (how the file is made, arguments of through(), words of the message: what, where, what to do)
    "text file": (lambda p: p.write_text("gene,c1\nCD3E,1\n"), {}, [FILE, "not an .h5ad", "write_h5ad"]),
    "gzip": (zipped, {}, [FILE, "not an .h5ad", UNPACK]),
    "empty file": (lambda p: p.write_bytes(b""), {}, [FILE, "not an .h5ad"]),
    "truncated": (truncated, {}, [FILE, "truncated", "copy it again"]),
    "folder": (lambda p: p.mkdir(), {}, [FILE, "folder", "path of an .h5ad"]),
    "missing": (lambda p: None, {}, [FILE, "no file", "pbmc68k_reduced"]),
    "no such label column": (written(lambda a: a), {"label": "type"}, [FILE, "'type'", "cell_type, donor", "Name"]),
    "labels missing": (
        with_labels(lambda y: y.where(y.index != "c7")), {}, [FILE, "1 of 40", "'cell_type'", "'c7'", "Drop"]
    ),
    "labels blank": (with_labels(lambda y: y.where(y.index != "c9", "  ")), {}, [FILE, "1 of 40", "'c9'", "Drop"]),
    "one class": (with_labels(lambda y: "B"), {}, ["All 40 cells", "'B'", "two classes"]),
    "class too small": (with_labels(lambda y: y.where(y.index != "c5", "NK")), {}, ["NK (1)", "Merge or drop"]),
    "NaN": (with_value(np.nan), {}, [FILE, "1 values", "nan", "'c3'", "'GENE4A'", "raw counts"]),
    "infinite": (with_value(np.inf), {}, [FILE, "1 values", "inf", "'c3'", "'GENE4A'", "raw counts"]),
    "negative": (with_value(-2), {}, [FILE, "1 values", "-2", "'c3'", "'GENE4A'", "raw counts"]),
    "random fractions": (with_x(random_fractions), {}, [FILE, "neither counts nor log", "raw counts"]),
    "scaled": (with_x(standardised), {}, [FILE, "negative", "scaled", "raw counts"]),
    "scaled and clipped": (with_x(clipped), {}, [FILE, "neither counts nor log", "raw counts"]),
    "genes duplicated": (with_genes(lambda i: f"GENE{i % 28}A"), {}, [FILE, "2 gene", "GENE0A, GENE1A", "keep one"]),
    "Ensembl ids": (with_genes(lambda i: f"ENSG{i:011d}.2"), {}, [FILE, "Ensembl", "ENSG00000000000.2", "symbols"]),
    "mouse Ensembl ids": (with_genes(lambda i: f"ENSMUSG{i:011d}"), {}, [FILE, "Ensembl", "symbols"]),
    "numeric gene names": (with_genes(str), {}, [FILE, "numbers", "'0'", "symbols"]),
    "no cells": (written(lambda a: a[:0].copy()), {}, [FILE, "empty", f"0 cells × {GENES} genes"]),
    "no genes": (written(lambda a: a[:, :0].copy()), {}, [FILE, "empty", f"{CELLS} cells × 0 genes"]),
    "no matrix": (written(lambda a: anndata.AnnData(obs=a.obs, var=a.var)), {}, [FILE, "empty"]),
    "all zeros": (with_x(np.zeros_like), {}, [FILE, "zero", "layer"]),
    "no gene in common": (
        written(lambda a: a), {"genes": ["CD3E", "LYZ"]}, ["No gene in common", "GENE0A", "CD3E", "symbols"]
    ),
    "vocabulary with a duplicate": (written(lambda a: a), {"genes": [*VOCABULARY, "GENE3A"]}, ["'GENE3A'", "twice"]),
    "no library size": (written(lambda a: a), {"library_size": "n_counts"}, ["'n_counts'", "cell_type, donor"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(tmp_path, case):
    """DataError, whose message names what is wrong, the file or cell or gene, and the remedy."""
    make, arguments, words = BAD[case]
    make(tmp_path / FILE)
    with pytest.raises(DataError) as refusal:
        through(tmp_path / FILE, **arguments)
    message = str(refusal.value)
    assert [word for word in words if word not in message] == [], message


def test_good_input_is_taken(tmp_path):
    """The file all these are made from goes through, dense or sparse, with any of its columns as the label."""
    path = tmp_path / FILE
    written(lambda a: a)(path)
    train, test = through(path, genes=VOCABULARY)
    assert (len(train), len(test)) == (32, 8)
    sparse = datasets.load(path)
    with_x(lambda x: x)(path)
    dense = datasets.load(str(path), label="cell_type")
    for adata in (sparse, dense):
        assert sp.isspmatrix_csr(adata.X) and adata.X.dtype == np.float32 and adata.uns["dataset"]["values"] == "counts"
        assert list(adata.obs["cell_type"].cat.categories) == ["B", "T"]
    assert (sparse.X != dense.X).nnz == 0
    assert list(datasets.load(path, label="donor").obs["cell_type"].unique()) == ["d1"]


def test_unlabelled_input_is_taken_without_a_label(tmp_path):
    """A file without a label column loads unlabelled; ``celltype``, the authors' name, is found by itself."""
    path = tmp_path / FILE
    written(lambda a: anndata.AnnData(a.X, obs=a.obs[["donor"]], var=a.var))(path)
    assert "cell_type" not in datasets.load(path).obs
    written(lambda a: anndata.AnnData(a.X, obs=a.obs.rename(columns={"cell_type": "celltype"}), var=a.var))(path)
    assert list(datasets.load(path).obs["cell_type"].cat.categories) == ["B", "T"]


@pytest.mark.parametrize("call, words", [
    (lambda: splits.holdout(["a", "b", float("nan")] * 9), "9 of 27 labels are missing"),
    (lambda: splits.few_shot(np.arange(9), 0.01, 0), "no cell at all"),
    (lambda: splits.few_shot(np.arange(9), 1.5, 0), "must lie in"),
    (lambda: profiles.load("smoke", gene_embedding="word2vec"), "auto, gene2vec, coexpression"),
    (lambda: profiles.load("smoke", gene_embedding="gene2vec"), "data/README.md"),
    (lambda: profiles.load("smoke", vocabulary="nowhere.txt"), "one gene symbol a line"),
    (lambda: profiles.load("smoke", protocol="cleann"), "one of paper, clean"),
    (lambda: CellTypeClassifier(ScBertConfig(genes=9, dim=4, depth=1, heads=1, dim_head=4, features=4))(
        torch.zeros(1, 12, dtype=torch.long)), "11 genes, the head was made for 9"),
], ids=["missing labels", "no cell", "fraction", "embedding", "no gene2vec file", "no vocabulary", "protocol", "genes"])  # fmt: skip
def test_bad_calls_are_refused(call, words, monkeypatch, tmp_path):
    """What is wrong further in is refused as clearly."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=words):
        call()
