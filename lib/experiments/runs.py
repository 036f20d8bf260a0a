"""Many runs at once: on the cores of this machine or on a Dask cluster, those they depend on first."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool

import psutil
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor

from lib import settings
from lib.errors import DataError
from lib.experiments import cluster, progress
from lib.experiments.archive import PublishedRun, computed_by, published
from lib.experiments.names import code_hash, edited, run_id
from lib.experiments.store import Run, compute, is_done, small
from lib.experiments.tasks import dependencies
from lib.prepare.cells import fault
from lib.settings import ROOT

ATTEMPTS = 3  # with processes that may be ended from outside
LONG = ("scBERT", "logistic_regression")  # models that take longer than a process takes to start


def complete(specs: list[dict], scheduler: str | None = None, again: str | None = None) -> list[Run]:
    """Make sure that all runs are done, those they depend on first, and return them in order.

    What is neither in the store nor published (:mod:`lib.experiments.archive`) is computed, by the code on disk: where it was
    edited since this process loaded it, in processes that load it anew.

    Parameters
    ----------
    specs : list of dict
    scheduler : str, optional
        Address of a Dask scheduler whose workers see this folder under the same path. Default:
        ``SCBERT_SCHEDULER``, or run here: small models on as many processes as there are cores (``SCBERT_WORKERS``), up
        to 8, others, and all that a GPU computes, one after the other.
    again : str, optional
        A word: runs whose mark carries another, or none, are done again, published ones too, but for those whose cells are
        known by their content alone. Default: ``SCBERT_FORCE``, or what is done serves.

    Returns
    -------
    list of Run
    """
    scheduler, again, code = scheduler or settings.scheduler(), again or settings.force(), code_hash()
    found, missing = {}, {}
    for spec in specs:
        if (name := run_id(spec, code)) not in found:
            found[name] = _done(spec, code, again) or (published(spec) if not again or _only_published(spec) else None)
            if found[name] is None:
                _gather(spec, missing, code, again)
    found |= dict.fromkeys(found.keys() & missing.keys())  # published, but another needs its weights: the store comes first
    there = [run for run in found.values() if run is not None]
    if served := [run for run in there if isinstance(run, PublishedRun)]:
        print(f"{len(served)} of {len(found)} runs are published ones, {computed_by(served)}.", flush=True)
    if len(there) > len(served):
        print(f"{len(there) - len(served)} of {len(found)} runs are stored already.", flush=True)
    if scheduler and missing:
        computed = cluster.compute(missing, _remote(code, again, SCBERT_PROGRESS="log"), code, scheduler)
    else:
        computed = _compute_here(missing, code, again)
    progress.note("published", [run.id for run in served])
    progress.note("stored", [run.id for run in there if run not in served])
    places = min(_places(), len(missing)) if missing and not scheduler else None
    needs = {name: {run_id(other, code) for other in dependencies(spec)} for name, spec in missing.items()}
    with progress.shown(missing, places, all(map(small, missing.values())), needs) as finished:
        for spec, seconds in computed:
            finished(run_id(spec, code), spec, seconds)
    return [found[run_id(spec, code)] or Run(spec, code) for spec in specs]


def to_be_had(specs: list[dict]) -> list[dict]:
    """Without those that are not published and need cells that are not here: how many is said."""
    kept = [spec for spec in specs if not _only_published(spec) or published(spec)]
    if left := len(specs) - len(kept):
        print(
            f"{left} of {len(specs)} runs are left out: they need cells that are not here, and are not published.", flush=True
        )
    return kept


def _only_published(spec):
    """Whether a run needs cells that are named by their content and not here: those pre-trained on, or asked about."""
    file = (spec.get("pretraining") or {}).get("corpus", {}).get("file")
    asked = settings.cache() / "cells" / f"{spec['data']['fingerprint']}.npz"
    if spec["task"] == "external" and (not asked.exists() or fault(asked)):
        return True
    return isinstance(file, dict) and "_path" not in file


def _done(spec, code, again):
    run = Run(spec, code)
    return run if is_done(run, again) else None


def _gather(spec, missing, code, again):
    """Put a specification that is to be computed into ``missing`` by its identifier, after those whose weights it needs."""
    for other in dependencies(spec):
        if run_id(other, code) not in missing and not _done(other, code, again):
            _gather(other, missing, code, again)
    missing[run_id(spec, code)] = spec


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends things as Ctrl-C does: by an exception, so that other processes are ended too."""


