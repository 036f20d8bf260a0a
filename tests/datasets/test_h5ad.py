"""A user's .h5ad: which matrix and gene names are taken, equal to a clean file's; what is no .h5ad is refused."""

import gzip
import socket
import zlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue
from lib.errors import DataError
from lib.prepare import preprocess
from tests.making import (
    CELLS,
    FILE,
    GENES,
    UNPACK,
    clipped,
    edited,
    good,
    logs,
    random_fractions,
    refused,
    standardised,
    with_genes,
    with_labels,
    with_layers,
    with_x,
    written,
)


def truncated(path):
    good().write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zipped(path):
    good().write_h5ad(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


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


def integers(dtype, value):
    def change(a):
        x = a.X.toarray().astype(dtype)
        x[3, 4] = value
        return anndata.AnnData(x, obs=a.obs, var=a.var)

    return written(change)


BAD = {
    # what is wrong: (how the file is made, arguments of through(), words of the message: what, where, what to do)
    "text file": (lambda p: p.write_text("gene,c1\nCD3E,1\n"), {}, [FILE, "not an .h5ad", "write_h5ad"]),
    "gzip": (zipped, {}, [FILE, "not an .h5ad", UNPACK]),
    "empty file": (lambda p: p.write_bytes(b""), {}, [FILE, "not an .h5ad"]),
    "truncated": (truncated, {}, [FILE, "is truncated: it has", "Copy it again"]),
    "folder": (lambda p: p.mkdir(), {}, [FILE, "folder", "path of an .h5ad"]),
    "no cells": (written(lambda a: a[:0].copy()), {}, [FILE, "empty", f"0 cells × {GENES} genes"]),
    "no genes": (written(lambda a: a[:, :0].copy()), {}, [FILE, "empty", f"{CELLS} cells × 0 genes"]),
    "no matrix": (written(lambda a: anndata.AnnData(obs=a.obs, var=a.var)), {}, [FILE, "X of", "empty", "raw counts in X"]),
    "gzip bomb": (bomb, {}, [FILE, "not an .h5ad", UNPACK]),
    "bomb inside HDF5": (edited(huge), {}, [FILE, "'X' claims 16,000,000,000,000 bytes", "Copy it again"]),
    "a socket": (listening, {}, [FILE, "not a regular file", "path of an .h5ad"]),
    "of a later AnnData": (
        edited(set_encoding),
        {},
        [
            FILE,
            "X of",
            "'csr_matrix_of_tomorrow' of version '99.0.0'",
            "AnnData version",
            "pip install -U anndata",
            "write it anew",
        ],
    ),
    "damaged indices": (
        edited(set_index),
        {},
        [FILE, "X of", "damaged", "value 5 lies at gene 1,000,000 of 30", "Copy it again"],
    ),
    "shape that does not fit": (
        edited(lambda f: f["X"].attrs.update(shape=[CELLS + 1, GENES])),
        {},
        [FILE, "X of", "damaged", "fits neither 41 cells nor"],
    ),
    "10x .h5 cut down": (hdf5(matrix__barcodes=1, matrix__data=1), {}, [FILE, "10x Genomics .h5", "cannot be read"]),
    "MuData without expression": (hdf5(mod__atac=1), {}, [FILE, "MuData", "rna (it has atac)", "write_h5ad"]),
    "h5Seurat": (hdf5(assays=1, **{"meta.data": 1}), {}, [FILE, "h5Seurat", "SeuratDisk::Convert"]),
    "other HDF5": (hdf5(weights=1, biases=1), {}, [FILE, "not an .h5ad", "biases, weights", "obs, var and X", "write_h5ad"]),
    "text in X": (
        edited(lambda f: (f.pop("X"), f.create_dataset("X", data=np.full((CELLS, GENES), b"3")))),
        {},
        [FILE, "X of", "not a matrix of numbers", "numeric counts"],
    ),
    "integers that overflowed": (integers(np.int16, -32768), {}, [FILE, "X of", "-32,768 (int16)", "overflowed", "raw counts"]),
    "unsigned integers that overflowed": (
        integers(np.uint32, 2**32 - 1),
        {},
        [FILE, "4,294,967,295 (uint32)", "overflowed", "raw counts"],
    ),
    "counts beyond float32": (integers(np.int64, 2**24 + 1), {}, [FILE, "16,777,217", "no count", "raw counts"]),
    "nothing usable anywhere": (
        with_layers(standardised, raw=clipped, counts=random_fractions),
        {},
        [
            FILE,
            "No matrix",
            "values of X are negative",
            "values of layers['counts'] are neither",
            "values of raw.X are",
            "Put raw",
        ],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(tmp_path, case):
    """DataError, whose message names what is wrong, the file or cell or gene, and the remedy."""
    refused(tmp_path, *BAD[case])


def ensembl(change=None, x=lambda x: x, column="Feature_Name"):
    """Identifiers in var_names, symbols in a column."""

    def made(a):
        symbols = a.var_names.to_numpy(object)
        if change:
            change(symbols)
        var = pd.DataFrame(
            {"feature_types": "Gene Expression", column: symbols}, index=[f"ENSG{i:011d}.{i % 7}" for i in range(GENES)]
        )
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
    return anndata.AnnData(
        a.X, obs=a.obs, var=pd.DataFrame(index=[*a.var_names[:-4], "1-Mar", "2-Sep", "1-Mar", "2001-03-02 00:00:00"])
    )


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
    "explicit zeros": (
        stored(
            lambda x: sp.csr_matrix(
                (np.append(x.data, 0), np.append(x.indices, 0), np.append(x.indptr[:-1], x.indptr[-1] + 1)), x.shape
            )
        ),
        same,
        {},
    ),
    "of AnnData 0.6": (before_07, same, {"matrix": "X: raw counts"}),
    "of AnnData 0.7": (unencoded, same, {"matrix": "X: raw counts"}),
    "counts in a layer, X scaled": (
        with_layers(standardised, counts=lambda x: x),
        same,
        {"matrix": "layers['counts']: raw counts (672 values of X are negative)"},
    ),
    "counts in a layer of another name, X log": (
        with_layers(logs, Raw_Counts=lambda x: x),
        same,
        {"matrix": "layers['Raw_Counts']: raw counts (X has logarithms of base e)"},
    ),
    "counts in raw, X scaled": (with_layers(standardised, raw=lambda x: x), same, {"matrix": "raw.X: raw counts"}),
    "counts in raw, X log, no sense in the layer": (
        with_layers(logs, raw=lambda x: x, counts=random_fractions),
        same,
        {"matrix": "raw.X: raw counts (The values of layers"},
    ),
    "no X, counts in a layer": (
        edited(lambda f: (f.copy("X", "layers/counts"), f.pop("X"))),
        same,
        {"matrix": "layers['counts']: raw counts (X is empty"},
    ),
    "log in X": (with_x(logs), same, {"matrix": "X: logarithms of base e"}),
    "log of base 2 in raw, X scaled": (
        with_layers(standardised, raw=lambda x: logs(x, 2)),
        same,
        {"matrix": "raw.X: logarithms of base 2"},
    ),
    "normalised, no logarithm": (
        with_x(lambda x: x * (777.7 / x.sum(1, keepdims=True))),
        same,
        {"matrix": "proportional to counts, no logarithm taken"},
    ),
    "Ensembl ids and symbols": (
        ensembl(),
        same,
        {"gene_names": "30 Ensembl identifiers mapped to symbols by var['Feature_Name']"},
    ),
    "Ensembl ids, two without a symbol": (
        ensembl(unnamed),
        renamed_genes(as_identifiers),
        {"gene_names": "28 Ensembl identifiers mapped"},
    ),
    "Ensembl ids, two of one symbol": (ensembl(repeated), summed, {"gene_names": "1 columns summed"}),
    "Ensembl ids, two of one symbol, log": (ensembl(repeated, logs), summed, {"gene_names": "1 columns summed"}),
    "numbers and symbols": (
        written(
            lambda a: anndata.AnnData(
                a.X, obs=a.obs, var=pd.DataFrame({"symbol": a.var_names}, index=[str(i) for i in range(GENES)])
            )
        ),
        same,
        {"gene_names": "30 numbers mapped to symbols by var['symbol']"},
    ),
    "some Ensembl ids among symbols": (
        with_genes(lambda i: f"ENSG{i:011d}" if i in (3, 5) else f"GENE{i}A"),
        renamed_genes(as_identifiers),
        {"gene_names": "2 Ensembl identifiers among them kept"},
    ),
    "unsorted categories": (with_labels(lambda y: pd.Categorical(y, categories=["T", "unused", "B"], ordered=True)), same, {}),
    "labels with blanks around them": (with_labels(lambda y: " " + y + " "), same, {}),
    "embeddings of a later AnnData": (
        edited(lambda f: f.create_group("obsm/X_new").attrs.update({"encoding-type": "of tomorrow", "encoding-version": "9"})),
        same,
        {"matrix": "X: raw counts"},
    ),
    "empty cells": (written(with_empty_cells), lambda a: a[~a.obs_names.isin(["c4", "c7"])].copy(), {}),
}


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
    assert (
        report["dropped_cells"] == (2 if case == "empty cells" else 0)
        and sum(report["dropped"].values()) == report["dropped_cells"]
    )


def test_raw_has_the_genes_of_its_own(tmp_path):
    """raw holds more genes than X: all are taken, with the symbols that are noted for the genes of X alone."""
    a = good()
    a.var_names = [f"ENSG{i:011d}" for i in range(GENES)]
    few = anndata.AnnData(
        np.float32(standardised(a.X.toarray()[:, :20])),
        obs=a.obs,
        var=pd.DataFrame({"gene_symbols": [f"GENE{i}A" for i in range(20)]}, index=a.var_names[:20]),
    )
    few.raw = a
    few.write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert (adata.X != a.X).nnz == 0
    assert adata.var_names[19] == "GENE19A" and adata.var_names[20] == "ENSG00000000020"
    assert adata.uns["dataset"]["gene_names"].endswith(
        "20 Ensembl identifiers mapped to symbols by var['gene_symbols']; 10 without a symbol kept"
    )


def test_a_real_file_of_an_old_anndata(raw):
    """The file inside scanpy's wheel, of AnnData 0.6: X is scaled, raw holds ln(1 + counts per 10⁴ of all genes)."""
    scanpy = pytest.importorskip("scanpy")
    path = Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    adata = catalogue.load(path, label="bulk_labels")
    assert adata.uns["dataset"]["matrix"].startswith("raw.X: logarithms of base e (") and adata.uns["dataset"]["values"] == "ln"
    counts = np.expm1(adata.X.toarray().astype(np.float64)) * (adata.obs["n_counts"].to_numpy(np.float64) / 1e4)[:, None]
    assert np.allclose(counts, raw.X.toarray(), rtol=1e-3, atol=0.02) and list(adata.var_names) == list(raw.var_names)
    assert list(adata.obs["cell_type"]) == list(raw.obs["cell_type"])


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


def test_a_bomb_stays_packed(tmp_path, monkeypatch):
    """Refused by its first bytes: nothing unpacks it, nothing is written beside it."""
    bomb(tmp_path / "cells.h5ad.gz")
    for module, name in ((gzip, "open"), (gzip, "decompress"), (zlib, "decompressobj"), (h5py, "File")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(DataError, match="unpacked"):
        catalogue.load(tmp_path / "cells.h5ad.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad.gz"]


def test_a_file_that_cannot_be_read(tmp_path):
    """The system's reason and a remedy."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs Linux: the tests may run as a user who may read every file, but not this one")
    with pytest.raises(DataError, match="/proc/self/mem cannot be opened .*Check that you may read it"):
        catalogue.load("/proc/self/mem")
