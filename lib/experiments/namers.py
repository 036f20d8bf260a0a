"""What names cells and is there already: a finished run, or an original scBERT checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from lib import scbert
from lib.datasets import catalogue
from lib.errors import DataError
from lib.experiments import archive, classifiers, inventory, profiles, tasks
from lib.experiments.names import LOADED
from lib.experiments.store import Run, large
from lib.files import digest


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
    return Namer(name, list(wanted), classes, probabilities, block=_block(spec), **how)


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
    cells, train, select, *_ = tasks.sides(spec)
    told, *_ = tasks.learnt(spec, cells, train, select)
    like = tasks.fed(spec, cells).dtype

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


def _block(spec):
    """Cells that are read, named and kept at a time: a full-size model takes about a second a cell."""
    return 64 if large(spec) else 4096


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
    block = _block({"size": {"dim": classifier.model.config.dim}})
    name = f"checkpoint {Path(path).name} ({digest(path)[:8]})"
    return Namer(name, list(wanted), list(classes), classifier.predict_proba, "vocabulary", True, block)
