"""scBERT's tokens: the naive loop's, sparse and dense, and fed each cell once."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lib.errors import DataError
from lib.prepare.tokens import sparse_tokens, tokenize
from lib.scbert.training import feed, in_batches


@pytest.fixture
def expression():
    x = 8 * sp.random(40, 300, 0.1, "csr", np.float32, random_state=3).toarray()
    x[:, ::7] = np.minimum(x[:, ::7], 0.4)  # a bin of zero, though expressed
    x[5] = 0  # a cell with nothing
    return sp.csr_matrix(x)


def naive_tokens(x):
    rows = [[min(int(np.floor(value)), 5) for value in row] + [0] for row in x]
    return np.array(rows, np.uint8)


def test_tokens_are_the_naive_loops(cells):
    """On real cells every token is min(floor(x), 5), and a zero closes each cell."""
    some = cells[:60]
    dense = some.X.toarray()
    expected = naive_tokens(dense)
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4, 5}
    for x in (some, some.X, dense, sp.csc_matrix(dense)):
        tokens = tokenize(x)
        assert tokens.dtype == np.uint8 and tokens.shape == (60, 766)
        np.testing.assert_array_equal(tokens, expected)
        np.testing.assert_array_equal(sparse_tokens(x).toarray(), expected)
    assert not tokenize(cells)[:, -1].any()


def test_tokens_at_the_edges_of_bins():
    """Edges belong to the upper bin, and the highest bin has no upper edge."""
    x = np.array([[0, 0.5, np.nextafter(np.float32(1), np.float32(0)), 1, 1.99, 2, 4.99, 5, 5.5, 13.3]], np.float32)
    np.testing.assert_array_equal(tokenize(x), [[0, 0, 0, 1, 1, 2, 4, 5, 5, 5, 0]])


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
@pytest.mark.parametrize("function", [tokenize, sparse_tokens])
def test_refuses(value, function):
    """Negative, missing and infinite expression is refused, dense or sparse."""
    for x in (np.array([[1.0, value]], np.float32), sp.csr_matrix(np.array([[value, 1.0]]))):
        with pytest.raises(DataError, match="finite and not negative"):
            function(x)


def test_only_what_is_not_zero_is_held(expression):
    """CSR of uint8 without stored zeros; the expression it was made of is left as it was."""
    before = expression.copy()
    tokens = sparse_tokens(expression)
    assert sp.isspmatrix_csr(tokens) and tokens.dtype == np.uint8 and tokens.shape == (40, 301)
    assert tokens.nnz == np.count_nonzero(tokenize(expression)) < expression.nnz and tokens.data.all()
    assert (expression != before).nnz == 0 and expression.nnz == before.nnz


def test_feeds_each_cell_once_in_order(expression):
    """Batches in the given order, the last one smaller, dense; the global generator is left alone."""
    tokens, order = sparse_tokens(expression), np.random.default_rng(0).permutation(40)
    before = torch.get_rng_state()
    batches = list(feed(tokens, in_batches(order, 12), torch.device("cpu")))
    assert torch.equal(before, torch.get_rng_state())
    assert [len(cells) for cells, _ in batches] == [12, 12, 12, 4]
    assert np.array_equal(torch.cat([cells for cells, _ in batches]), order)
    assert np.array_equal(torch.cat([shown for _, shown in batches]), tokenize(expression)[order])
