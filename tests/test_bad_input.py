"""Whatever is wrong with a user's file, the refusal says what, where, and what to do."""

import gzip
import os
import pickle
from importlib.metadata import version

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from lib import datasets, h5ad, preprocess, profiles, splits
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
    if genes is not None:
        h5ad.check_vocabulary(adata.var_names, genes, path)
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


def in_var(names, **columns):
    """Genes called ``names``, with columns of ``var``."""
    return written(lambda a: anndata.AnnData(a.X, obs=a.obs, var=pd.DataFrame(columns, index=[names(i) for i in range(GENES)])))


def hdf5(*groups):
    def write(path):
        with h5py.File(path, "w") as file:
            for group in groups:
                file.create_group(group)

    return write


def of_another_version(path):
    """What an AnnData to come might write: an encoding that this one does not know."""
    good().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["encoding-version"] = "9.0.0"


def gzip_bomb(path):
    with gzip.open(path, "wb") as file:
        for _ in range(64):
            file.write(bytes(2**20))


def mixed_bases(x):
    x = x / x.sum(1, keepdims=True) * 1e4
    return np.where(np.arange(len(x))[:, None] % 2, np.log1p(x), np.log2(1 + x))


def overflown(x):
    x[:, 0] += 250
    return x.astype(np.int64).astype(np.int8)


def wrapped(x):
    x[0, 0] = 2**32 - 3  # −3 as unsigned
    return x


def corrected(x):
    return x * np.random.default_rng(2).uniform(0.5, 1, x.shape)


