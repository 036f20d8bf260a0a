"""The frozen blocks' output, computed once for all steps: in memory, or in a file beside the checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from lib.files import write_text
from lib.scbert import ranks
from lib.scbert.classifier import CellTypeClassifier


class FrozenBlocks:
    """Hidden states in front of the last block, computed once a draw of the random features where they fit.

    All blocks but the last are frozen, so what they make of a cell changes only when the features are redrawn. At full size
    that is 13.5 MB a cell: too much for memory, and a fifth of the time of a step where it is read from a file.

    Parameters
    ----------
    model : CellTypeClassifier
    tokens : CSR matrix of uint8, (cells, genes + 1)
    cells : int array
        Indices of all cells that will be asked for.
    batch_size : int
        Cells that are computed at once, always the same ones, so that a resumed run sees the same bits.
    memory : int
        Bytes that may be kept in memory.
    checkpoint : path, optional
        Of the training: beside it, a file takes what memory does not, where the disk has room for it and as much again. What an
        interrupted run had written there serves if its checksums are right and the model and cells are the same.
    """

    def __init__(
        self,
        model: CellTypeClassifier,
        tokens: sp.csr_matrix,
        cells: np.ndarray,
        batch_size: int,
        memory: int,
        checkpoint: Path | None = None,
    ):
        self.model, self.tokens = model, tokens
        self.cells = np.unique(cells)
        self.batches = [self.cells[i : i + batch_size] for i in range(0, len(self.cells), batch_size)]
        places = model.config.tokens if model.gene_embedding is None else tokens.shape[1]
        self.shape = len(self.cells), places, model.config.dim
        size, self.path, self.kept = 4 * int(np.prod(self.shape)), None, None
        self.fits = size <= memory
        if not self.fits and checkpoint is not None and next(model.parameters()).device.type == "cpu":
            folder = Path(checkpoint).parent
            folder.mkdir(parents=True, exist_ok=True)
            rank = ranks.place()[0]
            self.path = Path(checkpoint).with_suffix(f".frozen{rank or ''}.npy")
            there = self.path.stat().st_size if self.path.exists() else 0
            self.fits = shutil.disk_usage(folder).free + there > 2 * size

    def __call__(self, cells: np.ndarray) -> Tensor:
        """Hidden states of some cells, (cells, places, dim), float32."""
        if not self.fits:
            return self._compute(cells)
        if self.kept is None:
            self.kept = torch.cat([self._compute(batch) for batch in self.batches]) if self.path is None else self._file()
        rows = np.searchsorted(self.cells, cells)
        return self.kept[rows] if self.path is None else torch.from_numpy(self.kept[rows])

    def forget(self) -> None:
        """The random features were redrawn."""
        self.kept = None

    def remove(self) -> None:
        """Training has ended: the file goes."""
        self.kept = None
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self._sums().unlink(missing_ok=True)

    def _sums(self):
        return self.path.with_suffix(".json")

    def _file(self):
        """The file, filled: batches whose checksums are right are those of an earlier process."""
        key, sums = self._key(), []
        try:
            said = json.loads(self._sums().read_text(encoding="utf-8"))
            kept = np.lib.format.open_memmap(self.path, mode="r+")
            if said["key"] == key and kept.shape == self.shape:
                sums = said["sums"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if not sums:
            kept = np.lib.format.open_memmap(self.path, mode="w+", dtype=np.float32, shape=self.shape)
        at = 0
        for k, batch in enumerate(self.batches):
            part = kept[at : at + len(batch)]
            at += len(batch)
            if k < len(sums) and zlib.crc32(part) == sums[k]:
                continue
            sums = sums[:k]
            part[:] = self._compute(batch).numpy()
            kept.flush()
            sums.append(zlib.crc32(part))
            write_text(self._sums(), json.dumps({"key": key, "sums": sums}))
        return kept

    def _key(self):
        """A hash of all that these states come from: the frozen weights and features, and the cells' tokens."""
        found = hashlib.sha256()
        last = f"performer.net.layers.{self.model.config.depth - 1}."
        for name, value in self.model.state_dict().items():
            if name == "gene_embedding" or (name.startswith(("token_emb", "performer.net")) and not name.startswith(last)):
                found.update(np.ascontiguousarray(value.cpu().numpy()))
        for batch in self.batches:
            shown = self.tokens[batch]
            for array in (batch, shown.indptr, shown.indices, shown.data):
                found.update(np.ascontiguousarray(array))
        return found.hexdigest()

    @torch.no_grad()
    def _compute(self, cells):
        tokens = torch.from_numpy(self.tokens[np.asarray(cells)].toarray()).to(next(self.model.parameters()).device)
        return self.model.blocks(self.model.embed(tokens), self.model.counts(tokens), stop=-1, tokens=tokens)
