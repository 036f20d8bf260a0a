"""Published runs: what takes hours is computed once and kept in git, as one archive a profile, without weights.

``data/runs/<profile>.zip`` holds ``index.json`` (of each run, by the hash of its specification: the specification, the
environment that computed it, the names of its log and arrays) and the logs and arrays themselves, each once, named by the
SHA-256 of its content. ``data/runs/SHA256SUMS`` has the archives' own. A published run serves where the specification is the
same, whatever the code is now: what computed it is said.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from lib import settings
from lib.errors import DataError
from lib.experiments.store import Run, identity, is_done, run_id
from lib.files import digest, fingerprint, replacing, write_text

SUMS, INDEX = "SHA256SUMS", "index.json"
DATE = (1980, 1, 1, 0, 0, 0)  # of every member: the same runs make the same file
# Arrays whose last digits mean nothing, and what they are kept as: a mean over genes, a place in a picture; probabilities.
HALF, DECIMALS = ("cells", "cells_closing", "genes_out", "genes_in", "umap"), 5


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
                found[name] = np.load(io.BytesIO(_member(file, member)), allow_pickle=False).astype(dtype)
        return found

    @property
    def log(self) -> pd.DataFrame:
        with zipfile.ZipFile(self.path) as file:
            text = _member(file, self._entry["log"])
        return pd.read_csv(io.BytesIO(text), float_precision="round_trip")

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
    for path in sorted(folder().glob("*.zip")):
        stat = path.stat()
        if entry := _index(path, stat.st_size, stat.st_mtime_ns).get(wanted):
            return PublishedRun(spec, path, entry)
    return None


@functools.lru_cache(maxsize=8)
def _index(path, size, mtime):
    """The index of an archive, once its hash is seen to be the published one."""
    sums = (path.parent / SUMS).read_text(encoding="utf-8") if (path.parent / SUMS).is_file() else ""
    if f"{digest(path)}  {path.name}" not in sums.splitlines():
        raise DataError(
            f"{path} is not the archive of runs that {SUMS} beside it names: damaged, or changed. Take it again "
            f"(git checkout -- data/runs), or delete it: then its runs are computed here, which takes hours."
        )
    with zipfile.ZipFile(path) as file:
        return json.loads(_member(file, INDEX))


def _member(file, name):
    try:
        return file.read(name)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file.filename} lacks {name}, or it is damaged ({error}). Take it again (git checkout).") from error


def computed_by(runs: list[PublishedRun]) -> str:
    """What computed published runs, for a line above them."""
    abouts = [run.environment for run in runs]
    dates = sorted(about["date"][:10] for about in abouts)
    where = sorted({f"{about['platform'].split('-')[0]}, torch {about['packages'].get('torch')}" for about in abouts})
    files = sorted({run.path.name for run in runs})
    return f"of data/runs/{' and '.join(files)}, computed {dates[0]} to {dates[-1]} ({'; '.join(where)})"


def write(name: str, fingerprints: set[str]) -> tuple[Path, int]:
    """Publish all finished runs of the store over these cells, beside those that the archive has already.

    Parameters
    ----------
    name : str
        Of the profile, with its data set where that is not its own: the archive's.
    fingerprints : set of str
        Of prepared cells (:func:`lib.prepare.cells.store`).

    Returns
    -------
    path : Path
    runs : int
        How many the archive holds now.
    """
    path, index, members = folder() / f"{name}.zip", {}, {}
    if path.exists():
        with zipfile.ZipFile(path) as file:
            index = json.loads(file.read(INDEX))
            members = {member: file.read(member) for member in file.namelist() if member != INDEX}
    for mark in sorted((settings.cache() / "runs").glob("*/DONE")):
        spec = json.loads((mark.parent / "spec.json").read_text(encoding="utf-8"))
        over = {part["data"]["fingerprint"] for part in (spec, spec.get("trained", spec))}
        if over & fingerprints and run_id(spec) == mark.parent.name and is_done(run := Run(spec)):
            index[name_of(spec)] = _entry(run, members)
    used = {member for entry in index.values() for member in (entry["log"], *(kept for kept, _ in entry["arrays"].values()))}
    with (
        replacing(path, "Give the folder of the project back its rights.") as temporary,
        zipfile.ZipFile(temporary, "w") as file,
    ):
        _add(file, INDEX, json.dumps(index, indent=1, sort_keys=True).encode())
        for member in sorted(used):
            _add(file, member, members[member])
    write_text(folder() / SUMS, "".join(f"{digest(each)}  {each.name}\n" for each in sorted(folder().glob("*.zip"))))
    return path, len(index)


def _add(file, name, content):
    about = zipfile.ZipInfo(name, DATE)
    about.compress_type = zipfile.ZIP_DEFLATED
    file.writestr(about, content, compresslevel=9)


def _entry(run, members):
    """What the index says of a run; its log and arrays are added to ``members``."""
    text = (run.folder / "log.csv").read_bytes()
    entry = {"spec": identity(run.spec), "environment": run.environment, "log": f"logs/{_hash(text)}.csv", "arrays": {}}
    members[entry["log"]] = text
    for name, array in run.predictions.items():
        file = io.BytesIO()
        np.save(file, _compact(name, array), allow_pickle=False)
        member = f"arrays/{_hash(file.getvalue())}.npy"
        members[member] = file.getvalue()
        entry["arrays"][name] = [member, array.dtype.str]
    return entry


def _hash(content):
    return hashlib.sha256(content).hexdigest()


def _compact(name, array):
    """The array in fewer bytes: whole numbers without loss; probabilities rounded, where that does not change the answer."""
    if array.dtype.kind in "iu" and array.size:
        return array.astype(np.promote_types(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
    if name == "probabilities":
        rounded = array.round(DECIMALS)
        same = rounded.argmax(1) == array.argmax(1)
        return np.where(same[:, None], rounded, array)
    return array.astype(np.float16) if name in HALF else array
