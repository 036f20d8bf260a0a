"""Runs on a Dask cluster of real processes: the same runs, whatever of it ends, and in words."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lib.errors import DataError
from lib.experiments import cluster, profiles, runs, specs, store
from lib.settings import ROOT

pytestmark = pytest.mark.slow

CLIENT = """
import sys
from lib.errors import DataError
from lib.experiments import cluster, profiles, runs, specs
cluster.LOOK = 1
p = profiles.load("smoke")
p["finetuning"] = p["finetuning"] | {"epochs": 8, "batch_size": 4}
wanted = specs.cell_types(p, ["no_pretraining"], [1.0], [0, 1])
try:
    print("folders", *(run.folder for run in runs.complete(wanted, scheduler=sys.argv[1])), flush=True)
except DataError as error:
    print("refused", error)
"""


def dask(*arguments, cwd):
    """A part of a cluster, as it is started from a shell."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *arguments]
    if arguments[0] == "worker":
        command = [sys.executable, "-m", "distributed.cli.dask_worker", *arguments[1:], "--nthreads", "1", "--no-dashboard"]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def parts(tmp_path):
    """Start a scheduler and workers, by need; all end with the test."""
    started = []

    def scheduler():
        file = tmp_path / f"scheduler{len(started)}.json"
        where = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        started.append(dask(*where, cwd=tmp_path))
        wait_for(file.exists)
        wait_for(lambda: file.read_text().strip())
        return started[-1], json.loads(file.read_text())["address"]

    def worker(address, *others):
        started.append(dask("worker", address, "--nworkers", "1", *others, cwd=tmp_path))
        return started[-1]

    yield scheduler, worker
    for process in started:
        end(process)


def end(process):
    if process.poll() is None:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
    process.wait()


def wait_for(what, seconds=120):
    deadline = time.time() + seconds
    while not what():
        assert time.time() < deadline, "it did not come"
        time.sleep(0.05)


def client(address, cache):
    environment = os.environ | {"SCBERT_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": environment}
    return subprocess.Popen([sys.executable, "-c", CLIENT, address], **how)


def predicted(process):
    output, _ = process.communicate(timeout=300)
    [line] = [line for line in output.splitlines() if line.startswith("folders")] or [output]
    found = []
    for folder in line.split()[1:]:
        with np.load(Path(folder) / "predictions.npz") as file:
            found.append(dict(file))
    return found, output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the client's runs predict, computed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCBERT_CACHE", str(tmp_path_factory.mktemp("undisturbed")))
        p = profiles.load("smoke")
        p["finetuning"] = p["finetuning"] | {"epochs": 8, "batch_size": 4}
        done = runs.complete(specs.cell_types(p, ["no_pretraining"], [1.0], [0, 1]))
        return [dict(run.predictions) for run in done]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_scheduler_that_goes_away_is_said_and_nothing_is_lost(parts, tmp_path, undisturbed, same, name):
    """In the middle of a run. With another scheduler the run goes on from its checkpoint to the same bits."""
    scheduler, worker = parts
    process, address = scheduler()
    first = worker(address)
    asked = client(address, tmp_path / "cache")
    wait_for(lambda: list(tmp_path.glob("cache/runs/*/checkpoint.pt")))
    process.send_signal(getattr(signal, name))
    output, _ = asked.communicate(timeout=90)
    assert f"refused The scheduler at {address} went away. What is done is kept" in output and "Traceback" not in output
    end(first)
    assert len(list(tmp_path.glob("cache/runs/*/DONE"))) < 2, "it came too late to test anything"
    _, address = scheduler()
    worker(address)
    found, output = predicted(client(address, tmp_path / "cache"))
    assert len(found) == 2 and all(map(same, found, undisturbed)), output


