"""Preprocessing on real cells: scanpy's numbers, alignment, scales."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from lib.datasets import catalogue
from lib.prepare.preprocess import prepare
from tests.making import FILE, GENES, VOCABULARY, refused, with_x, written


def adata_of(x, genes, labels=None):
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(x))])
    if labels is not None:
        obs["cell_type"] = pd.Categorical(labels)
    return anndata.AnnData(sp.csr_matrix(np.asarray(x, np.float32)), obs=obs, var=pd.DataFrame(index=list(genes)))


def on_scale(raw, log):
    """The same cells as a logarithm of 1 + counts per 10⁴."""
    x = raw.X.toarray().astype(float)
    return adata_of(log(1 + 1e4 * x / x.sum(1, keepdims=True)), raw.var_names, raw.obs["cell_type"].to_numpy())


@pytest.mark.parametrize("target_sum", [1e4, 1e3])
def test_prepare_is_scanpys(raw, target_sum):
    """Counts come out as scanpy's normalize_total, then log1p of base 2."""
    theirs = raw.copy()
    sc.pp.normalize_total(theirs, target_sum=target_sum)
    sc.pp.log1p(theirs, base=2)
    ours = prepare(raw, min_genes=0, target_sum=target_sum)
    np.testing.assert_allclose(ours.X.toarray(), theirs.X.toarray(), rtol=1e-5, atol=1e-6)
    assert sp.isspmatrix_csr(ours.X) and ours.X.dtype == np.float32
    assert list(ours.obs["cell_type"]) == list(raw.obs["cell_type"]) and list(ours.obs_names) == list(raw.obs_names)


def test_library_size_is_the_cells_total(raw):
    """With library_size, counts are divided by that column, not by the sum over the genes that were kept."""
    ours = prepare(raw, min_genes=0, library_size="n_counts").X.toarray()
    expected = np.log2(1 + 1e4 * raw.X.toarray() / raw.obs["n_counts"].to_numpy()[:, None])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_prepare_leaves_its_input(raw):
    """The AnnData passed in is not changed."""
    copy = raw.copy()
    prepare(copy, genes=raw.var_names[::-2], min_genes=50)
    assert (copy.X != raw.X).nnz == 0 and copy.obs.equals(raw.obs) and copy.var_names.equals(raw.var_names)


def test_alignment_order_and_missing_genes(raw):
    """Columns are the vocabulary's, in its order; genes the data lack are zero; the report says which."""
    rng = np.random.default_rng(0)
    known = list(rng.permutation(raw.var_names)[:300])
    vocabulary = [*known[:100], "ABSENT1", *known[100:], "ABSENT2"]
    ours = prepare(raw, genes=vocabulary, min_genes=0)
    assert list(ours.var_names) == vocabulary
    counts = pd.DataFrame(raw.X.toarray(), columns=raw.var_names).reindex(columns=vocabulary, fill_value=0).to_numpy()
    expected = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))  # the total is over the vocabulary
    np.testing.assert_allclose(ours.X.toarray(), expected, rtol=1e-4, atol=1e-5)
    assert not ours[:, ["ABSENT1", "ABSENT2"]].X.nnz
    report = ours.uns["alignment"]
    assert (report["matched"], report["missing"], report["duplicated"]) == (300, ["ABSENT1", "ABSENT2"], [])
    assert report["values"] == "counts" and report["dropped_cells"] == 0


def test_genes_outside_the_vocabulary_may_be_duplicated(raw):
    """A gene name that occurs twice is reported, and harmless where the vocabulary does not hold it."""
    twice = anndata.AnnData(raw.X, obs=raw.obs, var=pd.DataFrame(index=["TWICE", "TWICE", *raw.var_names[2:]]))
    ours = prepare(twice, genes=raw.var_names[10:400], min_genes=0)
    np.testing.assert_array_equal(ours.X.toarray(), prepare(raw, genes=raw.var_names[10:400], min_genes=0).X.toarray())
    assert ours.uns["alignment"]["duplicated"] == ["TWICE"]


