"""Runs on a Dask cluster, by its scheduler's address; Dask hands out, retries and restarts, and here is said what happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

from lib.errors import DataError
from lib.experiments.names import run_id
from lib.experiments.store import large
from lib.experiments.tasks import dependencies
from lib.settings import ROOT

LOOK = 10  # seconds after which the cluster is looked at while no run ends


def connected(scheduler: str):
    """A client of a Dask scheduler (a context); DataError where there is none at that address."""
    from distributed import Client

    for name in ("distributed", "distributed.client"):  # what goes wrong is said here, in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:  # ValueError: no such kind of address
        raise DataError(
            f"There is no Dask scheduler at {scheduler} ({error}). Start one (dask scheduler), or leave it out."
        ) from error


def compute(missing: dict[str, dict], remote: Callable, code: str, scheduler: str) -> Iterator[tuple[dict, float]]:
    """Yield (spec, seconds) as the runs finish on a cluster; a run is sent after those that it depends on.

    A run whose worker died goes on from its checkpoint on another one. Where workers have the resource ``GPU``, large models
    go to these, one at a time for each ``GPU``; small ones go to any.

    Parameters
    ----------
    missing : dict
        Specifications by identifier, those that others depend on first.
    remote : callable (spec, needed) -> (spec, seconds)
        What a worker does; ``needed`` is only waited for.
    code : str
        :func:`lib.experiments.names.code_hash` here.
    scheduler : str
        Its address. The workers see the folder of the project, and SCBERT_CACHE, under the same paths.

    Raises
    ------
    DataError
        The scheduler went away, or workers die with a run, or do not see the folder of the project.
    """
    from distributed import KilledWorker, wait

    with connected(scheduler) as client:
        workers, futures = _there(client), {}
        _advise(workers, scheduler)
        gpus = any(worker.get("resources", {}).get("GPU") for worker in workers.values())
        for name, spec in missing.items():
            needed = [futures[other] for other in (run_id(other, code) for other in dependencies(spec)) if other in futures]
            resources = {"GPU": 1} if gpus and large(spec) and spec["task"] != "representations" else None
            futures[name] = client.submit(remote, spec, needed, pure=False, retries=1, resources=resources)
        left, had = set(futures.values()), bool(workers)
        try:
            while left:
                try:
                    finished, left = wait(left, timeout=LOOK, return_when="FIRST_COMPLETED")
                except TimeoutError:
                    finished, there = (), bool(_there(client))
                    if had and not there:
                        print(f"All workers are gone: waiting for some (dask worker {scheduler}).", flush=True)
                    had = there
                for future in finished:
                    yield future.result()
        except KilledWorker as error:
            raise DataError(
                f"Every worker that was at a run ended ({error.last_worker.address} was the last), as where memory is short. "
                "What is done is kept: give them more, or start fewer (dask worker --nworkers 1), and call again."
            ) from error
        except ModuleNotFoundError as error:
            raise DataError(f"The workers lack something ({error}): let them see {ROOT} and use its Python.") from error
        except (CancelledError, OSError) as error:
            if client.status == "running":
                raise
            raise DataError(
                f"The scheduler at {scheduler} went away. What is done is kept: start one, and call again."
            ) from error


def _there(client):
    """What a scheduler says of its workers, by address."""
    return client.scheduler_info()["workers"]


def _advise(workers, scheduler):
    if not workers:
        print(f"The scheduler has no workers: waiting for some (dask worker {scheduler} --nthreads 1).", flush=True)
    if many := sum(worker["nthreads"] > 1 for worker in workers.values()):
        print(f"{many} workers have several threads, but a process does one run at a time: better --nthreads 1.", flush=True)
