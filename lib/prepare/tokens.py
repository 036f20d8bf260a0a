"""Tokens of many cells, held sparse: the bins of the expressed genes, three bytes each; batches are assembled dense.

Zheng68K's 68,450 × 16,907 tokens are 1.2 GB as bytes and 110 MB so. The arrays may be memory-mapped files.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lib.errors import DataError

BINS = 5  # highest expression bin; tokens are 0 … BINS, and MASK
MASK = BINS + 1


class TokenStore:
    """Tokens (cells, genes + 1), indexed by cells like an array of uint8.

    Parameters
    ----------
    indptr : int64 array, (cells + 1,)
        Where each cell's entries begin and end.
    genes : uint16 array
        Places of the tokens that are not zero, cell by cell.
    bins : uint8 array
        Those tokens.
    width : int
        Genes and the closing token.
    """

    def __init__(self, indptr, genes, bins, width):
        self.indptr, self.genes, self.bins = indptr, genes, bins
        self.shape = len(indptr) - 1, width

    @classmethod
    def of(cls, tokens):
        """From a store (itself), a token array (cells, genes + 1), or prepared expression (CSR, cells × genes)."""
        if isinstance(tokens, cls):
            return tokens
        if sp.issparse(tokens):
            x, width = sp.csr_matrix(tokens), tokens.shape[1] + 1
            if not np.isfinite(x.data).all() or (x.data < 0).any():
                raise DataError("Expression to tokenise must be finite and not negative: log2(1 + counts per 10⁴).")
            bins = np.minimum(x.data, BINS).astype(np.uint8)  # towards zero, which is down
        else:
            x, width = sp.csr_matrix(np.asarray(tokens)), tokens.shape[1]
            bins = x.data.astype(np.uint8)
        if width > 2**16:
            raise DataError(f"{width - 1} genes are more than the 65,535 that a token store can number.")
        keep = bins > 0
        indptr = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])[x.indptr]
        return cls(indptr, x.indices[keep].astype(np.uint16), bins[keep], width)

    def __len__(self):
        return self.shape[0]

    def take(self, cells):
        """Some cells, in this order, as a store."""
        cells = np.arange(len(self))[cells]
        entries, indptr = self._entries(cells)
        return TokenStore(indptr, self.genes[entries], self.bins[entries], self.shape[1])

    def _entries(self, cells):
        """Indices of the entries of these cells, and where each cell's begin."""
        start = self.indptr[cells]
        indptr = np.concatenate([[0], np.cumsum(self.indptr[cells + 1] - start)])
        return np.arange(indptr[-1]) + np.repeat(start - indptr[:-1], np.diff(indptr)), indptr

    def __getitem__(self, key):
        """Dense tokens, uint8: of an index, a slice, indices or a mask of cells; a second index chooses places."""
        if isinstance(key, tuple):
            return self[key[0]][(..., *key[1:])]
        cells = np.arange(len(self))[key]
        entries, indptr = self._entries(np.atleast_1d(cells))
        out = np.zeros((len(indptr) - 1, self.shape[1]), np.uint8)
        rows = np.repeat(np.arange(0, out.size, self.shape[1]), np.diff(indptr))
        out.reshape(-1)[rows + self.genes[entries]] = self.bins[entries]
        return out if np.ndim(cells) else out[0]

    def matrix(self):
        """The tokens of the genes, without the closing one, as numbers: CSR float32, (cells, genes)."""
        shape = len(self), self.shape[1] - 1
        return sp.csr_matrix((self.bins.astype(np.float32), self.genes.astype(np.int32), self.indptr), shape=shape)

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("A token store is sparse: its array is always a copy.")
        return self[:].astype(dtype or np.uint8, copy=False)
