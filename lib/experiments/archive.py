"""Published runs: what takes hours is computed once and kept in git, as one archive a profile, without weights.

``data/runs/<profile>.zip`` holds ``index.json`` (of each run, by the hash of its specification: the specification, the
environment that computed it, the names of its log and arrays) and the logs and arrays themselves, each once, named by the
SHA-256 of its content. ``data/runs/SHA256SUMS`` has the archives' own. Both are checked before anything is used. A published
run serves where the specification is the same, whatever the code is now: what computed it is said.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from lib import settings
from lib.datasets import catalogue
from lib.errors import DataError
from lib.experiments.names import LOADED, identity, run_id
from lib.experiments.store import Run, is_done, read_log
from lib.files import digest, fingerprint, replacing, write_text

SUMS, INDEX = "SHA256SUMS", "index.json"
DATE = (1980, 1, 1, 0, 0, 0)  # of every member: the same runs make the same file
# Arrays whose last digits mean nothing, kept in two bytes a number: means over genes or cells, places in a picture.
HALF = ("cells", "cells_closing", "genes_out", "genes_in", "umap")
UNIT = 100_000  # probabilities are kept as whole numbers of hundred-thousandths, which take two thirds of the bytes


def folder() -> Path:
    return settings.ROOT / "data" / "runs"


def name_of(spec: dict) -> str:
    """16 hexadecimal digits: a hash of the specification alone."""
    return fingerprint(json.dumps(identity(spec), sort_keys=True))


class PublishedRun(Run):
    """A run of an archive, to be read like one of the store; it has no folder and no weights."""

    def __init__(self, spec: dict, path: Path, entry: dict):
        super().__init__(spec)
        self.id, self.path, self._entry = name_of(spec), path, entry
        self.folder = None

    @functools.cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        found = {}
        with zipfile.ZipFile(self.path) as file:
            for name, (member, dtype) in self._entry["arrays"].items():
                kept = np.load(io.BytesIO(_member(file, member)), allow_pickle=False)
                found[name] = _as_it_was(name, kept, np.dtype(dtype))
        return found

    @property
    def log(self) -> pd.DataFrame:
        with zipfile.ZipFile(self.path) as file:
            text = _member(file, self._entry["log"])
        return read_log(io.BytesIO(text))

    @property
    def environment(self) -> dict:
        return self._entry["environment"]


def published(spec: dict) -> PublishedRun | None:
    """The run of an archive with this specification, or None.

    Raises
    ------
    DataError
        An archive is not the one that ``SHA256SUMS`` names.
    """
    wanted = name_of(spec)
    for path in sorted(folder().glob("[!.]*.zip")):  # not one that is being written
        stat = path.stat()
        if entry := _index(path, stat.st_size, stat.st_mtime_ns).get(wanted):
            return PublishedRun(spec, path, entry)
    return None


def names(path: Path) -> list[str]:
    """The identifiers of an archive's runs: hashes of their specifications."""
    stat = path.stat()
    return list(_index(path, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _index(path, size, mtime):
    """The index of an archive, once its hash is seen to be the published one."""
    if sum_of(path) not in _sums():
        raise DataError(
            f"{path} is not the archive of runs that {SUMS} beside it names: damaged, or changed. Take it again (git checkout "
            f"-- data/runs), or delete it, or give --force: then its runs are computed here, which takes hours."
        )
    try:
        with zipfile.ZipFile(path) as file:
            return index_of(file)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no archive of runs ({error}). Take it again (git checkout -- data/runs).") from error


def _sums():
    path = folder() / SUMS
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def sum_of(path: Path) -> str:
    """An archive's line of ``SHA256SUMS``."""
    return f"{digest(path)}  {path.name}"


def index_of(file: zipfile.ZipFile) -> dict:
    """What an archive says of its runs."""
    return json.loads(_member(file, INDEX))


def _member(file, name):
    """What an archive holds under a name, if it has the hash that its name says; the index's is the archive's own."""
    try:
        content = file.read(name)
        if name != INDEX and _hash(content) != Path(name).stem:
            raise ValueError("its content is another")
    except Exception as error:  # KeyError, BadZipFile, LZMAError, OSError: the remedy is one
        raise DataError(
            f"{name} in {file.filename} is missing or damaged ({error}). Take it again (git checkout -- data/runs)."
        ) from error
    return content


def _hash(content):
    return hashlib.sha256(content).hexdigest()


def computed_by(runs: list[PublishedRun]) -> str:
    """What computed published runs, for a line above them."""
    abouts = [run.environment for run in runs]
    dates = sorted({about["date"][:10] for about in abouts})
    codes = sorted({about["code"][:8] for about in abouts})
    where = sorted({f"{about['platform'].split('-')[0]}, torch {about['packages'].get('torch')}" for about in abouts})
    files = sorted({run.path.name for run in runs})
    when = " to ".join(dates[:: max(1, len(dates) - 1)])
    code = "this code" if codes == [LOADED[:8]] else f"code {' and '.join(codes)}, here it is {LOADED[:8]}"
    return f"of data/runs/{' and '.join(files)}, computed {when} by {code} ({'; '.join(where)}); --force computes them here"


def write(name: str, fingerprints: set[str], probes: frozenset[str] = frozenset()) -> tuple[Path, int]:
    """Publish all finished runs of the store over these cells, beside those that the archive has already.

    Parameters
    ----------
    name : str
        Of the profile, with its data set where that is not its own: the archive's.
    fingerprints : set of str
        Of prepared cells (:func:`lib.prepare.cells.store`). Runs over cells from a file that has no name here are left out:
        their specification names a place on this machine.
    probes : set of str
        Of cells that are named by their content, which these runs' models may have been asked about.

    Returns
    -------
    path : Path
    runs : int
        How many the archive holds now.

    Raises
    ------
    DataError
        There is nothing to publish, or the archive that is there is not the one that ``SHA256SUMS`` names.
    """
    path = folder() / f"{name}.zip"
    index, members = content(path)
    for run in _finished():
        data = [part["data"] for part in (run.spec, run.spec.get("trained", run.spec))]
        wanted = fingerprints & {each["fingerprint"] for each in data}
        named = all(each["dataset"] in catalogue.CARDS or each["fingerprint"] in probes for each in data)
        if wanted and named and is_done(run):
            index[name_of(run.spec)] = _entry(run, members)
    if not index:
        raise DataError(
            f"{settings.cache() / 'runs'} has no finished run of the present code over the cells of {name}: nothing to "
            "publish. Compute them first (./run_all.sh), or point SCBERT_CACHE to where they are."
        )
    save(path, index, members)
    return path, len(index)


def fault(path: Path) -> str | None:
    """What is wrong with an archive of ``data/runs``, every member looked at, in words; or None."""
    try:
        stat = path.stat()
        members_of(path, _index(path, stat.st_size, stat.st_mtime_ns))
    except DataError as error:
        return f"cannot be used: {error}"
    return None


def members_of(path: Path, index: dict) -> dict[str, bytes]:
    """The logs and arrays of an archive by name, once every run is seen to be whole and under its specification's name."""
    with zipfile.ZipFile(path) as file:
        members = {name: _member(file, name) for name in file.namelist() if name != INDEX}
    for name, member in members.items():
        if name.endswith(".npy"):
            np.load(io.BytesIO(member), allow_pickle=False)
    for name, entry in index.items():
        needed = {entry["log"], *(kept for kept, _ in entry["arrays"].values())}
        if name_of(entry["spec"]) != name or not needed <= members.keys():
            raise DataError(f"The run {name} of {path} is another, or lacks some of its arrays.")
        computed_by([PublishedRun(entry["spec"], path, entry)])  # all that is said of it can be said
    return members


def content(path: Path) -> tuple[dict, dict[str, bytes]]:
    """Index and members of an archive of ``data/runs``; empty where it is not there."""
    if not path.exists():
        return {}, {}
    stat = path.stat()
    index = dict(_index(path, stat.st_size, stat.st_mtime_ns))
    with zipfile.ZipFile(path) as file:
        return index, {member: _member(file, member) for member in file.namelist() if member != INDEX}


def save(path: Path, index: dict, members: dict[str, bytes]) -> None:
    """Write an archive, and its line of ``SHA256SUMS``."""
    used = {member for entry in index.values() for member in (entry["log"], *(kept for kept, _ in entry["arrays"].values()))}
    with (
        replacing(path, "Give the folder of the project back its rights.") as temporary,
        zipfile.ZipFile(temporary, "w") as file,
    ):
        for member, content in [(INDEX, _text(index)), *((member, members[member]) for member in sorted(used))]:
            about = zipfile.ZipInfo(member, DATE)
            about.compress_type = zipfile.ZIP_LZMA  # a tenth to a quarter less than deflate
            file.writestr(about, content)
    others = [line for line in _sums() if not line.endswith(f"  {path.name}")]  # as they are: they may have been damaged since
    write_text(folder() / SUMS, "".join(f"{line}\n" for line in sorted([*others, sum_of(path)], key=lambda line: line[66:])))


def _finished():
    """Runs of the store that the present code computed, by name; whether they are undamaged is not looked at."""
    for mark in sorted((settings.cache() / "runs").glob("*/DONE")):
        with contextlib.suppress(OSError, ValueError):  # without a readable specification it is no finished run
            spec = json.loads((mark.parent / "spec.json").read_text(encoding="utf-8"))
            if run_id(spec) == mark.parent.name:
                yield Run(spec)


def _text(index):
    return json.dumps(index, indent=1, sort_keys=True).encode()


def _entry(run, members):
    """What the index says of a run; its log and arrays are added to ``members``."""
    entry = {"spec": run.spec, "environment": run.environment, "arrays": {}}
    entry["log"] = _put(members, "logs/{}.csv", (run.folder / "log.csv").read_bytes())
    for name, array in run.predictions.items():
        file = io.BytesIO()
        np.save(file, _compact(name, array), allow_pickle=False)
        entry["arrays"][name] = [_put(members, "arrays/{}.npy", file.getvalue()), array.dtype.str]
    return entry


def _put(members, place, content):
    name = place.format(_hash(content))
    members[name] = content
    return name


def _compact(name, array):
    """The array in fewer bytes: whole numbers without loss, probabilities so that no answer changes."""
    if array.dtype.kind in "iu" and array.size:
        return array.astype(np.promote_types(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
    if name == "probabilities":
        answers, rounded = array.argmax(1), np.rint(array.astype(np.float64) * UNIT).astype(np.uint32)
        tied = np.flatnonzero(rounded.argmax(1) != answers)  # with a class before: the answer gets the hundred-thousandth more
        rounded[tied, answers[tied]] += 1
        return rounded
    fits = name in HALF and np.abs(array).max(initial=0) < np.finfo(np.float16).max
    return array.astype(np.float16) if fits else array


def _as_it_was(name, kept, dtype):
    """An array of the archive in the type that it had."""
    return (kept / UNIT if name == "probabilities" else kept).astype(dtype)
