"""What a user's file holds: its cells' table and its matrices, each read when it is asked for, and never dense as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import causes
from lib.errors import DataError

LARGEST = 2**24  # above, float32 leaves out whole numbers
BLOCK = 2**24  # values of a dense matrix that are read at a time


@dataclass
class Matrix:
    """One matrix of a file: its name there, what h5py, zarr or scipy gives of it, and how to read the table of its genes."""

    name: str
    held: object
    genes: Callable[[], pd.DataFrame]


@dataclass
class Held:
    """A file, opened: the table of its cells and its matrices."""

    path: Path
    obs: pd.DataFrame
    matrices: list[Matrix]
    unreadable: dict[str, str] = field(default_factory=dict)  # parts that cannot be read, and why
    log_base: float | None = None  # of uns["log1p"], where scanpy noted that logarithms were taken
    notes: list[str] = field(default_factory=list)  # what else was left out
    beside: dict[str, str] = field(default_factory=dict)  # columns of the cells' table that stand elsewhere, and where


def read(held, where, rows: slice | None = None) -> sp.csr_matrix:
    """A matrix as CSR float32, or some of its rows.

    Parameters
    ----------
    held : h5py or zarr group or array, numpy array, or scipy matrix
        Sparse, or dense with two axes.
    where : str
        For the message.
    rows : slice, optional
        Which cells; all of a matrix that is stored by genes are read in any case.

    Raises
    ------
    DataError
        No matrix, of something else than numbers, or with numbers that no count can be.
    """
    shape = shape_of(held, where)
    if shape is None:
        raise DataError(f"{where} is empty: there is no matrix.", "Put raw counts in X.", where)
    if len(shape) != 2 or dtype_of(held).kind not in "biuf":
        raise DataError(
            f"{where} is not a matrix of numbers ({dtype_of(held)}, {len(shape)} axes).", "Store numeric counts in X.", where
        )
    rows = rows or slice(0, shape[0])
    rows = slice(rows.start, min(rows.stop, shape[0]))
    if sp.issparse(held):
        x = held[rows] if (rows.start, rows.stop) != (0, shape[0]) else held
        x = sp.csr_matrix(x.astype(_checked(x.data, where).dtype))
    elif is_group(held):
        x = _compressed(held, shape, where, rows)
    else:
        causes.plausible(held)
        step = max(1, BLOCK // max(1, shape[1]))
        parts = [
            sp.csr_matrix(_checked(np.asarray(held[i : min(i + step, rows.stop)]), where))
            for i in range(rows.start, rows.stop, step)
        ]
        x = sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, shape[1]), dtype=np.float32)
    x.sum_duplicates()
    return x


def is_group(held) -> bool:
    """Whether it is a group of h5py or zarr: a sparse matrix has one, of three arrays."""
    return hasattr(held, "attrs") and not hasattr(held, "dtype")


def is_10x(held) -> bool:
    """Whether a group is a matrix of 10x Genomics, whose shape is an array."""
    return is_group(held) and {"data", "indices", "indptr", "shape"} <= set(held)


def shape_of(held, where: str | None = None) -> tuple[int, ...] | None:
    """Of a matrix, sparse or dense; None where there is none."""
    if held is None:
        return None
    if not is_group(held):
        return held.shape
    where = where or held.name
    if is_10x(held):  # genes × cells by columns: cells × genes by rows
        return tuple(int(n) for n in held["shape"][:][::-1])
    known = _text(held.attrs.get("encoding-type", held.attrs.get("h5sparse_format")))
    if known not in ("csr_matrix", "csc_matrix", "csr", "csc"):
        raise DataError(
            f"{where} has an encoding, {known!r} of version {_text(held.attrs.get('encoding-version'))!r}, that anndata "
            f"{metadata.version('anndata')} does not know: another AnnData version wrote it.",
            "pip install -U anndata, read the file with it, and write it anew.",
            where,
        )
    shape = np.asarray(held.attrs.get("shape", held.attrs.get("h5sparse_shape", [])))
    if shape.shape != (2,) or not {"data", "indices", "indptr"} <= set(held):
        raise DataError(
            f"{where} is damaged: a sparse matrix with {', '.join(map(str, list(held)[:4])) or 'nothing'} and the shape "
            f"{shape.tolist()}.",
            "Copy it again, or write it anew.",
            where,
        )
    return tuple(int(n) for n in shape)


def _text(noted):
    return noted.decode() if isinstance(noted, bytes) else noted


def dtype_of(held) -> np.dtype:
    """Of the values as they are stored."""
    return np.dtype(held["data"].dtype if is_group(held) else held.dtype)


def values_in(held) -> int:
    """How many values a matrix stores."""
    return int(held["data"].shape[0] if is_group(held) else held.nnz if sp.issparse(held) else np.prod(shape_of(held)))


def by_genes(held) -> bool:
    """Whether it is stored by genes (CSC), so that no cells can be read alone."""
    stored = held.attrs.get("encoding-type", held.attrs.get("h5sparse_format")) if is_group(held) else ""
    return str(_text(stored)).startswith("csc") or (sp.issparse(held) and held.format == "csc")


def _compressed(held, shape, where, rows):
    for part in ("data", "indices", "indptr"):
        causes.plausible(held[part])
        if rows.start == 0:
            causes.complete(held[part])
    columns = by_genes(held)
    major, minor = shape[::-1] if columns else shape
    indptr = np.asarray(held["indptr"][:]).astype(np.int64)
    if len(indptr) != major + 1 or indptr[0] != 0 or np.any(np.diff(indptr) < 0) or indptr[-1] != held["data"].shape[0]:
        raise DataError(
            f"{where} is damaged: its indptr ({len(indptr):,} entries, the last {indptr[-1] if len(indptr) else 0:,}) fits "
            f"neither {major:,} {'genes' if columns else 'cells'} nor {held['data'].shape[0]:,} values.",
            "Copy it again, or write it anew.",
            where,
        )
    first, last = (0, indptr[-1]) if columns else (indptr[rows.start], indptr[rows.stop])
    data = _checked(np.asarray(held["data"][first:last]), where)
    indices = np.asarray(held["indices"][first:last])
    wrong = (indices < 0) | (indices >= minor)
    if wrong.any():  # they would be read from foreign memory
        raise DataError(
            f"{where} is damaged: value {int(first + wrong.argmax()):,} lies at {'cell' if columns else 'gene'} "
            f"{int(indices[wrong.argmax()]):,} of {minor:,}.",
            "Copy it again, or write it anew.",
            where,
        )
    if columns:
        x = sp.csc_matrix((data, indices, indptr), shape=shape).tocsr()
        return x if (rows.start, rows.stop) == (0, shape[0]) else x[rows]
    indptr = indptr[rows.start : rows.stop + 1] - first
    return sp.csr_matrix((data, indices, indptr), shape=(rows.stop - rows.start, shape[1]))


def _checked(values, where):
    """Values as float32, of which none became another number."""
    with np.errstate(invalid="ignore", over="ignore"):
        wrong = (values > LARGEST) & (values < np.inf) if values.dtype.kind != "b" else np.zeros(values.shape, bool)
        if values.dtype.kind == "i":
            wrong |= values < 0
        if wrong.any():
            raise DataError(
                f"{where} holds {values[wrong][0]:,} ({values.dtype}), which is no count of molecules: whole numbers that "
                "overflowed their type, or another quantity.",
                "Give raw counts, stored as int32 or float32 from the start.",
                where,
            )
        return values.astype(np.float32)


def sample(matrix: Matrix, where, most: int = 4_000_000, blocks: int = 8) -> tuple[sp.csr_matrix, np.ndarray]:
    """Some cells of a matrix from all over it, with their row numbers; all where it has few values, or is stored by genes."""
    held = matrix.held
    shape = shape_of(held, where)
    if shape is None or len(shape) != 2:
        return read(held, where), np.arange(0)  # which refuses it
    size = values_in(held) if shape[0] else 0
    causes.enough(size * (dtype_of(held).itemsize + 16 if is_group(held) or sp.issparse(held) else 4), where)
    if size <= most or by_genes(held) or shape[0] <= blocks:
        return read(held, where), np.arange(shape[0])
    each = max(1, int(shape[0] * most / size / blocks))
    starts = np.linspace(0, shape[0] - each, blocks).astype(int)
    parts = [read(held, where, slice(start, start + each)) for start in starts]
    return sp.vstack(parts, format="csr"), np.concatenate([np.arange(start, start + each) for start in starts])
