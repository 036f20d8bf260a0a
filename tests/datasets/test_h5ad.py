"""Whatever is wrong with a user's file, the refusal says what, where, and what to do."""

import gzip
import pickle
import socket
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from lib import files
from lib.datasets import catalogue, downloads
from lib.datasets.scale import value_scale
from lib.errors import DataError
from lib.experiments import profiles
from lib.prepare import cells, preprocess, splits
from lib.scbert.model import CellTypeClassifier, ScBert, ScBertConfig

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
        data = {"dataset": str(path), "label": label, "vocabulary": path.parent / "genes.txt", "min_genes": 1, "library_size": None}
        return splits.holdout(cells.prepared(data).obs["cell_type"])
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


def hdf5(**entries):
    """HDF5 of other programs: empty groups and small data sets by their names."""

    def write(path):
        with h5py.File(path, "w") as file:
            for name in entries:
                file[name.replace("__", "/")] = np.arange(3)

    return write


def set_encoding(file):
    file["X"].attrs["encoding-version"] = "99.0.0"
    file["X"].attrs["encoding-type"] = "csr_matrix_of_tomorrow"


def set_index(file):
    file["X/indices"][5] = 10**6


def huge(file):
    del file["X"]
    file.create_dataset("X", (CELLS, 10**11), np.float32, chunks=(1, 10**6), compression="gzip").attrs.update(
        {"encoding-type": "array", "encoding-version": "0.2.0"}
    )