def test_cells_are_dropped_after_alignment():
    """A cell rich in genes of which the vocabulary has few is dropped, and counted for its class."""
    x = [[1, 2, 3, 0, 0, 0], [1, 0, 0, 5, 6, 7], [2, 2, 0, 1, 0, 0], [0, 1, 0, 9, 9, 9]]
    adata = adata_of(x, ["A", "B", "C", "X", "Y", "Z"], ["T", "B", "T", "NK"])
    ours = prepare(adata, genes=["C", "B", "A"], min_genes=2)
    assert list(ours.obs_names) == ["cell0", "cell2"]
    assert ours.uns["alignment"]["dropped"] == {"B": 1, "NK": 1} and ours.uns["alignment"]["dropped_cells"] == 2
    assert list(ours.obs["cell_type"].cat.categories) == ["T"]
    assert prepare(adata, min_genes=2).n_obs == 4


def test_default_drops_cells_below_200_genes(raw):
    """By default 200 detected genes are needed; 200 are enough."""
    detected = np.diff(raw.X.indptr)
    kept = prepare(raw)
    assert 0 < kept.n_obs < raw.n_obs
    assert set(kept.obs_names) == set(raw.obs_names[detected >= 200])


@pytest.mark.parametrize("name, log", [("ln", np.log), ("log2", np.log2), ("log10", np.log10)])
def test_logarithms_give_the_same_as_counts(raw, name, log):
    """log(1 + CP10k) of base e, 2 and 10 is recognised from the values and comes out as the counts do."""
    ours, expected = prepare(on_scale(raw, log), min_genes=0), prepare(raw, min_genes=0)
    assert ours.uns["alignment"]["values"] == name
    np.testing.assert_allclose(ours.X.toarray(), expected.X.toarray(), rtol=1e-4, atol=1e-4)
    genes = raw.var_names[::3]  # the total of a log file is renewed over the vocabulary too
    ours, expected = (prepare(a, genes=genes, min_genes=0) for a in (on_scale(raw, log), raw))
    np.testing.assert_allclose(ours.X.toarray(), expected.X.toarray(), rtol=1e-4, atol=1e-4)


def test_prepare_twice_is_prepare_once(raw):
    """Prepared cells, prepared again, are the same: log2 is recognised."""
    once = prepare(raw, min_genes=0)
    twice = prepare(once, min_genes=0)
    np.testing.assert_allclose(twice.X.toarray(), once.X.toarray(), rtol=1e-4, atol=1e-5)


def test_depth_and_order_of_cells_do_not_matter(raw):
    """Doubling the counts of a cell changes nothing; permuting cells or genes permutes the result."""
    expected = prepare(raw, min_genes=0).X.toarray()
    deeper = adata_of(raw.X.toarray() * np.random.default_rng(0).integers(1, 5, (700, 1)), raw.var_names)
    np.testing.assert_allclose(prepare(deeper, min_genes=0).X.toarray(), expected, rtol=1e-5, atol=1e-5)
    cells, genes = np.random.default_rng(1).permutation(700), np.random.default_rng(2).permutation(765)
    permuted = prepare(raw[cells][:, genes].copy(), min_genes=0).X.toarray()
    np.testing.assert_allclose(permuted, expected[cells][:, genes], rtol=1e-5, atol=1e-5)


# How deeply cells were sequenced.


def test_depth_is_over_all_measured_genes(raw):
    """Neither changes with the vocabulary; a total that is given is the total; zeros that are stored are not detected."""
    counts, genes = raw.X.toarray(), list(raw.var_names[::5])
    for given in (None, genes):
        found = prepare(raw, genes=given, min_genes=45)
        kept = raw.obs_names.get_indexer(found.obs_names)
        np.testing.assert_array_equal(found.obs["total_counts"], counts[kept].sum(1))
        np.testing.assert_array_equal(found.obs["detected_genes"], (counts[kept] > 0).sum(1))
    assert 0 < found.n_obs < raw.n_obs
    given = prepare(raw, genes=genes, min_genes=0, library_size="n_counts")
    np.testing.assert_array_equal(given.obs["total_counts"], raw.obs["n_counts"])
    zeros = raw.copy()
    zeros.X.data[::3] = 0
    np.testing.assert_array_equal(prepare(zeros, min_genes=0).obs["detected_genes"], (zeros.X.toarray() > 0).sum(1))


@pytest.mark.parametrize("log", [np.log, np.log2, None], ids=["ln", "log2", "shares"])
def test_the_depth_of_normalised_cells_is_unknown(raw, log):
    """No total, also where a column has its name, and no equal depth; the genes that are detected are."""
    adata = on_scale(raw, log or (lambda x: x - 1))
    adata.obs["total_counts"] = 7.0
    found = prepare(adata, min_genes=0, equal_depth=True)
    np.testing.assert_array_equal(found.obs["detected_genes"], raw.X.count_nonzero(axis=1))
    assert "total_counts" not in found.obs and not found.layers and found.uns["alignment"]["equal_depth"] is None
    assert (adata.obs["total_counts"] == 7).all()


