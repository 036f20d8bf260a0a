"""Reading .h5ad files: a user's, of which the matrix that serves best is taken, with symbols of genes; large ones in blocks."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem
from tqdm.auto import tqdm

from lib.datasets import checks
from lib.datasets.scale import BASE, LINEAR, say, value_scale
from lib.errors import DataError

COUNT_LAYERS = ("counts", "raw_counts", "raw", "umi_counts", "count")  # in small letters, the first first
BLOCK = 4096  # cells that are read at a time
LARGEST = 2**24  # above, float32 leaves out whole numbers


def read(path: Path) -> tuple[anndata.AnnData, dict]:
    """A user's file: the matrix that serves best (CSR float32), with its genes; and what the card says of the choice."""
    check_file(path)
    with _refusing(path), h5py.File(path, "r") as file:
        _check_content(file, path)
        obs, matrices = _held(file, path)
        obs.index = obs.index.astype(str)
        checks.orientation(obs.index, matrices[0][2]().index.astype(str), path)
        x, var, scale, choice = _best(matrices, obs, path)
    x, var, names = gene_symbols(x, var, scale)
    card = {"values": scale, "matrix": choice} | ({"gene_names": names} if names else {})
    return anndata.AnnData(x, obs=obs, var=var), card


@contextlib.contextmanager
def opened(path: Path) -> Iterator[anndata.AnnData]:
    """An .h5ad whose matrix stays on the disk, for :func:`blocks`; closed in the end."""
    check_file(path)
    with _refusing(path):
        adata = anndata.read_h5ad(path, backed="r")
    with contextlib.closing(adata.file):
        yield adata


def blocks(backed: anndata.AnnData, name: str, firsts: Sequence[int] | None = None) -> Iterator[tuple[int, sp.csr_matrix]]:
    """The matrix of an opened .h5ad, stored sparse or dense, as (first cell, CSR float32); never whole, never dense.

    Only the blocks that begin with the cells ``firsts``, where these are given.
    """
    x, path = backed.X, backed.filename
    if getattr(x, "format", "csr") == "csc":
        raise DataError(f"The matrix of {path} is stored by genes (csc). Store it by cells: adata.X.tocsr().")
    silent, firsts = backed.n_obs <= 4 * BLOCK, range(0, backed.n_obs, BLOCK) if firsts is None else firsts
    for first in tqdm(firsts, desc=name, unit=f"×{BLOCK} cells", mininterval=2, disable=silent):
        with _refusing(path):
            block = sp.csr_matrix(x[first : first + BLOCK], dtype=np.float32)
        block.eliminate_zeros()
        yield first, block


