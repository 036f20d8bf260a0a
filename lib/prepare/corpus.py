"""Pre-training corpora as tokens, memory-mapped, and checkpoints that stand in for pre-training."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from lib.datasets import downloads
from lib.datasets.formats import blocks, open_backed
from lib.datasets.scale import value_scale
from lib.errors import DataError
from lib.files import digest, fingerprint_of, replacing, write_text
from lib.prepare import preprocess
from lib.prepare.tokens import TokenStore
from lib.settings import cache


def checkpoint_path(digest):
    """Where the checkpoint with this SHA-256 lies, put there by :func:`keep_checkpoint`."""
    path = cache() / "checkpoints" / f"{digest}.pth"
    if not path.is_file():
        raise DataError(f"The checkpoint {path} is not there any more. Load the profile again to have it copied.")
    return path


def keep_checkpoint(path):
    """Copy a checkpoint to where its hash finds it; return the hash, which names it in specifications."""
    found = digest(path)
    kept = cache() / "checkpoints" / f"{found}.pth"
    if not kept.exists():
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)
    return found


def read(fingerprint, genes):
    """The tokens of a pre-training corpus, memory-mapped.

    Parameters
    ----------
    fingerprint : str
        As :func:`build` gives it.
    genes : sequence of str
        Must be the genes of the corpus, in order.

    Returns
    -------
    TokenStore
    """
    folder = cache() / "corpus" / fingerprint
    try:
        stored = np.load(folder / "vocabulary.npy", allow_pickle=False)
        indptr = np.load(folder / "indptr.npy", allow_pickle=False)
        places = np.memmap(folder / "genes.u16", np.uint16, "r", shape=int(indptr[-1]))
        bins = np.memmap(folder / "bins.u8", np.uint8, "r", shape=int(indptr[-1]))
    except (OSError, ValueError) as error:
        raise DataError(f"The corpus {folder} is missing or damaged ({error}). Delete that folder and rerun.") from error
    if not np.array_equal(stored, np.asarray(genes, dtype=str)):
        raise DataError(f"The corpus has {len(stored)} genes, the cells {len(genes)}, or another order. Use one vocabulary.")
    return TokenStore(indptr, places, bins, len(stored) + 1)


@functools.lru_cache
def build(given, genes, min_genes=200):
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
    backed = open_backed(path)
    stat = path.stat()
    known = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {min_genes} {' '.join(genes)}"
    note = cache() / "corpus" / f"{hashlib.sha256(known.encode()).hexdigest()[:16]}.txt"
    if note.exists() and (fingerprint := note.read_text()) and (cache() / "corpus" / fingerprint).is_dir():
        return fingerprint
    partial = cache() / "corpus" / f".partial.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        lengths, scale, names = [], None, backed.var_names
        with (partial / "genes.u16").open("wb") as places, (partial / "bins.u8").open("wb") as bins:
            for first, x in blocks(backed, f"tokens of {path.name}"):
                block = anndata.AnnData(x, obs=pd.DataFrame(index=backed.obs_names[first : first + x.shape[0]]),
                                        var=pd.DataFrame(index=names))  # fmt: skip
                found = value_scale(x, f"cells from {first:,} of {path}", block.obs_names, names)
                scale = scale or found
                if found != scale:
                    raise DataError(f"The cells from {first:,} of {path} are {found}, those before {scale}: mixed scales.")
                if scale == "log2":  # scBERT's own scale: its corpus is used as it is
                    block.uns["dataset"] = {"normalised": "log2"}
                if not (np.diff(x.indptr) >= min_genes).any():
                    continue
                store = TokenStore.of(preprocess.prepare(block, genes, min_genes=min_genes).X)
                places.write(store.genes.tobytes())
                bins.write(store.bins.tobytes())
                lengths.append(np.diff(store.indptr))
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1, np.int64)
        if len(indptr) < 3:
            raise DataError(f"{path} has {len(indptr) - 1} cells with {min_genes} detected genes: no corpus.")
        np.save(partial / "indptr.npy", indptr)
        np.save(partial / "vocabulary.npy", np.asarray(genes, dtype=str))
        fingerprint = fingerprint_of(*(partial / name for name in ("vocabulary.npy", "indptr.npy", "genes.u16", "bins.u8")))
        if not (cache() / "corpus" / fingerprint).exists():
            os.replace(partial, cache() / "corpus" / fingerprint)
        write_text(note, fingerprint)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return fingerprint
