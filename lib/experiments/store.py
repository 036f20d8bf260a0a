"""The run store: a run is a folder, ``data/cache/runs/<hash>/``, named after its specification and the code that computes it.

It holds ``spec.json``, ``environment.json``, ``log.csv``, ``predictions.npz``, the weights ``model.pt`` where the run trains,
``checkpoint.pt`` while it is unfinished, and ``DONE``, written last, with the SHA-256 of the others. What it promises
(tests/experiments has tests for each, and soak.py, which breaks it for real):

- **Whole or not at all.** A file gets its name when it is complete, a run its mark when its files are. Killed at any moment,
  full disk or not, nothing half is taken for whole, and what was finished, epochs too, is not done again.
- **Known by its hash.** Of every file that is stored, first compared before a process uses it: a run's in its mark, those of
  prepared cells in their names, of gene2vec's matrix and token corpora beside them, of checkpoints and archives inside them.
- **One computation a run.** Processes that ask for the same run wait for the one that is at it; a process is at one run at a
  time, whatever its threads.
- **Says why it waits,** for another process or for workers, and **why it does again** what seemed to be done.
- **Never one thing for another.** A folder, checkpoint or file of cells under another's name is not taken; nor is a run that
  code computed which is not on disk any more, or not its client's.

``python -m lib.runs`` shows what is there (:mod:`lib.experiments.inventory`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits

from lib import scbert, settings
from lib.experiments.names import LOADED, check_code, identity, run_id
from lib.experiments.tasks import TASKS, dependencies
from lib.files import digest, known, replacing, writable, write_text

FILES = ("spec.json", "environment.json", "log.csv", "predictions.npz")
PATIENCE = 5  # seconds after which who waits for another process says so
# A process is at one run at a time, whatever its threads: torch's and liblinear's generators and their number of threads are
# the whole process's. Again, since a run computes those that it depends on.
_ONE = threading.RLock()


class Run:
    """A finished run: ``spec`` (dict), ``id``, ``folder``, ``log`` (DataFrame), ``predictions`` (dict of arrays)."""

    def __init__(self, spec: dict, code: str | None = None):
        self.spec, self.id = spec, run_id(spec, code)
        self.folder = settings.cache() / "runs" / self.id

    @functools.cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "predictions.npz", allow_pickle=False) as file:
            return dict(file)

    @property
    def log(self) -> pd.DataFrame:
        return read_log(self.folder / "log.csv")

    @property
    def weights(self) -> Path | None:
        """The file of its weights; None where there is none here: it trains nothing, is not done, or is a published run."""
        path = self.folder and self.folder / "model.pt"
        return path if path and path.exists() else None

    @property
    def environment(self) -> dict:
        return json.loads((self.folder / "environment.json").read_text())


def read_log(file: Path | BytesIO) -> pd.DataFrame:
    """A log's table; empty where its task logs nothing."""
    try:
        return pd.read_csv(file, float_precision="round_trip")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def is_done(run: Run, again: str | None = None) -> bool:
    """Whether a run is finished, undamaged and the one asked for; with ``again``, a word: and its mark carries that word."""
    if not (run.folder / "DONE").exists():
        return False
    if wrong := fault(run.folder):
        print(f"Run {run.id} {wrong}: it is done again.", file=sys.stderr)
        return False
    _forget_checkpoints(run)
    return again in (None, mark(run.folder)["again"])


