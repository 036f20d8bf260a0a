"""What is not AnnData: 10x Genomics' .h5 and folders, MuData, loom, tables of text; and a table of labels beside a file."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import causes, checks, h5ad, opening
from lib.datasets.held import Held, Matrix
from lib.errors import DataError

RNA = ("rna", "gex", "gene expression", "expression", "transcriptome", "scrna")  # modalities of MuData, in small letters
LOOM = {  # which attributes of a loom file name its cells and genes
    "col_attrs": "CellID obs_names cell_id cell_ids cell_names barcode barcodes Barcode index".split(),
    "row_attrs": "Gene var_names gene_names gene_name gene genes GeneName symbol Symbol index".split(),
}
# Columns of numbers that a table of cells × genes may have beside its genes.
MEASURES = re.compile(
    r"(nCount|nFeature|n_counts?|n_genes|n_umis?|total_counts|percent|pct|log1p_|doublet|scrublet)[\w.]*$"
    r"|(umap|tsne|pc)_?[._ ]\d+$|(seurat_)?clusters?$|leiden$|louvain$",
    re.IGNORECASE,
)
LINES = 2000  # of a table of text, read at a time


def is_10x(file) -> bool:
    """Whether HDF5 is 10x Genomics': of Cell Ranger 3 and later, or one group a genome as before."""
    groups = [group for group in file.values() if isinstance(group, h5py.Group)]
    return "matrix/barcodes" in file or (len(groups) > 0 and all({"barcodes", "gene_names"} <= set(group) for group in groups))


def ten_x_hdf5(file, path: Path) -> Held:
    """A 10x .h5 of any version; its matrix stays on the disk."""
    genomes = ["matrix"] if "matrix/barcodes" in file else list(file)
    if len(genomes) > 1:
        raise DataError(
            f"{path} is a 10x Genomics .h5 of several genomes: {', '.join(genomes)}.",
            f"Write one: scanpy.read_10x_h5(path, genome={genomes[0]!r}).write_h5ad('cells.h5ad').",
            path,
        )
    group = file[genomes[0]]
    table = group.get("features", group)
    ids, names = ("id", "name") if "features" in group else ("genes", "gene_names")
    var = pd.DataFrame({"gene_symbols": h5ad.values(table[names])}, index=h5ad.values(table[ids]))
    if "feature_type" in table:
        var["feature_types"] = h5ad.values(table["feature_type"])
    return Held(path, pd.DataFrame(index=h5ad.values(group["barcodes"])), [Matrix("X", group, lambda: var)])


def ten_x(path: Path) -> Held:
    """A 10x folder with matrix.mtx, barcodes and features (or genes)."""
    import scanpy

    try:
        adata = _folder(scanpy, path)
    except DataError:
        raise
    except Exception as error:  # scipy's own is of no kind
        what = f"cannot be read as a 10x folder ({type(error).__name__}: {error})"
        raise DataError(f"{path} {what}.", "Copy it again, whole.", path) from error
    var = adata.var
    if "gene_ids" in var:  # identifiers are unique, symbols are not: columns of one symbol are summed
        var = var.assign(gene_symbols=var.index).set_index("gene_ids", drop=False)
    return Held(path, adata.obs, [Matrix("X", adata.X, lambda: var)])


def _folder(scanpy, path):
    folder = path if path.is_dir() else path.parent
    names = [entry.name for entry in folder.iterdir()]
    found = [name for name in names if name.endswith(("matrix.mtx", "matrix.mtx.gz"))]
    if path.is_file():
        found = [path.name]
    if len(found) > 1:
        raise DataError(
            f"{folder} holds {len(found)} matrices ({', '.join(sorted(found)[:4])}).", "Give the path of one of them.", folder
        )
    prefix = found[0].split("matrix.mtx")[0]
    there = {
        part: name for part in ("barcodes", "features", "genes") for name in names if name.startswith(f"{prefix}{part}.tsv")
    }
    genes = there.get("features") or there.get("genes")
    if "barcodes" not in there or not genes:
        raise DataError(
            f"{folder} lacks {prefix}barcodes.tsv or {prefix}features.tsv beside {found[0]} (it has "
            f"{', '.join(sorted(names)[:6])}).",
            "A 10x folder has the three of them: copy it whole.",
            folder,
        )
    x = scanpy.read(folder / found[0]).X
    lines = {name: pd.read_csv(folder / name, header=None, sep="\t", dtype=str) for name in (there["barcodes"], genes)}
    barcodes, features = lines.values()
    if x.shape == (len(features), len(barcodes)):
        x = x.T
    elif x.shape != (len(barcodes), len(features)):
        raise DataError(
            f"The parts of {folder} do not belong together: {found[0]} is {x.shape[0]:,} × {x.shape[1]:,}, "
            + " and ".join(f"{name} has {len(table):,} lines" for name, table in lines.items())
            + ".",
            "Copy the three from one place, whole.",
            folder,
        )
    var = pd.DataFrame(index=features[min(1, features.shape[1] - 1)].to_numpy())
    if features.shape[1] > 1:
        var["gene_ids"] = features[0].to_numpy()
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    return anndata.AnnData(sp.csr_matrix(x), obs=pd.DataFrame(index=barcodes[0].to_numpy()), var=var)


