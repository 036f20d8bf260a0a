"""Runs together: done once, resumed after a kill, the same numbers side by side, on a cluster and by force."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock

from lib.errors import DataError
from lib.experiments import names, profiles, runs, specs, store
from lib.settings import ROOT


def test_done_is_not_done_again(profile, capsys):
    """A second call computes nothing and says so, of what it is asked for."""
    done = runs.complete(specs.cell_types(profile, ["full", "majority"], [0.5], [0]))
    before = [(run.folder / "DONE").stat().st_mtime_ns for run in done]
    capsys.readouterr()
    again = runs.complete([run.spec for run in done])
    assert [(run.folder / "DONE").stat().st_mtime_ns for run in again] == before
    assert "2 of 2 runs are stored already" in capsys.readouterr().out


@pytest.mark.slow
def test_force_does_runs_again_once_for_each_word(profile, monkeypatch):
    """Runs whose mark carries another word are done again, what they depend on too; by a variable as by an argument."""
    [spec] = specs.cell_types(profile, ["full"], [0.5], [0])

    def marks(**how):
        done = runs.complete([spec["pretraining"], spec], **how)
        return np.array([(run.folder / "DONE").stat().st_mtime_ns for run in done])

    plain = marks()
    first = marks(again="first")
    assert (first > plain).all() and (marks(again="first") == first).all()
    assert (marks() == first).all()  # done is done
    monkeypatch.setenv("SCBERT_FORCE", "second")
    second = marks()
    assert (second > first).all() and (marks() == second).all()
    monkeypatch.setenv("SCBERT_FORCE", "../up")
    with pytest.raises(DataError, match="SCBERT_FORCE is '../up'"):
        marks()


CODE = """
import sys, torch
torch.set_num_threads(1)
from lib.experiments import profiles, runs, specs
p = profiles.load("smoke")
p["finetuning"] = p["finetuning"] | {"epochs": 6, "batch_size": 4}
spec = specs.cell_types(p, ["no_pretraining"], [1.0], [0])[0]
print("started", flush=True)
print(runs.complete([spec])[0].folder, flush=True)
"""


def start(cache, **variables):
    environment = os.environ | {"SCBERT_CACHE": str(cache)} | variables
    command = [sys.executable, "-c", CODE]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment)


def result(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    with np.load(os.path.join(output.split()[-1], "predictions.npz")) as file:
        return output, dict(file)


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, {"SCBERT_FORCE": "again"}], ids=["plain", "forced"])
def test_killed_and_started_again_equals_uninterrupted(tmp_path, variables, same):
    """SIGKILL in the middle of training, then the same command: it goes on, to bit-identical predictions."""
    _, whole = result(start(tmp_path / "whole"))
    process = start(tmp_path / "killed", **variables)
    deadline = time.time() + 120
    while not list((tmp_path / "killed").glob("runs/*/checkpoint*.pt")) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "killed").glob("runs/*/DONE")), "the kill came too late to test anything"
    [checkpoint] = (tmp_path / "killed").glob("runs/*/checkpoint*.pt")
    assert (checkpoint.name == "checkpoint.pt") == (not variables)  # what is forced goes on from nothing but its own
    _, resumed = result(start(tmp_path / "killed", **variables))
    assert same(resumed, whole)


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, same):
    """Two processes asking for one run at the same time: it is computed once, both read it."""
    first, second = (result(process) for process in [start(tmp_path), start(tmp_path)])
    assert same(first[1], second[1])
    assert len(list(tmp_path.glob("runs/*/DONE"))) == 1


SIDE_BY_SIDE = """
import time
from lib.experiments import profiles, runs, specs
p = profiles.load("smoke")
p["finetuning"] = p["finetuning"] | {"epochs": 8, "batch_size": 4}
wanted = specs.cell_types(p, ["no_pretraining"], [1.0], [0, 1])
print("started", flush=True)
done = runs.complete(wanted)
print("folders", *(run.folder for run in done), flush=True)
"""


def heeds_ctrl_c():
    """For a process to be interrupted: what a shell starts in the background is deaf to it, and so is what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def side_by_side(cache):
    """Two runs in two processes, as soon as one has a checkpoint: the process, and its workers."""
    environment = os.environ | {"SCBERT_CACHE": str(cache), "SCBERT_WORKERS": "2"}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": environment}
    process = subprocess.Popen([sys.executable, "-c", SIDE_BY_SIDE], **how, preexec_fn=heeds_ctrl_c)
    deadline = time.time() + 120
    while not list(cache.glob("runs/*/checkpoint.pt")) and time.time() < deadline:
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    return process, [child for child in children if "popen_loky" in " ".join(child.cmdline())]


def gone(processes, seconds=20):
    """Whether they end by themselves."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the two runs predict where nothing happens to them."""
    process, _ = side_by_side(tmp_path_factory.mktemp("undisturbed"))
    return predicted(process)[0]


