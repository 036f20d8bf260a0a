"""Known counts, written by anndata in any layout, give the tokens of the counts, or are refused: searched by hypothesis."""

import tempfile
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.datasets import catalogue
from lib.datasets.scale import LINEAR
from lib.errors import DataError
from lib.prepare import preprocess, tokens

FAMILIES = "CCL CD KRT HLA-D ZNF IL TNFRSF SLC MT-ND RPL RPS LINC COX NKX2- ORF1".split()
CONTAINERS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: np.asarray(sp.csr_matrix(x).todense())}
SCALES = {"ln": np.log, "log2": np.log2, "log10": np.log10}


@st.composite
def layouts(draw):
    """Counts, and an AnnData that holds them in some way."""
    seed, n_cells, n_genes = draw(st.integers(0, 999)), draw(st.integers(12, 40)), draw(st.integers(60, 150))
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 2, (n_cells, 1)) * draw(st.sampled_from([0.3, 1, 5]))
    x = rng.poisson(depth * rng.lognormal(0, 1.2, n_genes)).astype(np.float64)
    x[:, 0] += 1  # no cell is empty
    names = [f"{FAMILIES[i % len(FAMILIES)]}{i}" for i in range(n_genes)]

    def written(values, dtypes):
        dtype = draw(st.sampled_from(dtypes))
        kind = draw(st.sampled_from(["csr", "csc", "dense"] if dtype != "float16" else ["dense"]))
        with np.errstate(over="ignore"):
            return CONTAINERS[kind](values).astype(dtype)

    def counts():
        return written(x, ["float32", "float64", "int32", "int64", "uint16", "float16"])

    def logarithms():
        scale, target = draw(st.sampled_from([*SCALES])), draw(st.sampled_from([1e3, 1e4, 1e6, float(np.median(x.sum(1)))]))
        return written(SCALES[scale](1 + x * target / x.sum(1, keepdims=True)), ["float32", "float64", "float16"])

    best = draw(st.sampled_from(["counts", "counts", "logarithms"]))
    whole = {"counts": counts, "logarithms": logarithms}[best]
    worse = {
        "scaled": lambda: ((x - x.mean(0)) / (x.std(0) + 1)).astype(np.float32),
        "logarithms": logarithms,
        "fractions": lambda: rng.random(x.shape).astype(np.float32),
        "nothing": lambda: None,
    }
    place = draw(st.sampled_from(["X", "layer", "raw", "raw of fewer in X"]))
    other = worse[draw(st.sampled_from([name for name in worse if best == "counts" or name != "logarithms"]))]
    some = slice(None) if place != "raw of fewer in X" else slice(0, n_genes // 2)
    var, name = _named(draw, names)
    obs = pd.DataFrame({"cell_type": rng.choice(["B", "T"], n_cells)}, index=[f"cell {i}" for i in range(n_cells)])
    held = whole()
    first = held if place == "X" else other()
    adata = anndata.AnnData(None if first is None else first[:, some], obs=obs, var=var.iloc[some])
    if place == "layer":
        adata.layers[draw(st.sampled_from(["counts", "UMIs", "my layer", "spliced"]))] = held
    elif place != "X":
        adata.raw = anndata.AnnData(held, obs=obs, var=var)
    return x, names, adata, f"{held.dtype} {best} in {place}, genes by {name}"


def _named(draw, names):
    """The table of the genes: symbols in its index, in a column of any name, or inside the index."""
    ids = [f"ENSG{i:011d}" for i in range(len(names))]
    way = draw(st.sampled_from(["symbols", "a column", "versions and a column", "both in one", "genome"]))
    column = draw(st.sampled_from(["gene_symbols", "feature_name", "Symbol", "x", "gene-0"]))
    found = {
        "symbols": lambda: pd.DataFrame({"n_cells": 1}, index=names),
        "a column": lambda: pd.DataFrame({"chromosome": "7", column: names}, index=ids),
        "versions and a column": lambda: pd.DataFrame({column: names}, index=[f"{one}.{i % 9}" for i, one in enumerate(ids)]),
        "both in one": lambda: pd.DataFrame(index=[f"{one}_{name}" for one, name in zip(ids, names)]),
        "genome": lambda: pd.DataFrame(index=[f"GRCh38_{name}" for name in names]),
    }
    return found[way](), way


def read(adata, folder):
    """The file of an AnnData, written with or without compression, in HDF5 or zarr, as it is read back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_h5ad(folder / "cells.h5ad", compression="gzip" if adata.n_obs % 2 else None)
        return catalogue.load(folder / "cells.h5ad")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(layouts())
@pytest.mark.slow
def test_any_layout_gives_the_tokens_of_the_counts(layout):
    """Whatever lies beside them; logarithms in half precision alone may be refused."""
    x, names, adata, what = layout
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = read(adata, Path(folder))
        except DataError as refusal:
            assert "float16 logarithms" in what, f"{what}: {refusal}"
            return
    assert set(found.var_names) == set(names), what
    found = found[:, names]
    card = found.uns["dataset"]
    clean = anndata.AnnData(sp.csr_matrix(x.astype(np.float32)), obs=adata.obs, var=pd.DataFrame(index=names))
    exact = np.log2(1 + 1e4 * x / x.sum(1, keepdims=True))
    blurred = 0.02 if "logarithms" in what else 1e-4
    sure = (np.abs(exact - np.round(exact)) > blurred) | (exact == 0)
    wanted = tokens.tokenize(preprocess.prepare(clean, min_genes=1).X)[:, :-1]
    prepared = preprocess.prepare(found.copy(), min_genes=1, scale=card["values"]).X
    assert np.array_equal(tokens.tokenize(prepared)[:, :-1][sure], wanted[sure]), (what, card["matrix"])
    if found.obs["library_size"].notna().all():  # and what it says of the totals agrees
        linear = LINEAR[card["values"]](found.X.toarray().astype(np.float64))
        again = np.log2(1 + 1e4 * linear / found.obs["library_size"].to_numpy()[:, None])
        assert np.array_equal(tokens.tokenize(again)[:, :-1][sure], wanted[sure]), (what, card["library_size_from"])
