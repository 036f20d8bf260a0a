"""The cells of a file named in a stream, by what :mod:`lib.experiments.namers` gives."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem
from filelock import FileLock, Timeout

from lib import scbert, settings
from lib.datasets import genes, stored, streamed
from lib.errors import DataError
from lib.experiments import namers
from lib.experiments.names import LOADED
from lib.files import fingerprint, replacing, writable
from lib.prepare import preprocess

TYPE, PROBABILITY, PROBABILITIES, CLASSES = "scbert_cell_type", "scbert_probability", "scbert_probabilities", "scbert_classes"
LEAST_SHARE = 0.1  # of the model's genes: with fewer in the file, what the model says means nothing


def predict(path: str | Path, namer: namers.Namer, out: str | Path, block: int | None = None, say: Callable = print) -> Path:
    """Name the cells of an .h5ad; write a copy of it with the answers. The matrix is never read whole, nor made dense.

    Parameters
    ----------
    path : str or path
        Counts, or logarithms of normalised ones, with gene symbols: see :func:`lib.datasets.streamed.opened`.
    namer : Namer
        Of :func:`lib.experiments.namers.of_run` or :func:`lib.experiments.namers.of_checkpoint`.
    out : str or path
        The copy, written whole or not at all. It has ``obs["scbert_cell_type"]``, ``obs["scbert_probability"]`` (of that type),
        ``obsm["scbert_probabilities"]`` (cells × types) and the types in ``uns["scbert_classes"]``; all else as it was. A cell
        that shows no gene of the model has no type and NaN.
    block : int, optional
        Cells read and kept at a time; what is named is the same. What was named before an interruption is not named again.
    say : callable
        Is given each line of the report.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    DataError
        Bad input, see there; fewer than a tenth of the model's genes in the file.
    """
    path, out, block = Path(path).expanduser().resolve(), Path(out).expanduser().resolve(), block or namer.block
    if path == out:
        raise DataError(f"{out} is the file that is read.", "Write to another one (--out FILE).", out)
    with streamed.opened(path) as stream:
        for title, words in stream.report.items():
            say(f"{title}: {words}")
        _check_genes(stream, namer, path, say)
        folder = settings.cache() / "predictions" / fingerprint(_identity(path, namer, block))
        with _alone(folder, path):
            found = _all(stream, namer, folder, block, say)
            _write(path, out, found, namer)
            shutil.rmtree(folder)
    unnamed = int(np.isnan(found[:, 0]).sum())
    if unnamed:
        say(f"{unnamed:,} cells show no gene of the model: they have no type.")
    return out


def _check_genes(stream, namer, path, say):
    first = genes.to_vocabulary(stream.block(0, 1), namer.genes, path)
    there = set(first.var_names)
    missing = [gene for gene in namer.genes if gene not in there]
    matched = len(namer.genes) - len(missing)
    words = f"{matched:,} of the {len(namer.genes):,} genes of the model are in the file"
    if matched < LEAST_SHARE * len(namer.genes):
        raise DataError(
            f"{words} of {path} (it has {', '.join(first.var_names[:3])}…, the model {', '.join(namer.genes[:3])}…): too few "
            "to name its cells.",
            "Give all genes that were measured, as human gene symbols.",
            path,
        )
    say(words + (f"; taken as not detected: {', '.join(missing[:8])}{' …' * (len(missing) > 8)}" if missing else ""))
    over = {"measured": "all genes that were measured", "vocabulary": "the model's genes"}[namer.totals]
    say(f"cells are divided by their sum over {over}, as where the model learnt")


def _identity(path, namer, block):
    """What a prediction depends on, and how it is kept."""
    return json.dumps([stored.content(path), namer.name, namer.genes, namer.classes, namer.totals, block, LOADED])


@contextlib.contextmanager
def _alone(folder, path) -> Iterator[None]:
    """The one process that names these cells by this model."""
    with writable(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(f"Another process is naming the cells of {path} with this model. Wait for it, or end it.") from error
    try:
        yield
    finally:
        lock.release()


def _all(stream, namer, folder, block, say):
    """The probabilities of all cells; what an earlier process kept is read."""
    firsts = range(0, stream.n_obs, block)
    kept = sum((folder / f"{first:010d}.npy").exists() for first in firsts)
    if kept:
        say(f"Going on: {min(kept * block, stream.n_obs):,} of {stream.n_obs:,} cells were named before the interruption.")
    found = np.empty((stream.n_obs, len(namer.classes)), np.float32)
    with scbert.training.progress("naming cells", total=stream.n_obs) as bar:
        for first in firsts:
            last, place = min(first + block, stream.n_obs), folder / f"{first:010d}.npy"
            if place.exists():
                found[first:last] = np.load(place, allow_pickle=False)
            else:
                found[first:last] = _block(genes.to_vocabulary(stream.block(first, last), namer.genes, ""), namer)
                with replacing(place) as temporary:
                    np.save(temporary, found[first:last])
            bar.update(last - first)
    return found


def _block(cells, namer):
    """The probabilities of some cells; NaN for those that show no gene of the model."""
    scale, inside = cells.uns["dataset"]["values"], cells.var_names.isin(namer.genes)
    x = sp.csr_matrix(cells.X)
    if not (namer.as_it_is and scale == "log2"):
        linear = x.astype(np.float64)
        linear.data = streamed.LINEAR[scale](linear.data)
        if namer.totals == "vocabulary":
            total = np.asarray(linear[:, inside].sum(1)).ravel()
        else:
            total = cells.obs["library_size"].to_numpy()
        per_gene = np.repeat(np.divide(1e4, total, out=np.zeros(len(total)), where=total > 0), np.diff(x.indptr))
        x.data = np.log2(1 + linear.data * per_gene).astype(np.float32)
    # On scBERT's scale by now: aligning must not normalise again.
    block = anndata.AnnData(x, obs=cells.obs[[]], var=cells.var[[]], uns={"dataset": {"normalised": "log2"}})
    aligned = preprocess.prepare(block, namer.genes, min_genes=0).X
    found = np.asarray(namer.probabilities(aligned), np.float32)
    found[np.diff(aligned.indptr) == 0] = np.nan
    return found


def _write(path, out, found, namer):
    """A copy of the file with what was found, whole or not at all."""
    empty = np.isnan(found[:, 0])
    best = np.where(empty, -1, np.nan_to_num(found, nan=-1).argmax(1))
    columns = {
        TYPE: pd.Categorical.from_codes(best, namer.classes),
        PROBABILITY: np.where(empty, np.float32(np.nan), found.max(1)),
    }
    with replacing(out, "Write to a folder that can, with enough space (--out FILE).") as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            obs = file["obs"]
            if not isinstance(obs, h5py.Group):
                raise DataError(f"{path} was written by AnnData before 0.7.", "Read and write it once with anndata.", path)
            order = [one.decode() if isinstance(one, bytes) else str(one) for one in obs.attrs.get("column-order", [])]
            for name, values in columns.items():
                write_elem(obs, name, values)
            names = np.array([*(one for one in order if one not in columns), *columns], dtype=object)
            obs.attrs.create("column-order", names, dtype=h5py.string_dtype())
            for part, name, values in (("obsm", PROBABILITIES, found), ("uns", CLASSES, np.array(namer.classes, dtype=object))):
                if part not in file:
                    write_elem(file, part, {})
                write_elem(file[part], name, values)
