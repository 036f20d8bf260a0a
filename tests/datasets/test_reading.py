"""Files as users of the field have them: each is read rightly, or refused with the true reason, which has a remedy.

A row stands for a kind of file. It is tried on a file from the folder of cases, where that is there, and on one of its
kind that is made here from other cells.
"""

import gzip
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from lib.datasets import catalogue, opening, reading
from lib.errors import DataError
from lib.prepare import preprocess, tokens

MADE = "made.h5ad"


@pytest.fixture(scope="module")
def real(raw):
    """120 real cells as counts, the totals over all genes in obs, three types."""
    obs = raw.obs.groupby("cell_type", observed=True).head(40).index
    obs = raw.obs.loc[obs, ["cell_type", "n_counts"]]
    obs = obs[obs["cell_type"].isin(["CD19+ B", "CD56+ NK", "Dendritic"])].rename(columns={"n_counts": "total_counts"})
    obs["cell_type"] = obs["cell_type"].astype(str)
    return anndata.AnnData(raw[obs.index].X.copy(), obs=obs, var=pd.DataFrame(index=raw.var_names))


def with_x(real, x, **more):
    return anndata.AnnData(sp.csr_matrix(x).astype(np.float32) if sp.issparse(x) else x, obs=real.obs, var=real.var, **more)


def logs(real, base=np.e, total=1e4, own=True):
    """Logarithms of counts per ``total``, by the sum of the genes that are there or that of all genes."""
    x = real.X.toarray().astype(np.float64)
    x = x * total / (x.sum(1, keepdims=True) if own else real.obs["total_counts"].to_numpy()[:, None])
    return sp.csr_matrix(np.log1p(x) / np.log(base))


def edited(adata, path, change):
    adata.write_h5ad(path, compression="gzip")
    with h5py.File(path, "r+") as file:
        change(file)


def ascii_label(real, path):
    def change(file):
        del file["obs/cell_type"]
        names = [f"T-Zelle φ {name}".encode() for name in real.obs["cell_type"]]
        column = file.create_dataset("obs/cell_type", (len(names),), h5py.string_dtype("ascii"))
        column[:] = names
        column.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})

    edited(real, path, change)


def unencoded(real, path):
    real.raw = real

    def change(file):
        for table in ("var", "raw/var"):
            for name in ("encoding-type", "encoding-version", "column-order"):
                del file[table].attrs[name]

    edited(real, path, change)
    del real.raw


def half(real, path):
    anndata.AnnData(real.X.toarray().astype(np.float16), obs=real.obs, var=real.var).write_h5ad(path)


def not_closed(real, path):
    real.write_h5ad(path)
    with h5py.File(path) as old, h5py.File(path.with_suffix(".new"), "w", libver="latest") as new:
        for name in old:
            old.copy(name, new)
    content = bytearray(path.with_suffix(".new").read_bytes())
    content[11] |= 1  # HDF5's mark of a file that is open for writing
    path.write_bytes(content)


def beside(real, path, names, kind):
    """Other features after the genes, with 10x Genomics' column or without."""
    rng = np.random.default_rng(0)
    x = sp.hstack([real.X, sp.csr_matrix(rng.poisson(30, (real.n_obs, len(names))).astype(np.float32))], format="csr")
    var = pd.DataFrame(index=[*real.var_names, *names])
    if kind:
        var["feature_types"] = ["Gene Expression"] * real.n_vars + [kind] * len(names)
    anndata.AnnData(x, obs=real.obs, var=var).write_h5ad(path)


def fewer_in_x(real, path, x, raw):
    adata = anndata.AnnData(sp.csr_matrix(x[:, :150]).astype(np.float32), obs=real.obs, var=real.var.iloc[:150])
    adata.raw = with_x(real, raw)
    adata.write_h5ad(path)


def renamed(real, path, index=None, **columns):
    var = pd.DataFrame(columns, index=real.var_names if index is None else index)
    anndata.AnnData(real.X, obs=real.obs, var=var).write_h5ad(path)


def ids(real):
    return [f"ENSG{i:011d}.{i % 9 + 1}" for i in range(real.n_vars)]


def symbols_of_two_files(real, path):
    first, second = (real.var_names.to_series().astype(object).to_numpy() for _ in range(2))
    first[::3], second[1::3] = np.nan, np.nan
    renamed(real, path, ids(real), **{"symb-lane1": first, "symb-lane2": second, "chromosome": "1"})


def some_logs(real, path, of=lambda x: np.log1p(np.log1p(x)), x=None):
    x = (real.X if x is None else x).toarray().astype(np.float64)
    x[::12] = of(x[::12])
    with_x(real, sp.csr_matrix(x)).write_h5ad(path)


def log2tpm(real, path):
    x = real.X.toarray() / np.random.default_rng(0).uniform(0.3, 9, real.n_vars)
    with_x(real, sp.csr_matrix(np.log2(1 + x * 1e6 / x.sum(1, keepdims=True)))).write_h5ad(path)


def nearly_whole(real, path):
    x = real.X.copy()
    x.data *= np.random.default_rng(0).uniform(0.988, 1.0, len(x.data)).astype(np.float32)
    with_x(real, x).write_h5ad(path)


