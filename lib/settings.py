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
SCBERT_SCHEDULER     address of a Dask scheduler that does the runs                                 runs are done here
SCBERT_PROGRESS      log: progress in lines, for output that goes to a file                         live bars
==================== ============================================================================== =====================

Relative folders are meant from the root of the repository, whatever folder a notebook runs in.
"""

from __future__ import annotations

import os
from pathlib import Path

from lib.errors import DataError

ROOT = Path(__file__).resolve().parents[1]


def _folder(variable, default):
    given = os.environ.get(variable)
    return ROOT / Path(given).expanduser() if given else default


def cache():
    """Where prepared cells, corpora and runs live."""
    return _folder("SCBERT_CACHE", ROOT / "data" / "cache")


def downloads():
    """Where downloads lie."""
    return _folder("SCBERT_DATA_DIR", cache() / "downloads")


def figures():
    """Where figures are written, a folder each profile."""
    return _folder("SCBERT_FIGURES", ROOT / "figures")


def offline():
    return os.environ.get("SCBERT_OFFLINE", "0") not in ("", "0")


def mirror():
    """The web folder that stands for all published places, or None."""
    return os.environ.get("SCBERT_MIRROR") or None


def timeout():
    return _number("SCBERT_TIMEOUT", float, "seconds, more than 0") or 60.0


def workers():
    """How many small runs go side by side, or None: as many as the machine can."""
    return _number("SCBERT_WORKERS", int, "the number of runs that may go side by side, 1 or more")


def scheduler():
    """The address of a Dask scheduler, or None."""
    return os.environ.get("SCBERT_SCHEDULER") or None


def progress_in_lines():
    return os.environ.get("SCBERT_PROGRESS") == "log"


def runs_since():
    """Runs finished before this time (seconds since 1970) are done again."""
    return float(os.environ.get("SCBERT_RUNS_SINCE") or 0)


def _number(variable, kind, wanted):
    given = os.environ.get(variable)
    if not given:
        return None
    try:
        value = kind(given)
    except ValueError:
        value = 0
    if not value > 0:
        raise DataError(f"{variable} is {given!r}. Give {wanted}.")
    return value
