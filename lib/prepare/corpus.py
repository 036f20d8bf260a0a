"""Pre-training corpora as tokens, memory-mapped."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from filelock import FileLock

from lib.datasets.h5ad import blocks, check_file, opened
from lib.datasets.scale import value_scale
from lib.errors import DataError
from lib.files import digest, fingerprint, seal, sealed
from lib.prepare import preprocess
from lib.prepare.tokens import sparse_tokens
from lib.settings import ROOT, cache

# A corpus is a folder of the three arrays of a CSR matrix, the large ones without a header.
FILES = ("indptr.npy", "indices.i32", "data.u8")


def tokens(path: Path, genes: Sequence[str], min_genes: int = 200) -> sp.csr_matrix:
    """The tokens of a pre-training corpus, memory-mapped; written once for a file, a vocabulary and this code.

    Parameters
    ----------
    path : Path
        An .h5ad of counts or log-normalised values, with gene symbols.
    genes : sequence of str
        The gene vocabulary, in order.
    min_genes : int
        Cells with fewer detected genes of the vocabulary are left out.

    Returns
    -------
    CSR matrix of uint8, (cells, genes + 1)
        As :func:`lib.prepare.tokens.sparse_tokens` gives it; its entries stay on the disk.
    """
    check_file(path)
    code = sorted(file for part in ("datasets", "prepare") for file in (ROOT / "lib" / part).glob("*.py"))
    folder = cache() / "corpus" / fingerprint(" ".join([*map(digest, [path, *code]), str(min_genes), *genes]))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # arms that are pre-trained side by side share one corpus
        if folder.is_dir() and not all(sealed(folder / name) for name in FILES):
            print(f"The corpus {folder} is damaged: it is written again.", file=sys.stderr)
            shutil.rmtree(folder)
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                with opened(path) as backed:
                    _write(partial, backed, genes, min_genes)
                for name in FILES:
                    seal(partial / name)
                os.replace(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    indptr = np.load(folder / FILES[0], allow_pickle=False)
    kinds = zip(FILES[1:], (np.int32, np.uint8))
    places, bins = (np.memmap(folder / name, kind, "r", shape=int(indptr[-1])) for name, kind in kinds)
    return sp.csr_matrix((bins, places, indptr), (len(indptr) - 1, len(genes) + 1))


def _write(folder, backed, genes, min_genes):
    """The files of a corpus, block by block of its cells."""
    path, names, scale, lengths = Path(backed.filename), backed.var_names, None, [np.zeros(1, np.int64)]
    inside = np.flatnonzero(names.isin(genes))
    with (folder / FILES[1]).open("wb") as places, (folder / FILES[2]).open("wb") as bins:
        for first, x in blocks(backed, f"tokens of {path.name}"):
            obs = pd.DataFrame(index=backed.obs_names[first : first + x.shape[0]])
            found = value_scale(x, f"cells from {first:,} of {path}", obs.index, names)
            scale = scale or found
            if found != scale:
                raise DataError(f"The cells from {first:,} of {path} are {found}, those before {scale}: mixed scales.")
            if len(inside) and (np.diff(x[:, inside].indptr) < min_genes).all():
                continue
            block = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=names))
            if scale == "log2":  # scBERT's own scale: its corpus is used as it is
                block.uns["dataset"] = {"normalised": "log2"}
            tokens = sparse_tokens(preprocess.prepare(block, genes, min_genes=min_genes, scale=scale))
            places.write(tokens.indices.astype(np.int32, copy=False).tobytes())
            bins.write(tokens.data.tobytes())
            lengths.append(np.diff(tokens.indptr))
    indptr = np.concatenate(lengths).cumsum(dtype=np.int64)
    if len(indptr) < 3:
        raise DataError(f"{path} has {len(indptr) - 1} cells with {min_genes} detected genes: no corpus.")
    if indptr[-1] >= 2**31:  # with larger ones SciPy would copy all places into memory, to number them by 64 bits
        raise DataError(f"{path} has {indptr[-1]:,} tokens that are not zero, and a corpus 2³¹ at most: give fewer cells.")
    np.save(folder / FILES[0], indptr)
