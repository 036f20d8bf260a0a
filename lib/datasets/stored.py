"""Cells that stay on the disk and are read in blocks, to pre-train on: of any format that :mod:`lib.datasets.reading` opens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm.auto import tqdm

from lib.datasets import causes, genes, held, reading
from lib.datasets.held import Matrix
from lib.errors import DataError
from lib.files import digest, fingerprint, known

BLOCK = 4096  # cells that are read at a time
ENDINGS = (".h5ad", ".zarr", ".h5")


def sources(given: str | Path | Sequence) -> list[Path]:
    """The files of cells that are meant by a path, several, or a folder of such files; each .zarr is one."""
    if isinstance(given, list | tuple):
        return [path for one in given for path in sources(one)]
    path = Path(given).expanduser().resolve()
    if not path.is_dir() or path.suffix == ".zarr":
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
    if not found:
        raise DataError(f"The folder {path} holds no file of cells. Put some there: {', '.join(ENDINGS)}.")
    return found


def content(path: Path) -> str:
    """The hash of a file of cells (known from then on, as long as it looks the same), or of all files of a .zarr."""
    if not path.is_dir():
        return known(digest, path)
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    return fingerprint(" ".join(f"{file.relative_to(path).as_posix()} {known(digest, file)}" for file in inside))


@dataclass
class Stored:
    """An opened file: its matrix stays on the disk."""

    path: Path
    matrix: Matrix
    obs: pd.DataFrame
    var: pd.DataFrame  # of genes alone
    is_gene: np.ndarray  # (columns of the matrix,)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Stored]:
    """A file of cells, for :func:`blocks`; closed in the end.

    Raises
    ------
    DataError
        What :mod:`lib.datasets.reading` refuses; a matrix stored by genes, or of another shape than the names.
    """
    with contextlib.ExitStack() as stack:
        found = reading.opened(path, stack)
        matrix = found.matrices[0]
        with causes.refusing(f"{matrix.name} of {path}", matrix.held, path):
            var, shape = matrix.genes(), held.shape_of(matrix.held, f"{matrix.name} of {path}")
            is_gene, aside = genes.of_kinds(var)
        if shape != (len(found.obs), len(var)):
            raise DataError(
                f"The matrix of {path} has shape {shape}, for {len(found.obs)} cells × {len(var)} genes.",
                "Copy it again.",
                path,
            )
        if not is_gene.any():
            genes.refuse_none(aside, var.index.astype(str), path)
        yield Stored(path, matrix, found.obs, var[is_gene], is_gene)


def blocks(file: Stored, name: str, firsts: Sequence[int] | None = None) -> Iterator[tuple[int, sp.csr_matrix]]:
    """The matrix of an opened file, stored sparse or dense, as (first cell, CSR float32); never whole, never dense.

    Only the blocks that begin with the cells ``firsts``, where these are given.
    """
    n_obs, matrix = len(file.obs), file.matrix.held
    if held.by_genes(matrix):
        raise DataError(
            f"The matrix of {file.path} is stored by genes (csc).", "Store it by cells: adata.X.tocsr().", file.path
        )
    silent, firsts = n_obs <= 4 * BLOCK, range(0, n_obs, BLOCK) if firsts is None else firsts
    for first in tqdm(firsts, desc=name, unit=f"×{BLOCK} cells", mininterval=2, disable=silent):
        with causes.refusing(f"{file.matrix.name} of {file.path}", matrix, file.path):
            block = held.read(matrix, f"{file.matrix.name} of {file.path}", slice(first, first + BLOCK))
        block = block if file.is_gene.all() else block[:, file.is_gene]
        block.eliminate_zeros()
        yield first, block
