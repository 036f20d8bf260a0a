"""scBERT's tokens: the bin of each gene in each cell, held sparse; batches are made dense.

A CSR matrix of uint8 takes five bytes for a token that is not zero, one for the bin and four for its place: Zheng68K's
68,450 × 16,907 tokens are 1.2 GB as an array and some 180 MB so. ``tokens[cells].toarray()`` is a batch, ``tokens[cells]``
a selection; the arrays may be memory-mapped files.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lib.errors import DataError

BINS = 5  # highest expression bin; tokens are 0 … BINS, and MASK
MASK = BINS + 1


def sparse_tokens(x) -> sp.csr_matrix:
    """Bin log2 expression into scBERT's tokens, sparse.

    Parameters
    ----------
    x : array or sparse matrix, (cells, genes), or AnnData as :func:`lib.prepare.prepare` returns it
        log2(1 + counts per 10⁴).

    Returns
    -------
    CSR matrix of uint8, (cells, genes + 1)
        ``min(floor(x), 5)``, and a closing zero for each cell (scBERT's [CLS] stands last).

    Raises
    ------
    DataError
        Negative, missing or infinite expression.
    """
    x = sp.csr_matrix(getattr(x, "X", x))
    if not np.isfinite(x.data).all() or (x.data < 0).any():
        raise DataError("Expression to tokenise must be finite and not negative: pass log2(1 + counts per 10⁴).")
    bins = np.minimum(x.data, BINS).astype(np.uint8)  # towards zero, which is down
    tokens = sp.csr_matrix((bins, x.indices, x.indptr), (x.shape[0], x.shape[1] + 1), copy=True)
    tokens.eliminate_zeros()  # in place, hence the copy
    return tokens


def tokenize(x) -> np.ndarray:
    """The same as an array: uint8, (cells, genes + 1).

    >>> tokenize([[0, 0.9, 1, 2.5, 13.3]])
    array([[0, 0, 1, 2, 5, 0]], dtype=uint8)
    """
    return sparse_tokens(x).toarray()
