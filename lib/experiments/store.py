"""The run store: a run is a folder named after the hash of its specification.

``data/cache/runs/<hash>/`` holds ``spec.json``, ``environment.json``, ``log.csv``, ``predictions.npz``, the weights
``model.pt`` where the run trains, ``checkpoint.pt`` while it is unfinished, and ``DONE``, written last, with the
SHA-256 of the others. What is done is not done again; what was interrupted goes on; what is damaged is done anew.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import platform
import shutil
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from threadpoolctl import threadpool_limits

from lib import scbert, settings
from lib.experiments.tasks import TASKS, dependencies
from lib.files import digest, replacing, write_text
from lib.settings import ROOT, cache

FILES = ("spec.json", "environment.json", "log.csv", "predictions.npz")


class Run:
    """A finished run: ``spec`` (dict), ``id``, ``folder``, ``log`` (DataFrame), ``predictions`` (dict of arrays)."""

    def __init__(self, spec):
        self.spec, self.id = spec, run_id(spec)
        self.folder = cache() / "runs" / self.id

    @functools.cached_property
    def predictions(self):
        with np.load(self.folder / "predictions.npz", allow_pickle=False) as file:
            return dict(file)

    @property
    def log(self):
        return pd.read_csv(self.folder / "log.csv", float_precision="round_trip")

    @property
    def environment(self):
        return json.loads((self.folder / "environment.json").read_text())


def run_id(spec):
    """16 hexadecimal digits: a hash of the specification and of the code that computes it."""
    text = json.dumps({"spec": spec, "code": code_hash()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# What computes runs. How cells are read is not among it: their values are hashed in the specification.
CODE = ("prepare", "scbert", "experiments/classifiers.py", "experiments/tasks.py")


def _code():
    places = [ROOT / "lib" / name for name in CODE]
    return [path for place in places for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


@functools.cache
def code_hash():
    """Hash of the code that computes runs, without comments and docstrings: rewording them keeps the runs."""
    found = hashlib.sha256()
    for path in _code():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(
                body[0].value, ast.Constant
            ):  # fmt: skip
                body[0].value.value = ""
        found.update(ast.dump(tree).encode())
    return found.hexdigest()[:16]


def is_done(run):
    """Whether a run is finished and undamaged; one finished before ``SCBERT_RUNS_SINCE`` (--force) is not."""
    try:
        mark = json.loads((run.folder / "DONE").read_text())
        damaged = [name for name, digest in mark["sha256"].items() if _sha256(run.folder / name) != digest]
    except FileNotFoundError as error:
        if (run.folder / "DONE").exists():
            print(f"Run {run.id} lacks {Path(error.filename).name}: it is done again.", file=sys.stderr)
        return False
    except (ValueError, KeyError, TypeError):
        damaged, mark = ["DONE"], None
    if damaged:
        print(f"Run {run.id} is damaged ({', '.join(damaged)}): it is done again.", file=sys.stderr)
    return not damaged and mark["finished"] >= settings.runs_since()


def small(spec):
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


def compute(spec):
    """Compute one run unless another process has done it meanwhile; return the seconds it took.

    What it depends on is waited for where another process is at it, and done here where none is.
    """
    for other in dependencies(spec):
        compute(other)
    run, started = Run(spec), time.time()
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder.with_suffix(".lock")), _threads(spec):
        if is_done(run):
            return 0.0
        if (run.folder / "DONE").exists():  # damaged, or to be forced: nothing of it may be mixed with the new
            shutil.rmtree(run.folder)
            run.folder.mkdir()
        checkpoint = run.folder / "checkpoint.pt"
        if checkpoint.exists() and checkpoint.stat().st_mtime < settings.runs_since():
            checkpoint.unlink()
        write_text(run.folder / "spec.json", json.dumps(spec, indent=1, sort_keys=True))
        log, predictions, state = TASKS[spec["task"]](spec, checkpoint, lambda other: Run(other).folder / "model.pt")
        seconds = time.time() - started
        write_text(run.folder / "environment.json", json.dumps(environment() | {"seconds": round(seconds, 2)}, indent=1))
        write_text(run.folder / "log.csv", pd.DataFrame(log).to_csv(index=False))
        with replacing(run.folder / "predictions.npz") as temporary:
            np.savez_compressed(temporary, **predictions)
        names = list(FILES)
        if state is not None:
            scbert.training.save(run.folder / "model.pt", state)
            names.append("model.pt")
        mark = {"finished": time.time(), "sha256": {name: _sha256(run.folder / name) for name in names}}
        write_text(run.folder / "DONE", json.dumps(mark, indent=1))
        checkpoint.unlink(missing_ok=True)
    return seconds


def environment():
    """What a number depends on besides its specification."""
    packages = ("torch", "performer-pytorch", "numpy", "scipy", "scikit-learn", "scanpy", "anndata")
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a bare GPU machine has no scanpy
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(), "platform": platform.platform(), "device": device,
        "threads": torch.get_num_threads(), "packages": found, "code": code_hash(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _sha256_of(path, size, mtime):
    return digest(path)


def _sha256(path):
    stat = Path(path).stat()
    return _sha256_of(str(path), stat.st_size, stat.st_mtime_ns)
