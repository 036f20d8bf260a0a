"""Pre-training corpora as tokens, memory-mapped, and checkpoints that stand in for pre-training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import downloads
from lib.datasets.h5ad import blocks, check_file, opened
from lib.datasets.scale import value_scale
from lib.errors import DataError
from lib.files import digest, fingerprint, replacing
from lib.prepare import preprocess
from lib.prepare.tokens import sparse_tokens
from lib.settings import cache

# A corpus is a folder of its genes and the three arrays of a CSR matrix, the large ones without a header.
FILES = ("vocabulary.npy", "indptr.npy", "indices.i32", "data.u8")


def checkpoint_path(digest: str) -> Path:
    """Where the checkpoint with this SHA-256 lies, put there by :func:`keep_checkpoint`."""
    path = cache() / "checkpoints" / f"{digest}.pth"
    if not path.is_file():
        raise DataError(f"The checkpoint {path} is not there any more. Load the profile again to have it copied.")
    return path


def keep_checkpoint(path: str | Path) -> str:
    """Copy a checkpoint to where its hash finds it; return the hash, which names it in specifications."""
    found = digest(path)
    kept = cache() / "checkpoints" / f"{found}.pth"
    if not kept.exists():
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)
    return found


def read(fingerprint: str, genes: Sequence[str]) -> sp.csr_matrix:
    """The tokens of a pre-training corpus, memory-mapped.

    Parameters
    ----------
    fingerprint : str
        As :func:`build` gives it.
    genes : sequence of str
        Must be the genes of the corpus, in order.

    Returns
    -------
    CSR matrix of uint8, (cells, genes + 1)
        As :func:`lib.prepare.tokens.sparse_tokens` gives it; its entries stay on the disk.
    """
    folder = cache() / "corpus" / fingerprint
    try:
        stored, indptr = (np.load(folder / name, allow_pickle=False) for name in FILES[:2])
        places, bins = (
            np.memmap(folder / name, kind, "r", shape=int(indptr[-1])) for name, kind in zip(FILES[2:], (np.int32, np.uint8))
        )
    except (OSError, ValueError) as error:
        raise DataError(f"The corpus {folder} is missing or damaged ({error}). Delete that folder and rerun.") from error
    if not np.array_equal(stored, np.asarray(genes, dtype=str)):
        raise DataError(f"The corpus has {len(stored)} genes, the cells {len(genes)}, or another order. Use one vocabulary.")
    return sp.csr_matrix((bins, places, indptr), (len(indptr) - 1, len(stored) + 1))


def build(given: str, genes: tuple[str, ...], min_genes: int = 200) -> str:
    """Write the tokens of a pre-training corpus once, memory-mapped; return the fingerprint that names them.

    Parameters
    ----------
    given : str
        ``panglao`` (downloaded) or the path of an .h5ad of counts or log-normalised values, with gene symbols.
    genes : tuple of str
        The gene vocabulary.
    min_genes : int
        Cells with fewer detected genes of the vocabulary are left out.

    Returns
    -------
    str
        For :func:`read`: a hash of the vocabulary and the tokens.
    """
    path = downloads.fetch("panglao") if given == "panglao" else Path(given).expanduser()
    check_file(path)
    stat, root = path.stat(), cache() / "corpus"
    known = [FILES, path.resolve(), stat.st_size, stat.st_mtime_ns, min_genes, *genes]
    note = root / f"{fingerprint(' '.join(map(str, known)))}.txt"  # says which corpus was made of this file
    if note.exists() and (root / (found := note.read_text())).is_dir():
        return found
    partial = root / f".{os.getpid()}.partial"
    with replacing(note) as temporary, opened(path) as backed:
        try:
            partial.mkdir()
            _write(partial, backed, genes, min_genes)
            found = fingerprint(" ".join(digest(partial / name) for name in FILES))
            if not (root / found).exists():
                os.replace(partial, root / found)
            temporary.write_text(found)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return found


def _write(folder, backed, genes, min_genes):
    """The four files of a corpus, block by block of its cells."""
    path, names, scale, lengths = Path(backed.filename), backed.var_names, None, [np.zeros(1, np.int64)]
    inside = np.flatnonzero(names.isin(genes))
    with (folder / FILES[2]).open("wb") as places, (folder / FILES[3]).open("wb") as bins:
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
    np.save(folder / "indptr.npy", indptr)
    np.save(folder / "vocabulary.npy", np.asarray(genes, dtype=str))
