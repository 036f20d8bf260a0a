"""Tables of text: cells × genes or genes × cells, and labels of cells that stand beside a file."""

from __future__ import annotations

import gzip
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import candidates, causes, checks, opening
from lib.datasets.held import Held, Matrix
from lib.errors import DataError

# Columns of numbers that a table of cells × genes may have beside its genes.
MEASURES = re.compile(
    r"(nCount|nFeature|n_counts?|n_genes|n_umis?|total_counts|percent|pct|log1p_|doublet|scrublet)[\w.]*$"
    r"|(umap|tsne|pc)_?[._ ]\d+$|(seurat_)?clusters?$|leiden$|louvain$",
    re.IGNORECASE,
)
FEWEST = 10  # genes of a table that has columns of words too: with fewer numbers it is one of labels
LINES = 2000  # of a table of text, read at a time


def _opened(path, encoding="utf-8-sig"):
    read = gzip.open if path.suffix == ".gz" else open
    return read(path, "rt", encoding=encoding, newline="")


def _manner(path):
    """How pandas is to read a table of text: its encoding, signs, and lines above the header."""
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            with _opened(path, encoding) as file:
                above, line = 0, file.readline()
                while line.startswith("#"):
                    above, line = above + 1, file.readline()
                second = file.readline()
                for _ in file:
                    pass
        except UnicodeDecodeError:
            continue
        sign = max("\t,;", key=line.count) if any(sign in line for sign in "\t,;") else " " if " " in line.strip() else None
        return {
            "sep": r"\s+" if sign == " " else sign,
            "encoding": encoding,
            "skiprows": above,
            "decimal": "," if sign in ("\t", ";") and re.search(r"\d,\d", second) else ".",
        }
    return {}


def _named(path, how):
    """Whether the first column of a table names its rows, or is numbers as the others: then they have no names."""
    first = pd.read_csv(path, nrows=200, low_memory=False, **how)
    column = first.iloc[:, 0] if isinstance(first.index, pd.RangeIndex) and first.shape[1] else pd.Series(dtype=object)
    return column.dtype.kind not in "biuf" or column.is_unique


def text(path: Path, first: int | None = None) -> Held:
    """A CSV or TSV of cells × genes or genes × cells, in blocks of lines; columns of words become the table of the cells.

    Of its ``first`` lines alone, where that is given.
    """
    try:
        how = _manner(path)
        if how["sep"] is None:
            raise DataError(
                f"{path} is text, but no table: its first line has neither tab, comma, semicolon nor blank.",
                "Give the path of an .h5ad file (adata.write_h5ad(path)), or of a table of cells × genes.",
                path,
            )
        rows, words, names, header = [], [], [], []
        how |= {"index_col": 0 if _named(path, how) else False, "chunksize": LINES, "low_memory": False}
        for block in pd.read_csv(path, nrows=first, **how):
            header = block.columns.astype(str)
            numbers = block.dtypes.map(lambda kind: kind.kind in "biuf").to_numpy() & ~header.str.match(MEASURES)
            words.append(block.loc[:, ~numbers])
            rows.append((sp.csr_matrix(block.loc[:, numbers].to_numpy(np.float32)), block.columns[numbers]))
            names += list(block.index.astype(str))
    except DataError:
        raise
    except causes.ERRORS as error:
        what = f"cannot be read as a table of text ({type(error).__name__}: {str(error).strip()[:200]})"
        raise DataError(f"{path} {what}.", "Write it with to_csv, or as .h5ad.", path) from error
    genes = rows[0][1] if rows else []
    if not rows or any(len(found) != len(genes) for _, found in rows):
        raise DataError(f"{path} holds no table of numbers: some columns are words in some lines.", "Write it as .h5ad.", path)
    if len(genes) < (FEWEST if len(words[0].columns) else 1):
        raise DataError(
            f"{path} looks like a table of labels, not of expression: its columns are {', '.join(header[:5])}"
            + ("." if len(header) <= 5 else " …."),
            f"Give it beside the cells: -p data CELLS -p labels {shlex.quote(path.name)}",
            path,
        )
    x = sp.vstack([part for part, _ in rows], format="csr")
    if x.nnz and np.isnan(x[-1, -1]) and np.isfinite(x[:-1].data).all():
        raise DataError(f"{path} is truncated: its last line, {names[-1]!r}, is not whole.", "Copy it again, whole.", path)
    beside = pd.concat(words).set_axis(names) if len(words[0].columns) else pd.DataFrame(index=pd.Index(names))
    beside.index.name = words[0].index.name
    obs, var = beside, pd.DataFrame(index=genes.astype(str))
    if len(header) and checks.is_transposed(pd.Index(names), var.index):
        x, obs, var = x.T.tocsr(), var, beside
    return Held(path, obs, [Matrix("X", x, lambda: var)])


