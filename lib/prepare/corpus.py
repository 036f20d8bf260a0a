"""Pre-training corpora as tokens, memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from lib.datasets import genes as symbols
from lib.datasets import stored
from lib.datasets.scale import value_scale
from lib.errors import DataError
from lib.files import digest, fingerprint, known, replacing, seal, sealed, writable
from lib.prepare import preprocess, shards
from lib.prepare.shards import Shards
from lib.prepare.tokens import sparse_tokens
from lib.settings import ROOT, cache

SHARD = 4  # blocks of cells a shard: what is held in memory while it is built, and what is lost when building is interrupted
PATIENCE = 5  # seconds after which who waits for another process says so


def content(given: str | Path | Sequence) -> str:
    """The hash that names a corpus: that of its file, or of the hashes of its files, whatever they are called."""
    hashes = sorted(_by_content(given))
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _by_content(given):
    """The files of a corpus by their hashes."""
    found = {}
    for path in stored.sources(given):
        if not path.exists():
            raise DataError(f"There is no corpus at {path}. Give the path of a file, several, or a folder of files.")
        if (other := found.setdefault(stored.content(path), path)) is not path:
            raise DataError(f"{path} and {other} are the same cells: leave one out of the corpus.")
    return found


def tokens(given: str | Path | Sequence, genes: Sequence[str], min_genes: int = 200) -> Shards:
    """The tokens of a pre-training corpus, memory-mapped; written once for each file, a vocabulary and this code.

    Parameters
    ----------
    given : path, or sequence of paths
        An .h5ad, an AnnData in .zarr or a 10x .h5 (:mod:`lib.datasets.stored`) of counts or log-normalised values, with gene
        symbols; several; or a folder of such files.
    genes : sequence of str
        The gene vocabulary, in order.
    min_genes : int
        Cells with fewer detected genes of the vocabulary are left out.

    Returns
    -------
    Shards
        (cells, genes + 1); file after file in the order of their hashes, in a file as they are in it. Building what was
        interrupted goes on with the shards that are missing; one that is damaged is written again, alone.
    """
    files = _by_content(given)
    stems = [stem for name in sorted(files) for stem in _shards(name, files[name], genes, min_genes)]
    corpus = Shards(stems, len(genes) + 1) if stems else None
    if corpus is None or corpus.shape[0] < 2:
        for folder in {stem.parent for stem in stems}:
            shutil.rmtree(folder)
        where = ", ".join(map(str, files.values()))
        raise DataError(f"{where} has {corpus.shape[0] if corpus else 0} cells with {min_genes} detected genes: no corpus.")
    return corpus


def _shards(name, path, genes, min_genes):
    """The shards of one file, built where they are not there."""
    code = sorted(file for part in ("datasets", "prepare") for file in (ROOT / "lib" / part).glob("*.py"))
    identity = [name, *(known(digest, file) for file in code), str(min_genes), *genes]
    folder = cache() / "corpus" / fingerprint(" ".join(identity))
    mark = folder / "shards.json"  # the first cell of each shard; written when all are there
    with _alone(folder, path):  # arms that are pre-trained side by side share one corpus
        whole = sealed(mark)
        stems = [_stem(folder, first) for first in json.loads(mark.read_text())] if whole else []
        missing = [stem for stem in stems if not shards.intact(stem)]
        if mark.exists() and (missing or not whole):
            names = ", ".join(stem.name for stem in missing) or mark.name
            print(f"The corpus {folder} is damaged: it is written again ({names}).", file=sys.stderr)
        if missing or not whole:
            with stored.opened(path) as held:
                firsts = range(0, len(held.obs), SHARD * stored.BLOCK)
                missing = [first for first in firsts if not shards.intact(_stem(folder, first))]
                _build(folder, held, missing, genes, min_genes)
                stems = [_stem(folder, first) for first in firsts]
            with replacing(mark) as temporary:
                temporary.write_text(json.dumps(list(firsts)))
            seal(mark)
    return stems


def _stem(folder, first):
    return folder / f"{first:010d}"


@contextlib.contextmanager
def _alone(folder, path):
    """The one process that is at this file's shards; who has to wait says so."""
    with writable(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            print(f"Another process is at the tokens of {path}: waiting for it.", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(folder, held, missing, genes, min_genes):
    """The shards that begin with the cells ``missing``, each sealed before the next is read."""
    try:
        done = []
        for first, tokens in _blocks(held, missing, genes, min_genes):
            done.append(tokens)
            if len(done) == SHARD or first + stored.BLOCK >= len(held.obs):
                begin = first - first % (SHARD * stored.BLOCK)
                shards.write(_stem(folder, begin), [tokens for tokens in done if tokens is not None], len(genes))
                done = []
    except DataError as error:
        if not isinstance(error.__cause__, OSError):  # what was done of a file that cannot be used is of no use
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _blocks(held, missing, genes, min_genes):
    """(first cell, tokens or None where no cell is kept) of all blocks of these shards, on the scale of the file's first."""
    path, scale = held.path, None
    firsts = [first for begin in missing for first in range(begin, begin + SHARD * stored.BLOCK, stored.BLOCK)]
    firsts = [first for first in firsts if first < len(held.obs)]
    for first, x in stored.blocks(held, f"tokens of {path.name}", sorted({0, *firsts})):
        obs = pd.DataFrame(index=held.obs.index[first : first + x.shape[0]])
        found = value_scale(x, f"cells from {first:,} of {path}", obs.index, held.var.index)
        scale = scale or found
        if found != scale:
            raise DataError(f"The cells from {first:,} of {path} are {found}, those before {scale}: mixed scales.")
        if first not in firsts:
            continue
        x, var, _ = symbols.symbols(x, held.var, scale)
        if (inside := var.index.isin(genes)).any() and (np.diff(x[:, inside].indptr) < min_genes).all():
            yield first, None
            continue
        block = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=var.index))
        if scale == "log2":  # scBERT's own scale: its corpus is used as it is
            block.uns["dataset"] = {"normalised": "log2"}
        yield first, sparse_tokens(preprocess.prepare(block, genes, min_genes=min_genes, scale=scale))