def test_equal_depth_leaves_every_cell_as_many_counts(raw):
    """All totals are that of the poorest cell that is kept; no gene has more than before; the same again; ``X`` stays."""
    needed = int(raw.X[raw.X.sum(1).argmin()].nnz) + 1  # the poorest cell of all is dropped
    plain, found = prepare(raw, min_genes=needed), prepare(raw, min_genes=needed, equal_depth=True)
    before = raw[found.obs_names].X.toarray()
    least = found.uns["alignment"]["equal_depth"]
    assert least == before.sum(1).min() > raw.X.sum(1).min() and (plain.X != found.X).nnz == 0 and not plain.layers
    layer = found.layers["equal_depth"]
    assert sp.isspmatrix_csr(layer) and layer.dtype == np.float32 and layer.nnz < found.X.nnz
    exact = (np.exp2(layer.toarray().astype(np.float64)) - 1) * least / 1e4
    counts = np.round(exact)
    np.testing.assert_allclose(exact, counts, atol=1e-4)
    assert (counts.sum(1) == least).all() and (counts <= before).all()
    poorest = before.sum(1).argmin()
    np.testing.assert_array_equal(counts[poorest], before[poorest])
    genes = [*raw.var_names[:50:-3], "ABSENT"]
    some = prepare(raw[found.obs_names], genes=genes, min_genes=0, equal_depth=True)  # drawn again, before genes are selected
    assert some.uns["alignment"]["equal_depth"] == least
    assert (some.layers["equal_depth"][:, :-1] != found[:, genes[:-1]].layers["equal_depth"]).nnz == 0


@pytest.mark.parametrize("library_size", [None, "n_counts"])
def test_equal_depth_draws_every_count_alike(raw, library_size):
    """Each gene keeps the share that the hypergeometric distribution gives it, whatever its place, with that variance."""
    found = prepare(raw, min_genes=0, library_size=library_size, equal_depth=True)
    least, before = found.uns["alignment"]["equal_depth"], raw.X.toarray().astype(np.float64)
    total = raw.obs[library_size].to_numpy(np.float64) if library_size else before.sum(1)
    assert least == total.min()
    counts = np.round((np.exp2(found.layers["equal_depth"].toarray().astype(np.float64)) - 1) * least / 1e4)
    share = before / total[:, None]
    mean = least * share.sum(0)
    variance = (least * share * (1 - share) * ((total - least) / (total - 1))[:, None]).sum(0)
    common = mean > 50
    z = (counts.sum(0) - mean)[common] / np.sqrt(variance[common])
    assert common.sum() > 100 and abs(z.std() - 1) < 0.2 and abs(z.mean()) < 0.3 and np.abs(z).max() < 5


BAD = {
    # what is wrong: (how the file is made, arguments of through(), words of the message: what, where, what to do)
    "no gene in common": (written(lambda a: a), {"genes": ["CD3E", "LYZ"]}, ["No gene in common", "GENE0A", "CD3E", "symbols"]),
    "vocabulary with a duplicate": (written(lambda a: a), {"genes": [*VOCABULARY, "GENE3A"]}, ["'GENE3A'", "twice"]),
    "no library size": (written(lambda a: a), {"library_size": "n_counts"}, ["'n_counts'", "cell_type, donor"]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(tmp_path, case):
    """DataError, whose message names what is wrong, the file or cell or gene, and the remedy."""
    refused(tmp_path, *BAD[case])


def test_all_zero_genes_change_nothing(tmp_path):
    """They stay, as zeros; the other genes' values are the same."""

    def silenced(x):
        x[:, [5, 6]] = 0
        return x

    with_x(silenced)(tmp_path / FILE)
    found = prepare(catalogue.load(tmp_path / FILE), min_genes=1)
    kept = [i for i in range(GENES) if i not in (5, 6)]
    written(lambda a: a[:, kept].copy())(tmp_path / FILE)
    assert (
        found.X[:, [5, 6]].nnz == 0 and (found[:, kept].X != prepare(catalogue.load(tmp_path / FILE), min_genes=1).X).nnz == 0
    )