@contextlib.contextmanager
def stoppable():
    """Within it SIGTERM raises :class:`Terminated`; in threads other than the first, which get no signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _compute_here(missing, code, again):
    """Runs of small models side by side, a process and a thread each; others after them, with all threads."""
    cheap = sorted((spec for spec in missing.values() if small(spec)), key=_turn)
    others = [spec for spec in missing.values() if not small(spec)]
    workers, anew = min(_places(), sum(spec.get("model") in LONG for spec in cheap)), edited()
    if not missing or (workers < 2 and not anew):
        yield from ((spec, compute(spec, again, code)) for spec in missing.values())
        return
    workers = max(workers, 1)
    print(f"{len(cheap)} runs, {workers} at a time{', by the code as it is now' if anew else ''}.", flush=True)
    with stoppable():
        yield from _side_by_side(cheap, workers, code, again)
        if anew:
            yield from _side_by_side(others, 1, code, again)
    if not anew:
        yield from ((spec, compute(spec, again, code)) for spec in others)


def _side_by_side(specs, workers, code, again):
    """Yield (spec, seconds) as other processes finish them; a run is handed out when those it needs are done.

    Where a process is ended from outside, fewer go on.
    """
    remote, left = _remote(code, again, parent=os.getpid()), {run_id(spec, code): spec for spec in specs}
    needs = {name: {run_id(other, code) for other in dependencies(spec)} for name, spec in left.items()}
    for attempt in range(ATTEMPTS):
        # The bars of several processes would overwrite each other.
        executor = get_reusable_executor(workers, timeout=300, env={"TQDM_DISABLE": "1"})
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="A worker stopped")  # one that had grown is replaced: no harm
                under_way = {}
                while left:
                    ready = [name for name in left if name not in under_way and not needs[name] & left.keys()]
                    for name in ready[: workers + 1 - len(under_way)]:  # loky stumbles when it is ended with many at hand
                        under_way[name] = executor.submit(remote, left[name])
                    wait(under_way.values(), return_when=FIRST_COMPLETED)
                    for name in [name for name, future in under_way.items() if future.done()]:
                        done = under_way.pop(name).result()
                        del left[name]
                        yield done
            return
        except BrokenProcessPool as error:
            free = psutil.virtual_memory().available / 1e9
            said = (
                f"A process that computed runs was ended from outside, as it is where memory is short ({free:.1f} GB are free)"
            )
            if attempt == ATTEMPTS - 1:
                raise DataError(f"{said}, {ATTEMPTS} times. What is done is kept: free some, and call again.") from error
            workers = max(1, workers // 2)
            print(f"{said}. What it was at goes on from its checkpoint, {workers} at a time.", flush=True)
        except BaseException as error:  # what the others are at goes on from its checkpoint another time
            executor.shutdown(kill_workers=True)
            if isinstance(error, KeyboardInterrupt):
                print("Interrupted. What is done is kept; what was under way goes on from its checkpoint.", flush=True)
            raise


def _turn(spec):
    """Sorts runs so that no process idles at the end: pre-training, for which others wait, and the long ones first."""
    fast = (spec.get("pretraining") or spec.get("trained") or spec).get("gene_embedding") is None
    return spec["task"] != "pretraining", spec.get("model") != "scBERT", fast, -spec.get("fraction", 1)


def _remote(code, again, parent=None, **variables):
    """:func:`compute` for another process, with this one's settings, some of its own, and this one's view of the code.

    It ends with its ``parent``, where that is given, and where that was killed too.
    """
    variables, root = settings.given() | variables, str(ROOT)

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    def remote(spec, needed=()):  # travels by value: the library is imported from its folder
        if parent and not any(thread.name == "watch" for thread in threading.enumerate()):
            threading.Thread(target=watch, name="watch", daemon=True).start()
        if root not in sys.path:
            sys.path.insert(0, root)
        from lib.experiments import names, store

        if names.edited() or code != names.LOADED:  # it was imported by an earlier call, before an edit
            for name in [name for name in sys.modules if name.split(".")[0] == "lib"]:
                del sys.modules[name]
            from lib.experiments import store
        store.settings.put(variables)
        return spec, store.compute(spec, again, code)

    return remote


def _places():
    """How many small runs go side by side: ``SCBERT_WORKERS``, or a core each, 2 GB each, eight at most."""
    return settings.workers() or max(1, min(cpu_count(), int(_free() / 2e9), 8))


def _free():
    """Bytes of memory that can be had: those of the machine, or of the container that this is, if that has fewer."""
    from distributed.system import MEMORY_LIMIT

    return min(psutil.virtual_memory().available, MEMORY_LIMIT)