def bomb(path):
    """A .gz of some hundred kilobytes that unpacks to 100 MB."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(bytes(2**20))


def listening(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


def transposed(rows, columns):
    """Genes × cells: the names of genes in obs."""

    def change(a):
        x = sp.csr_matrix(a.X.T)
        return anndata.AnnData(x, obs=pd.DataFrame(index=[rows(i) for i in range(GENES)]),
                               var=a.obs.set_axis([columns(i) for i in range(CELLS)]))  # fmt: skip

    return written(change)


def barcode(i):
    return "".join("ACGT"[i // 4**k % 4] for k in range(12)) + "-1"


def integers(dtype, value):
    def change(a):
        x = a.X.toarray().astype(dtype)
        x[3, 4] = value
        return anndata.AnnData(x, obs=a.obs, var=a.var)

    return written(change)


MARKERS = ["ACTB", "B2M", "CD74", "GAPDH", "FTL", "CD3E", "LYZ", "NKG7", "GNLY", "MS4A1", *(f"CCL{i}" for i in range(20))]
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
    "no matrix": (written(lambda a: anndata.AnnData(obs=a.obs, var=a.var)), {}, [FILE, "X of", "empty", "raw counts in X"]),
    "all zeros": (with_x(np.zeros_like), {}, [FILE, "zero", "layer"]),
    "no gene in common": (
        written(lambda a: a), {"genes": ["CD3E", "LYZ"]}, ["No gene in common", "GENE0A", "CD3E", "symbols"]
    ),
    "vocabulary with a duplicate": (written(lambda a: a), {"genes": [*VOCABULARY, "GENE3A"]}, ["'GENE3A'", "twice"]),
    # files
    "gzip bomb": (bomb, {}, [FILE, "not an .h5ad", UNPACK]),
    "bomb inside HDF5": (edited(huge), {}, [FILE, "'X' claims 16,000,000,000,000 bytes", "Copy it again"]),
    "a socket": (listening, {}, [FILE, "not a regular file", "path of an .h5ad"]),
    "of a later AnnData": (edited(set_encoding), {}, [FILE, "cannot be read", "AnnData version", "write it anew"]),
    "damaged indices": (edited(set_index), {}, [FILE, "cannot be read", "damaged", "copy it again"]),
    "shape that does not fit": (
        edited(lambda f: f["X"].attrs.update(shape=[CELLS + 1, GENES])), {}, [FILE, "cannot be read", "damaged"]
    ),
    "10x .h5": (hdf5(matrix__barcodes=1, matrix__data=1), {}, [FILE, "10x Genomics", "read_10x_h5", "write_h5ad"]),
    "loom": (hdf5(matrix=1, row_attrs__Gene=1, col_attrs__CellID=1), {}, [FILE, "loom", "read_loom", "write_h5ad"]),
    "MuData": (hdf5(mod__rna=1), {}, [FILE, "MuData", "['rna']", "write_h5ad"]),
    "other HDF5": (hdf5(weights=1, biases=1), {}, [FILE, "not an .h5ad", "biases, weights", "obs, var and X", "write_h5ad"]),
    "text in X": (
        edited(lambda f: (f.pop("X"), f.create_dataset("X", data=np.full((CELLS, GENES), b"3")))), {},
        [FILE, "X of", "not a matrix of numbers", "numeric counts"],
    ),
    # which way round
    "transposed, barcodes": (
        transposed(lambda i: f"GENE{i}A", barcode), {}, [FILE, "transposed", "barcodes", barcode(0), "adata.T"]
    ),
    "transposed, Ensembl ids": (
        transposed(lambda i: f"ENSG{i:011d}", lambda i: f"c{i}"), {}, [FILE, "transposed", "Ensembl", "adata.T"]
    ),
    "transposed, symbols": (transposed(lambda i: MARKERS[i], lambda i: f"c{i}"), {}, [FILE, "transposed", "symbols", "'ACTB'"]),
    "transposed, by the vocabulary": (
        written(lambda a: anndata.AnnData(sp.csr_matrix(a.X[:GENES, :].T), obs=a.obs[:GENES].set_axis(a.var_names),
                                          var=pd.DataFrame(index=a.obs_names[:GENES]))),
        {"genes": VOCABULARY}, [FILE, "transposed", "'GENE0A'", "adata.T"],
    ),
    "transposed, by the label": (
        transposed(lambda i: f"x{i}", lambda i: f"c{i}"), {"label": "cell_type"}, [FILE, "'cell_type'", "column of var", "adata.T"]
    ),
    # gene names against a vocabulary
    "mouse genes": (
        with_genes(lambda i: MARKERS[i].capitalize()), {"genes": MARKERS}, [FILE, "0% of", "100%", "mouse", "'Actb'", "orthologs"]
    ),
    "genes in small letters": (
        with_genes(lambda i: MARKERS[i].lower()), {"genes": MARKERS}, [FILE, "case", "'actb'", "str.upper()"]
    ),
    "Ensembl ids, a column of them too": (
        written(lambda a: anndata.AnnData(a.X, obs=a.obs, var=pd.DataFrame(
            {"gene_name": [f"ENSG{i:011d}" for i in range(GENES)]}, index=[f"ENSG{i:011d}.1" for i in range(GENES)]))),
        {}, [FILE, "Ensembl", "no column of symbols", "it has: gene_name", "gene_symbols"],
    ),
    # values
    "integers that overflowed": (integers(np.int16, -32768), {}, [FILE, "X of", "-32,768 (int16)", "overflowed", "raw counts"]),
    "unsigned integers that overflowed": (
        integers(np.uint32, 2**32 - 1), {}, [FILE, "4,294,967,295 (uint32)", "overflowed", "raw counts"]
    ),
    "counts beyond float32": (integers(np.int64, 2**24 + 1), {}, [FILE, "16,777,217", "no count", "raw counts"]),
    "negative whole numbers, as floats": (with_value(-32768), {}, [FILE, "-32768", "overflowed", "subtraction"]),
    "two bases of logarithms": (
        with_x(half(logs, lambda x: logs(x, 2))), {}, [FILE, "different scales", "50% are ln", "50% log2", "one scale"]
    ),
    "a tenth of the cells on another base": (
        with_x(lambda x: np.where((np.arange(CELLS) % 10 == 3)[:, None], logs(x, 2), logs(x))), {},
        [FILE, "different scales", "90% are ln", "10% log2", "Were files joined?"],
    ),
    "counts and logarithms": (with_x(half(lambda x: x, logs)), {}, [FILE, "different scales", "50% are ln", "50% counts", "one scale"]),
    "counts and values of no known scale": (
        with_x(lambda x: np.where((np.arange(CELLS) % 4 == 3)[:, None], random_fractions(x), x)), {},
        [FILE, "neither counts nor log", "whole numbers", "raw counts"],
    ),
    "corrected throughout": (
        with_x(lambda x: x * np.random.default_rng(2).uniform(0.5, 1, x.shape)), {}, [FILE, "neither counts nor log", "decontX"]
    ),
    "nothing usable anywhere": (
        with_layers(standardised, raw=clipped, counts=random_fractions), {},
        [FILE, "No matrix", "values of X are negative", "values of layers['counts'] are neither", "values of raw.X are", "Put raw"],
    ),
    # labels
    "labels that say nan": (with_labels(lambda y: y.where(y.index != "c7", "nan")), {}, ["1 of 40", "'c7'", "'nan'", "Drop"]),
    "labels that say NA": (with_labels(lambda y: y.where(y > "B", "NA")), {}, ["20 of 40", "'cell_type'", "'NA'", "Drop"]),
    "labels that say None": (with_labels(lambda y: y.where(y > "B", "None")), {}, [FILE, "20 of 40", "'None'"]),
    "labels missing in a category": (
        with_labels(lambda y: y.where(y.index != "c2").astype("category")), {}, [FILE, "1 of 40", "'c2'", "Drop"]
    ),
    "a class for each cell": (
        with_labels(lambda y: y.index), {}, [FILE, "'cell_type'", "40 different", "an identifier", "label column right"]
    ),
    "10,000 classes": (
        lambda p: anndata.AnnData(
            sp.csr_matrix(np.ones((19_999, 3), np.float32)), var=pd.DataFrame(index=list("ABC")),
            obs=pd.DataFrame({"clone": [f"k{i % 10_000}" for i in range(19_999)]}, index=[f"c{i}" for i in range(19_999)]),
        ).write_h5ad(p),
        {"label": "clone"}, [FILE, "'clone'", "10,000 different values for 19,999 cells", "not a cell type"],
    ),
    "a measurement": (
        lambda p: anndata.AnnData(
            sp.csr_matrix(np.ones((300, 3), np.float32)), var=pd.DataFrame(index=list("ABC")),
            obs=pd.DataFrame({"score": np.arange(300) % 60 / 7, "type": ["B", "T"] * 150}, index=[f"c{i}" for i in range(300)]),
        ).write_h5ad(p),
        {"label": "score"}, [FILE, "'score'", "60 different", "a measurement", "2 to 100 values: score, type"],
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
        through(tmp_path / FILE, **arguments)
    message = str(refusal.value)
    assert [word for word in words if word not in message] == [], message


def test_good_input_is_taken(tmp_path):
    """The file all these are made from goes through, dense or sparse, with any of its columns as the label."""
    path = tmp_path / FILE
    written(lambda a: a)(path)
    train, test = through(path, genes=VOCABULARY)
    assert (len(train), len(test)) == (32, 8)
    sparse = catalogue.load(path)
    with_x(lambda x: x)(path)
    dense = catalogue.load(str(path), label="cell_type")
    for adata in (sparse, dense):
        assert sp.isspmatrix_csr(adata.X) and adata.X.dtype == np.float32 and adata.uns["dataset"]["values"] == "counts"
        assert list(adata.obs["cell_type"].cat.categories) == ["B", "T"]
    assert (sparse.X != dense.X).nnz == 0
    assert list(catalogue.load(path, label="donor").obs["cell_type"].unique()) == ["d1"]


def ensembl(change=None, x=lambda x: x, column="Feature_Name"):
    """Identifiers in var_names, symbols in a column."""

    def made(a):
        symbols = a.var_names.to_numpy(object)
        if change:
            change(symbols)
        var = pd.DataFrame({"feature_types": "Gene Expression", column: symbols}, index=[f"ENSG{i:011d}.{i % 7}" for i in range(GENES)])
        return anndata.AnnData(sp.csr_matrix(np.float32(x(a.X.toarray()))), obs=a.obs, var=var)

    return written(made)


def unnamed(symbols):
    symbols[[3, 5]] = [np.nan, ""]


def as_identifiers(names):
    names = names.to_series()
    names.iloc[[3, 5]] = ["ENSG00000000003", "ENSG00000000005"]
    return names


def repeated(symbols):
    symbols[9] = symbols[8]


def before_07(path):
    """As AnnData wrote until 0.6: tables as records, categories in uns, attributes of other names."""
    a = good()
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = np.bytes_("csr"), a.shape
        group["data"], group["indices"], group["indptr"] = a.X.data, a.X.indices, a.X.indptr
        codes = (a.obs["cell_type"] == "T").to_numpy(np.int8)
        file["obs"] = np.array(list(zip(a.obs_names.str.encode("ascii"), codes)), dtype=[("index", "S8"), ("cell_type", "i1")])
        file["var"] = np.array([(name.encode(),) for name in a.var_names], dtype=[("index", "S8")])
        file["uns/cell_type_categories"] = np.array([b"B", b"T"])


def unencoded(path):
    """As AnnData 0.7 wrote: the root says nothing of its encoding."""
    good().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for key in list(file.attrs):
            del file.attrs[key]


def stored(change):
    """The matrix of the good file in another form."""

    def write(path):
        a = good()
        anndata.AnnData(change(a.X), obs=a.obs, var=a.var).write_h5ad(path)

    return write


def with_empty_cells(a):
    x = a.X.toarray()
    x[[4, 7]] = 0
    return anndata.AnnData(sp.csr_matrix(x), obs=a.obs, var=a.var)


def with_dates(a):
    return anndata.AnnData(a.X, obs=a.obs, var=pd.DataFrame(index=[*a.var_names[:-4], "1-Mar", "2-Sep", "1-Mar", "2001-03-02 00:00:00"]))


def same(a):
    return a


def summed(a):
    """Gene 9 added to gene 8."""
    x = a.X.toarray()
    x[:, 8] += x[:, 9]
    kept = np.arange(GENES) != 9
    return anndata.AnnData(sp.csr_matrix(x[:, kept]), obs=a.obs, var=a.var[kept])


def renamed_genes(change):
    return lambda a: anndata.AnnData(a.X, obs=a.obs, var=a.var.set_axis(change(a.var_names)))


GOOD = {
    # what a user may bring: (how the file is made, which clean cells it equals, words of the card)
    "stored by genes": (stored(sp.csc_matrix), same, {"matrix": "X: raw counts"}),
    "dense float64": (stored(lambda x: x.toarray().astype(np.float64)), same, {"matrix": "X: raw counts"}),
    "int64": (stored(lambda x: x.astype(np.int64)), same, {"matrix": "X: raw counts"}),
    "explicit zeros": (stored(lambda x: sp.csr_matrix(
        (np.append(x.data, 0), np.append(x.indices, 0), np.append(x.indptr[:-1], x.indptr[-1] + 1)), x.shape)), same, {}),
    "of AnnData 0.6": (before_07, same, {"matrix": "X: raw counts"}),
    "of AnnData 0.7": (unencoded, same, {"matrix": "X: raw counts"}),
    "counts in a layer, X scaled": (
        with_layers(standardised, counts=lambda x: x), same, {"matrix": "layers['counts']: raw counts (672 values of X are negative)"}
    ),
    "counts in a layer of another name, X log": (
        with_layers(logs, Raw_Counts=lambda x: x), same, {"matrix": "layers['Raw_Counts']: raw counts (X has logarithms of base e)"}
    ),
    "counts in raw, X scaled": (with_layers(standardised, raw=lambda x: x), same, {"matrix": "raw.X: raw counts"}),
    "counts in raw, X log, no sense in the layer": (
        with_layers(logs, raw=lambda x: x, counts=random_fractions), same, {"matrix": "raw.X: raw counts (The values of layers"}
    ),
    "no X, counts in a layer": (
        edited(lambda f: (f.copy("X", "layers/counts"), f.pop("X"))), same, {"matrix": "layers['counts']: raw counts (X is empty"}
    ),
    "log in X": (with_x(logs), same, {"matrix": "X: logarithms of base e"}),
    "log of base 2 in raw, X scaled": (
        with_layers(standardised, raw=lambda x: logs(x, 2)), same, {"matrix": "raw.X: logarithms of base 2"}
    ),
    "normalised, no logarithm": (
        with_x(lambda x: x * (777.7 / x.sum(1, keepdims=True))), same, {"matrix": "proportional to counts, no logarithm taken"}
    ),
    "Ensembl ids and symbols": (
        ensembl(), same, {"gene_names": "30 Ensembl identifiers mapped to symbols by var['Feature_Name']"}
    ),
    "Ensembl ids, two without a symbol": (
        ensembl(unnamed), renamed_genes(as_identifiers), {"gene_names": "28 Ensembl identifiers mapped"}
    ),
    "Ensembl ids, two of one symbol": (ensembl(repeated), summed, {"gene_names": "1 columns summed"}),
    "Ensembl ids, two of one symbol, log": (ensembl(repeated, logs), summed, {"gene_names": "1 columns summed"}),
    "numbers and symbols": (
        written(lambda a: anndata.AnnData(a.X, obs=a.obs, var=pd.DataFrame({"symbol": a.var_names}, index=[str(i) for i in range(GENES)]))),
        same, {"gene_names": "30 numbers mapped to symbols by var['symbol']"},
    ),
    "some Ensembl ids among symbols": (
        with_genes(lambda i: f"ENSG{i:011d}" if i in (3, 5) else f"GENE{i}A"), renamed_genes(as_identifiers),
        {"gene_names": "2 Ensembl identifiers among them kept"},
    ),
    "unsorted categories": (
        with_labels(lambda y: pd.Categorical(y, categories=["T", "unused", "B"], ordered=True)), same, {}
    ),
    "labels with blanks around them": (with_labels(lambda y: " " + y + " "), same, {}),
    "embeddings of a later AnnData": (
        edited(lambda f: f.create_group("obsm/X_new").attrs.update({"encoding-type": "of tomorrow", "encoding-version": "9"})),
        same, {"matrix": "X: raw counts"},
    ),
    "empty cells": (written(with_empty_cells), lambda a: a[~a.obs_names.isin(["c4", "c7"])].copy(), {}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("case", GOOD)
def test_what_is_taken_equals_the_clean_file(tmp_path, case):
    """The prepared cells are those of the clean file, and the card says which matrix and names were taken."""
    make, clean, words = GOOD[case]
    make(tmp_path / FILE)
    written(clean)(tmp_path / "clean.h5ad")
    found, wanted = (catalogue.load(tmp_path / name) for name in (FILE, "clean.h5ad"))
    for key, text in words.items():
        assert text in found.uns["dataset"][key]
    found, wanted = (preprocess.prepare(adata, min_genes=1) for adata in (found, wanted))
    assert list(found.var_names) == list(wanted.var_names) and list(found.obs_names) == list(wanted.obs_names)
    assert list(found.obs["cell_type"]) == list(wanted.obs["cell_type"])
    assert list(found.obs["cell_type"].cat.categories) == ["B", "T"]
    assert np.allclose(found.X.toarray(), wanted.X.toarray(), atol=2e-5)
    report = found.uns["alignment"]
    assert report["dropped_cells"] == (2 if case == "empty cells" else 0) and sum(report["dropped"].values()) == report["dropped_cells"]


def test_raw_has_the_genes_of_its_own(tmp_path):
    """raw holds more genes than X: all are taken, with the symbols that are noted for the genes of X alone."""
    a = good()
    a.var_names = [f"ENSG{i:011d}" for i in range(GENES)]
    few = anndata.AnnData(np.float32(standardised(a.X.toarray()[:, :20])), obs=a.obs,
                          var=pd.DataFrame({"gene_symbols": [f"GENE{i}A" for i in range(20)]}, index=a.var_names[:20]))  # fmt: skip
    few.raw = a
    few.write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert (adata.X != a.X).nnz == 0
    assert adata.var_names[19] == "GENE19A" and adata.var_names[20] == "ENSG00000000020"
    assert adata.uns["dataset"]["gene_names"].endswith("20 Ensembl identifiers mapped to symbols by var['gene_symbols']; 10 without a symbol kept")


def test_a_real_file_of_an_old_anndata(raw):
    """The file inside scanpy's wheel, of AnnData 0.6: X is scaled, raw holds ln(1 + counts per 10⁴ of all genes)."""
    scanpy = pytest.importorskip("scanpy")
    path = Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    adata = catalogue.load(path, label="bulk_labels")
    assert adata.uns["dataset"]["matrix"].startswith("raw.X: logarithms of base e (") and adata.uns["dataset"]["values"] == "ln"
    counts = np.expm1(adata.X.toarray().astype(np.float64)) * (adata.obs["n_counts"].to_numpy(np.float64) / 1e4)[:, None]
    assert np.allclose(counts, raw.X.toarray(), rtol=1e-3, atol=0.02) and list(adata.var_names) == list(raw.var_names)
    assert list(adata.obs["cell_type"]) == list(raw.obs["cell_type"])