def _forget_checkpoints(run):
    """Of a finished run; also those that lie there since its process was killed just after the mark was written."""
    for left in run.folder.glob("checkpoint*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or a disk that is read only
            left.unlink()


def fault(folder: Path) -> str | None:
    """What is wrong with a folder that has a mark, in words; None where it holds, whole, the run that it is named by."""
    try:
        wanted, _ = (mark(folder)[name] for name in ("sha256", "again"))
        if lacking := [name for name in wanted.keys() | set(FILES) if not (folder / name).is_file()]:
            return f"lacks {', '.join(sorted(lacking))}"
        if wrong := [name for name in wanted if known(digest, folder / name) != wanted[name]]:
            return f"is damaged ({', '.join(sorted(wrong))})"
        return None if (whose := owner(folder)) == folder.name else f"is not what its folder holds: there lies run {whose}"
    except Exception:  # noqa: BLE001 - a changed mark may hold anything; the remedy is one
        return "is damaged (DONE)"


def mark(folder: Path) -> dict:
    """What the mark of a finished run says: when it was ``finished``, ``again``, the word, and ``sha256`` of each file."""
    return json.loads((folder / "DONE").read_text(encoding="utf-8"))


def owner(folder: Path) -> str:
    """The identifier of the run that a folder says it holds."""
    spec, about = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("spec.json", "environment.json"))
    return run_id(spec, about["code"])


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Keep other processes from the run of this folder meanwhile; False where one is at it."""
    lock = FileLock(_lock(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def held(folder: Path) -> bool:
    """Whether a process is at the run of this folder now."""
    try:
        with claimed(folder) if _lock(folder).exists() else contextlib.nullcontext(True) as free:
            return not free
    except OSError:  # a disk that is read only: nobody computes there
        return False


def _lock(folder):
    return folder.with_suffix(".lock")


def _strange(run):
    """Whether an unfinished run's folder holds something of another run, or nobody's."""
    try:
        return owner(run.folder) != run.id
    except FileNotFoundError:
        return any(run.folder.glob("checkpoint*"))
    except Exception:  # noqa: BLE001 - damaged, in whatever way
        return True


def small(spec: dict) -> bool:
    """Whether one thread serves a run as well as several, so that others may go beside it: small models, and none at all.

    Where there is a GPU, a model has it to itself, and only runs without one go side by side on the cores: how many models
    one GPU serves best was not measured. Workers of a Dask cluster that share it are the way to try.
    """
    import torch

    if spec["task"] == "representations" or large(spec):
        return False
    return (spec.get("trained") or spec)["model"] != "scBERT" or not torch.cuda.is_available()


def large(spec: dict) -> bool:
    """Whether a run's model is of a width that is worth a GPU."""
    return (spec.get("trained") or spec).get("size", {}).get("dim", 0) >= 100


@contextlib.contextmanager
def _threads(spec):
    """One thread for small runs, so that their numbers do not depend on the number of cores or of other runs."""
    if not small(spec):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def compute(spec: dict, again: str | None = None, code: str = LOADED) -> float:
    """Compute one run unless another process has done it meanwhile; return the seconds it took.

    What it depends on is waited for where another process is at it, and done here where none is.

    Parameters
    ----------
    spec : dict
    again : str, optional
        A word: the run is done again if its mark carries another. What was interrupted under that word goes on.
    code : str
        :func:`code_hash` of who asks.

    Raises
    ------
    DataError
        This process has loaded other code than is asked for, or it was edited meanwhile: the run is not marked as done.
    """
    with _ONE:
        check_code(code)
        for other in dependencies(spec):
            compute(other, again, code)
        run = Run(spec, LOADED)
        with _alone(run), _threads(spec):
            return 0.0 if is_done(run, again) else _compute(run, again)


@contextlib.contextmanager
def _alone(run):
    """The one process that is at this run; who has to wait says so."""
    with writable(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock(run.folder))
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            print(f"Another process is at run {run.id} ({run.spec['task']}, {run.spec['arm']}): waiting for it.", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _compute(run, again):
    spec, started = run.spec, time.monotonic()
    if (run.folder / "DONE").exists() or _strange(run):  # nothing damaged, old or another's may be mixed with the new
        shutil.rmtree(run.folder)
        run.folder.mkdir()
    write_text(run.folder / "spec.json", json.dumps(identity(spec), indent=1, sort_keys=True))
    write_text(run.folder / "environment.json", json.dumps(environment(), indent=1))  # with it, an unfinished run is known
    checkpoint = run.folder / (f"checkpoint.{again}.pt" if again else "checkpoint.pt")
    before = _settled()
    log, predictions, state = TASKS[spec["task"]](spec, checkpoint, lambda other: Run(other, LOADED).folder / "model.pt")
    settled = [{"arithmetic": words} for words in _settled()[len(before) :]]
    about = environment() | (settled or [{}])[-1] | {"seconds": round(time.monotonic() - started, 2)}
    write_text(run.folder / "environment.json", json.dumps(about, indent=1))
    write_text(run.folder / "log.csv", pd.DataFrame(log).to_csv(index=False))
    with replacing(run.folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, **predictions)
    if state is not None:
        scbert.training.save(run.folder / "model.pt", state)
    names = [*FILES, *(["model.pt"] if state is not None else [])]
    done = {"finished": time.time(), "again": again, "sha256": {name: known(digest, run.folder / name) for name in names}}
    check_code()
    write_text(run.folder / "DONE", json.dumps(done, indent=1))
    _forget_checkpoints(run)
    return about["seconds"]


def _settled():
    """In which arithmetic models were computed in this process; nothing where none was loaded, and torch need not be."""
    return list(getattr(sys.modules.get("lib.scbert.arithmetic"), "SETTLED", []))


def environment() -> dict:
    """What a number depends on besides its specification."""
    packages = ("torch", "performer-pytorch", "numpy", "scipy", "scikit-learn", "scanpy", "anndata")
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # a bare GPU machine has no scanpy
            found[name] = metadata.version(name)
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": found,
        "code": LOADED,
        "date": date,
    }
