"""AnnData as it lies in a file, .h5ad or .zarr: its cells, and its matrices, of which nothing is read yet."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from lib.datasets import causes, opening, tables
from lib.datasets.held import Held, Matrix, is_group
from lib.errors import DataError


@contextlib.contextmanager
def _refusing(path):
    """Whatever anndata and h5py raise for a damaged or foreign file, half a dozen kinds, is one refusal with its cause."""
    try:
        yield
    except DataError:
        raise
    except causes.ERRORS as error:
        with opening.hdf5(path) as file:
            what, remedy = causes.reason(error, file)
        raise DataError(f"{path} {what}.", remedy, path) from error


# What else comes as HDF5: the entries that tell it, what it is, and how to make an .h5ad of it.
FOREIGN = {
    ("assays", "meta.data"): ("an h5Seurat file", "Make one of it: SeuratDisk::Convert(path, 'h5ad') in R."),
    ("assay", "cellNames"): ("a SCope or scater file", "Make one of it with anndata."),
    ("obs_names", "var_names"): ("HDF5 of an unknown program", "Make one of it with anndata."),
    ("barcode_idx", "umi"): ("Cell Ranger's molecule_info.h5", "Give filtered_feature_bc_matrix.h5 of the same folder."),
}


def _check_content(file, path):
    """Refuse HDF5 that is not AnnData, and entries that would be larger in memory than gzip can make them."""
    if "obs" not in file or "var" not in file:
        for entries, (kind, remedy) in FOREIGN.items():
            if all(entry in file for entry in entries):
                raise DataError(f"{path} is {kind}, not an .h5ad file.", remedy, path)
        raise DataError(
            f"{path} is HDF5 but not an .h5ad file: it has {', '.join(list(file)[:8]) or 'nothing'}, where obs, var and X "
            "are expected.",
            "Write it with adata.write_h5ad(path).",
            path,
        )
    declared = []

    def note(name, item):
        with contextlib.suppress(*causes.ERRORS):  # one of an unknown type, say
            declared.append((item.nbytes, name)) if getattr(item, "size", None) else None

    with contextlib.suppress(*causes.ERRORS):  # damaged entries are named when they are read
        file.visititems(note)
    bytes_, name = max(declared, default=(0, ""))
    if bytes_ > 1100 * path.stat().st_size:  # deflate packs 1032 bytes into one at most
        raise DataError(
            f"{path} is damaged or made to fill the memory: {name!r} claims {bytes_:,} bytes in a file of "
            f"{path.stat().st_size:,}.",
            "Copy it again or write it anew.",
            path,
        )


def held(file, path: Path) -> Held:
    """The cells and matrices of a group of HDF5 or zarr that holds an AnnData; of matrices nothing is read yet.

    Parameters
    ----------
    file : h5py or zarr group
    path : Path
        For messages.

    Raises
    ------
    DataError
        It is no AnnData, or neither the table of its cells nor that of its genes can be read.
    """
    if isinstance(file, h5py.File):
        _check_content(file, path)
    unreadable = {}
    try:
        if "raw.X" in file or not is_group(file["obs"]):
            return _before_07(path)
        obs = tables.table(file["obs"], "obs", path, unreadable)
        matrices = [Matrix("X", file.get("X"), lambda: tables.table(file["var"], "var", path, unreadable))]
        matrices += _layers(file, matrices[0].genes, unreadable)
        if "raw" in file and "X" in file["raw"]:
            matrices.append(Matrix("raw.X", file["raw/X"], lambda: _raw_genes(file, path, unreadable)))
        found = Held(path, obs, matrices, unreadable)
        with contextlib.suppress(*causes.ERRORS):
            found.log_base = _log_base(file)
        with contextlib.suppress(DataError, *causes.ERRORS):
            _join_obsm(found, file.get("obsm", {}))
    except DataError:
        raise
    except causes.ERRORS as error:
        raise tables.refusal(error, file, path) from error
    return found


def _before_07(path):
    """AnnData before 0.7: its own reader knows how."""
    with _refusing(path), warnings.catch_warnings():  # that the file is old is no news, and no fault
        warnings.simplefilter("ignore")
        adata = anndata.read_h5ad(path)
    matrices = [Matrix("X", adata.X, lambda: adata.var)]
    matrices += [Matrix(f"layers[{name!r}]", layer, lambda: adata.var) for name, layer in adata.layers.items()]
    if adata.raw is not None:
        matrices.append(Matrix("raw.X", adata.raw.X, lambda: adata.raw.var))
    return Held(path, adata.obs, matrices)


def _layers(file, genes, unreadable):
    """The layers; one that anndata cannot read has its reason noted."""
    found = []
    for name in file.get("layers", {}):
        part = f"layers[{name!r}]"
        try:
            layer = file["layers"][name]
        except causes.ERRORS as error:
            unreadable[part] = causes.reason(error)[0]
            continue
        if is_group(layer) and "encoding-type" not in layer.attrs and not {"data", "indptr"} <= set(layer):
            unreadable[part] = (
                f"is a group with {', '.join(map(repr, list(layer)[:3])) or 'nothing'} inside: a layer's name with a slash "
                "makes one, and anndata cannot read it"
            )
            continue
        found.append(Matrix(part, layer, genes))
    return found


def _join_obsm(found, obsm):
    """Tables of words that stand in obsm, beside the columns of obs: some tools put labels there."""
    for name in obsm:
        if is_group(obsm[name]) and obsm[name].attrs.get("encoding-type") == "dataframe":
            more = tables.table(obsm[name], f"obsm[{name!r}]", found.path, found.unreadable)
            for column in more.columns.difference(found.obs.columns):
                if len(more) == len(found.obs) and not pd.api.types.is_float_dtype(more[column]):
                    found.obs[column] = more[column].to_numpy()
                    found.beside[str(column)] = f"obsm[{name!r}]"


def _raw_genes(file, path, unreadable):
    """The genes of raw; symbols may be noted for the genes of X alone."""
    if "var" not in file["raw"]:
        return tables.table(file["var"], "var", path, unreadable)
    own = tables.table(file["raw/var"], "raw/var", path, unreadable)
    try:
        others = tables.table(file["var"], "var", path, unreadable)
    except DataError:
        return own
    others = others[[column for column in others if column not in own]]
    return own.join(others) if own.index.is_unique and others.index.is_unique else own


def _log_base(file):
    noted = file.get("uns/log1p")
    if noted is None:
        return None
    base = noted.get("base")
    value = None if base is None else np.asarray(base[()]).ravel()
    return float(value[0]) if value is not None and value.size and value.dtype.kind in "fiu" else float(np.e)
