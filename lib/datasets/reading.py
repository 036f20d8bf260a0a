"""A reader's own file, whatever its format, in; its cells with the matrix that serves best, and a report of the choice, out."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import zarr

from lib.datasets import candidates, causes, checks, foreign, genes, h5ad, matrices, opening, texts
from lib.datasets.held import Held
from lib.errors import DataError

log = logging.getLogger(__name__)

BULK = 0.5  # of all genes: hardly a cell shows so many, whatever the protocol


def read(path: Path, label: str | None = None, labels: str | Path | None = None) -> tuple[anndata.AnnData, dict, str | None]:
    """A user's file as cells × genes.

    Parameters
    ----------
    path : Path
        .h5ad, .zarr, 10x Genomics' .h5 or folder, .h5mu, .loom, or a table of text.
    label : str, optional
        Column with the cell types.
    labels : str or path, optional
        A table with labels, joined by the cells' names.

    Returns
    -------
    (AnnData, dict, str or None)
        ``X`` CSR float32, with ``obs["library_size"]`` (NaN where totals are unknown); the card's words; the label column.

    Raises
    ------
    DataError
        With the true cause, and the part that cannot be read.
    """
    with contextlib.ExitStack() as stack, _refusing(path):
        found = _turned_right(opened(path, stack))
        chosen = matrices.choose(found)
    x, var, names = genes.symbols(chosen.x, chosen.var, chosen.scale.name)
    obs, label, there, joined = _labelled(found, label, labels)
    aside = ", ".join(f"{count:,} {name}" for name, count in chosen.aside.items())
    report = {
        "matrix": chosen.matrix,
        "genes measured": f"{x.shape[1]:,}"
        + (f"; set aside: {aside}" if aside else "")
        + ("; a selection of genes, not a whole measurement" if chosen.selection else ""),
        "gene names": names,
        "library size from": chosen.totals_from,
        "labels from": joined,
        "columns that could be labels": candidates.told(obs, candidates.could_be_labels(obs)) or "none",
        "not read": "; ".join([f"{part} {why}" for part, why in found.unreadable.items()] + found.notes) or None,
    }
    report = {title: words for title, words in report.items() if words}
    for title, words in report.items():
        log.info("%s: %s: %s", path.name, title, words)
    adata = anndata.AnnData(x, obs=obs.rename_axis(None), var=var.rename_axis(None))
    adata.obs["library_size"] = np.nan if chosen.totals is None else chosen.totals
    if not there.all():
        adata = adata[there].copy()
    warnings = [] if chosen.scale.worth < 4 else [f"{chosen.matrix.split(' (')[0]}. Give counts, if there are any."]
    shown = np.median(np.diff(x.indptr)) / x.shape[1]
    if not chosen.selection and x.shape[1] > 5000 and shown > BULK:
        warnings.append(
            f"Half of the rows show {shown:.0%} of the {x.shape[1]:,} genes or more; single cells show far fewer. Are they "
            "sums of many cells (pseudobulk), bulk samples, or imputed?"
        )
    card = {
        "values": chosen.scale.name,
        "matrix": chosen.matrix,
        "selection": chosen.selection,
        "library_size_from": chosen.totals_from,
        "set_aside": chosen.aside,
        "unreadable": dict(found.unreadable),
        "warnings": warnings,
        "report": report,
    }
    return adata, card | ({"gene_names": names} if names else {}), label


def glance(path: Path, label: str | None = None, labels: str | Path | None = None) -> pd.DataFrame | None:
    """The labels of a file, checked as when it is loaded, but before its matrix is read: in seconds.

    Parameters
    ----------
    path, label, labels
        As :func:`read` takes them.

    Returns
    -------
    DataFrame or None
        The cells' table, with ``cell_type``. None where that cannot be had without the matrix: of a 10x folder or a table
        of text whose labels stand in another table.

    Raises
    ------
    DataError
        What opening refuses; no such label column, or one that holds no cell types.
    """
    kind = opening.kind(path)
    if kind in ("10x folder", "table") and labels is not None:
        return None
    if kind == "10x folder":
        raise candidates.missing(pd.DataFrame(), label, path)
    with contextlib.ExitStack() as stack, _refusing(path):
        found = _turned_right(texts.text(path, texts.LINES) if kind == "table" else opened(path, stack))
        obs, label, there, _ = _labelled(found, label, labels)
        var_columns = ()
        with contextlib.suppress(DataError):
            var_columns = found.matrices[0].genes().columns
    label = label or next((one for one in checks.LABEL_COLUMNS if one in obs), None)
    checks.readable(obs, label, found.unreadable, path)
    if label is None:
        raise candidates.missing(obs, label, path)
    obs = obs[there]
    return obs.assign(cell_type=checks.labels(obs, label, path, var_columns)[0])


@contextlib.contextmanager
def _refusing(path):
    """What h5py and zarr raise where nobody looked for it."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, MemoryError) as error:
        what, remedy = causes.reason(error)
        raise DataError(f"{path} {what}.", remedy, path) from error


