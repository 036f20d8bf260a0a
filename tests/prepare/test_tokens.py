"""The token store: a sparse array that reads as the dense one, and feeds each cell once."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lib.errors import DataError
from lib.prepare.preprocess import tokenize
from lib.prepare.tokens import TokenStore
from lib.scbert.training import feed, in_batches


@pytest.fixture
def expression():
    x = 8 * sp.random(40, 300, 0.1, "csr", np.float32, random_state=3).toarray()
    x[:, ::7] = np.minimum(x[:, ::7], 0.4)  # a bin of zero, though expressed
    x[5] = 0  # a cell with nothing
    return sp.csr_matrix(x)


def test_reads_as_the_dense_array(expression):
    """Indices, slices, masks, single cells and second indices give what the dense tokens give."""
    dense, store = tokenize(expression), TokenStore.of(expression)
    assert store.shape == dense.shape and len(store) == 40
    mask = np.arange(40) % 3 == 0
    for key in (slice(3, 9), [4, 4, 0], np.array([39, 5]), mask, -1, slice(None), [], (slice(2, 6), slice(None, -1))):
        got = store[key]
        assert got.dtype == np.uint8 and np.array_equal(got, dense[key]), key
    assert np.array_equal(np.asarray(store), dense)
    assert np.array_equal(TokenStore.of(dense)[:], dense)
    assert TokenStore.of(store) is store


def test_take_is_a_store(expression):
    """A selection of cells, also out of order and twice, is a store with their tokens."""
    dense, store = tokenize(expression), TokenStore.of(expression)
    for cells in ([7, 5, 5, 0], np.arange(40) > 30, slice(10, 20)):
        assert np.array_equal(store.take(cells)[:], dense[cells])
    assert len(store.take([])) == 0


def test_memory_mapped_arrays(expression, tmp_path):
    """Arrays on disk serve as well as arrays in memory."""
    store = TokenStore.of(expression)
    arrays = []
    for name in ("indptr", "genes", "bins"):
        np.save(tmp_path / f"{name}.npy", getattr(store, name))
        arrays.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert np.array_equal(TokenStore(*arrays, store.shape[1])[[3, 1]], store[[3, 1]])


def test_feeds_each_cell_once_in_order(expression):
    """Batches in the given order, the last one smaller; the global generator is left alone."""
    store, order = TokenStore.of(expression), np.random.default_rng(0).permutation(40)
    before = torch.get_rng_state()
    batches = list(feed(store, in_batches(order, 12), torch.device("cpu")))
    assert torch.equal(before, torch.get_rng_state())
    assert [len(cells) for cells, _ in batches] == [12, 12, 12, 4]
    assert np.array_equal(torch.cat([cells for cells, _ in batches]), order)
    assert np.array_equal(torch.cat([tokens for _, tokens in batches]), store[order])


def test_refuses_what_it_cannot_hold():
    """More genes than 16 bits number; expression that is negative or missing."""
    with pytest.raises(DataError, match="65,535"):
        TokenStore.of(sp.csr_matrix((2, 2**16)))
    for bad in (-1.0, np.nan):
        with pytest.raises(DataError, match="finite and not negative"):
            TokenStore.of(sp.csr_matrix(np.array([[bad, 1.0]])))


def test_three_bytes_an_entry():
    """The store is some three bytes for each expressed gene."""
    store = TokenStore.of(sp.random(100, 5000, 0.03, "csr", np.float32, random_state=0) * 6 + 0)
    held = store.genes.nbytes + store.bins.nbytes
    assert held == 3 * np.count_nonzero(store[:])
