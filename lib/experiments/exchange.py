"""Finished runs from elsewhere: those of another store, and of an archive that somebody else published."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from lib import settings
from lib.errors import DataError
from lib.experiments import archive, store
from lib.files import HERE, writable
from lib.prepare import cells

TAKEN, HERE_ALREADY, OTHER, IN_USE = "taken", "here already", "here already, with other numbers", "in use here"
OUTCOMES = (TAKEN, HERE_ALREADY, OTHER, IN_USE)


def merge(other: Path) -> Iterator[tuple[str, str]]:
    """Take over the finished runs of another store, and its prepared cells, each verified before and after it is copied.

    A finished run that is here stays; one that is unfinished or damaged here makes way for a whole one.

    Yields
    ------
    run : str
    what : str
        One of ``OUTCOMES``, or what is wrong with it there.
    """
    if not (other / "runs").is_dir():
        raise DataError(f"{other} is no store: it has no folder runs. Give the folder that SCBERT_CACHE named there.")
    if (here := settings.cache()).resolve() == other.resolve():
        raise DataError(f"{other} is the store that it shall be merged into. Set SCBERT_CACHE to the one, and name the other.")
    with writable(here), _aside(here) as aside:
        for folder in sorted(path.parent for path in (other / "runs").glob("[!.]*/DONE")):
            yield folder.name, _taken(folder, here / "runs" / folder.name, aside / folder.name)
        for path in sorted((other / "cells").glob("[!.]*.npz")):
            if not (target := here / "cells" / path.name).exists() and cells.fault(path) is None:
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, aside)
                os.replace(aside / path.name, target)


@contextlib.contextmanager
def _aside(here):
    """A folder in which copies are completed; what killed processes left of such goes."""
    here.mkdir(parents=True, exist_ok=True)
    for left in here.glob(f".*@{HERE}.merge"):
        if not psutil.pid_exists(int(left.name[1:].split("@")[0])):
            shutil.rmtree(left)
    aside = here / f".{os.getpid()}@{HERE}.merge"
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _taken(folder, target, copy):
    if wrong := store.fault(folder):
        return wrong
    target.parent.mkdir(exist_ok=True)
    with store.claimed(target) as free:
        if not free:
            return IN_USE
        if (target / "DONE").exists() and store.fault(target) is None:
            numbers = {store.mark(place)["sha256"]["predictions.npz"] for place in (folder, target)}
            return HERE_ALREADY if len(numbers) == 1 else OTHER
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoint*", ".*"))
        if wrong := store.fault(copy):
            return f"{wrong}, since it was copied"
        shutil.rmtree(target, ignore_errors=True)
        os.rename(copy, target)
        return TAKEN


def take(path: Path) -> tuple[Path, int, int]:
    """Put the runs of an archive that somebody else computed into ``data/runs``, under the same file name.

    Every hash of it, and of its own by ``SHA256SUMS`` where one lies beside it, is compared first; of runs that an archive here
    has already, the one that is here stays.

    Returns
    -------
    target : Path
    new, there : int
        How many runs were taken, and how many were here already.

    Raises
    ------
    DataError
        It is no archive of runs, or damaged: nothing was taken.
    """
    if not path.is_file():
        raise DataError(f"There is no archive at {path}.")
    sums = path.parent / archive.SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    if any(line.endswith(f"  {path.name}") for line in lines) and archive.sum_of(path) not in lines:
        raise DataError(f"{path} is not the archive that {sums} names: nothing was taken. Ask for both again.")
    try:
        with zipfile.ZipFile(path) as file:
            index = archive.index_of(file)
        members = archive.members_of(path, index)
    except Exception as error:  # BadZipFile, KeyError, DataError, …: a stranger's file may hold anything
        raise DataError(f"{path} is no archive of runs, or damaged ({error}): nothing was taken. Ask for it again.") from error
    new = {name: entry for name, entry in index.items() if not archive.published(entry["spec"])}
    target = archive.folder() / f"{path.stem}.zip"
    if new:
        old, kept = archive.content(target)
        archive.save(target, old | new, kept | members)
    return target, len(new), len(index) - len(new)
