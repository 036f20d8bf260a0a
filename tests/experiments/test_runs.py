"""Runs together: done once, resumed after a kill, the same numbers side by side, on a cluster and by force."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lib.errors import DataError
from lib.experiments import profiles, runs, specs
from lib.settings import ROOT


def test_done_is_not_done_again(profile, capsys):
    """A second call computes nothing and says so, of what it is asked for."""
    done = runs.complete(specs.cell_types(profile, ["full", "majority"], [0.5], [0]))
    before = [(run.folder / "DONE").stat().st_mtime_ns for run in done]
    capsys.readouterr()
    again = runs.complete([run.spec for run in done])
    assert [(run.folder / "DONE").stat().st_mtime_ns for run in again] == before
    assert "2 of 2 runs are stored already" in capsys.readouterr().out


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
    assert "7 runs, 2 at a time" in output and "step" not in output + errors
    assert all(run.folder.is_relative_to(tmp_path) and run.environment["threads"] == 1 for run in there)
    for run, expected in zip(there, here):
        assert np.array_equal(run.predictions["probabilities"], expected)
    runs.complete(wanted)
    assert "6 of 6 runs are stored" in capfd.readouterr().out
    monkeypatch.setenv("SCBERT_WORKERS", "many")
    with pytest.raises(DataError, match="SCBERT_WORKERS is 'many'"):
        runs.complete(wanted, again="once more")