def join_labels(obs: pd.DataFrame, labels: str | Path, label: str | None, where) -> tuple[pd.DataFrame, str, np.ndarray, str]:
    """Labels of a table of text, joined by the cells' names.

    Parameters
    ----------
    obs : DataFrame
    labels : str or path
        A CSV or TSV with the cells' names in a column of its own, and one column of labels or several.
    label : str, optional
        The column with the labels. Default: cell_type, celltype, or the only other one.
    where : str or path
        The file of the cells, for messages.

    Returns
    -------
    (DataFrame, str, bool array, str)
        ``obs`` with the table's columns; the label column; the cells that the table names; and in words how many.
    """
    path = Path(labels).expanduser()
    if not path.is_file():
        raise DataError(f"There is no table of labels at {path}.", "Give a CSV or TSV with a column of cell names.", path)
    with path.open("rb") as file:
        if file.read(4) in (b"PK\x03\x04", opening.SIGNATURE[:4]):
            raise DataError(f"{path} is no table of text, but a spreadsheet or HDF5.", "Save it as CSV or TSV.", path)
    try:
        how = _manner(path)
        how["sep"] = how["sep"] if how["sep"] in ("\t", ";") else ","
        found = pd.read_csv(path, dtype=str, keep_default_na=False, **how)
        if set(found.columns.astype(str)) & set(obs.index.astype(str)):  # no header: its first line is a cell
            found = pd.read_csv(path, dtype=str, keep_default_na=False, header=None, **how).rename(columns=str)
    except causes.ERRORS as error:
        what = f"cannot be read as a table ({type(error).__name__}: {str(error).strip()[:200]})"
        raise DataError(f"{path} {what}.", "Write it with to_csv.", path) from error
    if found.shape[1] == 1 and how["sep"] == ",":
        raise DataError(
            f"{path} has one column only.", "Give the cells' names in one column and their labels in another.", path
        )
    cells = obs.index.astype(str)
    ways = {
        "": lambda names: names,
        " without what stands behind a last -": lambda names: names.str.replace(r"-\d+$", "", regex=True),
    }
    best = (0, None, "", None)
    for way, short in ways.items():
        wanted = set(short(cells))
        for column in found:
            count = len(wanted & set(short(found[column].str.strip())))
            if count > best[0]:
                best = (count, column, way, short)
    if best[1] is None:
        raise DataError(
            f"No column of {path} names cells of {where} (there: {found.iloc[0].to_list() if len(found) else 'nothing'}; "
            f"cells: {', '.join(cells[:2])}).",
            "The table needs a column with the cells' names as the file has them (obs_names).",
            path,
        )
    _, names, way, short = best
    others = [column for column in found if column != names]
    column = next(
        (one for one in (label, "cell_type", "celltype", *(others if len(others) == 1 else ())) if one in others), None
    )
    if column is None or (label is not None and label not in others and label not in obs):
        raise candidates.missing(found[others], label, path)
    keyed = found.assign(**{names: short(found[names].str.strip())}).drop_duplicates()
    keyed = keyed[keyed[names].isin(set(short(cells)))].set_index(names)
    if not keyed.index.is_unique:
        twice = keyed.index[keyed.index.duplicated()][0]
        raise DataError(f"{path} names cell {twice!r} more than once, with different labels.", "Keep one line a cell.", path)
    if not pd.Index(short(cells)).is_unique and way:
        raise DataError(f"Cell names of {where} are not unique{way}, as {path} has them.", "Give the names whole.", path)
    there = np.asarray(short(cells).isin(keyed.index))
    joined = keyed.reindex(short(cells)).set_axis(obs.index)
    kept = obs[[one for one in obs if one not in joined]]
    words = f"{column!r} of {path.name}, joined by cell name{way}: {int(there.sum()):,} of {len(cells):,} cells are in it"
    lines = len(found) - len(keyed)
    words += f", {int((~there).sum()):,} are not and were left out" if not there.all() else ""
    words += f"; {lines:,} of its lines name no cell of the file" if lines else ""
    return kept.join(joined) if kept.index.is_unique else pd.concat([kept, joined], axis=1), column, there, words
