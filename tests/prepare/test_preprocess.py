"""Preprocessing on real cells: scanpy's numbers, alignment, scales, tokens, and gene embeddings."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from lib.errors import DataError
from lib.prepare.embeddings import coexpression, gene2vec
from lib.prepare.preprocess import prepare, tokenize


def adata_of(x, genes, labels=None):
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(x))])
    if labels is not None:
        obs["cell_type"] = pd.Categorical(labels)
    return anndata.AnnData(sp.csr_matrix(np.asarray(x, np.float32)), obs=obs, var=pd.DataFrame(index=list(genes)))


def on_scale(raw, log):
    """The same cells as a logarithm of 1 + counts per 10⁴."""
    x = raw.X.toarray().astype(float)
    return adata_of(log(1 + 1e4 * x / x.sum(1, keepdims=True)), raw.var_names, raw.obs["cell_type"].to_numpy())


# prepare


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


# tokenize


def naive_tokens(x):
    rows = [[min(int(np.floor(value)), 5) for value in row] + [0] for row in x]
    return np.array(rows, np.uint8)


def test_tokenize_is_the_naive_loop(cells):
    """On real cells every token is min(floor(x), 5), and a zero closes each cell."""
    some = cells[:60]
    dense = some.X.toarray()
    expected = naive_tokens(dense)
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4, 5}
    for x in (some, some.X, dense, sp.csc_matrix(dense)):
        tokens = tokenize(x)
        assert tokens.dtype == np.uint8 and tokens.shape == (60, 766)
        np.testing.assert_array_equal(tokens, expected)
    assert not tokenize(cells)[:, -1].any()


def test_tokenize_at_the_edges_of_bins():
    """Edges belong to the upper bin, and the highest bin has no upper edge."""
    x = np.array([[0, 0.5, np.nextafter(np.float32(1), np.float32(0)), 1, 1.99, 2, 4.99, 5, 5.5, 13.3]], np.float32)
    np.testing.assert_array_equal(tokenize(x), [[0, 0, 0, 1, 1, 2, 4, 5, 5, 5, 0]])


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_tokenize_refuses(value):
    """Negative, missing and infinite expression is refused."""
    with pytest.raises(DataError, match="finite and not negative"):
        tokenize(np.array([[1.0, value]], np.float32))


# gene embeddings


def cosine(a, b):
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def test_coexpression_is_deterministic_and_of_the_given_cells(cells):
    """The same cells give the same numbers whatever the random state and the cells left out; others do not."""
    tokens = tokenize(cells)
    train = np.arange(0, 700, 2)
    first = coexpression(tokens[train], 32)
    np.random.seed(99)
    state = np.random.get_state()[1].copy()
    spoiled = tokens.copy()
    spoiled[1::2] = 5
    np.testing.assert_array_equal(coexpression(spoiled[train], 32), first)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert not np.allclose(coexpression(tokens[1::2], 32), first, atol=0.05)
    assert first.shape == (765, 32) and first.dtype == np.float32 and np.isfinite(first).all()
    assert first.std() == pytest.approx(0.3, rel=1e-3)


def test_coexpressed_genes_are_near(cells):
    """Gene pairs most correlated in the other half of the cells lie nearer than random pairs; so do known pairs."""
    tokens = tokenize(cells)
    embedding = coexpression(tokens[::2], 32)
    other = cells.X[1::2].toarray()
    common = np.flatnonzero((other > 0).mean(0) > 0.03)
    correlation = np.corrcoef(other[:, common].T)
    i, j = np.triu_indices(len(common), 1)
    near = np.argsort(correlation[i, j])[-200:]
    rest = np.random.default_rng(0).choice(len(i), 2000, replace=False)
    similarity = cosine(embedding[common[i]], embedding[common[j]])
    assert np.median(similarity[near]) > np.median(similarity[rest]) + 0.2
    row = {gene: n for n, gene in enumerate(cells.var_names)}
    for a, b in [("CD79A", "CD79B"), ("GNLY", "NKG7"), ("LYZ", "S100A9"), ("CD3D", "CD3E")]:
        pair = cosine(embedding[[row[a]]], embedding[[row[b]]])[0]
        assert pair > np.quantile(similarity[rest], 0.75), (a, b)


def test_coexpression_wider_than_the_genes():
    """An embedding wider than the number of genes is filled with zeros."""
    tokens = np.random.default_rng(0).integers(0, 3, (40, 9), dtype=np.uint8)
    embedding = coexpression(tokens, 20)
    assert embedding.shape == (8, 20) and np.isfinite(embedding).all() and not embedding[:, 8:].any()


def test_coexpression_without_any_is_refused():
    """Cells in which no two genes are detected together have nothing to embed."""
    with pytest.raises(DataError, match="co-expression"):
        coexpression(np.eye(5, 6, dtype=np.uint8), 4)


def gene2vec_file(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("header", ["", "3 2\n"], ids=["no header", "header"])
@pytest.mark.parametrize("gap", [" ", "\t"], ids=["blank", "tab"])
def test_gene2vec_comes_in_the_order_of_the_vocabulary(tmp_path, header, gap):
    """Rows follow the vocabulary; genes the file lacks are zero and reported; word2vec's header is skipped."""
    lines = "".join(gap.join(line) + "\n" for line in [("B", "3", "4.5"), ("A", "1", "-2e-1"), ("OTHER", "9", "9")])
    embedding, missing = gene2vec(gene2vec_file(tmp_path / "g2v.txt", header + lines), ["A", "NONE", "B"])
    np.testing.assert_array_equal(embedding, np.array([[1, -0.2], [0, 0], [3, 4.5]], np.float32))
    assert missing == ["NONE"] and embedding.dtype == np.float32


def test_gene2vec_passes_over_blank_lines(tmp_path):
    """A blank line, as editors leave at the end of a file, is no gene."""
    embedding, missing = gene2vec(gene2vec_file(tmp_path / "g2v.txt", "A 1 2\n\nB 3 4\n\n"), ["A", "B"])
    np.testing.assert_array_equal(embedding, [[1, 2], [3, 4]])
    assert missing == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("A 1 2\nB 3 x\n", "Line 2 .*g2v.txt.*'B 3 x"),
        ("A 1 2\nB 3\n", "Line 2 .*g2v.txt.*1 numbers.*2"),
        ("A 1 2\nB 3 4 5\n", "Line 2 .*g2v.txt.*3 numbers.*2"),
        ("A 1 2\nB 3 nan\n", "Line 2 .*g2v.txt"),
        ("X 1 2\nY 3 4\n", "none of the 2 genes"),
        ("", "none of the 2 genes"),
        (None, "No gene2vec file.*g2v.txt.*where to get it"),
    ],
    ids=["word", "short", "long", "nan", "other genes", "empty", "missing"],
)
def test_gene2vec_refuses(tmp_path, text, message):
    """A malformed line is refused with its number; so is a file without the genes, and none."""
    path = tmp_path / "g2v.txt" if text is None else gene2vec_file(tmp_path / "g2v.txt", text)
    with pytest.raises(DataError, match=message):
        gene2vec(path, ["A", "B"])
