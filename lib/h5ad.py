"""A user's .h5ad file: which of its matrices is used, what its genes are called, what its labels are; all of it said."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from lib.errors import DataError

SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "symbol", "symbols",
                  "gene_short_name", "hgnc_symbol", "external_gene_name", "name")  # fmt: skip
ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}(\.\d+)?$")
BARCODE = re.compile(r"(^|[^A-Z])[ACGT]{10,}([-_.\d].*)?$")
# What spreadsheets make of SEPT2, MARCH1, DEC1 and the like.
DATE = re.compile(r"\d{1,2}-[A-Z][a-z]{2}$|[A-Z][a-z]{2}-\d{1,2}$|\d{4}-\d\d-\d\d( 00:00:00)?$")
MOUSE = re.compile(r"[A-Z][a-z][a-z0-9.-]*$")
# Genes that nearly every human or mouse file has, whatever was selected: to tell genes from cells.
COMMON = {"ACTB", "B2M", "CD3E", "CD74", "GAPDH", "LYZ", "MALAT1", "NKG7", "RPL13", "RPS27", "TMSB4X", "VIM"}
NOT_A_LABEL = {"", "nan", "none", "na", "n/a", "<na>", "null"}


def read(path):
    """Read a file and choose its matrix.

    The matrix is looked for in ``X``, in ``layers`` and in ``raw``: counts are taken before logarithms, of equals the one
    with the most genes, of equals ``X``. Ensembl identifiers become symbols where a column of ``var`` has them.

    Returns
    -------
    adata : AnnData
        cells × genes, ``X`` CSR float32, ``var_names`` symbols where possible; ``obs`` as in the file.
    found : dict
        ``matrix`` and ``gene_names``: what was taken, in words.
    """
    import anndata

    adata = _open(Path(path).expanduser())
    _check_orientation(adata, path)
    where, x, var, scale, why = _matrix(adata, path)
    names, note = _symbols(var, path)
    if not names.is_unique:
        x, names, summed = _summed(x, names, scale)
        note += f"; {summed} names that occurred more than once are summed"
    kept = anndata.AnnData(x, obs=adata.obs.copy())
    kept.var_names = names
    return kept, {"matrix": f"{where}{why}", "gene_names": note}


def _open(path):
    import anndata
    import h5py

    try:
        if not path.exists():
            from lib.datasets import CARDS

            raise DataError(
                f"There is no data set named {str(path)!r} and no file at that path. "
                f"Names known: {', '.join(CARDS)}. Give one of them or the path of an .h5ad file."
            )
        if path.is_dir():
            raise DataError(f"{path} is a folder. Give the path of an .h5ad file inside it.")
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Check the path and your right to read it.") from error
    if start != b"\x89HDF\r\n\x1a\n":
        raise DataError(
            f"{path} is not an .h5ad file: it does not begin as HDF5 does. "
            "Write one with adata.write_h5ad(path), and check that a compressed file was unpacked."
        )
    try:
        with h5py.File(path) as file:
            groups = set(file)
        foreign = {"matrix": ("10x's .h5", "scanpy.read_10x_h5"), "col_attrs": ("loom", "scanpy.read_loom")}
        for group, (kind, reader) in foreign.items():
            if group in groups and "obs" not in groups:
                raise DataError(f"{path} is a {kind} file, not .h5ad: read it with {reader}, add the cell types to obs and write_h5ad.")
        if "obs" not in groups:
            raise DataError(f"{path} is an HDF5 file, but not AnnData's: it has no obs (it has: {', '.join(sorted(groups)) or 'nothing'}). "
                            "Write one with adata.write_h5ad(path).")  # fmt: skip
        return anndata.read_h5ad(path)
    except DataError:
        raise
    except Exception as error:  # anndata and h5py raise half a dozen kinds for a damaged or foreign file
        raise DataError(
            f"{path} cannot be read as .h5ad ({type(error).__name__}: {error}). The file is truncated, damaged or "
            f"of an AnnData version that anndata {metadata.version('anndata')} cannot read: copy it again or write it anew."
        ) from error


def _share(pattern, names):
    return np.mean([bool(pattern.match(name)) for name in names]) if len(names) else 0.0


def _check_orientation(adata, path):
    cells, genes = adata.obs_names.astype(str), adata.var_names.astype(str)
    turned = (
        "the columns are named like barcodes" if np.mean([bool(BARCODE.search(name)) for name in genes[:2000]] or [0]) > 0.5
        else "the rows have Ensembl identifiers" if _share(ENSEMBL, cells) > 0.5
        else "the rows are named like genes"
        if len(COMMON & set(cells.str.upper())) >= 3 and not COMMON & set(genes.str.upper()) else None
    )  # fmt: skip
    if turned:
        raise DataError(
            f"{path} looks like genes × cells ({turned}: {cells[0]!r} × {genes[0]!r}). AnnData is cells × genes: save "
            "adata.T, with the cell types in its obs."
        )


def _matrix(adata, path):
    """The matrix to use: (where, CSR float32, var, scale, reason in words)."""
    from lib.datasets import value_scale

    places = {"X": (adata.X, adata.var)}
    places |= {f"layers[{name!r}]": (layer, adata.var) for name, layer in adata.layers.items()}
    if adata.raw is not None:
        places["raw"] = (adata.raw.X, adata.raw.var)
    usable, refused = [], {}
    for where, (x, var) in places.items():
        label = str(path) if where == "X" else f"{where} of {path}"
        try:
            if x is None or 0 in x.shape:
                shape = x.shape if x is not None else adata.shape
                raise DataError(f"{label} holds an empty matrix ({shape[0]} cells × {shape[1]} genes): nothing to use.")
            x = _csr(x, label)
            usable.append((value_scale(x, label, adata.obs_names, var.index), where, x, var))
        except DataError as refusal:
            refused[where] = refusal
    if not usable:
        if len(places) == 1:
            raise refused["X"]
        said = " ".join(f"{where}: {str(refusal).replace(str(path), 'it')}" for where, refusal in refused.items())
        raise DataError(f"No matrix of {path} can be used. {said}")
    scale, where, x, var = max(usable, key=lambda found: ("count" in found[0], found[2].shape[1], found[1] == "X"))
    why = ""
    if where != "X" and "X" in refused:
        why = ", since X can not be used: " + str(refused["X"]).replace(str(path), "it").split(". ")[0]
    elif where != "X":
        why = f" ({scale}, {x.shape[1]:,} genes) before X ({usable[0][0]}, {adata.n_vars:,} genes)"
    return where, x, var, scale, why


def _csr(x, label):
    try:
        return sp.csr_matrix(x, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"X of {label} is not a matrix of numbers ({error}). Store numeric counts in X.") from error


def _symbols(var, path):
    """Gene symbols (Index), and what was done to have them."""
    import pandas as pd

    names = pd.Index(var.index.astype(str))
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise DataError(
            f"{len(twice)} gene names of {path} occur more than once ({', '.join(twice[:5])}…). Sum their columns "
            "or keep one of each (adata[:, ~adata.var_names.duplicated()]), then save the file again."
        )
    ensembl = names.str.match(ENSEMBL)
    no_symbols = ensembl.mean() > 0.5 or np.mean([n.strip().replace(".", "", 1).isdigit() or not n.strip() for n in names]) > 0.5
    note = "symbols, as they are"
    if no_symbols:
        column = _symbol_column(var)
        kind = "Ensembl identifiers" if ensembl.mean() > 0.5 else "numbers"
        if column is None:
            raise DataError(
                f"The gene names of {path} are {kind}, not symbols (first: {names[0]!r}), and no column of var has symbols "
                f"(columns: {', '.join(map(str, var.columns)) or 'none'}). Put gene symbols such as CD3E in var_names, or in "
                "var['gene_symbols']."
            )
        symbols = var[column].astype(str).str.strip()
        blank = symbols.str.lower().isin(NOT_A_LABEL).to_numpy()
        names = pd.Index(np.where(blank, names, symbols))
        note = f"{kind} mapped to symbols by var[{column!r}]"
        note += f"; {blank.sum():,} without a symbol keep theirs" if blank.any() else ""
    dates = names[names.str.match(DATE)]
    if len(dates):
        note += f"; {len(dates)} are dates, as spreadsheets make of MARCH1 or SEPT2 ({', '.join(dates[:3])}): they match no gene"
    if _share(MOUSE, names) > 0.5:
        note += "; most are written as mouse genes are (Cd3e)"
    return names, note


def _symbol_column(var):
    """The column of ``var`` with gene symbols, or None."""
    named = {str(column).lower(): column for column in var.columns}
    for column in [named[name] for name in SYMBOL_COLUMNS if name in named]:
        values = var[column].astype(str).str.strip()
        values = values[~values.str.lower().isin(NOT_A_LABEL)]
        if len(values) > 0.3 * len(var) and _share(ENSEMBL, values) < 0.5 and values.nunique() > 0.5 * len(values):
            return column
    return None


def _summed(x, names, scale):
    """Sum the columns of one name, on the scale that is linear in counts."""
    import pandas as pd

    from lib.datasets import LINEAR, LOGARITHM

    codes, unique = pd.factorize(names)
    onto = sp.csr_matrix((np.ones(len(codes), np.float64), (np.arange(len(codes)), codes)), shape=(len(codes), len(unique)))
    linear = x.astype(np.float64)
    linear.data = LINEAR[scale](linear.data)
    linear = sp.csr_matrix(linear @ onto)
    linear.data = LOGARITHM[scale](linear.data)
    return linear.astype(np.float32), unique, len(codes) - len(unique)


def labels(obs, label, path):
    """The cell types of ``obs[label]``, as text (categorical)."""
    if label not in obs:
        raise DataError(
            f"{path} has no label column {label!r}. Columns of obs: {', '.join(map(str, obs.columns)) or 'none'}. "
            "Name the one that holds the cell types."
        )
    column = obs[label]
    text = column.astype(str).str.strip()
    missing = column.isna() | text.str.lower().isin(NOT_A_LABEL)
    if missing.any():
        first = missing.to_numpy().argmax()
        raise DataError(
            f"{int(missing.sum())} of {len(obs)} cells of {path} have no label in {label!r} (first: "
            f"{obs.index[first]!r}, {str(column.iloc[first])!r}). Drop them or give them a label."
        )
    types = text.nunique()
    fractions = column.dtype.kind == "f" and (column % 1 != 0).any()
    if fractions or types > max(50, len(obs) / 2):
        raise DataError(
            f"{label!r} of {path} has {types} different values in {len(obs)} cells"
            + (", with fractions: a measurement" if fractions else ": an identifier, not a cell type")
            + f" (first: {text.iloc[0]!r}). Is the label column right? Columns of obs: {', '.join(map(str, obs.columns))}."
        )
    if column.dtype.kind == "f":  # 3.0 is the cluster 3, of a column that once had missing values
        text = column.astype(int).astype(str)
    return text.astype("category")


def check_vocabulary(names, genes, where):
    """Refuse genes that match a vocabulary only when written otherwise, before most of them are lost silently.

    Parameters
    ----------
    names, genes : Index, sequence of str
        Of the cells, and the vocabulary.
    where : str
        For the message.
    """
    genes = set(genes)
    matched = sum(name in genes for name in names)
    upper = sum(name.upper() in genes for name in names)
    if upper > 20 and upper > 5 * matched:
        raise DataError(
            f"{matched} of the {len(names):,} gene names of {where} are in the vocabulary, but {upper:,} would be in capitals (first: "
            f"{names[0]!r}). If the cells are a mouse's, map its genes to human orthologues; if only the case differs, save with "
            "adata.var_names = adata.var_names.str.upper()."
        )
