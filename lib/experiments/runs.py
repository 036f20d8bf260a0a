"""Many runs at once: on the cores of this machine or on a Dask cluster, those they depend on first."""

from __future__ import annotations

import os
import sys
import time
import warnings

import psutil
from joblib import Parallel, delayed

from lib import settings
from lib.experiments.store import Run, compute, is_done, run_id, small
from lib.experiments.tasks import dependencies
from lib.settings import ROOT, cache


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
    scheduler = scheduler or settings.scheduler()
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
    cheap = [spec for spec in specs if small(spec)]
    workers = min(_places(), sum(spec.get("model") == "scBERT" for spec in cheap))
    if workers < 2:  # others take a second or two, less than a process takes to start
        for spec in specs:
            yield spec, compute(spec)
        return

    print(f"{len(cheap)} runs, {workers} at a time.", flush=True)
    missing = {run_id(spec) for spec in specs}
    remote = _remote(TQDM_DISABLE="1")  # the bars of several processes would overwrite each other
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker stopped")  # one that had grown is replaced: no harm
        yield from Parallel(workers, backend="loky", return_as="generator_unordered")(
            delayed(remote)(spec) for spec in sorted(cheap, key=lambda spec: _turn(spec, missing))
        )
    for spec in specs:
        if not small(spec):
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


def _remote(**variables):
    """:func:`compute` for another process, with this one's settings and some of its own."""
    own = {name: value for name, value in os.environ.items() if name.startswith("SCBERT_")}
    variables = {"SCBERT_RUNS_SINCE": ""} | own | {"SCBERT_CACHE": str(cache())} | variables
    root = str(ROOT)

    def remote(spec, needed=()):  # travels by value: the settings are there before the library is imported from its folder
        os.environ.update(variables)
        if root not in sys.path:
            sys.path.insert(0, root)
        from lib.experiments import store

        return spec, store.compute(spec)

    return remote


def _places():
    """How many small runs go side by side: ``SCBERT_WORKERS``, or a core each, 2 GB each, eight at most."""
    if given := settings.workers():
        return given
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores, int(psutil.virtual_memory().available / 2e9), 8))


def describe(spec):
    """A run in a few words, for progress."""
    words = [spec["task"].replace("_", " "), spec["arm"].replace("_", " ")]
    words += [f"{name.replace('_', ' ')} {spec[name]}" for name in ("left_out", "fraction", "seed") if name in spec]
    return " · ".join(words)
