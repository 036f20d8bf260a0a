"""Readers of the paper's data sets, each in its own format; what they hold is checked against ``data/sources.yaml``."""

from __future__ import annotations

import csv
import functools
import gzip
import os
import shutil
import warnings
import zlib

import anndata
import numpy as np
import pandas as pd
import rdata
import scipy.sparse as sp
from tqdm.auto import tqdm

from lib.datasets import downloads, stored
from lib.errors import DataError
from lib.files import known, replacing


def load(name: str) -> anndata.AnnData:
    """The cells of a data set of the registry (AnnData, cells × genes), checked but not prepared."""
    return LOADERS[name]()


def _from_r(name, of, held, parts):
    """The cells of an R file; of its object ``held``, ``parts`` gives the dgCMatrix, cells, types and genes."""
    path = downloads.fetch(name)
    try:
        with warnings.catch_warnings():  # of R classes that it hands over as they are, which is what we want
            warnings.simplefilter("ignore")
            matrix, cells, types, genes = parts(rdata.read_rda(path)[held])
        x = sp.csc_matrix((matrix.x, matrix.i, matrix.p), shape=tuple(matrix.Dim))
        obs = pd.DataFrame({"celltype": np.asarray(types, str)}, index=np.asarray(cells, str))
        # Some symbols stand for two Ensembl genes each: the second becomes NAME-1, as everywhere in scverse.
        var = pd.DataFrame(index=anndata.utils.make_index_unique(pd.Index(np.asarray(genes, str))))
        x = sp.csr_matrix(x if x.shape == (len(obs), len(var)) else x.T, dtype=np.float32)
        adata = anndata.AnnData(x, obs=obs, var=var)
    except (KeyError, ValueError, AttributeError, TypeError, EOFError, NotImplementedError) as error:  # the last: not R's
        raise DataError(f"{path} is not {of} ({type(error).__name__}: {error}).") from error
    return _checked(adata, name, "celltype", path)


def _zheng_sorted():
    """fastTopics' RData: counts (cells × genes), barcodes with their sorted population, gene symbols."""

    def parts(held):
        return held["counts"], held["counts"].Dimnames[0], held["samples"]["celltype"], held["genes"]["symbol"]

    return _from_r("zheng_sorted", "fastTopics' pbmc_facs", "pbmc_facs", parts)


def _liver():
    """CuratedAtlasQueryR's SingleCellExperiment: counts (genes × cells), types with the tissue's name behind each."""

    def parts(held):
        columns, genes = held.colData.listData, held.rowRanges.partitioning.NAMES
        types = [str(name).removesuffix(" Liver") for name in columns["Cell_type_in_each_tissue"]]
        return held.assays.data.listData["X"], held.colData.rownames, types, genes

    return _from_r("liver", "CuratedAtlasQueryR's sample_sce_obj", "sample_sce_obj", parts)


def _zheng68k():
    """The authors' .h5ad.gz, log2(1 + counts per 10⁴) of scBERT's genes."""
    path = _unpacked(downloads.fetch("zheng68k"))
    adata = _read_in_blocks(path)
    return _checked(adata, "zheng68k", "celltype", path)


def _macparland(merge=True):
    """GEO's CSV, genes × cells, read in blocks of genes; the cell types come from a second file.

    ``merge`` makes Hepatocyte_1 … Hepatocyte_6 one type, as the paper does.
    """
    path = downloads.fetch("macparland")
    adata = _read_csv(path, downloads.registry()["macparland"]["holds"]["genes"])
    second = downloads.fetch("macparland_labels")
    try:
        table = pd.read_csv(second, sep="\t", dtype=str)
        types = table.set_index("CellName")["CellType"]
    except (KeyError, ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{second} is not a table with CellName and CellType ({error}). Download it again.") from error
    if not types.index.is_unique or (lost := adata.obs_names.difference(types.index)).size:
        raise DataError(f"{second} does not name each cell of {path} once: {lost.size} have no type, e.g. {list(lost[:3])}.")
    adata.obs["CellType"] = types.reindex(adata.obs_names).to_numpy()
    if merge:
        adata.obs["CellType"] = adata.obs["CellType"].str.replace(r"^Hepatocyte_\d+$", "Hepatocyte", regex=True)
    return _checked(adata, "macparland", "CellType", path, "n_types_merged" if merge else "n_types")


def _panglao():
    """The pre-training corpus as cells; 1.1 million of them fill some 10 GB. Pre-training reads :func:`corpus` instead."""
    path = downloads.fetch("panglao")
    return _checked(_read_in_blocks(path), "panglao", None, path)


LOADERS = {
    "zheng_sorted": _zheng_sorted,
    "liver": _liver,
    "zheng68k": _zheng68k,
    "macparland": _macparland,
    "macparland_unmerged": functools.partial(_macparland, merge=False),
    "panglao": _panglao,
}


def vocabulary() -> list[str]:
    """scBERT's gene vocabulary: 16,906 symbols in the order of its checkpoint and gene embedding (list of str)."""
    path = downloads.fetch("vocabulary")
    genes = path.read_text(encoding="utf-8").split()
    wanted = downloads.registry()["vocabulary"]["holds"]["genes"]
    if len(genes) != wanted or len(set(genes)) != wanted:
        raise DataError(f"{path} holds {len(genes)} symbols, {len(set(genes))} of them different, not {wanted}.")
    return genes


def _unpacked(path):
    """The file inside a .gz, beside it; unpacked again unless it has the checksum and length that the .gz ends with."""
    plain = path.with_suffix("")
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            noted = file.read(8)
        if plain.exists() and known(_gzip_notes, plain) == noted:
            return plain
        with gzip.open(path) as packed, replacing(plain) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(packed, file, 2**22)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}). Delete it, so that it is downloaded again.") from error
    return plain


