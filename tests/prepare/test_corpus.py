"""Pre-training corpora: the tokens of prepared cells, on the disk."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import h5ad
from lib.errors import DataError
from lib.prepare import corpus, preprocess, tokenize
from tests.making import asked_in_blocks, counts, log2_normalised

GENES = [f"GENE{i}" for i in range(300)]


def mapped(array):
    """Whether an array's memory is a file's."""
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def test_the_corpus_holds_the_tokens_of_prepared_cells(place):
    """Counts in an .h5ad, in any order of genes: the memory-mapped tokens are those of prepare and tokenize."""
    x = counts(5000, 300, seed=2)  # more than one block
    path = place[0] / "panglao_human.h5ad"
    adata = anndata.AnnData(x, var=pd.DataFrame(index=GENES), obs=pd.DataFrame(index=np.arange(5000).astype(str)))
    adata.write_h5ad(path)
    genes = (*GENES[250:10:-1], "ABSENT")
    store = corpus.tokens(path, genes, min_genes=100)
    expected = tokenize(preprocess.prepare(adata, genes, min_genes=100))
    assert 0 < len(expected) < 5000 and np.array_equal(store.toarray(), expected)
    assert mapped(store.indices) and mapped(store.data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_write", lambda *_: pytest.fail("written again"))
        assert (corpus.tokens(path, genes, min_genes=100) != store).nnz == 0
    turned = corpus.tokens(path, genes[::-1], min_genes=100)  # of other genes, or cells, it is another
    assert np.array_equal(turned.toarray()[:, :-1], expected[:, -2::-1])
    assert corpus.tokens(path, genes, min_genes=1).shape[0] > len(expected)
    assert not list((place[0].parent / "corpus").glob("*.partial"))


def test_a_corpus_on_scberts_scale_stays_as_it_is(place):
    x = log2_normalised(counts(200, 300, seed=3))
    path = place[0] / "mine.h5ad"
    anndata.AnnData(x, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    store = corpus.tokens(path, GENES, min_genes=1)
    assert np.array_equal(store[:, :-1].toarray(), np.minimum(np.floor(x.toarray()), 5))


@pytest.mark.parametrize("name", corpus.FILES)
def test_a_damaged_corpus_is_written_again(place, name, capsys):
    """Whichever of its files has one bit changed, is cut short or gone."""
    path = place[0] / "mine.h5ad"
    anndata.AnnData(counts(100, 300), var=pd.DataFrame(index=GENES)).write_h5ad(path)
    whole = corpus.tokens(path, GENES, min_genes=1).toarray()
    [kept] = (place[0].parent / "corpus").glob(f"*/{name}")
    content = kept.read_bytes()
    for damaged in (content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], content[:-4], None):
        kept.unlink() if damaged is None else kept.write_bytes(damaged)
        assert np.array_equal(corpus.tokens(path, GENES, min_genes=1).toarray(), whole)
        assert "is damaged: it is written again" in capsys.readouterr().err


def test_a_corpus_that_cannot_be_used_is_refused_and_leaves_nothing(place):
    path = place[0] / "mine.h5ad"
    anndata.AnnData(sp.csc_matrix(counts()), var=pd.DataFrame(index=GENES)).write_h5ad(path)
    with pytest.raises(DataError, match="Store it by cells"):
        corpus.tokens(path, GENES, min_genes=1)
    mixed = sp.vstack([counts(4096), log2_normalised(counts(100))]).tocsr()
    anndata.AnnData(mixed, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    with pytest.raises(DataError, match="mixed scales"):
        corpus.tokens(path, GENES, min_genes=1)
    anndata.AnnData(counts(20), var=pd.DataFrame(index=GENES)).write_h5ad(place[0] / "few.h5ad")
    with pytest.raises(DataError, match="no corpus"):
        corpus.tokens(place[0] / "few.h5ad", GENES, 299)
    assert not [made for made in (place[0].parent / "corpus").iterdir() if made.is_dir()]


def test_a_block_without_a_cell_to_keep_is_passed_over(place, monkeypatch):
    """Cells rich in genes of which the vocabulary has few, alone in their block, are left out like others."""
    monkeypatch.setattr(h5ad, "BLOCK", 50)
    x = counts(150, 300, seed=4).tolil()
    x[50:100, :200] = 0  # what is left of them lies outside the vocabulary
    path = place[0] / "mine.h5ad"
    adata = anndata.AnnData(x.tocsr(), var=pd.DataFrame(index=GENES))
    adata.write_h5ad(path)
    genes = tuple(GENES[:200])
    store = corpus.tokens(path, genes, min_genes=20)
    assert np.array_equal(store.toarray(), tokenize(preprocess.prepare(adata, genes, min_genes=20))) and store.shape[0] == 100


def test_no_more_than_a_block_is_read_at_once(place, monkeypatch):
    """Whatever the size: the matrix is asked for in blocks of cells, and nothing makes it dense."""
    for name, x in (("sparse", counts(100, 300)), ("dense", counts(100, 300).toarray())):
        anndata.AnnData(x, var=pd.DataFrame(index=GENES)).write_h5ad(place[0] / f"{name}.h5ad")
    asked = asked_in_blocks(monkeypatch, 32)
    for name in ("sparse", "dense"):
        corpus.tokens(place[0] / f"{name}.h5ad", GENES, min_genes=1)
    assert asked == [(0, 32), (32, 64), (64, 96), (96, 128)] * 2