def markers(real, path):
    adata = anndata.AnnData(logs(real, own=False)[:, ::13].astype(np.float32), obs=real.obs[["cell_type"]], var=real.var[::13])
    adata.uns["log1p"] = {"base": None}
    adata.write_h5ad(path)


def two_decimals(real, path):
    x = logs(real)
    x.data = np.round(x.data, 2)
    with_x(real, x).write_h5ad(path)


def real_hvg_log(real, path):
    obs = real.obs.rename(columns={"total_counts": "nCount_RNA"})
    anndata.AnnData(logs(real, own=False)[:, ::2].astype(np.float32), obs=obs, var=real.var[::2]).write_h5ad(path)


def unreadable_layer(real, path, name):
    def change(file):
        layer = file.create_group(f"layers/{name}")
        layer.attrs.update({"encoding-type": "of tomorrow", "encoding-version": "9"})

    edited(with_x(real, logs(real)), path, change)


def mudata(real, path):
    real.write_h5ad(path)
    with h5py.File(path) as old, h5py.File(path.with_suffix(".h5mu"), "w") as new:
        new.attrs.update({"encoding-type": "MuData"})
        for name in old:
            if name != "obs":
                old.copy(name, new.require_group("mod/gex"))
        anndata.io.write_elem(new["mod/gex"], "obs", real.obs[["total_counts"]])
        anndata.io.write_elem(new, "mod/atac/obs", real.obs[[]])
        anndata.io.write_elem(new, "obs", real.obs[["cell_type"]])
    return path.with_suffix(".h5mu")


def user_block(real, path):
    real.write_h5ad(path)
    with h5py.File(path) as old, h5py.File(path.with_suffix(".block"), "w", userblock_size=2048) as new:
        new.attrs.update(dict(old.attrs))
        for name in old:
            old.copy(name, new)
    path.with_suffix(".block").replace(path)


def zarr_store(real, path):
    real.write_zarr(path.with_suffix(".zarr"))
    return path.with_suffix(".zarr")


def damaged_chunk(file, name, chunk=0):
    """The place of a chunk in the file, to be damaged."""
    return file[name].id.get_chunk_info(chunk).byte_offset


def r_object(real, path):
    path = path.with_suffix(".rds")
    path.write_bytes(gzip.compress(b"X\n\0\0\0\3\0\4\2\1"))
    return path


def zstd(real, path):
    """A filter that is not there, as a file of hdf5plugin has it: the number of zstd is noted in place of gzip's."""
    real.write_h5ad(path, compression="gzip")
    content = path.read_bytes()
    with h5py.File(path) as file:
        assert file["X/data"].compression == "gzip"
    path.write_bytes(
        content.replace(b"\x01\x00\x08\x00\x01\x00\x01\x00deflate\x00", b"\x0f\x7d\x08\x00\x00\x00\x01\x00deflate\x00")
    )