def test_a_killed_workers_run_goes_on_from_its_checkpoint(parts, tmp_path, undisturbed, same):
    """By the worker that takes its place; the one that was killed had finished some epochs, which are not done again."""
    scheduler, worker = parts
    _, address = scheduler()
    first = worker(address)
    asked = client(address, tmp_path / "cache")
    wait_for(lambda: list(tmp_path.glob("cache/runs/*/checkpoint.pt")))
    [checkpoint] = tmp_path.glob("cache/runs/*/checkpoint.pt")
    psutil.Process(first.pid).children()[0].kill()
    found, output = predicted(asked)
    assert len(found) == 2 and all(map(same, found, undisturbed)), output
    assert "Traceback" not in output and not checkpoint.exists()


def test_a_scheduler_without_workers_is_said_until_they_come(parts, tmp_path, undisturbed, same):
    """At once, and when the last one is gone in the middle; then the runs are done."""
    scheduler, worker = parts
    _, address = scheduler()
    asked, lines = client(address, tmp_path / "cache"), []

    def until(words):
        for line in asked.stdout:
            lines.append(line)
            if words in line:
                return
        raise AssertionError("".join(lines))

    until("The scheduler has no workers: waiting for some (dask worker")
    first = worker(address)
    wait_for(lambda: list(tmp_path.glob("cache/runs/*/checkpoint.pt")))
    end(first)
    until("All workers are gone: waiting for some (dask worker")
    worker(address)
    found, output = predicted(asked)
    assert len(found) == 2 and all(map(same, found, undisturbed)), output


def test_workers_that_die_with_every_run_are_said(parts, tmp_path, monkeypatch):
    """As where memory is short: not for ever, and with what to do."""
    scheduler, worker = parts
    _, address = scheduler()
    worker(address)
    spec = {"task": "cell_types", "arm": "majority", "data": {}}

    def dies(spec, needed=()):
        time.sleep(1)  # a worker that ends while it begins takes its nanny with it
        os._exit(9)

    with pytest.raises(DataError, match="Every worker that was at a run ended .*give them more, or start fewer"):
        list(cluster.compute({"0": spec}, dies, "0", address))


def test_workers_elsewhere_are_said(parts, tmp_path):
    """That do not see this folder: the library is not there."""
    scheduler, worker = parts
    _, address = scheduler()
    worker(address)

    def elsewhere(spec, needed=()):
        import lib_that_is_not_there  # noqa: F401

    with pytest.raises(DataError, match="The workers lack something .*lib_that_is_not_there.*let them see"):
        list(cluster.compute({"0": {"task": "cell_types", "data": {}}}, elsewhere, "0", address))


def test_large_models_go_to_workers_with_a_gpu(capsys, tmp_path):
    """On a local cluster of separate processes, of which one has the resource: one at a time there, small ones anywhere."""
    from distributed import LocalCluster

    def place(spec, needed=()):
        import time as clock

        from distributed import get_worker

        begun = clock.time()
        clock.sleep(0.2)
        return spec, (get_worker().name, begun, clock.time())

    def spec(seed, dim):
        return {"task": "cell_types", "arm": "no_pretraining", "model": "scBERT", "seed": seed, "size": {"dim": dim}}

    wanted = {str(seed): spec(seed, 200 if seed % 2 else 8) for seed in range(12)}
    how = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None, "processes": True}
    with LocalCluster(**how, name="cpu") as local:
        with_gpu = dask("worker", local.scheduler_address, "--name", "gpu", "--resources", "GPU=1", cwd=tmp_path)
        try:
            wait_for(lambda: len(local.scheduler_info["workers"]) == 2)
            found = list(cluster.compute(wanted, place, "0", local.scheduler_address))
        finally:
            end(with_gpu)
    large = [(begun, ended) for one, (name, begun, ended) in found if store.large(one)]
    assert len(found) == 12 and all(name == "gpu" for one, (name, _, _) in found if store.large(one))
    assert any(name != "gpu" for one, (name, _, _) in found if not store.large(one))
    assert all(ended <= begun for (_, ended), (begun, _) in zip(sorted(large), sorted(large)[1:]))
    assert "1 workers have several threads" in capsys.readouterr().out
