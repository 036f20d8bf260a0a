"""Files as users of the field have them: each is read rightly, or refused with the true reason, which has a remedy.

A row stands for a kind of file. It is tried on a file from the folder of cases, where that is there, and on one of its
kind that is made here from other cells.
"""

import gzip
import pickle
import subprocess
import sys
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from lib.datasets import catalogue, causes, held, reading
from lib.errors import DataError
from lib.prepare import preprocess, tokens
from lib.settings import ROOT

MADE = "made.h5ad"


@pytest.fixture(scope="module")
def real(raw):
    """101 real cells as counts, the totals over all genes in obs, three types."""
    obs = raw.obs.groupby("cell_type", observed=True).head(35).index
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
    real.write_h5ad(path.with_suffix(".whole"))
    code = """
import h5py, os, sys
old, new = h5py.File(sys.argv[1]), h5py.File(sys.argv[2], "w", libver="latest")
for name in old:
    old.copy(name, new)
new.flush()
os._exit(0)  # as a process that is killed
"""
    subprocess.run([sys.executable, "-c", code, path.with_suffix(".whole"), path], check=True)


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
        made = case[1](real, path)
        return path if made is None or isinstance(made, int) else made
    if case[0] is None:
        pytest.skip("there is no such file among the cases")
    return next(cases.glob(f"{case[0]}*"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", READ)
@pytest.mark.slow
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


def beside_only(real, path):
    names = [f"chr1:{i}000-{i}500" for i in range(1, 200)]
    x = np.random.default_rng(0).poisson(1, (real.n_obs, len(names))).astype(np.float32)
    anndata.AnnData(x, obs=real.obs, var=pd.DataFrame(index=names)).write_h5ad(path)


def flipped(real, path, name="X/data", change=None):
    """A file with a damaged chunk."""
    (change or real).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        place = damaged_chunk(file, name)
    content = bytearray(path.read_bytes())
    content[place + 20 : place + 24] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


REFUSED = {
    # case: (file of the case, how one of its kind is made, words of what, of the remedy)
    "a filter that is missing": ("06_zstd", zstd, ["compressed with zstd"], ["pip install hdf5plugin"]),
    "not closed": ("07_not_closed", not_closed, ["was not closed"], ["h5clear -s"]),
    "peaks alone": (
        None,
        beside_only,
        ["no genes", "199 features are genomic intervals", "chr1:1000-1500"],
        ["gene expression"],
    ),
    "some cells are logarithms of logarithms": (
        "28_some_cells",
        some_logs,
        ["different scales", "cells hold fractions", "16 of 250|9 of 101"],
        ["Bring all cells to one scale"],
    ),
    "some cells of logarithms are taken twice": (
        None,
        lambda r, p: some_logs(r, p, np.log1p, logs(r, own=False)),
        ["different scales", "9 of 101 cells fit no scale"],
        ["Bring all cells"],
    ),
    "some whole cells of logarithms are taken twice": (
        None,
        lambda r, p: some_logs(r, p, np.log1p, logs(r)),
        ["different scales", "9 of 101 cells have another sum than the others, 10,000"],
        ["Bring all cells"],
    ),
    "an R object": ("19b_seurat.rds", r_object, ["R object (.rds)"], ["anndataR", "write_h5ad"]),
    "a damaged chunk": (None, flipped, ["X of", "damaged in data: the chunk of entries 0 to", "cells 1 to"], ["Copy it again"]),
    "damaged names of genes": (
        None,
        lambda r, p: flipped(r, p, "var/index"),
        ["The names var['index'] of", "damaged"],
        ["Copy it again"],
    ),
    "FPKM": (
        None,
        lambda r, p: with_x(
            r, np.log2(1 + r.X.toarray() * np.random.default_rng(0).uniform(0.1, 9, (r.n_obs, r.n_vars)))
        ).write_h5ad(p),
        ["neither counts nor log counts", "FPKM"],
        ["TPM are taken"],
    ),
    "a Git LFS pointer": (
        None,
        lambda r, p: p.write_text("version https://git-lfs.github.com/spec/v1\noid"),
        ["Git LFS"],
        ["git lfs pull"],
    ),
    "a web page": (None, lambda r, p: p.write_text("<!DOCTYPE html><html>"), ["a web page"], ["Download it again"]),
    "zeros": (None, lambda r, p: p.write_bytes(bytes(9999)), ["with zeros", "in part"], ["Copy it again"]),
    "a zip": (None, lambda r, p: p.write_bytes(b"PK\x03\x04..."), ["a zip archive"], ["Unpack it"]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["made", "case"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_tells_the_cause(case, which, real, tmp_path, request):
    """What is wrong, with the file's name, and a remedy; never damage, nor the label, where something else happened."""
    folder = request.getfixturevalue("cases") if which == "case" else None
    path = opened(REFUSED[case], which, folder, real, tmp_path / MADE)
    with pytest.raises(DataError) as refusal:
        catalogue.load(path)
    error = refusal.value
    for word in REFUSED[case][2]:
        assert any(one in error.what for one in word.split("|")), error.what
    assert all(word in error.remedy for word in REFUSED[case][3]) and str(error) == f"{error.what} {error.remedy}"
    assert str(path) in error.what and str(path) in error.where and "label" not in str(error)
    assert ("damaged" in error.what) == ("damaged" in case) and "truncated" not in error.what


def test_totals_are_taken_from_where_they_are(real, tmp_path, cases):
    """A panel, variable genes and markers keep all their cells; the totals are those over all genes."""
    wanted = {
        "12_panel": (250, 960, "total_counts", True),
        "30_hvg1000": (64, 3373, "all 3,373 genes", False),
        "35_log_markers": (300, 57, "the logarithms' own total, 10,000", True),
        "38_real": (280, 2000, "obs['total_UMIs']", True),
        "10a": (160, 765, "1,000,000", False),
        "32": (150, 765, "unknown", True),
    }
    for name, (cells, genes, words, selection) in wanted.items():
        adata = catalogue.load(next(cases.glob(f"{name}*")))
        card = adata.uns["dataset"]
        assert adata.shape == (cells, genes) and words in card["library_size_from"] and card["selection"] is selection, card
    assert "only 0 and 1" in catalogue.load(cases / "32_binary.h5ad").uns["dataset"]["matrix"]
    assert "TPM" in catalogue.load(cases / "10a_log2tpm.h5ad").uns["dataset"]["matrix"]


TOTALS = {
    # of some genes, how they are written: (from where the totals are, what every cell's is)
    "counts, totals in obs": (lambda r: r, "nCount_RNA", "obs['nCount_RNA']", None),
    "counts, totals nowhere": (lambda r: r, None, "unknown", None),
    "logarithms, totals in obs": (lambda r: with_x(r, logs(r, own=False)), "total_UMIs", "obs['total_UMIs']", 1e4),
    "logarithms of CPM, totals in obs": (lambda r: with_x(r, logs(r, 2, 1e6, own=False)), "n_counts", "obs['n_counts']", 1e6),
    "logarithms, totals nowhere": (lambda r: with_x(r, logs(r, own=False)), None, "the logarithms' own total, 10,000", 1e4),
    "logarithms of a median, totals nowhere": (
        lambda r: with_x(r, logs(r, total=2543, own=False)),
        None,
        "the logarithms' own total, 2,543",
        2543,
    ),
}


@pytest.mark.parametrize("case", TOTALS)
def test_totals_of_a_selection(case, real, tmp_path):
    """Of 382 genes of a file: the cells' totals over all of them are found, to a thousandth, or are said to be unknown."""
    make, column, words, total = TOTALS[case]
    made = make(real)[:, ::2].copy()
    made.obs = real.obs.drop(columns="total_counts").assign(**({column: real.obs["total_counts"]} if column else {}))
    made.write_h5ad(tmp_path / MADE)
    adata = catalogue.load(tmp_path / MADE)
    card = adata.uns["dataset"]
    assert words in card["library_size_from"] and card["selection"] is True
    if words == "unknown":
        assert adata.obs["library_size"].isna().all()
    else:
        assert np.allclose(adata.obs["library_size"], total or real.obs["total_counts"], rtol=1e-3)


def test_counts_of_some_genes_beside_logarithms_of_all(real, tmp_path):
    """The usual file of a tutorial: X scaled, a layer with counts of variable genes, raw with logarithms of all."""
    made = anndata.AnnData(
        real.X[:, :150].toarray() - 1, obs=real.obs[["cell_type"]], var=real.var[:150], layers={"counts": real.X[:, :150]}
    )
    made.raw = with_x(real, logs(real))
    made.write_h5ad(tmp_path / MADE)
    adata = catalogue.load(tmp_path / MADE)
    assert adata.uns["dataset"]["matrix"].startswith("layers['counts']: raw counts (")
    assert "raw.X, which has more genes" in adata.uns["dataset"]["library_size_from"]
    whole = np.asarray(real.X.sum(1)).ravel()
    assert np.median(np.abs(adata.obs["library_size"] / whole - 1)) < 1e-3


def test_what_lies_beside_a_damaged_part_is_read(real, tmp_path):
    """A damaged column or layer is named and the rest is taken; where X is damaged, the counts of raw are."""
    more = real.copy()
    more.obs["quality"] = np.arange(real.n_obs) / 7
    flipped(more, tmp_path / MADE, "obs/quality")
    adata = catalogue.load(tmp_path / MADE)
    assert "damaged: the chunk of entries 0 to 100" in adata.uns["dataset"]["unreadable"]["obs['quality']"]
    assert "quality" not in adata.obs and (adata.X != real.X).nnz == 0
    more = real.copy()
    more.raw = real
    flipped(more, tmp_path / MADE, "X/indices")
    adata = catalogue.load(tmp_path / MADE)
    assert adata.uns["dataset"]["matrix"].startswith("raw.X") and (adata.X != real.X).nnz == 0
    assert "damaged in indices" in adata.uns["dataset"]["report"]["not read"]


def test_a_file_open_elsewhere_is_not_called_damaged(real, tmp_path):
    """HDF5's lock, held by another process."""
    real.write_h5ad(tmp_path / MADE)
    code = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / MADE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        with pytest.raises(DataError, match="is open for writing in another program.*Close it there"):
            catalogue.load(tmp_path / MADE)
    finally:
        process.communicate()
    assert catalogue.load(tmp_path / MADE).n_obs == real.n_obs


def test_too_little_memory_is_said(real, tmp_path, monkeypatch):
    """With what is needed and what is free; also where it runs out on the way."""
    real.write_h5ad(tmp_path / MADE)
    with monkeypatch.context() as patch:
        patch.setattr(causes.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**10))
        with pytest.raises(DataError, match=r"needs about 0\.\d MB of memory, and 0\.0 MB are free.*larger machine"):
            catalogue.load(tmp_path / MADE)

    def full(*_, **__):
        raise MemoryError("Unable to allocate 9.3 GiB")

    monkeypatch.setattr(sp, "csr_matrix", full)
    with pytest.raises(DataError, match="larger than the memory .*9.3 GiB"):
        catalogue.load(tmp_path / MADE)


def test_an_address_is_no_path():
    with pytest.raises(DataError, match="https://there.org/a.h5ad is an address, not a path. Download"):
        catalogue.load("https://there.org/a.h5ad")


def ten_x_folder(real, folder, version):
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", real.X.T.astype(int))
    types = pd.Series("Gene Expression", index=real.var_names)
    table = pd.DataFrame({"id": ids(real), "name": real.var_names, "type": types.to_numpy()})
    (folder / "barcodes.tsv").write_text("\n".join(real.obs_names) + "\n")
    if version == 2:
        table = table[["id", "name"]]
    table.to_csv(folder / ("genes.tsv" if version == 2 else "features.tsv"), sep="\t", header=False, index=False)
    if version != 2.5:  # 2.5: as STARsolo writes
        for path in list(folder.iterdir()) if version == 3 else []:
            path.with_name(f"GSM1_{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()


def ten_x_h5(real, path, version):
    x = real.X.tocsr().astype(np.int32)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["data"], group["indices"], group["indptr"], group["shape"] = x.data, x.indices, x.indptr, x.shape[::-1]
        group["barcodes"] = real.obs_names.to_numpy("S")
        if version == 3:
            group["features/id"], group["features/name"] = np.array(ids(real), "S"), real.var_names.to_numpy("S")
            group["features/feature_type"] = np.array([b"Gene Expression"] * real.n_vars)
            group["features/genome"] = np.array([b"GRCh38"] * real.n_vars)
        else:
            group["genes"], group["gene_names"] = np.array(ids(real), "S"), real.var_names.to_numpy("S")


def loom(real, path):
    with h5py.File(path, "w") as file:
        file["matrix"] = real.X.toarray().T
        file["row_attrs/Gene"], file["row_attrs/Accession"] = real.var_names.to_numpy("S"), np.array(ids(real), "S")
        file["col_attrs/CellID"] = real.obs_names.to_numpy("S")
        file.create_group("layers")


def table(real, path, turned=False, **how):
    frame = pd.DataFrame(real.X.toarray().astype(int), index=real.obs_names, columns=real.var_names)
    (frame.T if turned else frame).to_csv(path, **how)


FORMATS = {
    "10x folder of version 2": ("folder", lambda r, p: ten_x_folder(r, p, 2)),
    "10x folder of STARsolo": ("folder", lambda r, p: ten_x_folder(r, p, 2.5)),
    "10x folder of version 3, with a prefix": ("folder", lambda r, p: ten_x_folder(r, p, 3)),
    "10x .h5 of version 2": ("filtered.h5", lambda r, p: ten_x_h5(r, p, 2)),
    "10x .h5 of version 3": ("filtered.h5", lambda r, p: ten_x_h5(r, p, 3)),
    "loom": ("cells.loom", loom),
    "CSV": ("cells.csv", table),
    "CSV of genes × cells, gzipped": ("cells.csv.gz", lambda r, p: table(r, p, turned=True)),
    "TSV": ("cells.tsv", lambda r, p: table(r, p, sep="\t")),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_formats_with_labels_of_a_table(format, real, tmp_path):
    """Matrices without labels, and labels in a table that lacks some cells and knows others: what is joined is counted."""
    name, make = FORMATS[format]
    make(real, tmp_path / name)
    labels = real.obs[["cell_type"]].iloc[5:].rename_axis("barcode")
    labels = pd.concat([labels, labels.iloc[:3].set_axis(["x-1", "y-1", "z-1"])]).sample(frac=1, random_state=0)
    labels.to_csv(tmp_path / "labels.csv")
    adata = catalogue.load(tmp_path / name, labels=tmp_path / "labels.csv")
    assert list(adata.obs_names) == list(real.obs_names[5:])
    assert list(adata.obs["cell_type"]) == list(real.obs["cell_type"][5:])
    report = adata.uns["dataset"]["report"]["labels from"]
    assert "96 of 101 cells are in it, 5 are not and were left out; 3 of its lines name no cell" in report
    order = [list(real.var_names).index(gene) for gene in adata.var_names]
    assert sorted(order) == list(range(real.n_vars)) and (real.X[5:][:, order] != adata.X).nnz == 0


def test_tables_of_labels_that_cannot_be_joined(real, tmp_path):
    real.obs[["total_counts"]].to_csv(tmp_path / "a.csv")
    real.write_h5ad(tmp_path / MADE)
    for name, text, words in (
        ("none", None, "There is no table of labels"),
        ("others", "cell,type\nx,B\ny,T\n", "No column of .* names cells of .*obs_names"),
        ("one", f"cell\n{real.obs_names[0]}\n", "one column only"),
        ("many", f"cell,a,b\n{real.obs_names[0]},1,2\n", "no label column 'cell_type'. Its columns: a, b"),
        ("twice", f"cell,type\n{real.obs_names[0]},B\n{real.obs_names[0]},T\n", "more than once"),
    ):
        if text:
            (tmp_path / f"{name}.csv").write_text(text)
        with pytest.raises(DataError, match=words):
            catalogue.load(tmp_path / MADE, labels=tmp_path / f"{name}.csv")


@pytest.mark.parametrize("place", ["X", "raw"])
def test_a_large_file_is_looked_at_in_parts(place, real, tmp_path, monkeypatch):
    """Matrices are judged by some of their cells; only the one that is taken is read whole, and is then looked at whole."""
    made = with_x(real, logs(real)) if place == "raw" else real.copy()
    made.raw = real
    made.write_h5ad(tmp_path / MADE)
    asked, really = [], held.read

    def noted(matrix, where, rows=None):
        asked.append((where.split(" of ")[0], rows))
        return really(matrix, where, rows)

    monkeypatch.setattr(held.sample, "__defaults__", (2000, 4))
    monkeypatch.setattr(held, "read", noted)
    adata = catalogue.load(tmp_path / MADE)
    assert (adata.X != real.X).nnz == 0 and adata.uns["dataset"]["matrix"].startswith("raw.X" if place == "raw" else "X")
    assert [name for name, rows in asked if rows is None] == ["raw.X" if place == "raw" else "X"]
    assert sum(rows is not None for _, rows in asked) == 8


def test_a_wrong_value_among_cells_that_were_not_looked_at(real, tmp_path, monkeypatch):
    """It is found when the matrix is read whole, and another is taken."""
    x = real.X.toarray()
    x[50, 5] = -7
    made = anndata.AnnData(x, obs=real.obs, var=real.var, layers={"umis": real.X})
    made.write_h5ad(tmp_path / MADE)
    monkeypatch.setattr(held.sample, "__defaults__", (3000, 4))
    card = catalogue.load(tmp_path / MADE).uns["dataset"]
    assert card["matrix"] == "layers['umis']: raw counts (1 values of X are negative)"


def test_refusals_have_fields_and_travel():
    """A refusal of a worker arrives whole in the process that asked."""
    error = pickle.loads(pickle.dumps(DataError("cells.h5ad is empty.", "Copy it again.", "cells.h5ad")))
    assert (str(error), error.what) == ("cells.h5ad is empty. Copy it again.", "cells.h5ad is empty.")
    assert (error.remedy, error.where) == ("Copy it again.", "cells.h5ad") and isinstance(error, ValueError)


@pytest.mark.slow
def test_the_shell_shows_what_was_understood(real, tmp_path):
    """The same words as in the notebook, before anything is run."""
    real.write_h5ad(tmp_path / MADE)
    done = subprocess.run([sys.executable, "-m", "lib.datasets", tmp_path / MADE], cwd=ROOT, text=True, capture_output=True)
    report = reading.text(catalogue.load(tmp_path / MADE).uns["dataset"])
    assert done.stdout == f"{tmp_path / MADE}: 101 cells × 765 genes\n{report}\n" and done.returncode == 0
    assert "columns that could be labels: cell_type (" in report
    done = subprocess.run([sys.executable, "-m", "lib.datasets", "--help"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0 and "NAME|FILE" in done.stdout
    done = subprocess.run([sys.executable, "-m", "lib.datasets", ROOT / "README.md"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1 and "is not an .h5ad file" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["lib.datasets", "lib.predict", "lib.runs"])
def test_programs_before_the_installation(program):
    """A Python without the packages: a sentence with the command that serves, and no traceback."""
    bare = [sys.executable, "-S", "-m", program, "my cells.h5ad"]
    done = subprocess.run(bare, cwd=ROOT, text=True, capture_output=True, env={"PATH": ""})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "./run_all.sh once" in done.stderr and f".venv/bin/python -S -m {program} 'my cells.h5ad'" in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_gives_a_right_answer_or_the_reason(real, tmp_path):
    """300 places with other bytes and 30 lengths: cells as in the sound file, or a refusal that names a part or the length."""
    rng = np.random.default_rng(0)
    real.write_h5ad(tmp_path / MADE, compression="gzip")
    sound = (tmp_path / MADE).read_bytes()
    tries = [(f"cut to {size}", sound[:size]) for size in np.linspace(0, len(sound) - 1, 30).astype(int)]
    for place in rng.integers(0, len(sound), 300):
        content = bytearray(sound)
        for i in range(place, min(place + 4, len(sound))):
            content[i] ^= int(rng.integers(1, 256))
        tries.append((f"other bytes at {place}", bytes(content)))
    taken = 0
    for what, content in tries:
        (tmp_path / MADE).write_bytes(content)
        try:
            adata = catalogue.load(tmp_path / MADE)
        except DataError as refusal:
            assert MADE in refusal.what and refusal.remedy, what
            assert "cut" not in what or "truncated" in str(refusal) or "empty" in str(refusal) or "damaged" in str(refusal), (
                what
            )
            continue
        taken += 1
        assert "cut" not in what and (adata.X != real.X).nnz == 0, what
        assert np.mean(adata.var_names != real.var_names) < 0.01 and np.mean(adata.obs_names != real.obs_names) < 0.01, what
    assert taken > 20