@pytest.mark.parametrize("scale, base", [("counts", None), ("ln", np.e), ("log2", 2), ("log10", 10)])
def test_the_scale_of_cells_with_few_molecules(raw, scale, base):
    """Rare genes of real cells, most values one molecule, on each scale: single molecules alone tell nothing."""
    rare = np.asarray((raw.X > 0).mean(0)).ravel() < 0.15
    total = raw.obs["n_counts"].to_numpy(np.float64)
    singles = np.asarray((raw.X[:, rare] == 1).sum(1)).ravel()
    chosen = (singles >= 5) & (total < 8000)  # a molecule is 4 to 14: taken for a logarithm, two are many times one
    x = sp.csr_matrix(raw.X[chosen][:, rare], dtype=np.float64)
    x.data[x.data > 2] = 2
    x.data *= np.repeat(3e4 / total[chosen], np.diff(x.indptr))
    x.data = x.data if base is None else np.log1p(x.data) / np.log(base)
    assert value_scale(x.astype(np.float32)) == scale


def test_counts_with_fractions_are_taken_and_said(tmp_path):
    """As of RSEM, which shares reads among genes: most are whole, and all are used as they are."""
    share = np.where(np.random.default_rng(1).random((CELLS, GENES)) < 0.2, 0.37, 1)
    with_x(lambda x: x * share)(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert np.allclose(adata.X.toarray(), good().X.toarray() * share)
    assert adata.uns["dataset"]["values"] == "counts" and "of them with fractions, used as they are" in adata.uns["dataset"]["matrix"]


def test_dates_and_mouse_genes_do_not_block(tmp_path):
    """Genes that became dates in a spreadsheet are counted and shown, two of one date kept apart; mouse genes are noted."""
    written(with_dates)(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert list(adata.var_names[-4:]) == ["1-Mar", "2-Sep", "1-Mar (2)", "2001-03-02 00:00:00"]
    assert (adata.X != good().X).nnz == 0
    assert "4 gene names are dates (1-Mar, 2-Sep" in adata.uns["dataset"]["gene_names"]
    with_genes(lambda i: f"Gene{i}a")(tmp_path / FILE)
    assert "mouse genes" in catalogue.load(tmp_path / FILE).uns["dataset"]["gene_names"]
    written(lambda a: a)(tmp_path / FILE)
    assert "gene_names" not in catalogue.load(tmp_path / FILE).uns["dataset"]


@pytest.mark.parametrize("values, names", [
    (np.arange(CELLS) % 3, ["0", "1", "2"]), (np.arange(CELLS) % 3 + 9.0, ["10", "11", "9"]),
    (np.arange(CELLS) % 2 / 2, ["0.0", "0.5"]), (np.arange(CELLS) % 2 == 0, ["False", "True"]),
    (pd.Categorical(np.arange(CELLS) % 3 + 1.0), ["1", "2", "3"]),
], ids=["int", "whole floats", "fractions", "bool", "category of floats"])  # fmt: skip
def test_numeric_labels_are_text(tmp_path, values, names):
    """Clusters by number are cell types like others."""
    with_labels(lambda y: values)(tmp_path / FILE)
    labels = catalogue.load(tmp_path / FILE).obs["cell_type"]
    assert list(labels.cat.categories) == names
    assert [float(a) for a in labels] == [float(b) for b in values] if names[0] != "False" else set(labels) == set(names)


def test_all_zero_genes_change_nothing(tmp_path):
    """They stay, as zeros; the other genes' values are the same."""
    def silenced(x):
        x[:, [5, 6]] = 0
        return x

    with_x(silenced)(tmp_path / FILE)
    found = preprocess.prepare(catalogue.load(tmp_path / FILE), min_genes=1)
    kept = [i for i in range(GENES) if i not in (5, 6)]
    written(lambda a: a[:, kept].copy())(tmp_path / FILE)
    assert found.X[:, [5, 6]].nnz == 0 and (found[:, kept].X != preprocess.prepare(catalogue.load(tmp_path / FILE), min_genes=1).X).nnz == 0


def test_a_bomb_stays_packed(tmp_path):
    """Refused by its first bytes: no time, nothing beside it."""
    bomb(tmp_path / "cells.h5ad.gz")
    begun = time.perf_counter()
    with pytest.raises(DataError, match="unpacked"):
        catalogue.load(tmp_path / "cells.h5ad.gz")
    assert time.perf_counter() - begun < 0.2 and [p.name for p in tmp_path.iterdir()] == ["cells.h5ad.gz"]


def test_a_file_that_cannot_be_read(tmp_path):
    """The system's reason and a remedy."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs Linux: the tests may run as a user who may read every file, but not this one")
    with pytest.raises(DataError, match="/proc/self/mem cannot be opened .*Check that you may read it"):
        catalogue.load("/proc/self/mem")


def test_a_path_that_cannot_be_one():
    with pytest.raises(DataError, match="cannot be a path"):
        catalogue.load("x" * 5000)


def test_a_pickle_is_never_executed(tmp_path):
    """Given as a checkpoint, it is refused, and its command does not run."""

    class Command:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "model.pth").write_bytes(pickle.dumps({"model_state_dict": Command()}))
    with pytest.raises(DataError, match="model.pth cannot be read as a checkpoint .*never executed.*Download it again"):
        ScBert.from_checkpoint(tmp_path / "model.pth")
    assert not (tmp_path / "executed").exists()


def store_cells():
    return cells.store(preprocess.prepare(catalogue.load("pbmc68k_reduced"), min_genes=0, library_size="n_counts"))


@pytest.mark.parametrize("call", [store_cells, lambda: downloads.fetch("vocabulary")], ids=["cells", "downloads"])
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, call):
    """As on a read-only disk: which folder, why, and which setting chooses another."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("SCBERT_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=r"file/cache.* cannot be written .*Point SCBERT_(CACHE|DATA_DIR) to a folder that can"):
        call()


def test_a_folder_that_takes_no_file(tmp_path):
    """What is found when the file is begun, not only when the folder is made (here a name that no disk takes)."""
    with pytest.raises(DataError, match="cannot be written .*Point SCBERT_CACHE to a folder that can"):
        with files.replacing(tmp_path / f"{'x' * 300}.npz"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_unlabelled_input_is_taken_without_a_label(tmp_path):
    """A file without a label column loads unlabelled; ``celltype``, the authors' name, is found by itself."""
    path = tmp_path / FILE
    written(lambda a: anndata.AnnData(a.X, obs=a.obs[["donor"]], var=a.var))(path)
    assert "cell_type" not in catalogue.load(path).obs
    written(lambda a: anndata.AnnData(a.X, obs=a.obs.rename(columns={"cell_type": "celltype"}), var=a.var))(path)
    assert list(catalogue.load(path).obs["cell_type"].cat.categories) == ["B", "T"]


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
