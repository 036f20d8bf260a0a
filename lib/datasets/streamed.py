"""A reader's .h5ad that stays on the disk: what it holds is told from some of its cells, then it is read in blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

from lib.datasets import causes, checks, genes, h5ad, held, library, matrices, opening
from lib.datasets.held import Held, Matrix
from lib.datasets.scale import LINEAR, tell
from lib.errors import DataError

SAMPLE, PLACES = 2048, 8  # cells by which a file is judged, from so many places of it


@dataclass
class Stream:
    """A file of cells, opened and understood; :meth:`block` reads some of them."""

    held: Held
    matrix: Matrix
    chosen: matrices.Chosen  # of the cells that were looked at
    totals: str | float | None  # a column of obs, what all cells were normalised to, or None: each cell's own sum
    report: dict[str, str] = field(default_factory=dict)

    @property
    def n_obs(self) -> int:
        return len(self.held.obs)

    def block(self, first: int, last: int) -> anndata.AnnData:
        """The cells ``first`` to ``last``: ``X`` CSR float32 as stored, symbols as genes, ``obs["library_size"]`` their totals.

        Totals are over all genes that were measured, on the scale that is linear in counts; zero for an empty cell.

        Raises
        ------
        DataError
            These cells cannot be read, or are on another scale than those by which the file was judged.
        """
        where, scale = f"{self.matrix.name} of {self.held.path}", self.chosen.scale
        x = _read(self.matrix, where, slice(first, last))
        is_gene, _ = genes.of_kinds(self.matrix.genes())
        x = sp.csr_matrix(x[:, is_gene])
        if scale.whole:
            x.data = np.round(x.data)
        x.eliminate_zeros()
        obs = self.held.obs.iloc[first:last]
        _check_scale(x, scale, f"cells {first:,} to {last:,} of {self.held.path}", obs.index)
        linear = LINEAR[scale.name](x.data.astype(np.float64))
        total = np.bincount(np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), linear, x.shape[0])
        if isinstance(self.totals, str):
            total = np.maximum(obs[self.totals].to_numpy(np.float64), total)
        elif self.totals is not None:
            total = np.full(x.shape[0], self.totals)
        x, var, _ = genes.symbols(x, self.chosen.var, scale.name)
        adata = anndata.AnnData(x, obs=obs[[]].assign(library_size=total), var=var[[]])
        adata.uns["dataset"] = {"values": scale.name}
        return adata


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """Open an .h5ad and tell, as :func:`lib.datasets.reading.read` does but from 2,048 cells at most, what it holds.

    Parameters
    ----------
    path : Path

    Yields
    ------
    Stream
        ``report`` (dict of str) says what was taken and why.

    Raises
    ------
    DataError
        What reading refuses; and a matrix stored by genes, or totals that only another matrix gives, which no block can have.
    """
    if (kind := opening.kind(path)) != "hdf5":
        raise DataError(f"{path} is not an .h5ad file, but a {kind}.", "Write one with adata.write_h5ad(path).", path)
    with opening.hdf5(path) as file:
        with causes.refusing(str(path), file, path):
            found = h5ad.held(file, path)
            found.obs.index = found.obs.index.astype(str)
            checks.orientation(found.obs.index, found.matrices[0].genes().index.astype(str), path)
            chosen, looked = _judged(found)
        matrix = next(one for one in found.matrices if chosen.matrix.startswith(f"{one.name}: "))
        table = matrix.genes()
        matrix.genes = lambda: table  # read once
        _, var, names = genes.symbols(chosen.x, chosen.var, chosen.scale.name)
        checks.gene_names(var, path)
        report = {
            "matrix": chosen.matrix,
            "genes measured": f"{len(var):,}" + ("; a selection of genes, not a whole measurement" if chosen.selection else ""),
            "gene names": names,
            "library size from": chosen.totals_from,
            "not read": "; ".join(f"{part} {why}" for part, why in found.unreadable.items()) or None,
        }
        report = {title: words for title, words in report.items() if words}
        yield Stream(found, matrix, chosen, _rule(chosen, looked.obs, path), report)


def _judged(found):
    """What :func:`lib.datasets.matrices.choose` says of some cells of a file, from all over it; and these."""
    each = SAMPLE // PLACES
    starts = np.linspace(0, len(found.obs) - each, PLACES).astype(int) if len(found.obs) > SAMPLE else [0]
    parts = [slice(start, start + each) if len(starts) > 1 else slice(0, len(found.obs)) for start in starts]
    read, refused = [], {}
    for matrix in found.matrices:
        where = f"{matrix.name} of {found.path}"
        try:
            if (shape := held.shape_of(matrix.held, where)) and shape[0] != len(found.obs):
                raise DataError(f"{where} has {shape[0]:,} rows, for {len(found.obs):,} cells.", "Write the file anew.", where)
            x = sp.vstack([_read(matrix, where, part) for part in parts], format="csr")
        except DataError as error:
            refused[matrix.name] = error
            continue
        read.append(Matrix(matrix.name, x, matrix.genes))
    if not read:
        raise next(iter(refused.values()))
    found.unreadable |= {name: error.what for name, error in refused.items()}
    obs = found.obs.iloc[np.concatenate([np.arange(len(found.obs))[part] for part in parts])]
    looked = Held(found.path, obs, read, found.unreadable, found.log_base, found.notes)
    return matrices.choose(looked), looked


def _read(matrix, where, rows):
    if matrix.held is not None and held.by_genes(matrix.held):
        raise DataError(
            f"{where} is stored by genes (csc): its cells cannot be read in blocks.",
            "Store it by cells: adata.X.tocsr().",
            where,
        )
    with causes.refusing(where, matrix.held):
        return held.read(matrix.held, where, rows)


def _rule(chosen, obs, path):
    """How a cell's total is known from its own values and its row of ``obs``, as it was known of the cells looked at."""
    if chosen.totals is None:
        return None
    linear = LINEAR[chosen.scale.name](chosen.x.data.astype(np.float64))
    sums = np.bincount(np.repeat(np.arange(chosen.x.shape[0]), np.diff(chosen.x.indptr)), linear, chosen.x.shape[0])
    if np.array_equal(chosen.totals, sums):
        return None
    if np.ptp(chosen.totals) == 0:
        return float(chosen.totals[0])
    for name in obs:
        numbers = library.TOTALS.match(str(name)) and np.issubdtype(obs[name].dtype, np.number)
        if numbers and np.array_equal(np.maximum(obs[name].to_numpy(np.float64), sums), chosen.totals):
            return str(name)
    raise DataError(
        f"The totals of the cells of {path} are known from another matrix alone ({chosen.totals_from}).",
        "Write them into a column 'total_counts' of obs.",
        path,
    )


def _check_scale(x, scale, where, cells):
    """Refuse what is plainly on another scale than the cells that were looked at; a few cells need not tell."""
    if not x.nnz:
        return
    if not np.isfinite(x.data).all() or (x.data < 0).any():
        tell(x, where, cells)  # which refuses it with the cell's name
    whole = bool((x.data == np.round(x.data)).all())
    if scale.worth == 0 and not whole:
        raise DataError(f"The {where} have fractions, while those looked at first are raw counts: mixed scales.", "", where)
    if scale.worth == 2 and (x.data.max() > 40 or (whole and x.nnz > 100)):
        raise DataError(f"The {where} are counts, while those looked at first are {scale.words}: mixed scales.", "", where)
