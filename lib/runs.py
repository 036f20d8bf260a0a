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
import os
import platform
import shutil
import sys
import time
import warnings
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
from filelock import FileLock

from lib.cells import ROOT, cache
from lib.errors import DataError
from lib.tasks import TASKS, dependencies

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
        import pandas as pd

        return pd.read_csv(self.folder / "log.csv", float_precision="round_trip")

    @property
    def environment(self):
        return json.loads((self.folder / "environment.json").read_text())


def run_id(spec):
    """16 hexadecimal digits: a hash of the specification and of the code that computes it."""
    text = json.dumps({"spec": spec, "code": code_hash()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_hash():
    """Hash of the code that computes runs, without comments and docstrings: rewording them keeps the runs."""
    digest = hashlib.sha256()
    names = (
        "attention baselines blocks checkpoints embeddings finetune model preprocess pretrain splits tasks tokens training"
    ).split()  # how cells are read and prepared is not among them: their values are hashed in the specification
    for name in names:
        tree = ast.parse((ROOT / "lib" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(
                body[0].value, ast.Constant
            ):  # fmt: skip
                body[0].value.value = ""
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


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
    return not damaged and mark["finished"] >= _since()


def _since():
    return float(os.environ.get("SCBERT_RUNS_SINCE") or 0)


def complete(specs, scheduler=None):
    """Make sure that all runs are done, those they depend on first, and return them in order.

    Parameters
    ----------
    specs : list of dict
    scheduler : str, optional
        Address of a Dask scheduler whose workers see this folder under the same path. Default:
        ``SCBERT_SCHEDULER``, or run here: small models on as many processes as there are cores (``SCBERT_WORKERS``), up
        to 8, others one after the other.

    Returns
    -------
    list of Run
    """
    scheduler = scheduler or os.environ.get("SCBERT_SCHEDULER")
    unique = {}
    _gather(specs, unique)
    missing = [spec for spec in unique.values() if not is_done(Run(spec))]
    if len(unique) > len(missing):
        print(f"{len(unique) - len(missing)} of {len(unique)} runs are stored already.", flush=True)
    started = time.time()
    for count, (spec, seconds) in enumerate(_compute_all(missing, scheduler), 1):
        left = (time.time() - started) / count * (len(missing) - count)
        print(f"[{count}/{len(missing)}] {describe(spec)}: {seconds:.0f} s"
              + (f", about {int(left // 60)}:{int(left % 60):02d} left" if count < len(missing) else ""), flush=True)  # fmt: skip
    return [Run(spec) for spec in specs]


def _gather(specs, found):
    """Put the specifications into ``found`` by their identifiers, each after those that it depends on."""
    for spec in specs:
        if run_id(spec) not in found:
            _gather(dependencies(spec), found)
            found[run_id(spec)] = spec


def _compute_all(specs, scheduler):
    """Yield (spec, seconds) as the runs finish; a run stands after those that it depends on."""
    if not specs:
        return
    if not scheduler:
        yield from _compute_here(specs)
        return
    from distributed import Client, as_completed

    remote, futures = _remote(SCBERT_PROGRESS="log"), {}
    with Client(scheduler, timeout=30) as client:
        for spec in specs:
            needed = [futures[run_id(other)] for other in dependencies(spec) if run_id(other) in futures]
            futures[run_id(spec)] = client.submit(remote, spec, needed, pure=False, retries=1)
        for future in as_completed(futures.values()):
            yield future.result()


def _compute_here(specs):
    """Runs of small models side by side, a process and a thread each; others after them, with all threads."""
    small = [spec for spec in specs if _small(spec)]
    workers = min(_places(), sum(spec.get("model") == "scBERT" for spec in small))
    if workers < 2:  # others take a second or two, less than a process takes to start
        for spec in specs:
            yield spec, compute(spec)
        return
    from joblib import Parallel, delayed

    print(f"{len(small)} runs, {workers} at a time.", flush=True)
    missing = {run_id(spec) for spec in specs}
    remote = _remote(TQDM_DISABLE="1")  # the bars of several processes would overwrite each other
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker stopped")  # one that had grown is replaced: no harm
        yield from Parallel(workers, backend="loky", return_as="generator_unordered")(
            delayed(remote)(spec) for spec in sorted(small, key=lambda spec: _turn(spec, missing))
        )
    for spec in specs:
        if not _small(spec):
            yield spec, compute(spec)


def _turn(spec, missing):
    """Sorts runs so that a process seldom waits for another: pre-training, the long ones first; then what waits for no run of
    those missing; then what needs a pre-training without gene embedding, which takes seconds; then the rest."""

    def depth(spec):
        return max((1 + depth(other) for other in dependencies(spec) if run_id(other) in missing), default=0)

    fast = (spec.get("pretraining") or spec).get("gene_embedding") is None
    if spec["task"] == "pretraining":
        return 0, fast
    waits = depth(spec)
    return 1, waits, waits and not fast, spec.get("model") != "scBERT", -spec.get("fraction", 1)


def _remote(**settings):
    """:func:`compute` for another process, with this one's settings and some of its own."""
    own = {name: value for name, value in os.environ.items() if name.startswith("SCBERT_")}
    settings = {"SCBERT_RUNS_SINCE": ""} | own | {"SCBERT_CACHE": str(cache())} | settings
    root = str(ROOT)

    def remote(spec, needed=()):  # travels by value: the settings are there before the library is imported from its folder
        os.environ.update(settings)
        if root not in sys.path:
            sys.path.insert(0, root)
        from lib import runs

        return spec, runs.compute(spec)

    return remote


def _places():
    """How many small runs go side by side: ``SCBERT_WORKERS``, or a core each, 2 GB each, eight at most."""
    import psutil

    if given := os.environ.get("SCBERT_WORKERS"):
        if not given.isdigit() or int(given) < 1:
            raise DataError(f"SCBERT_WORKERS is {given!r}. Give the number of runs that may go side by side, 1 or more.")
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores, int(psutil.virtual_memory().available / 2e9), 8))


def _small(spec):
    """Whether one thread serves a run as well as several: small models, and none at all."""
    import torch

    size = (spec.get("trained") or spec).get("size", {})
    return spec["task"] != "representations" and size.get("dim", 0) < 100 and not torch.cuda.is_available()


@contextlib.contextmanager
def _threads(spec):
    """One thread for small runs, so that their numbers do not depend on the number of cores or of other runs."""
    if not _small(spec):
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

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
    import pandas as pd

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
        if checkpoint.exists() and checkpoint.stat().st_mtime < _since():
            checkpoint.unlink()
        _write(run.folder / "spec.json", json.dumps(spec, indent=1, sort_keys=True))
        log, predictions, state = TASKS[spec["task"]](spec, checkpoint, lambda other: Run(other).folder / "model.pt")
        seconds = time.time() - started
        _write(run.folder / "environment.json", json.dumps(environment() | {"seconds": round(seconds, 2)}, indent=1))
        _write(run.folder / "log.csv", pd.DataFrame(log).to_csv(index=False))
        temporary = run.folder / f".predictions.{os.getpid()}.npz"
        np.savez_compressed(temporary, **predictions)
        os.replace(temporary, run.folder / "predictions.npz")
        names = list(FILES)
        if state is not None:
            from lib.training import save_atomically

            save_atomically(run.folder / "model.pt", state)
            names.append("model.pt")
        mark = {"finished": time.time(), "sha256": {name: _sha256(run.folder / name) for name in names}}
        _write(run.folder / "DONE", json.dumps(mark, indent=1))
        checkpoint.unlink(missing_ok=True)
    return seconds


def describe(spec):
    """A run in a few words, for progress."""
    words = [spec["task"].replace("_", " "), spec["arm"].replace("_", " ")]
    words += [f"{name.replace('_', ' ')} {spec[name]}" for name in ("left_out", "fraction", "seed") if name in spec]
    return " · ".join(words)


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


def _write(path, text):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@functools.lru_cache(maxsize=4096)
def _sha256_of(path, size, mtime):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(path):
    stat = Path(path).stat()
    return _sha256_of(str(path), stat.st_size, stat.st_mtime_ns)