def many_types(y):
    return [f"type {i}" for i in range(len(y))]


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
    "10x file": (hdf5("matrix"), {}, [FILE, "10x", "read_10x_h5"]),
    "loom file": (hdf5("col_attrs", "row_attrs", "layers"), {}, [FILE, "loom", "read_loom"]),
    "another HDF5 file": (hdf5("weights"), {}, [FILE, "not AnnData's", "weights", "write_h5ad"]),
    "another AnnData version": (of_another_version, {}, [FILE, "anndata " + version("anndata"), "write it anew"]),
    "gzip bomb": (gzip_bomb, {}, [FILE, "not an .h5ad", UNPACK]),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"X": 1})), {}, [FILE, "not an .h5ad"]),
    "name too long": (lambda p: None, {"path": "x" * 5000}, ["cannot be read", "Check the path"]),
    "genes × cells, barcodes": (
        with_genes(lambda i: f"ACGTACGTACGTAC{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{'ACGT'[i // 16]}-1"), {}, [FILE, "genes × cells", "adata.T"]
    ),
    "genes × cells, symbols": (
        written(lambda a: anndata.AnnData(a.X, obs=a.obs.set_index(pd.Index(["ACTB", "B2M", "LYZ", "VIM"] + [f"G{i}" for i in range(36)])),
                                          var=a.var)), {}, [FILE, "genes × cells", "'ACTB'", "adata.T"]
    ),
    "genes × cells, Ensembl": (
        written(lambda a: anndata.AnnData(a.X, obs=a.obs.set_index(pd.Index([f"ENSG{i:011d}" for i in range(CELLS)])), var=a.var)),
        {}, [FILE, "genes × cells", "Ensembl", "adata.T"]
    ),
    "Ensembl ids, useless columns": (
        in_var(lambda i: f"ENSG{i:011d}", gene_ids=[f"ENSG{i:011d}" for i in range(GENES)], n_cells=1), {},
        [FILE, "Ensembl", "columns: gene_ids, n_cells", "gene_symbols"]
    ),
    "mouse genes": (
        with_genes(lambda i: f"Gene{i}a"), {"genes": [f"GENE{i}A" for i in range(GENES)]}, ["0 of the 30", "capitals", "'Gene0a'", "orthologues"]
    ),
    "genes in small letters": (
        with_genes(lambda i: f"gene{i}a"), {"genes": [f"GENE{i}A" for i in range(GENES)]}, ["capitals", "str.upper()"]
    ),
    "integer overflow": (with_x(overflown), {}, [FILE, "negative", "overflow", "raw counts"]),
    "unsigned overflow": (with_x(wrapped), {}, [FILE, "4.295e+09", "overflow", "unsigned"]),
    "mixed log bases": (with_x(mixed_bases), {}, [FILE, "different scales", "ln", "log2", "raw counts"]),
    "counts corrected to fractions": (with_x(corrected), {}, [FILE, "neither counts nor log", "round them"]),
    "bad X, bad layer": (
        written(lambda a: anndata.AnnData(standardised(a.X.toarray()), obs=a.obs, var=a.var, layers={"z": random_fractions(a.X)})),
        {}, [FILE, "No matrix", "X: ", "negative", "layers['z']", "neither"]
    ),
    "labels text nan": (with_labels(lambda y: y.astype(str).where(y.index != "c7", "nan")), {}, ["1 of 40", "'c7'", "'nan'", "Drop"]),
    "labels NA": (with_labels(lambda y: y.astype(str).where(y.index != "c7", "NA")), {}, ["1 of 40", "'c7'", "'NA'"]),
    "labels None": (with_labels(lambda y: y.astype(object).where(y.index != "c2", None)), {}, ["1 of 40", "'c2'", "Drop"]),
    "labels that are a measurement": (
        with_labels(lambda y: np.linspace(0, 1, len(y))), {}, [FILE, "measurement", "Is the label column right", "donor"]
    ),
    "a label for each cell": (
        written(lambda a: anndata.AnnData(sp.vstack([a.X] * 3).tocsr(), var=a.var, obs=pd.DataFrame(
            {"cell_type": many_types(range(120))}, index=[f"c{i}" for i in range(120)]))),
        {}, [FILE, "120 different", "identifier", "Is the label column right"]
    ),
    "10,000 classes": (
        written(lambda a: anndata.AnnData(sp.vstack([a.X] * 375).tocsr(), var=a.var, obs=pd.DataFrame(
            {"cell_type": [f"t{i % 10_000}" for i in range(15_000)]}, index=[f"c{i}" for i in range(15_000)]))),
        {}, [FILE, "10000 different", "15000 cells", "Is the label column right"]
    ),
    "no library size": (written(lambda a: a), {"library_size": "n_counts"}, ["'n_counts'", "cell_type, donor"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(tmp_path, case):
    """DataError, whose message names what is wrong, the file or cell or gene, and the remedy."""
    make, arguments, words = BAD[case]
    make(tmp_path / FILE)
    with pytest.raises(DataError) as refusal:
        through(**({"path": tmp_path / FILE} | arguments))
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


def counts_elsewhere(where):
    """X standardised, the counts in a layer or in raw."""

    def change(a):
        other = anndata.AnnData(standardised(a.X.toarray()), obs=a.obs, var=a.var)
        if where == "raw":
            other.raw = a
        else:
            other.layers[where] = a.X
        return other

    return written(change)


def written_as(**options):
    return lambda path: good().write_h5ad(path, **options)


def old_file(path):
    """As AnnData wrote before 0.7: categories in uns, matrices without an encoding."""
    a = good()
    with h5py.File(path, "w") as file:
        x = file.create_group("X")
        for name in ("data", "indices", "indptr"):
            x[name] = getattr(a.X, name)
        x.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": a.shape})
        obs = np.array([(i.encode(), t.encode()) for i, t in zip(a.obs_names, a.obs["cell_type"])], dtype=[("index", "S5"), ("cell_type", "S5")])
        file["obs"], file["var"] = obs, np.array([(g.encode(),) for g in a.var_names], dtype=[("index", "S10")])


def with_ensembl(names=None):
    """Ensembl identifiers as names, the symbols in a column."""
    names = names or [f"GENE{i}A" for i in range(GENES)]
    return in_var(lambda i: f"ENSG{i:011d}.{i}", feature_name=names, n_cells=3)


TAKEN = {
    # a file that is not as simple: (how it is made, words of the card)
    "counts in a layer": (counts_elsewhere("counts"), {"matrix": ["layers['counts']", "X can not be used", "negative"]}),
    "counts in a layer of another name": (counts_elsewhere("umi"), {"matrix": ["layers['umi']"]}),
    "counts in raw": (counts_elsewhere("raw"), {"matrix": ["raw", "X can not be used"]}),
    "dense, 64 bits": (with_x(lambda x: x.astype(np.float64)), {"matrix": ["X"]}),
    "columns first": (written(lambda a: anndata.AnnData(a.X.tocsc(), obs=a.obs, var=a.var)), {}),
    "integers": (written(lambda a: anndata.AnnData(a.X.astype(np.uint16), obs=a.obs, var=a.var)), {}),
    "compressed": (written_as(compression="gzip"), {}),
    "old AnnData": (old_file, {}),
    "normalised, no logarithm": (with_x(lambda x: x / x.sum(1, keepdims=True) * 1e4), {}),
    "ln": (with_x(lambda x: np.log1p(x / x.sum(1, keepdims=True) * 1e4)), {}),
    "log2": (with_x(lambda x: np.log2(1 + x / x.sum(1, keepdims=True) * 1e4)), {}),
    "Ensembl ids, symbols in a column": (with_ensembl(), {"gene_names": ["Ensembl", "var['feature_name']"]}),
    "numbers, symbols in a column": (in_var(str, Symbol=[f"GENE{i}A" for i in range(GENES)]), {"gene_names": ["numbers", "var['Symbol']"]}),
    "numeric labels": (with_labels(lambda y: y.map({"B": 1, "T": 2}).astype(int)), {}),
    "numeric labels with decimals": (with_labels(lambda y: y.map({"B": 1.0, "T": 2.0}).astype(float)), {}),
    "unsorted categories": (with_labels(lambda y: pd.Categorical(y, ["T", "unused", "B"])), {}),
    "labels with blanks around": (with_labels(lambda y: " " + y.astype(str) + " "), {}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", TAKEN)
def test_other_forms_of_the_same_file_give_the_same_cells(tmp_path, case):
    """Wherever the counts, symbols and types lie, what comes out is what the plain file gives; the card says what was taken."""
    make, words = TAKEN[case]
    good().write_h5ad(tmp_path / "plain.h5ad")
    make(tmp_path / FILE)
    plain, found = (preprocess.prepare(datasets.load(tmp_path / name, label="cell_type"), min_genes=1) for name in ("plain.h5ad", FILE))
    assert list(found.var_names) == list(plain.var_names) and np.allclose(found.X.toarray(), plain.X.toarray(), atol=1e-5)
    codes = [a.obs["cell_type"].cat.codes.tolist() for a in (plain, found)]
    assert codes[0] == codes[1] and all(" " not in name and "." not in name for name in found.obs["cell_type"].cat.categories)
    for key, expected in words.items():
        assert all(word in found.uns["dataset"][key] for word in expected), found.uns["dataset"]


def test_symbols_that_come_twice_are_summed(tmp_path):
    """Two Ensembl ids of one symbol: their counts are added, also where the file holds logarithms; ids without keep theirs."""
    names = ["TWICE", "TWICE", "nan", *[f"GENE{i}A" for i in range(3, GENES)]]
    with_ensembl(names)(tmp_path / FILE)
    counts = good().X.toarray()
    found = datasets.load(tmp_path / FILE)
    assert found.n_vars == GENES - 1 and np.array_equal(found[:, "TWICE"].X.toarray()[:, 0], counts[:, :2].sum(1))
    assert "ENSG00000000002.2" in found.var_names and "1 without a symbol" in found.uns["dataset"]["gene_names"]
    a = anndata.read_h5ad(tmp_path / FILE)
    a.X = sp.csr_matrix(np.log1p(counts / counts.sum(1, keepdims=True) * 1e4))
    a.write_h5ad(tmp_path / FILE)
    share = np.expm1(datasets.load(tmp_path / FILE)[:, "TWICE"].X.toarray()[:, 0]) / 1e4
    assert np.allclose(share, counts[:, :2].sum(1) / counts.sum(1), atol=1e-6)


def test_what_is_odd_but_usable_is_said(tmp_path):
    """Dates among the genes, mouse genes, empty cells, genes that are all zero: taken, and the card or report says so."""
    dates = {3: "1-Mar", 4: "2001-09-02 00:00:00", 5: "Dec-1"}
    in_var(lambda i: dates.get(i, f"Gene{i}a"))(tmp_path / FILE)
    said = datasets.load(tmp_path / FILE).uns["dataset"]["gene_names"]
    assert "3 are dates" in said and "1-Mar" in said and "mouse" in said

    def empty(x):
        x[3], x[:, 7] = 0, 0
        return x

    with_x(empty)(tmp_path / FILE)
    prepared = preprocess.prepare(datasets.load(tmp_path / FILE), min_genes=1)
    assert prepared.n_obs == CELLS - 1 and prepared.uns["alignment"]["dropped"] == {"T": 1}
    assert prepared.X[:, 7].nnz == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
def test_a_file_that_cannot_be_read_is_refused():
    with pytest.raises(DataError, match="/proc/self/mem cannot be read"):
        datasets.load("/proc/self/mem")


def test_a_cache_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """A file where the cache's folder should be: as good as a read-only disk, also for root."""
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="cannot be written.*Point SCBERT_CACHE"):
        profiles.load("smoke")


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
