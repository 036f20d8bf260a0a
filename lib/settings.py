"""Where things are, and the one place that reads the environment. Set a variable before the library is used.

==================== ============================================================================== =====================
variable             meaning                                                                        default
==================== ============================================================================== =====================
SCBERT_CACHE         folder of prepared cells, corpora, runs                                        data/cache
SCBERT_DATA_DIR      folder of downloads; files put there by hand are used if they verify           downloads in the cache
SCBERT_FIGURES       folder of figures                                                              figures
SCBERT_OFFLINE       1: never download                                                              0
SCBERT_MIRROR        a web folder to take all downloads from                                        the published places
SCBERT_TIMEOUT       seconds without a byte before a download is tried again                        60
SCBERT_WORKERS       how many small runs go side by side                                            by cores and memory
SCBERT_DEVICES       GPUs, or processes on a CPU, that train one large model together             all GPUs; one process
SCBERT_AT_ONCE       cells of a batch that go through a model at once in training; the rest follow  the whole batch
SCBERT_PRECISION     bf16 or fp32: in which large models are trained on a CPU                       what is faster here
SCBERT_SCHEDULER     address of a Dask scheduler that does the runs                                 runs are done here
SCBERT_FORCE         a word: runs whose mark carries another word, or none, are done again          what is done serves
SCBERT_PROGRESS      log: a line every half minute; bar: a bar of text; off: nothing                live bars
SCBERT_JOURNAL       file to which runs that were computed, stored already or published are added   none is kept
==================== ============================================================================== =====================

Relative folders are meant from the root of the repository, whatever folder a notebook runs in. A value that means nothing
is refused where it is first asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from lib.errors import DataError

ROOT = Path(__file__).resolve().parents[1]


def cache() -> Path:
    """Where prepared cells, corpora and runs live."""
    return _folder("SCBERT_CACHE", ROOT / "data" / "cache")


def downloads() -> Path:
    """Where downloads lie."""
    return _folder("SCBERT_DATA_DIR", cache() / "downloads")


def figures() -> Path:
    """Where figures are written, a folder each profile."""
    return _folder("SCBERT_FIGURES", ROOT / "figures")


def offline() -> bool:
    """Whether downloading is forbidden."""
    return _text("SCBERT_OFFLINE", "0|1", "1 to forbid downloading, or 0") == "1"


def mirror() -> str | None:
    """The web folder that stands for all published places, or None."""
    return _text("SCBERT_MIRROR", "https?://.+", "the address of a web folder, http://… or https://…")


def timeout() -> float:
    """Seconds without a byte before a download is tried again."""
    return _number("SCBERT_TIMEOUT", float, "seconds, more than 0") or 60.0


def workers() -> int | None:
    """How many small runs go side by side, or None: as many as the machine can."""
    return _number("SCBERT_WORKERS", int, "the number of runs that may go side by side, 1 or more")


def devices() -> int | None:
    """How many GPUs, or processes on a CPU, train a large model together, or None: all GPUs, or one process."""
    return _number("SCBERT_DEVICES", int, "the number of devices that may train together, 1 or more")


def at_once() -> int | None:
    """How many cells of a batch go through a model at once in training, or None: all of them."""
    return _number("SCBERT_AT_ONCE", int, "a number of cells, 1 or more")


def precision() -> str | None:
    """In which numbers large models are computed on a CPU, or None: what a measurement of the machine says."""
    return _text("SCBERT_PRECISION", "bf16|fp32", "bf16 or fp32, or leave it out to have it measured")


def scheduler() -> str | None:
    """The address of a Dask scheduler, or None."""
    return _text("SCBERT_SCHEDULER", r"\S+:\S+", "the address that the scheduler prints, such as tcp://10.0.0.1:8786")


def force() -> str | None:
    """The word that a run's mark must carry, or None: any mark serves."""
    return _text("SCBERT_FORCE", r"[\w-]+", "a word of letters, digits, - and _")


def progress() -> str | None:
    """How progress is shown: ``log`` (lines), ``bar`` (a bar of text), ``off``, or None (live bars, in notebooks widgets)."""
    return _text("SCBERT_PROGRESS", "log|bar|off", "log, bar or off, or leave it out")


def journal() -> Path | None:
    """The file to which runs are added that were computed or served, or None."""
    return _folder("SCBERT_JOURNAL", Path()) if os.environ.get("SCBERT_JOURNAL") else None


def given() -> dict[str, str]:
    """The variables that are set, for another process."""
    return {name: value for name, value in os.environ.items() if name.startswith("SCBERT_")}


def handed_on(changes: dict[str, str]) -> dict[str, str]:
    """The whole environment with some changes, for another process, which finds this library whatever its folder."""
    found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": found, **changes}


def put(variables: dict[str, str]) -> None:
    """Let these be the variables of this process and those that it starts, and no others of ours."""
    os.environ.update(variables)
    for name in given().keys() - variables.keys():
        os.environ.pop(name, None)


def _folder(variable: str, default: Path) -> Path:
    chosen = os.environ.get(variable)
    return ROOT / Path(chosen).expanduser() if chosen else default


def _text(variable: str, pattern: str, wanted: str) -> str | None:
    chosen = os.environ.get(variable)
    if chosen and not re.fullmatch(pattern, chosen):
        raise DataError(f"{variable} is {chosen!r}. Give {wanted}.")
    return chosen or None


def _number(variable: str, kind: Callable, wanted: str) -> int | float | None:
    chosen = os.environ.get(variable)
    try:
        value = kind(chosen) if chosen else None
    except ValueError:
        value = 0
    if value is not None and not 0 < value < float("inf"):
        raise DataError(f"{variable} is {chosen!r}. Give {wanted}.")
    return value