def mudata(file, path: Path) -> Held:
    """The expression of a MuData file, as anndata reads it; labels that stand beside all modalities are joined."""
    modalities = list(file["mod"])
    name = next((one for wanted in RNA for one in modalities if one.lower() == wanted), None)
    if name is None:
        raise DataError(
            f"{path} is a MuData file without a modality called rna (it has {', '.join(modalities) or 'none'}).",
            "Write the one with expression: mudata.read(path)['NAME'].write_h5ad('cells.h5ad').",
            path,
        )
    held = h5ad.held(file["mod"][name], path)
    if "obs" in file:
        try:
            common = h5ad.table(file["obs"], "obs", path, held.unreadable)
            common.columns = [column.removeprefix(f"{name}:") for column in common.columns]
            common = common.loc[:, ~common.columns.duplicated() & ~common.columns.isin(held.obs.columns)]
            if common.index.is_unique:
                held.obs = held.obs.join(common)
        except (DataError, *causes.ERRORS) as error:
            held.unreadable["obs beside all modalities"] = str(error)
    others = [one for one in modalities if one != name]
    for matrix in held.matrices:
        matrix.name = f"{name}/{matrix.name}"
    held.notes.append(f"of the MuData file, {name} is taken" + (f" and {', '.join(others)} left out" if others else ""))
    return held


def loom(file, path: Path) -> Held:
    """A loom file: genes × cells, attributes of either as arrays; turned round in blocks of genes."""
    tables = {}
    for axis, names in LOOM.items():
        columns = {}
        for name in file[axis]:
            try:
                read = h5ad.values(file[axis][name])
            except causes.ERRORS:
                continue
            if np.ndim(read) == 1:
                columns[name] = read
        frame = pd.DataFrame(columns)
        index = next((name for name in names if name in frame), None)
        tables[axis] = frame.set_index(index) if index else frame.set_axis(frame.index.astype(str))

    def turned(held):
        step = max(1, 2**24 // max(1, held.shape[1]))
        parts = [sp.csr_matrix(np.asarray(held[i : i + step], np.float32)) for i in range(0, held.shape[0], step)]
        return sp.vstack(parts, format="csr").T.tocsr()

    obs, var = tables["col_attrs"], tables["row_attrs"]
    obs.index, var.index = obs.index.astype(str), var.index.astype(str)
    matrices = []
    layers = {"X": file["matrix"]} | {f"layers[{name!r}]": file["layers"][name] for name in file.get("layers", {})}
    unreadable = {}
    for name, layer in layers.items():
        try:
            matrices.append(Matrix(name, turned(layer), lambda: var))
        except causes.ERRORS as error:
            unreadable[name] = causes.reason(error, layer)[0]
    return Held(path, obs, matrices, unreadable)


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


def text(path: Path) -> Held:
    """A CSV or TSV of cells × genes or genes × cells, in blocks of lines; columns of words become the table of the cells."""
    try:
        how = _manner(path)
        if how["sep"] is None:
            raise DataError(
                f"{path} is text, but no table: its first line has neither tab, comma, semicolon nor blank.",
                "Give the path of an .h5ad file (adata.write_h5ad(path)), or of a table of cells × genes.",
                path,
            )
        rows, words, names, header = [], [], [], None
        for block in pd.read_csv(path, index_col=0, chunksize=LINES, low_memory=False, **how):
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
    columns = rows[0][1] if rows else []
    if not rows or any(len(found) != len(columns) for _, found in rows):
        raise DataError(f"{path} holds no table of numbers: some columns are words in some lines.", "Write it as .h5ad.", path)
    x = sp.vstack([part for part, _ in rows], format="csr")
    if x.nnz and np.isnan(x[-1, -1]) and np.isfinite(x[:-1].data).all():
        raise DataError(f"{path} is truncated: its last line, {names[-1]!r}, is not whole.", "Copy it again, whole.", path)
    beside = pd.concat(words).set_axis(names) if len(words[0].columns) else pd.DataFrame(index=pd.Index(names))
    obs, var = beside, pd.DataFrame(index=columns.astype(str))
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
        raise DataError(
            f"{path} has no label column {label or 'cell_type'!r}. Columns: {', '.join(others) or 'none'}.",
            "Name the one with the cell types: -p label COLUMN.",
            path,
        )
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
