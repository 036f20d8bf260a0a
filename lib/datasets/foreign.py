"""What is not AnnData: 10x Genomics' .h5 and folders, MuData, loom."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import causes, h5ad, tables
from lib.datasets.held import Held, Matrix
from lib.errors import DataError

RNA = ("rna", "gex", "gene expression", "expression", "transcriptome", "scrna")  # modalities of MuData, in small letters
LOOM = {  # which attributes of a loom file name its cells and genes
    "col_attrs": "CellID obs_names cell_id cell_ids cell_names barcode barcodes Barcode index".split(),
    "row_attrs": "Gene var_names gene_names gene_name gene genes GeneName symbol Symbol index".split(),
}


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
    var = pd.DataFrame({"gene_symbols": tables.values(table[names])}, index=tables.values(table[ids]))
    if "feature_type" in table:
        var["feature_types"] = tables.values(table["feature_type"])
    return Held(path, pd.DataFrame(index=tables.values(group["barcodes"])), [Matrix("X", group, lambda: var)])


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
            common = tables.table(file["obs"], "obs", path, held.unreadable)
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
    axes = {}
    for axis, names in LOOM.items():
        columns = {}
        for name in file[axis]:
            try:
                read = tables.values(file[axis][name])
            except causes.ERRORS:
                continue
            if np.ndim(read) == 1:
                columns[name] = read
        frame = pd.DataFrame(columns)
        index = next((name for name in names if name in frame), None)
        axes[axis] = frame.set_index(index) if index else frame.set_axis(frame.index.astype(str))

    def turned(held):
        step = max(1, 2**24 // max(1, held.shape[1]))
        parts = [sp.csr_matrix(np.asarray(held[i : i + step], np.float32)) for i in range(0, held.shape[0], step)]
        return sp.vstack(parts, format="csr").T.tocsr()

    obs, var = axes["col_attrs"], axes["row_attrs"]
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