@contextlib.contextmanager
def _refusing(path):
    """Whatever anndata and h5py raise for a damaged or foreign file, half a dozen kinds, is one refusal."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as .h5ad ({type(error).__name__}: {error}). The file is truncated, damaged or "
            f"of an AnnData version that anndata {metadata.version('anndata')} cannot read: copy it again or write it anew."
        ) from error


def check_file(path: Path):
    """Refuse what is no HDF5 file, by its first bytes: whatever is packed stays packed."""
    if not path.is_file():  # a pipe would be waited for
        kind = "a folder" if path.is_dir() else "not there, or not a regular file"
        raise DataError(f"{path} is {kind}. Give the path of an .h5ad file.")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error}). Check that you may read it, or copy it.") from error
    if start != b"\x89HDF\r\n\x1a\n":
        raise DataError(
            f"{path} is not an .h5ad file: it does not begin as HDF5 does. "
            "Write one with adata.write_h5ad(path), and check that a compressed file was unpacked."
        )


# What else comes as HDF5: the entries that tell it, what it is, and how to make an .h5ad of it.
FOREIGN = {
    ("matrix/barcodes",): ("a 10x Genomics .h5 file", "scanpy.read_10x_h5(path).write_h5ad(…)"),
    ("row_attrs", "col_attrs"): ("a loom file", "anndata.io.read_loom(path).write_h5ad(…)"),
    ("mod",): ("a MuData .h5mu file", "mudata.read(path)['rna'].write_h5ad(…)"),
    ("assays", "meta.data"): ("an h5Seurat file", "SeuratDisk's Convert(path, 'h5ad')"),
}


def _check_content(file, path):
    """Refuse HDF5 that is not AnnData, and entries that would be larger in memory than gzip can make them."""
    if "obs" not in file or "var" not in file:
        for entries, (kind, remedy) in FOREIGN.items():
            if all(entry in file for entry in entries):
                raise DataError(f"{path} is {kind}, not an .h5ad file. Make one of it: {remedy}.")
        raise DataError(
            f"{path} is HDF5 but not an .h5ad file: it has {', '.join(list(file)[:8]) or 'nothing'}, where obs, var and X "
            "are expected. Write it with adata.write_h5ad(path)."
        )
    declared = []
    file.visititems(lambda name, item: declared.append((item.nbytes, name)) if getattr(item, "size", None) else None)
    bytes_, name = max(declared, default=(0, ""))
    if bytes_ > 1100 * path.stat().st_size:  # deflate packs 1032 bytes into one at most
        raise DataError(
            f"{path} is damaged or made to fill the memory: {name!r} claims {bytes_:,} bytes in a file of "
            f"{path.stat().st_size:,}. Copy it again or write it anew."
        )


def _held(file, path):
    """``obs`` and, as (name, matrix, how to read its genes), what the file holds; the matrices are not read yet."""
    if "raw.X" in file or not isinstance(file["obs"], h5py.Group):  # before AnnData 0.7: its own reader knows how
        with warnings.catch_warnings():  # that the file is old is no news, and no fault
            warnings.simplefilter("ignore")
            adata = anndata.read_h5ad(path)
        file = {"obs": adata.obs, "var": adata.var, "X": adata.X, "layers": adata.layers}
        file |= {"raw/X": adata.raw.X, "raw/var": adata.raw.var} if adata.raw is not None else {}

    def table(name):
        return file[name] if isinstance(file[name], pd.DataFrame) else read_elem(file[name])

    def var():
        return table("var")

    def raw_var():  # symbols may be noted for the genes of X alone
        own, others = table("raw/var"), var()
        others = others[[column for column in others if column not in own]]
        return own.join(others) if own.index.is_unique and others.index.is_unique else own

    layers = file.get("layers", {})
    named = {name.lower(): name for name in layers}
    matrices = [("X", file.get("X"), var)]
    matrices += [(f"layers[{named[name]!r}]", layers[named[name]], var) for name in COUNT_LAYERS if name in named]
    if "raw/X" in file:
        matrices.append(("raw.X", file["raw/X"], raw_var if "raw/var" in file else var))
    return table("obs"), matrices


def _sparse(held, where):
    """A matrix as CSR float32; a dense one of a file is never whole in memory."""
    if isinstance(held, h5py.Group):
        held = read_elem(held)
    if held is None or held.shape is None:
        raise DataError(f"{where} is empty: there is no matrix. Put raw counts in X.")
    if held.dtype.kind not in "biuf" or len(held.shape) != 2:
        raise DataError(f"{where} is not a matrix of numbers ({held.dtype}, {held.ndim} axes). Store numeric counts in X.")
    if sp.issparse(held):
        held.check_format(full_check=True)  # indices out of range would be read from foreign memory
        x = sp.csr_matrix(_float32(held, where))
    else:
        step = max(1, 2**26 // max(1, held.shape[1] * held.dtype.itemsize))
        blocks = [sp.csr_matrix(held[i : i + step]) for i in range(0, max(1, held.shape[0]), step)]
        x = sp.vstack([_float32(block, where) for block in blocks], format="csr")
    x.sum_duplicates()
    return x


def _float32(x, where):
    wrong = (x.data > LARGEST) & (x.data < np.inf)
    if x.dtype.kind == "i":
        wrong |= x.data < 0
    if wrong.any():
        raise DataError(
            f"{where} holds {x.data[wrong][0]:,} ({x.dtype}), which is no count of molecules: whole numbers that "
            "overflowed their type, or another quantity. Give raw counts, stored as int32 or float32 from the start."
        )
    return x.astype(np.float32)


def _best(matrices, obs, path):
    """The matrix that serves best: raw counts wherever they are, then other counts, then logarithms.

    Returns
    -------
    (CSR matrix, DataFrame of its genes, scale, str)
        The last says what was taken, and why not what was looked at before.
    """
    refused, passed, best = {}, {}, None
    for name, held, genes in matrices:
        where = f"{name} of {path}"
        try:
            x, var = _sparse(held, where), genes()
            if x.shape != (len(obs), len(var)):
                raise DataError(f"{where} has shape {x.shape}, for {len(obs)} cells × {len(var)} genes. Write the file anew.")
            if 0 in x.shape:
                raise DataError(f"{where} is an empty matrix ({len(obs)} cells × {len(var)} genes): nothing to use.")
            scale = value_scale(x, where, obs.index, var.index)
        except DataError as error:
            refused[name] = str(error)
            continue
        words = passed[name] = say(x, scale)
        rank = 2 if scale != "counts" else 0 if words == "raw counts" else 1
        if best is None or rank < best[0]:
            best = rank, name, x, var, scale
        if rank == 0:
            break
    if best is None and len(refused) == 1:
        raise DataError(*refused.values())
    refused = {name: reason.replace(f" of {path}", "") for name, reason in refused.items()}
    if best is None:
        reasons = "; ".join(re.split(r"(?<!\d)\. |\.$", reason)[0] for reason in refused.values())
        raise DataError(f"No matrix of {path} can be used: {reasons}. Put raw counts in X or in layers['counts'].")
    _, name, x, var, scale = best
    why = [re.split(r" \(|: |\. ", reason)[0] for reason in refused.values()]
    why += [f"{other} has {words}" for other, words in passed.items() if other != name]
    return x, var, scale, f"{name}: {passed[name]}" + (f" ({'; '.join(why)})" if why else "")


def gene_symbols(x: sp.csr_matrix, var: pd.DataFrame, scale: str) -> tuple[sp.csr_matrix, pd.DataFrame, str | None]:
    """Gene symbols in place of identifiers, where a column of ``var`` has them.

    Parameters
    ----------
    x : CSR matrix, cells × genes
    var : DataFrame
    scale : str
        Of ``x``: columns that come to bear one symbol are summed, as counts.

    Returns
    -------
    (CSR matrix, DataFrame, str or None)
        The matrix and its genes, and in words what was done or found.
    """
    names, notes = var.index.astype(str), []
    ensembl, kind = checks.not_symbols(names)
    column = _symbol_column(var) if kind else None
    if column is not None:
        symbols = pd.Index(var[column].astype(object).where(var[column].notna(), "").astype(str).str.strip())
        unnamed = symbols.str.lower().isin(checks.MISSING) | symbols.str.match(checks.ENSEMBL)
        plain = names.str.replace(r"(?<=\d)\.\d+$", "", regex=True) if kind == "Ensembl identifiers" else names
        names = symbols.where(~unnamed, plain)
        notes.append(f"{int((~unnamed).sum()):,} {kind} mapped to symbols by var[{str(column)!r}]")
        if unnamed.any():
            notes.append(f"{int(unnamed.sum()):,} without a symbol kept")
    elif ensembl.any() and kind is None:
        notes.append(f"symbols; {int(ensembl.sum()):,} Ensembl identifiers among them kept")
    if checks.like_mouse(names):
        notes.append("most are written as mouse genes are (Cd3e)")
    dates = names.str.match(checks.DATE)
    if dates.any():
        notes.append(
            f"{int(dates.sum()):,} gene names are dates ({', '.join(names[dates][:4])}), as spreadsheets make of MARCH1, "
            "SEPT2 or DEC1: which gene each was is lost, so they match none"
        )
        repeats = pd.Series(names).groupby(names).cumcount()  # MARCH1 and MARC1 are both 1-Mar
        names = names.where(~dates | (repeats == 0), names + " (" + repeats.add(1).astype(str) + ")")
    if column is not None and not names.is_unique:
        notes.append(f"{len(names) - names.nunique():,} columns summed into those of the same symbol")
        x, var, names = _summed(x, var, names, scale)
    return x, var.set_axis(names.rename(None)), "; ".join(notes) or None


def _symbol_column(var):
    """The first column of ``var`` that is named as one of symbols and holds some, or None."""
    named = {str(column).lower(): column for column in reversed(var.columns)}
    for column in (named[name] for name in checks.SYMBOL_COLUMNS if name in named):
        values = var[column].dropna().astype(str)
        if len(values) and checks.not_symbols(values)[1] is None and values.nunique() > 0.5 * len(values):
            return column
    return None


def _summed(x, var, names, scale):
    """Sum, on the scale that is linear in counts, the columns that bear one name."""
    codes, unique = pd.factorize(names)
    route = sp.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))
    linear = x.astype(np.float64)
    linear.data = LINEAR[scale](linear.data)
    summed = sp.csr_matrix(linear @ route)
    if scale != "counts":
        summed.data = np.log1p(summed.data) / np.log(BASE[scale])
    summed.sort_indices()
    return summed.astype(np.float32), var[~names.duplicated()], pd.Index(unique)
