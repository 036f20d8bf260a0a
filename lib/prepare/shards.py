"""Tokens of a corpus on the disk: two arrays a shard, memory-mapped, from which cells are taken in any order.

Of each cell are kept, as 16-bit numbers, how many genes show each bin (``counts``, cells × 5) and which genes these are
(``places``), bin after bin and ascending within a bin: two bytes for a token that is not zero, and ten for a cell. What is not
taken stays on the disk, so that a corpus may be larger than memory; in memory is where each cell begins, 8 bytes a cell.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from lib.files import replacing, seal, sealed
from lib.prepare.tokens import BINS

PARTS = ("counts", "places")
ADVISED, PAGE = hasattr(mmap, "MADV_WILLNEED"), mmap.PAGESIZE


def files(stem: Path) -> list[Path]:
    """The files of a shard."""
    return [stem.with_name(f"{stem.name}.{part}.npy") for part in PARTS]


def intact(stem: Path) -> bool:
    """Whether a shard is there, whole and unchanged."""
    return all(map(sealed, files(stem)))


def write(stem: Path, blocks: Sequence[sp.csr_matrix], genes: int) -> None:
    """Write a shard of tokens, given as :func:`lib.prepare.tokens.sparse_tokens` gives them, and its seal after it."""
    kind = np.uint16 if genes < 2**16 else np.uint32
    counts, places = [np.zeros((0, BINS), kind)], [np.zeros(0, kind)]
    for tokens in blocks:
        cell = np.repeat(np.arange(tokens.shape[0]), np.diff(tokens.indptr))
        group = cell * BINS + tokens.data - 1
        counts.append(np.bincount(group, minlength=tokens.shape[0] * BINS).reshape(-1, BINS).astype(kind))
        places.append(tokens.indices[np.argsort(group, kind="stable")].astype(kind))
    for path, arrays in zip(files(stem), (counts, places), strict=True):
        with replacing(path) as temporary:
            np.save(temporary, np.concatenate(arrays))
        seal(path)


class Shards:
    """The tokens of all cells of some shards, one shard after the other; of a CSR matrix it has what training asks for.

    Parameters
    ----------
    stems : sequence of path
        Of shards that are :func:`intact`.
    width : int
        Genes + 1.

    Attributes
    ----------
    shape : (cells, genes + 1)
    """

    def __init__(self, stems: Sequence[Path], width: int):
        self.stems, self.width = list(stems), width
        counts, places = zip(*([np.load(path, mmap_mode="r") for path in files(stem)] for stem in self.stems), strict=True)
        self.advise = [array._mmap.madvise for array in places] if ADVISED else []
        for advise in self.advise:  # the pages of a cell alone: around each the system would read dozens that nobody asked for
            advise(mmap.MADV_RANDOM)
        self.offset = places[0].offset if places else 0  # of the arrays in their files
        # Views without numpy.memmap's bookkeeping, which costs more than a cell's own bytes.
        self.counts, self.places = ([np.asarray(array) for array in arrays] for arrays in (counts, places))
        self.first = np.cumsum([0, *map(len, counts)])  # of the cells of each shard
        self.begin = np.concatenate([np.cumsum(lengths) - lengths for lengths in self._lengths()])
        self.shape = (int(self.first[-1]), width)

    def __reduce__(self):  # to another process go the names: it maps the files itself
        return Shards, (self.stems, self.width)

    def _lengths(self):
        return [array.sum(1, dtype=np.int64) for array in self.counts]

    def count_nonzero(self, axis: int = 1) -> np.ndarray:
        """Tokens of each cell that are not zero, (cells,)."""
        return np.concatenate(self._lengths())

    def __getitem__(self, cells: np.ndarray) -> sp.csr_matrix:
        """Tokens of some cells, in that order: CSR matrix of uint8, (cells asked for, genes + 1)."""
        cells = np.asarray(cells)
        shard = np.searchsorted(self.first, cells, side="right") - 1
        rows = zip(shard.tolist(), (cells - self.first[shard]).tolist(), strict=True)
        counts = np.stack([self.counts[s][row] for s, row in rows]) if len(cells) else np.zeros((0, BINS), np.int64)
        indptr = np.zeros(len(cells) + 1, np.int64)
        np.cumsum(counts.sum(1, dtype=np.int64), out=indptr[1:])
        begin, shard = self.begin[cells], shard.tolist()
        end = begin + np.diff(indptr)
        if ADVISED:  # all are read from the disk at once, and not one after the other as they are copied
            at = self.offset + begin * self.places[0].itemsize
            size = np.where(end > begin, (end - begin) * self.places[0].itemsize + at % PAGE, 0)
            for s, first, length in zip(shard, (at - at % PAGE).tolist(), size.tolist(), strict=True):
                if length:
                    self.advise[s](mmap.MADV_WILLNEED, first, length)
        spans = zip(shard, begin.tolist(), end.tolist(), strict=True)
        places = np.concatenate([self.places[s][start:end] for s, start, end in spans] or [np.zeros(0, np.int32)])
        bins = np.repeat(np.tile(np.arange(1, BINS + 1, dtype=np.uint8), len(cells)), counts.ravel())
        return sp.csr_matrix((bins, places.astype(np.int32), indptr), (len(cells), self.width))