SAME = ("same",)  # as the clean file
READ = {
    # case: (file of the case, how one of its kind is made, what it equals, words of the report)
    "a sound file": ("00_clean", lambda r, p: r.write_h5ad(p), {"matrix": "X: raw counts"}),
    "text declared ASCII": ("01a_ascii_label", ascii_label, {"matrix": "X: raw counts"}),
    "tables without encoding": ("03_unencoded_var", unencoded, {"matrix": "raw counts"}),
    "half precision": ("05_float16", half, {"matrix": "X: raw counts"}),
    "antibodies": (
        "08a_antibodies",
        lambda r, p: beside(r, p, ["CD3", "CD19", "HLA-DR-x"], "Antibody Capture"),
        {"genes measured": "765; set aside: [0-9]+ antibodies"},
    ),
    "antibodies by name": (
        None,
        lambda r, p: beside(r, p, ["CD3_TotalSeqB", "CD19_TotalSeqB"], None),
        {"genes measured": "2 antibodies"},
    ),
    "spike-ins": (None, lambda r, p: beside(r, p, ["ERCC-00002", "ERCC-00171"], None), {"genes measured": "2 spike-ins"}),
    "peaks": (
        "08b_peaks",
        lambda r, p: beside(r, p, [f"chr2:{i}00-{i}99" for i in range(1, 90)], "Peaks"),
        {"genes measured": "765; set aside: [0-9,]+ peaks"},
    ),
    "peaks by name": (
        None,
        lambda r, p: beside(r, p, [f"chrX-{i}00-{i}99" for i in range(1, 90)], None),
        {"genes measured": "89 peaks"},
    ),
    "variable genes in X, counts in raw": (
        "09_hvg_in_X_raw_counts",
        lambda r, p: fewer_in_x(r, p, r.X, r.X),
        {"matrix": r"raw.X: raw counts \(X has raw counts of [0-9]+ genes only\)"},
    ),
    "variable genes in X, logarithms in raw": (
        "09_hvg_in_log_raw_log",
        lambda r, p: fewer_in_x(r, p, logs(r), logs(r)),
        {"matrix": r"raw.X: logarithms of base e \(X has logarithms of base e of [0-9]+ genes only\)"},
    ),
    "scaled in X, logarithms in raw": (
        None,
        lambda r, p: fewer_in_x(r, p, r.X.toarray() - r.X.mean(), logs(r, 2)),
        {"matrix": r"raw.X: logarithms of base 2 \([0-9]+ values of X are negative\)"},
    ),
    "counts nearly whole": (
        "11_nearly_whole",
        nearly_whole,
        {"matrix": "X: counts stored as floats, off by up to .*%: rounded"},
    ),
    "two decimals": ("34_log_two_decimals", two_decimals, {"matrix": "X: logarithms of base e"}),
    "symbols in columns of joined files": (
        "16a_gene_symbols-0",
        symbols_of_two_files,
        {"gene names": r"76[45] Ensembl identifiers mapped to symbols by var\['"},
    ),
    "identifier and symbol in one": (
        "17a_id_symbol",
        lambda r, p: renamed(r, p, [f"{name}|{one}" for one, name in zip(ids(r), r.var_names)]),
        {"gene names": "765 symbols taken out of names"},
    ),
    "a genome before each name": (
        None,
        lambda r, p: renamed(r, p, "GRCh38_" + r.var_names),
        {"gene names": "taken off 765 names"},
    ),
    "symbols beside versioned identifiers": (None, lambda r, p: renamed(r, p, ids(r), anything=r.var_names.to_numpy()), {}),
    "a layer of tomorrow": (
        "22_layer_of_tomorrow",
        lambda r, p: unreadable_layer(r, p, "umi"),
        {"not read": "has an encoding, 'of tomorrow' of version '9'", "matrix": "X: logarithms"},
    ),
    "a layer's name with a slash": (
        "22_layer_with_slash",
        lambda r, p: edited(with_x(r, logs(r)), p, lambda file: file.create_group("layers/raw/RNA")),
        {"not read": "a layer's name with a slash", "matrix": "X: logarithms"},
    ),
    "counts in a layer of any name": (
        "23_layer_UMIs",
        lambda r, p: with_x(r, r.X.toarray() - 1.5, layers={"molecules per cell": r.X}).write_h5ad(p),
        {"matrix": r"layers\['.*'\]: raw counts \([0-9]+ values of X are negative\)"},
    ),
    "a user block": ("36_user_block", user_block, {"matrix": "X: raw counts"}),
    "MuData": ("37_real.h5mu", mudata, {"matrix": "(rna|gex)/X: raw counts", "not read": "(prot|atac) left out"}),
    "names with R's dots": (
        "39_R_dots",
        lambda r, p: renamed(r, p, r.var_names.str.replace("-", ".")),
        {"gene names": r"[0-9]+ names match with - for \. \(HLA\."},
    ),
    "zarr": ("19a_cells.zarr", zarr_store, {"matrix": "X: raw counts"}),
    "stored by genes": (None, lambda r, p: with_x(r, r.X.tocsc()).write_h5ad(p), {"matrix": "X: raw counts"}),
}


def opened(case, which, cases, real, path):
    """The path of a case's file, or of the one that is made."""
    if which == "made":
        return case[1](real, path) or path
    if case[0] is None:
        pytest.skip("there is no such file among the cases")
    return next(cases.glob(f"{case[0]}*"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", READ)
def test_a_made_file_gives_the_same_cells(case, real, tmp_path):
    """The tokens are those of the clean counts, whatever the file looks like, and the report says what was done."""
    path = opened(READ[case], "made", None, real, tmp_path / MADE)
    adata = catalogue.load(path)
    said(adata, READ[case][2])
    assert adata.X.dtype == np.float32 and sp.isspmatrix_csr(adata.X) and list(adata.obs_names) == list(real.obs_names)
    wanted = real if "log" not in adata.uns["dataset"]["matrix"][:15] else real.copy()
    names = adata.var_names.isin(real.var_names)
    assert names.sum() >= real.n_vars - 3
    found = tokens.tokenize(
        preprocess.prepare(adata[:, names].copy(), list(real.var_names[real.var_names.isin(adata.var_names)]), 1).X
    )
    clean = tokens.tokenize(preprocess.prepare(wanted[:, real.var_names.isin(adata.var_names)].copy(), min_genes=1).X)
    assert np.mean(found != clean) < (
        0.01 if case in ("two decimals", "counts nearly whole") else 1e-9 if names.all() else 1e-2
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", READ)
def test_a_file_of_the_cases_is_read(case, cases):
    """The report says what the table of cases asks for."""
    adata = catalogue.load(opened(READ[case], "case", cases, None, None))
    said(adata, READ[case][2])
    assert adata.n_vars in (765, 3217, 100) and "cell_type" in adata.obs


def said(adata, words):
    card = adata.uns["dataset"]
    report = card["report"]
    for title, pattern in words.items():
        assert pd.Series([report.get(title, "")]).str.contains(pattern, regex=True).all(), report
    assert report["library size from"] == card["library_size_from"] and isinstance(card["selection"], bool)
    assert reading.text(card).splitlines()[0] == f"matrix: {report['matrix']}"
