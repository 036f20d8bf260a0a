"""Cells of a file named by a classifier that is there already: a finished run, or an original scBERT checkpoint."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem
from filelock import FileLock, Timeout

from lib import scbert, settings
from lib.datasets import catalogue, genes, stored, streamed
from lib.errors import DataError
from lib.experiments import archive, classifiers, inventory, profiles, tasks
from lib.experiments.names import LOADED
from lib.experiments.store import Run, large
from lib.files import digest, fingerprint, replacing, writable
from lib.prepare import preprocess

TYPE, PROBABILITY, PROBABILITIES, CLASSES = "scbert_cell_type", "scbert_probability", "scbert_probabilities", "scbert_classes"
LEAST_SHARE = 0.1  # of the model's genes: with fewer in the file, what the model says means nothing
BLOCK, BLOCK_LARGE = 4096, 64  # cells that are read, named and kept at a time: a full-size model takes seconds a cell


@dataclass
class Namer:
    """What names cells: its genes and classes, and what tells the probabilities of cells, (cells, classes)."""

    name: str  # of what it is, and which
    genes: list[str]
    classes: list[str]
    probabilities: Callable[[sp.csr_matrix], np.ndarray]
    totals: str  # over which genes a cell's counts are summed, as where it learnt: measured, or vocabulary
    as_it_is: bool  # values on scBERT's own scale were learnt from as they are
    block: int


def of_run(beginning: str) -> Namer:
    """What a finished run learnt; classifiers without a transformer store no weights and learn again, in seconds.

    Parameters
    ----------
    beginning : str
        Of its identifier, as ``python -m lib.runs list`` shows it.

    Raises
    ------
    DataError
        There is none, it is a published one without weights, it is not done, or it names no cells.
    """
    _refuse_published(beginning)
    found = inventory.find(beginning)
    if (state := found.state)[0] != "done":
        raise DataError(
            f"Run {found.id} is {' ('.join(filter(None, state))}{')' * bool(state[1])}: only a finished one serves."
        )
    spec, code = found.spec, found.environment["code"]
    if spec["task"] != "cell_types":
        raise DataError(
            f"Run {found.id} is one of the task {spec['task'].replace('_', ' ')}, which names no cells.",
            "Take one whose line in python -m lib.runs list says cell types.",
        )
    run, dataset = Run(spec, code), spec["data"]["dataset"]
    classes = run.predictions["classes"].astype(str).tolist()
    if spec["model"] == "scBERT":
        wanted = scbert.checkpoints.read(run.weights)[0]["genes"]
        classifier = classifiers.ScBertClassifier.stored(run.weights, wanted)
        probabilities = classifier.predict_proba
    else:
        wanted, probabilities = _learnt_again(spec)
    card = catalogue.CARDS.get(dataset, {})
    how = {"totals": _totals(spec), "as_it_is": card.get("normalised") == "log2"}
    by = "" if code == LOADED else f", computed by code {code[:8]}"
    name = f"run {found.id} ({spec['arm'].replace('_', ' ')}, seed {spec['seed']}, learnt from {dataset}{by})"
    return Namer(name, list(wanted), classes, probabilities, block=BLOCK_LARGE if large(spec) else BLOCK, **how)


def _refuse_published(beginning):
    """A run that is published alone has no weights to name cells with."""
    if any(run.id.startswith(beginning) for run in inventory.runs()) or not beginning:
        return
    for path in sorted(archive.folder().glob("[!.]*.zip")):
        if any(name.startswith(beginning) for name in archive.names(path)):
            asked = path.stem.split("-")  # liver-laptop: data set, profile
            how = f"--profile {asked[-1]}" + (f" -p dataset {asked[0]}" if len(asked) > 1 else "")
            raise DataError(
                f"Run {beginning} is a published one of {path.name}: archives hold predictions, no weights to name cells with.",
                f"Compute it here: ./run_all.sh {how} --only 01 --force; then take its name from python -m lib.runs list.",
            )


def _learnt_again(spec):
    """The genes of a run without weights, and its probabilities, learnt again from the same cells by the same seed."""
    if spec.get("input") in ("depth", "equal_depth"):
        raise DataError(f"The arm {spec['arm']} looks at how deeply cells were sequenced, a control. Take another run.")
    cells, train, select, *_ = tasks._sides(spec)
    told, *_ = tasks._learnt(spec, cells, train, select)
    like = tasks._input(spec, cells).dtype

    def probabilities(x):
        if spec.get("input") == "tokens":
            return told(classifiers.sparse_tokens(x)[:, :-1].astype(np.float32))
        return told((x > 0).astype(np.float32) if spec.get("input") == "detected" else x.astype(like))

    return cells.genes.tolist(), probabilities


def _totals(spec):
    """Whether a run's cells were divided by their sum over the model's genes or over all that were measured."""
    if spec["data"]["dataset"] not in catalogue.CARDS:
        return "measured"
    for how in inventory.named().get(spec["data"]["fingerprint"], {}).values():
        if how["profile"] and profiles.read(how["profile"])["data"]["vocabulary"]:
            return "measured" if catalogue.CARDS[spec["data"]["dataset"]].get("library_size") else "vocabulary"
    return "measured"


def of_checkpoint(path: str | Path, wanted: Sequence[str] | None, classes: Sequence[str] | None) -> Namer:
    """What an original scBERT checkpoint with a classification head says; cells are divided by their sum over its genes.

    Parameters
    ----------
    path : str or path
    wanted, classes : sequences of str
        Its genes and its cell types, in the order in which it was trained: the file knows neither.

    Raises
    ------
    DataError
        One is missing or does not fit, or it is no such checkpoint.
    """
    wanted = scbert.checkpoints.read(path)[0].get("genes", wanted)
    for given, what, option in ((wanted, "genes", "--genes"), (classes, "names of the cell types", "--classes")):
        if given is None:
            raise DataError(
                f"{path} does not hold the {what} that it was trained with.",
                f"Give a text file with one a line, in the order of the training ({option} FILE).",
                path,
            )
    classifier = classifiers.ScBertClassifier.stored(Path(path), list(wanted))
    if (number := classifier.model.config.classes) != len(classes) or len(set(classes)) != number:
        raise DataError(f"{path} tells {number} cell types apart, {len(set(classes))} different names were given for them.")
    block = BLOCK_LARGE if classifier.model.config.dim >= 100 else BLOCK
    name = f"checkpoint {Path(path).name} ({digest(path)[:8]})"
    return Namer(name, list(wanted), list(classes), classifier.predict_proba, "vocabulary", True, block)


def predict(path: str | Path, namer: Namer, out: str | Path, block: int | None = None, say: Callable = print) -> Path:
    """Name the cells of an .h5ad; write a copy of it with the answers. The matrix is never read whole, nor made dense.

    Parameters
    ----------
    path : str or path
        Counts, or logarithms of normalised ones, with gene symbols: see :func:`lib.datasets.streamed.opened`.
    namer : Namer
        Of :func:`of_run` or :func:`of_checkpoint`.
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