def _gzip_notes(path):
    """What a .gz of a file would end with: CRC-32 and length."""
    found = 0
    with open(path, "rb") as file:
        while block := file.read(2**22):
            found = zlib.crc32(block, found)
        return found.to_bytes(4, "little") + (file.tell() % 2**32).to_bytes(4, "little")


def _read_in_blocks(path):
    with stored.opened(path) as file:
        parts = [(x.data, x.indices, np.diff(x.indptr)) for _, x in stored.blocks(file, f"reading {path.name}")]
        x = _stacked(parts, len(file.var))
        return anndata.AnnData(x, obs=file.obs, var=pd.DataFrame(index=file.var.index))


def _stacked(parts, width):
    """CSR float32 of (values, columns, lengths of rows) of its parts, each given up once copied: the peak is little more."""
    indptr = np.concatenate([[0], *(lengths for *_, lengths in parts)]).cumsum(dtype=np.int64)
    data, indices, end = np.empty(indptr[-1], np.float32), np.empty(indptr[-1], np.int32), 0
    for i, (values, columns, _) in enumerate(parts):
        start, end = end, end + len(values)
        data[start:end], indices[start:end] = values, columns
        parts[i] = None
    return sp.csr_matrix((data, indices, indptr), (len(indptr) - 1, width))


def _read_csv(path, expected):
    """A CSV of genes × cells, gzipped, as a sparse matrix of cells × genes; read line by line.

    Pandas takes minutes for thousands of columns; here only what is not "0", one value in ten, is read as a number.
    """
    parts, genes = [], []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            cells = next(csv.reader(file))[1:]
            for line in tqdm(file, path.name, expected, unit=" genes", mininterval=2, disable=expected < 5000):
                gene, *values = line.rstrip("\r\n").split(",")
                if len(values) != len(cells):
                    raise ValueError(f"line {len(genes) + 2} has {len(values)} numbers for {len(cells)} cells")
                found = [cell for cell, value in enumerate(values) if value != "0"]
                genes.append(gene.strip('"'))
                numbers = np.array([values[cell] for cell in found], np.float32)
                parts.append((numbers, np.array(found, np.int32), [len(found)]))
    except (ValueError, OSError, EOFError, StopIteration, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as a gzipped CSV of genes × cells ({error}). Delete it, so that it is downloaded again."
        ) from error
    if not genes:
        raise DataError(f"{path} holds no gene.")
    x = _stacked(parts, len(cells))
    x.eliminate_zeros()  # written as 0.0
    return anndata.AnnData(x.T.tocsr(), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))


def _checked(adata, name, label, path, n_types="n_types"):
    """Refuse cells that are not what the registry says the file holds."""
    holds = downloads.registry()[name]["holds"]
    x, problems, most = adata.X, [], adata.X.data.max(initial=0)
    for axis, found in (("cells", adata.n_obs), ("genes", adata.n_vars)):
        if axis in holds and found != holds[axis]:
            problems.append(f"{found:,} {axis}, not {holds[axis]:,}")
    if not np.isfinite(x.data).all() or (x.data < 0).any():
        problems.append("values that are missing, infinite or negative")
    elif holds.get("scale") == "counts" and (x.data != np.round(x.data)).any():
        problems.append("values with fractions, not counts")
    elif "most" in holds and not 1 < most <= holds["most"]:
        problems.append(f"a largest value of {most:.4g}, not one between 1 and {holds['most']}")
    elif holds.get("scale") == "log2" and (x.data == np.round(x.data)).all():
        problems.append("whole numbers only, where logarithms are expected")
    if label is not None:
        problems += _wrong_types(adata.obs, label, holds, n_types)
    if problems:
        raise DataError(
            f"{path} is not the published {name}: it has {'; '.join(problems)}. Delete it, so that it is downloaded again."
        )
    return adata


def _wrong_types(obs, label, holds, n_types):
    if label not in obs:
        return [f"no column {label!r}"]
    counts, problems = obs[label].value_counts(), []
    counts = counts[counts > 0]
    if n_types in holds and len(counts) != holds[n_types]:
        problems.append(f"{len(counts)} cell types, not {holds[n_types]}")
    if "types" in holds and counts.to_dict() != holds["types"]:
        problems.append(f"other numbers of cells for each type ({counts.to_dict()})")
    if after := holds.get("after_filter"):
        dropped = len(obs) - after["cells"]
        for kind, least in after["types"].items():
            if kind == "Hepatocyte" and n_types == "n_types":
                continue
            if not least <= counts.get(kind, 0) <= least + dropped:
                problems.append(f"{counts.get(kind, 0)} cells of {kind}, not {least} to {least + dropped}")
    return problems
