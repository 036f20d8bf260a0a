"""The run store: a run is a folder named after the hash of its specification and of the code that computes it.

``data/cache/runs/<hash>/`` holds ``spec.json``, ``environment.json``, ``log.csv``, ``predictions.npz``, the weights
``model.pt`` where the run trains, ``checkpoint.pt`` while it is unfinished, and ``DONE``, written last, with the
SHA-256 of the others. What is done is not done again; what was interrupted goes on; what is damaged is done anew; and
what a process loaded before the code was edited computes nothing more.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import platform
import shutil
import sys
import threading
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits

from lib import scbert, settings
from lib.errors import DataError
from lib.experiments.tasks import TASKS, dependencies
from lib.files import digest, fingerprint, known, replacing, writable, write_text

FILES = ("spec.json", "environment.json", "log.csv", "predictions.npz")
# What computes runs, in lib. How cells are read is not among it: their values are hashed in the specification.
CODE = ("prepare", "scbert", "experiments/baselines.py", "experiments/classifiers.py", "experiments/tasks.py")
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
        return pd.read_csv(self.folder / "log.csv", float_precision="round_trip")

    @property
    def weights(self) -> Path | None:
        """The file of its weights; None where there is none here: it trains nothing, is not done, or is a published run."""
        path = self.folder and self.folder / "model.pt"
        return path if path and path.exists() else None

    @property
    def environment(self) -> dict:
        return json.loads((self.folder / "environment.json").read_text())


def run_id(spec: dict, code: str | None = None) -> str:
    """16 hexadecimal digits: a hash of the specification and of the code that computes it (default: as it is on disk)."""
    text = json.dumps({"spec": identity(spec), "code": code or code_hash()}, sort_keys=True)
    return fingerprint(text)


def identity(spec: dict) -> dict:
    """A specification without what only helps to find things: the keys that begin with an underscore.

    >>> identity({"seed": 0, "pretraining": {"checkpoint": {"sha256": "90ae", "_path": "mine.pth"}}})
    {'seed': 0, 'pretraining': {'checkpoint': {'sha256': '90ae'}}}
    """
    kept = {key: value for key, value in spec.items() if not key.startswith("_")}
    return {key: identity(value) if isinstance(value, dict) else value for key, value in kept.items()}


def code_hash() -> str:
    """Hash of the code that computes runs, as it is on disk now.

    Comments, docstrings and layout do not count, so that rewording and formatting keep the runs; nor does the version of
    Python, which a dump by :mod:`ast` itself would depend on.
    """
    places = [settings.ROOT / "lib" / name for name in CODE]
    files = [path for place in places for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return fingerprint(" ".join(known(_meaning, path) for path in files))


def _meaning(path):
    """Hash of a file's syntax tree."""
    return fingerprint(_told(ast.parse(Path(path).read_text(encoding="utf-8"), path)))


def _told(node):
    """A syntax tree in words, without positions, docstrings and fields that are empty."""
    if isinstance(node, list):
        return f"[{' '.join(map(_told, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    if isinstance(node, ast.JoinedStr):  # Python 3.12 has an empty text after a format that is computed, 3.11 and 3.13 none
        fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]
    told = (f"{name}={_told(value)}" for name, value in fields.items() if value is not None and value != [])
    return f"{type(node).__name__}({' '.join(told)})"


# The code that this process loaded, and whether another was seen on disk since; kept where this module alone is reloaded.
LOADED, _edited = globals().get("LOADED") or code_hash(), globals().get("_edited", False)


def edited() -> bool:
    """Whether code that computes runs was seen to differ from what this process loaded: it may hold some of each since."""
    global _edited
    _edited = _edited or code_hash() != LOADED
    return _edited


def check_code(wanted: str = LOADED) -> None:
    """Refuse to compute by code that is not what is on disk, or not ``wanted``, what the client of a worker has."""
    if wanted != LOADED:
        raise DataError(f"The worker's code is {LOADED}, its client's {wanted}: let both see the folder {settings.ROOT}.")
    if edited():
        raise DataError(f"The code was {LOADED} when it was loaded and is {code_hash()} now: nothing is stored. Call again.")


def is_done(run: Run, again: str | None = None) -> bool:
    """Whether a run is finished, undamaged and the one asked for; with ``again``, a word: and its mark carries that word."""
    if not (run.folder / "DONE").exists():
        return False
    try:
        mark = json.loads((run.folder / "DONE").read_text(encoding="utf-8"))
        wanted, marked = mark["sha256"], mark["again"]
        lacking = [name for name in wanted.keys() | set(FILES) if not (run.folder / name).is_file()]
        wrong = [name for name in wanted.keys() - set(lacking) if known(digest, run.folder / name) != wanted[name]]
        whose = None if lacking or wrong else _whose(run.folder)
    except Exception:  # noqa: BLE001 - a changed mark may hold anything; the remedy is one
        lacking, wrong, whose, marked = [], ["DONE"], None, None
    if lacking or wrong:
        words = f"lacks {', '.join(sorted(lacking))}" if lacking else f"is damaged ({', '.join(sorted(wrong))})"
        print(f"Run {run.id} {words}: it is done again.", file=sys.stderr)
    elif whose != run.id:
        print(f"In the folder of run {run.id} lies run {whose}: it is done again.", file=sys.stderr)
    return whose == run.id and again in (None, marked)


def _whose(folder):
    """The identifier of the run that a folder says it holds."""
    spec, about = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("spec.json", "environment.json"))
    return run_id(spec, about["code"])


def _strange(run):
    """Whether an unfinished run's folder holds something of another run, or nobody's."""
    try:
        return _whose(run.folder) != run.id
    except FileNotFoundError:
        return any(run.folder.glob("checkpoint*"))
    except Exception:  # noqa: BLE001 - damaged, in whatever way
        return True


def small(spec: dict) -> bool:
    """Whether one thread serves a run as well as several: small models, and none at all."""
    import torch

    size = (spec.get("trained") or spec).get("size", {})
    return spec["task"] != "representations" and size.get("dim", 0) < 100 and not torch.cuda.is_available()


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
        lock = FileLock(run.folder.with_suffix(".lock"))
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
    spec, started = run.spec, time.time()
    if (run.folder / "DONE").exists() or _strange(run):  # nothing damaged, old or another's may be mixed with the new
        shutil.rmtree(run.folder)
        run.folder.mkdir()
    write_text(run.folder / "spec.json", json.dumps(identity(spec), indent=1, sort_keys=True))
    write_text(run.folder / "environment.json", json.dumps(environment(), indent=1))  # with it, an unfinished run is known
    checkpoint = run.folder / (f"checkpoint.{again}.pt" if again else "checkpoint.pt")
    log, predictions, state = TASKS[spec["task"]](spec, checkpoint, lambda other: Run(other, LOADED).folder / "model.pt")
    about = environment() | {"seconds": round(time.time() - started, 2)}
    write_text(run.folder / "environment.json", json.dumps(about, indent=1))
    write_text(run.folder / "log.csv", pd.DataFrame(log).to_csv(index=False))
    with replacing(run.folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, **predictions)
    if state is not None:
        scbert.training.save(run.folder / "model.pt", state)
    names = [*FILES, *(["model.pt"] if state is not None else [])]
    mark = {"finished": time.time(), "again": again, "sha256": {name: known(digest, run.folder / name) for name in names}}
    check_code()
    write_text(run.folder / "DONE", json.dumps(mark, indent=1))
    for left in run.folder.glob("checkpoint*"):
        left.unlink()
    return about["seconds"]


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