def predicted(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found = []
    [line] = (line for line in output.splitlines() if line.startswith("folders"))
    for folder in line.split()[1:]:
        with np.load(os.path.join(folder, "predictions.npz")) as file:
            found.append(dict(file))
    assert len(found) == 2
    return found, output


@pytest.mark.slow
def test_a_killed_workers_run_is_taken_up(tmp_path, undisturbed, same):
    """As where memory is short: it is said, fewer go on, and the predictions are those of undisturbed runs."""
    process, workers = side_by_side(tmp_path)
    assert len(workers) == 2
    workers[0].kill()
    found, output = predicted(process)
    assert "was ended from outside" in output and "1 at a time" in output and all(map(same, found, undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_an_ended_process_leaves_no_worker(tmp_path, undisturbed, same, name):
    """Whatever ended it; with a sentence where it could say one. Called again, it goes on to the same predictions."""
    process, workers = side_by_side(tmp_path)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=60)
    assert gone(workers) and process.returncode
    assert name == "SIGKILL" or "Interrupted. What is done is kept" in output
    assert not list(tmp_path.glob("runs/*/DONE")), "it came too late to test anything"
    again, _ = side_by_side(tmp_path)
    assert all(map(same, predicted(again)[0], undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere:1", "what://127.0.0.1:9"])
def test_a_scheduler_that_is_not_there_is_said(profile, address):
    """With its address and what to do."""
    with pytest.raises(DataError, match=f"no Dask scheduler at {address}.*dask scheduler"):
        runs.complete(specs.cell_types(profile, ["majority"], [0.5], [11]), scheduler=address)


@pytest.mark.slow
def test_dask_cluster_gives_the_same_runs(profile, tmp_path, monkeypatch):
    """Runs done by Dask workers, by the scheduler's address, equal those done here."""
    from distributed import LocalCluster

    wanted = specs.cell_types(profile, ["no_gene2vec", "logistic_regression"], [0.5], [0, 1])
    here = [dict(run.predictions) for run in runs.complete(wanted)]
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    profiles.load("smoke")  # writes the prepared cells into the other cache
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        there = runs.complete(wanted, scheduler=cluster.scheduler_address)
    assert all(str(run.folder).startswith(str(tmp_path)) for run in there)
    for ours, theirs in zip(here, there):
        np.testing.assert_array_equal(ours["test"], theirs.predictions["test"])
        np.testing.assert_allclose(ours["probabilities"], theirs.predictions["probabilities"], atol=1e-4)


@pytest.mark.slow
def test_runs_side_by_side_are_the_same_runs(profile, tmp_path, monkeypatch, capfd):
    """On two processes or in this one, with one thread or all: the same bits; what is done is not done again."""
    wanted = specs.cell_types(profile, ["no_gene2vec", "no_pretraining", "logistic_regression"], seeds=[0, 1])
    here = [run.predictions["probabilities"] for run in runs.complete(wanted)]
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("SCBERT_WORKERS", "2")
    capfd.readouterr()
    profiles.load("smoke")  # puts the cells into the other cache
    there = runs.complete(wanted)
    output, errors = capfd.readouterr()
    assert "7 runs, 2 at a time" in output and "Runs: 7 computed in" in output and "step" not in output + errors
    assert all(run.folder.is_relative_to(tmp_path) and run.environment["threads"] == 1 for run in there)
    for run, expected in zip(there, here):
        assert np.array_equal(run.predictions["probabilities"], expected)
    runs.complete(wanted)
    assert "6 of 6 runs are stored" in capfd.readouterr().out
    monkeypatch.setenv("SCBERT_WORKERS", "many")
    with pytest.raises(DataError, match="SCBERT_WORKERS is 'many'"):
        runs.complete(wanted, again="once more")


@pytest.mark.slow
def test_beside_a_gpu_what_needs_none_goes_side_by_side(profile, monkeypatch, capfd, same):
    """Models have it to themselves, one at a time; logistic regression has the cores. The same runs as without."""
    wanted = specs.cell_types(profile, ["no_gene2vec_no_pretraining", "logistic_regression", "majority"], [0.5], [21, 22])
    here = [dict(run.predictions) for run in runs.complete(wanted)]
    monkeypatch.setenv("SCBERT_WORKERS", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [store.small(spec) for spec in wanted] == [False] * 2 + [True] * 4
    capfd.readouterr()
    again = list(runs._compute_here({run.id: run.spec for run in map(store.Run, wanted[2:])}, names.LOADED, "beside"))
    assert "4 runs, 2 at a time" in capfd.readouterr().out and len(again) == 4
    assert all(same(store.Run(spec).predictions, expected) for spec, expected in zip(wanted, here))


@pytest.mark.slow
def test_what_waits_for_a_pretraining_keeps_no_process_from_other_runs(tmp_path, monkeypatch, capfd):
    """Of two processes one is at a pre-training for as long as the test wants: the other does all that needs another one."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("SCBERT_WORKERS", "2")
    p = profiles.load("smoke")
    held, free = (specs.cell_types(p | {"pretraining": p["pretraining"] | {"seeds": [k]}}, ["full"]) for k in (0, 1))
    ready = [*free, *specs.cell_types(p, ["no_pretraining"])]
    pretraining = store.Run(held[0]["pretraining"]).folder
    pretraining.parent.mkdir()
    with ThreadPoolExecutor(1) as thread:
        with FileLock(pretraining.with_suffix(".lock")):
            done = thread.submit(runs.complete, held + ready)
            deadline = time.time() + 300
            while not (others := all((store.Run(spec).folder / "DONE").exists() for spec in ready)) and time.time() < deadline:
                assert not done.done(), done.result()
                time.sleep(0.05)
            begun = [store.Run(spec).folder.exists() for spec in held]
        assert len(done.result()) == len(held + ready)
    assert others and begun == [False, False]
    assert capfd.readouterr().out.count("waiting for it") <= 1  # the one process that is at the pre-training
