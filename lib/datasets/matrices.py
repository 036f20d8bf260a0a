"""Of all matrices that a file holds, the one that serves best: counts of the most genes, else logarithms of the most genes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import causes, genes, held, library
from lib.datasets.held import Held, Matrix
from lib.datasets.scale import LINEAR, Scale, tell
from lib.errors import DataError

# Layers that hold some of a cell's molecules only, by their names: of velocyto, kallisto and others.
PARTS = re.compile(r"spliced|ambiguous|\bmature\b|nascent|exon|intron|ambient|background", re.IGNORECASE)


@dataclass
class Chosen:
    """The matrix that was taken, and what was found on the way."""

    x: sp.csr_matrix  # (cells, genes)
    var: pd.DataFrame
    scale: Scale
    matrix: str  # what was taken, and why not the others
    aside: dict[str, int]  # features that are no genes
    totals: np.ndarray | None  # (cells,), see lib.datasets.library.sizes
    totals_from: str
    selection: bool


@dataclass(eq=False)
class _Looked:
    matrix: Matrix
    x: sp.csr_matrix
    whole: bool  # all cells were read, not some
    var: pd.DataFrame
    is_gene: np.ndarray
    aside: dict[str, int]
    scale: Scale


def choose(found: Held) -> Chosen:
    """Look at every matrix of a file, take the one that serves best, and find the totals of its cells.

    Raises
    ------
    DataError
        None can be used: each is named, with its reason.
    """
    refused, looked = {}, []
    for matrix in found.matrices:
        try:
            looked.append(_look(matrix, found))
        except DataError as error:
            refused[matrix.name] = error
    looked.sort(key=lambda one: (_rank(one), -int(one.is_gene.sum())))
    for one in list(looked):
        try:
            x = _whole(one, found)
        except DataError as error:
            refused[one.matrix.name] = error
            looked.remove(one)
            continue
        return _chosen(one, x, [other for other in looked if other is not one], refused, found)
    raise _none(refused, found)


def _rank(one):
    """The less, the better: counts, logarithms or proportions, a part of the counts, what was detected."""
    rank = one.scale.worth if one.scale.worth in (0, 1, 4) else 2
    return 3 if rank < 2 and _is_part(one) else rank


def _is_part(one):
    return bool(PARTS.search(one.matrix.name))


def _where(matrix, found):
    return f"{matrix.name} of {found.path}"


def _look(matrix, found):
    """A matrix by some of its cells, or all of a small one."""
    where = _where(matrix, found)
    try:
        x, rows = held.sample(matrix, where)
        var = matrix.genes()
        shape = held.shape_of(matrix.held)
    except causes.ERRORS as error:
        error = error if isinstance(error, DataError) else _cannot(error, matrix, where)
        if matrix.held is not None:
            found.unreadable[matrix.name] = error.what.removeprefix(f"{where} ")
        raise error from error.__cause__
    if shape != (len(found.obs), len(var)):
        raise DataError(
            f"{where} has shape {shape}, for {len(found.obs)} cells × {len(var)} genes.", "Write the file anew.", where
        )
    if 0 in shape:
        raise DataError(f"{where} is an empty matrix ({shape[0]} cells × {shape[1]} genes): nothing to use.", "", where)
    is_gene, aside = genes.of_kinds(var)
    if not is_gene.any():
        genes.refuse_none(aside, var.index.astype(str), where)
    scale = tell(x[:, is_gene] if aside else x, where, found.obs.index[rows], var.index[is_gene], found.log_base)
    return _Looked(matrix, x, x.shape[0] == shape[0], var, is_gene, aside, scale)


def _cannot(error, matrix, where):
    what, remedy = causes.reason(error, matrix.held)
    return DataError(f"{where} {what}.", remedy, where)


def _whole(one, found):
    if one.whole:
        return one.x
    where = _where(one.matrix, found)
    try:
        x = held.read(one.matrix.held, where)
    except causes.ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise _cannot(error, one.matrix, where) from error
    some = x[:, one.is_gene] if one.aside else x
    one.scale = tell(some, where, found.obs.index, one.var.index[one.is_gene], found.log_base)
    return x


def _chosen(one, x, others, refused, found):
    if one.scale.whole:
        x.data = np.round(LINEAR[one.scale.name](x.data.astype(np.float64))).astype(np.float32)
        x.eliminate_zeros()
        one.scale = replace(one.scale, name="counts")
    everything = np.asarray(x.sum(1, dtype=np.float64)).ravel() if one.aside else None
    if one.aside:
        x = sp.csr_matrix(x[:, one.is_gene])
    aside = everything - np.asarray(x.sum(1, dtype=np.float64)).ravel() if one.aside else np.zeros(x.shape[0])
    var = one.var[one.is_gene]
    raw = one.matrix.name.endswith("raw.X") and len(var) > max((int(other.is_gene.sum()) for other in others), default=0)
    larger = next((found_ for other in others if (found_ := _larger(other, x, var, found)) is not None), None)
    totals, totals_from, selection = library.sizes(x, one.scale, found.obs, aside, larger, raw)
    why = [re.split(r" \(|: |\. ", error.what)[0].replace(f" of {found.path}", "") for error in refused.values()]
    why += [_against(other, one) for other in others]
    words = f"{one.matrix.name}: {one.scale.words}" + (f" ({'; '.join(why)})" if why else "")
    return Chosen(x, var, one.scale, words, one.aside, totals, totals_from, selection)


def _larger(other, x, var, found):
    """The totals that a matrix with more genes gives for counts of some of them."""
    if (
        other.scale.worth not in (2, 3)
        or other.is_gene.sum() <= x.shape[1]
        or not var.index.is_unique
        or not other.var.index.is_unique
    ):
        return None
    places = other.var.index.get_indexer(var.index)
    if (places < 0).any():
        return None
    try:
        whole = _whole(other, found)
    except DataError:
        return None
    rest = np.setdiff1d(np.flatnonzero(other.is_gene), places)
    totals = library.seen_by(sp.csr_matrix(whole[:, np.concatenate([places, rest])]), other.scale, x)
    return None if totals is None else (other.matrix.name, totals)


def _against(other, one):
    """Why another matrix was not taken."""
    words = f"{other.matrix.name} has {other.scale.words}"
    if other.scale.worth == one.scale.worth or {other.scale.worth, one.scale.worth} <= {2, 3}:
        fewer = int(other.is_gene.sum()) < int(one.is_gene.sum())
        words += f" of {int(other.is_gene.sum()):,} genes only" if fewer else " of as many genes"
    elif _is_part(other) and other.scale.worth < 2:
        words += ", of a part of the molecules by its name"
    return words


def _none(refused, found):
    if len(refused) == 1:
        return next(iter(refused.values()))
    reasons = "; ".join(
        error.what.replace(f" of {found.path}", "").rstrip(".").replace(". ", ", ") for error in refused.values()
    )
    return DataError(
        f"No matrix of {found.path} can be used: {reasons}.", "Put raw counts in X or in layers['counts'].", found.path
    )
