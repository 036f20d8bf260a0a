"""The tables of an AnnData (obs, var) as they lie in a file, column by column: one that cannot be read stops no other."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from lib.datasets import causes
from lib.datasets.held import is_group
from lib.errors import DataError

INDEX = ("_index", "index", "cell_id", "barcodes", "CellID")  # where a table does not say which of its entries names the rows


def refusal(error: Exception, item, path: Path, part: str = "") -> DataError:
    """The refusal of a part of a file (of h5py or zarr), with its cause."""
    what, remedy = causes.reason(error, item)
    return DataError(f"{f'{part} of ' if part else ''}{path} {what}.", remedy, f"{path} {part}".strip())


def table(group, part: str, path: Path, unreadable: dict[str, str]) -> pd.DataFrame:
    """A table (obs or var) column by column.

    Parameters
    ----------
    group : h5py or zarr group
    part : str
        ``obs``, ``var`` or ``raw/var``.
    path : Path
    unreadable : dict
        Columns that cannot be read are entered here, with the reason.

    Raises
    ------
    DataError
        The names of its rows cannot be read.
    """
    try:
        return _table(group, part, path, unreadable)
    except DataError:
        raise
    except causes.ERRORS as error:
        raise refusal(error, group, path, part) from error


def _table(group, part, path, unreadable):
    if not is_group(group):  # a table of records, of AnnData before 0.7
        records = pd.DataFrame(np.asarray(group[()]))
        records = records.apply(lambda column: column.str.decode("utf-8", "replace") if column.dtype == object else column)
        return records.set_index(records.columns[0])
    said = group.attrs.get("_index")
    said = said.decode() if isinstance(said, bytes) else said
    name = next((str(one) for one in (said, *INDEX) if one is not None and str(one) in group), None)
    if name is None:
        entries = ", ".join(list(group)[:6]) or "nothing"
        raise DataError(
            f"{part} of {path} does not say what its rows are called (it has {entries}).", "Write the file with anndata.", path
        )
    try:
        index = pd.Index(values(group[name])).astype(str)
    except causes.ERRORS as error:
        raise refusal(error, group[name], path, f"The names {part}[{name!r}]") from error
    order = group.attrs.get("column-order", [])
    order = [one.decode() if isinstance(one, bytes) else str(one) for one in np.asarray(order).ravel()]
    columns = {}
    for column in [*order, *(one for one in group if one not in order)]:
        if column in (name, "__categories") or column not in group:
            continue
        try:
            read = values(group[column])
            if np.ndim(read) != 1 or getattr(read.dtype, "kind", "") == "V":
                raise ValueError(f"it is no column of text or numbers, but {read.dtype}, {np.ndim(read)} axes")
            if len(read) != len(index):
                raise ValueError(f"it has {len(read):,} entries for {len(index):,} rows")
            columns[column] = read
        except causes.ERRORS as error:
            unreadable[f"{part}[{column!r}]"] = causes.reason(error, group[column])[0]
    return pd.DataFrame(columns, index=index.rename(None if name in INDEX else name))


def values(item):
    """A column: text, numbers or categories; as anndata reads it, save text declared ASCII that is UTF-8, as R writes it."""
    causes.plausible(item)
    if is_group(item):
        if {"codes", "categories"} <= set(item):
            causes.plausible(item["codes"])
            return _categories(item["codes"][:], values(item["categories"]))
        if {"levels", "values"} <= set(item):  # a factor as R counts it, from 1
            return _categories(item["values"][:] - 1, values(item["levels"]))
        return read_elem(item)
    if isinstance(item, h5py.Dataset) and (h5py.check_string_dtype(item.dtype) or item.dtype.kind in "SO"):
        return np.array([_text(one) for one in np.atleast_1d(item[()])], dtype=object)
    if isinstance(item, h5py.Dataset) and "categories" in item.attrs:  # AnnData 0.7, SeuratDisk
        return _categories(item[:], values(item.file[item.attrs["categories"]]))
    return read_elem(item) if "encoding-type" in item.attrs else np.asarray(item[()])


def _categories(codes, names):
    codes = np.asarray(codes).astype(np.int64)
    if len(codes) and (codes.max() >= len(names) or codes.min() < -1):
        raise ValueError(f"a code {codes.max() if codes.max() >= len(names) else codes.min()} for {len(names)} categories")
    if len(set(names)) != len(names):
        return pd.Categorical(np.append(np.asarray(names, object), None)[codes])
    return pd.Categorical.from_codes(codes, categories=pd.Index(names))


def _text(one):
    if not isinstance(one, bytes):
        return str(one)
    try:
        return one.decode("utf-8")
    except UnicodeDecodeError:
        return one.decode("latin-1")