def _turned_right(found):
    """The same, with the cells' names as text; refused where these are genes."""
    found.obs.index = found.obs.index.astype(str)
    names = None
    with contextlib.suppress(DataError):  # genes that cannot be read are refused with their matrix
        names = found.matrices[0].genes().index.astype(str)
    if names is not None:
        checks.orientation(found.obs.index, names, found.path)
    return found


def _labelled(found, label, labels):
    """The cells' table with its labels, their column if it is known, which cells have a label, and from where, in words."""
    obs = found.obs
    if (name := obs.index.name) in (label, *checks.LABEL_COLUMNS) and name is not None and name not in obs:
        obs = obs.assign(**{name: obs.index.to_numpy()})  # cells that are named by their types
        found.beside[name] = "the cells' names"
    if labels is not None:
        return texts.join_labels(obs, labels, label, found.path)
    column = label or next((one for one in checks.LABEL_COLUMNS if one in obs), None)
    joined = f"{column!r} of {found.beside[column]}" if column in found.beside else None
    return obs, label, np.ones(len(obs), bool), joined


def opened(path: Path, stack: contextlib.ExitStack) -> Held:
    """What a file holds, by the reader of its format; it stays open as long as ``stack``."""
    kind = opening.kind(path)
    if kind == "table":
        return texts.text(path)
    if kind == "10x folder":
        return foreign.ten_x(path)
    if kind == "zarr":
        return _zarr(path)
    file = stack.enter_context(opening.hdf5(path))
    try:
        if foreign.is_10x(file):
            return foreign.ten_x_hdf5(file, path)
        if "mod" in file:
            return foreign.mudata(file, path)
        if "row_attrs" in file and "col_attrs" in file and "matrix" in file:
            return foreign.loom(file, path)
        return h5ad.held(file, path)
    except DataError:
        raise
    except causes.ERRORS as error:
        if isinstance(error, KeyError) and foreign.is_10x(file):
            what = f"{path} is a 10x Genomics .h5 that cannot be read: a part is missing ({error.args[0]})."
            raise DataError(what, "Copy it again, whole.", path) from error
        what, remedy = causes.reason(error, file)
        raise DataError(f"{path} {what}.", remedy, path) from error


def _zarr(path):
    try:
        group = zarr.open_group(path, mode="r")
    except causes.ERRORS as error:
        raise DataError(
            f"{path} is a folder, but no zarr store that can be read ({type(error).__name__}: {error}).",
            "Copy it again, whole.",
            path,
        ) from error
    if "mod" in group:
        return foreign.mudata(group, path)
    if not {"obs", "var"} <= set(group):
        raise DataError(
            f"{path} is zarr but not AnnData: it has {', '.join(list(group)[:8]) or 'nothing'}, where obs, var and X are "
            "expected.",
            "Write it with adata.write_zarr(path).",
            path,
        )
    return h5ad.held(group, path)


def text(card: dict) -> str:
    """The report of a file that was read, as lines (str)."""
    return "\n".join(f"{title}: {words}" for title, words in card.get("report", {}).items())
