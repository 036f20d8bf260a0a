"""The run store: done once, found again, resumed after a kill, redone after damage, the same numbers every time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lib.errors import DataError
from lib.experiments import profiles, runs, specs, store


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The smoke profile in a cache of its own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SCBERT_CACHE"] = str(folder)
    yield profiles.load("smoke")
    del os.environ["SCBERT_CACHE"]


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def done(profile):
    """One run of scBERT, of logistic regression and of the majority class, on half of the training cells."""
    return runs.complete(specs.cell_types(profile, ["full", "logistic_regression", "majority"], [0.5], [0]))


def test_every_model_learns_from_the_same_cells(done):
    """Training and test cells of a fraction and seed are one artefact, shared by all arms."""
    first = done[0].predictions
    for run in done[1:]:
        assert np.array_equal(run.predictions["train"], first["train"])
        assert np.array_equal(run.predictions["test"], first["test"])
    assert not set(first["train"]) & set(first["test"])


def test_a_run_holds_what_a_reader_needs(done, profile):
    """Specification, environment, log and per-cell probabilities are in the folder, the checkpoint is gone."""
    run = done[0]
    assert json.loads((run.folder / "spec.json").read_text()) == json.loads(json.dumps(run.spec))
    assert run.environment["packages"]["torch"] and run.environment["seconds"] > 0
    assert len(run.log) == profile["finetuning"]["epochs"]
    p = run.predictions
    assert p["probabilities"].shape == (len(p["test"]), len(p["classes"]))
    np.testing.assert_allclose(p["probabilities"].sum(1), 1, atol=1e-5)
    assert run.log["accuracy"].max() == np.mean(p["probabilities"].argmax(1) == p["labels"])
    assert not list(run.folder.glob("checkpoint*")) and (run.folder / "model.pt").exists()


def test_done_is_not_done_again(done, capsys):
    """A second call computes nothing and says so, of the three runs and the pre-training of one."""
    before = [(run.folder / "DONE").stat().st_mtime_ns for run in done]
    again = runs.complete([run.spec for run in done])
    assert [(run.folder / "DONE").stat().st_mtime_ns for run in again] == before
    assert "4 of 4 runs are stored already" in capsys.readouterr().out


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["predictions.npz", "log.csv", "spec.json", "DONE"])
@pytest.mark.parametrize("damage", [truncate, flip_a_byte, lambda path: path.unlink()], ids=["cut", "flip", "delete"])
def test_damage_is_found_and_mended(done, name, damage, capsys):
    """A file cut short, changed or deleted: the run is done again and gives the same numbers."""
    run = done[1]
    before = dict(run.predictions)
    damage(run.folder / name)
    mended = runs.complete([run.spec])[0]
    assert store.is_done(mended) and same(mended.predictions, before)
    assert "stored already" not in capsys.readouterr().out


def test_force_does_runs_again_once(done, monkeypatch):
    """With --force a run is done again, but only once in one call of run_all.sh."""
    run = done[2]
    before = (run.folder / "DONE").stat().st_mtime_ns
    monkeypatch.setenv("SCBERT_RUNS_SINCE", str(time.time()))
    runs.complete([run.spec])
    forced = (run.folder / "DONE").stat().st_mtime_ns
    runs.complete([run.spec])
    assert before < forced == (run.folder / "DONE").stat().st_mtime_ns


def test_what_determines_a_run_is_in_its_name(profile):
    """Another seed, fraction, rate, split or cell gives another run."""
    base = specs.cell_types(profile, ["full"], [1.0], [0])[0]
    others = [
        specs.cell_types(profile, ["full"], [1.0], [1])[0],
        specs.cell_types(profile, ["full"], [0.5], [0])[0],
        specs.cell_types(profile, ["no_pretraining"], [1.0], [0])[0],
        specs.cell_types(profile | {"split": {"test_size": 0.3, "seed": 1}}, ["full"], [1.0], [0])[0],
        specs.cell_types(profile | {"fingerprint": "0"}, ["full"], [1.0], [0])[0],
        specs.cell_types(profile | {"pretraining": profile["pretraining"] | {"epochs": 9}}, ["full"], [1.0], [0])[0],
    ]
    assert len({store.run_id(spec) for spec in [base, *others]}) == len(others) + 1
    assert store.run_id(base) == store.run_id(json.loads(json.dumps(base)))


def test_comments_keep_runs_and_code_does_not(tmp_path, monkeypatch):
    """The code's part of the name ignores comments and docstrings, and nothing else."""
    shutil.copytree(runs.ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(store, "ROOT", tmp_path)
    fresh = store.code_hash.__wrapped__
    path, before = tmp_path / "lib" / "scbert" / "finetune.py", fresh()
    text = path.read_text()
    path.write_text("# a remark\n" + text.replace("From 0.", "Counted from 0."))
    assert "Counted from 0." in path.read_text() and fresh() == before
    path.write_text(text.replace("warmup=5", "warmup=6"))
    assert fresh() != before


def test_unknown_names_are_refused(profile):
    """Profiles, overrides and arms that do not exist are named, with those that do."""
    with pytest.raises(DataError, match="Profiles: .*quick"):
        profiles.load("nonsense")
    with pytest.raises(DataError, match="no entry 'colour'.*seeds"):
        profiles.load("smoke", colour=1)
    with pytest.raises(DataError, match="no arm 'gpt'.*full"):
        specs.cell_types(profile, ["gpt"])


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


def start(cache):
    return subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                            cwd=runs.ROOT, env=os.environ | {"SCBERT_CACHE": str(cache)})  # fmt: skip


def result(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    with np.load(os.path.join(output.split()[-1], "predictions.npz")) as file:
        return output, dict(file)


@pytest.mark.slow
def test_killed_and_started_again_equals_uninterrupted(tmp_path):
    """SIGKILL in the middle of training, then the same command: bit-identical predictions."""
    _, whole = result(start(tmp_path / "whole"))
    process = start(tmp_path / "killed")
    deadline = time.time() + 120
    while not list((tmp_path / "killed").glob("runs/*/checkpoint.pt")) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "killed").glob("runs/*/DONE")), "the kill came too late to test anything"
    _, resumed = result(start(tmp_path / "killed"))
    assert same(resumed, whole)


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
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


def test_weights_for_other_genes_are_refused(profile, done):
    """Weights whose genes stand in another order are not used."""
    import torch

    from lib.scbert.model import ScBert

    path = store.Run(done[0].spec["pretraining"]).folder / "model.pt"
    genes = torch.load(path, weights_only=True)["genes"]
    assert ScBert.from_checkpoint(path, genes=genes).config.genes == len(genes)
    swapped = [genes[0], genes[2], genes[1], *genes[3:]]
    with pytest.raises(DataError, match=f"Gene 1 .* is {genes[1]}, gene 1 of the cells is {genes[2]}"):
        ScBert.from_checkpoint(path, genes=swapped)


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
    assert "7 of 7 runs are stored" in capfd.readouterr().out
    monkeypatch.setenv("SCBERT_WORKERS", "many")
    monkeypatch.setenv("SCBERT_RUNS_SINCE", str(time.time()))
    with pytest.raises(DataError, match="SCBERT_WORKERS is 'many'"):
        runs.complete(wanted)
