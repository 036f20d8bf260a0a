"""The benchmark compares like with like, and writes what README quotes."""

import os
import subprocess
import sys
import types
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from lib.evaluate.intervals import confidence_interval
from lib.programs import benchmark, benchmark_jobs, benchmark_turns, speed
from lib.scbert.model import ScBert, ScBertConfig
from lib.settings import ROOT


def test_stock_computes_the_same_model():
    """The stock side is performer-pytorch's own arithmetic: our logits with its stabiliser."""
    config = ScBertConfig(genes=50, dim=12, depth=2, heads=2, dim_head=6, features=15, stabiliser="head")
    model = ScBert(config, np.random.randn(50, 12)).eval()
    tokens = torch.randint(0, 6, (3, 51))
    with torch.no_grad():
        ours = model(tokens)
        model.__class__ = benchmark_jobs._stock(ScBert)
        stock = model(tokens)
    assert torch.allclose(ours, stock, atol=1e-5)


@pytest.mark.parametrize("job", benchmark_jobs.JOBS)
@pytest.mark.parametrize("model", [*benchmark_jobs.MODELS, benchmark_jobs.KEPT])
def test_every_job_runs(model, job):
    """Each job of each model can be done, also at small sizes."""
    config = ScBertConfig(genes=40, dim=12, depth=2, heads=2, dim_head=6, features=15, classes=3)
    benchmark_jobs.make_job(model, job, 40, 2, config)()


def test_a_step_from_kept_blocks_is_the_step():
    """The loss of a fine-tuning step from what the frozen blocks gave is the loss from the cells' tokens."""
    config = ScBertConfig(genes=40, dim=12, depth=3, heads=2, dim_head=6, features=15, classes=3)
    net, _ = benchmark_jobs.make_net("ours", "finetuning step", 40, config)
    batch = benchmark_jobs.make_batch(40, 2)
    kept = benchmark_jobs._kept(net.eval(), batch[0])
    losses = [benchmark_jobs.loss_of(net, "finetuning step", *batch, states) for states in (None, kept)]
    assert torch.allclose(*losses, rtol=1e-5) and losses[0] > 0


def test_feeding_gives_equal_batches():
    """Both ways to feed give the same tokens (asserted inside)."""
    assert benchmark_jobs.feeding(cells=64, genes=200, batch=8).keys() == {"ours", "stock"}


@pytest.mark.slow
@pytest.mark.parametrize("job", benchmark_jobs.JOBS)
def test_exactness(job):
    """In fp32, logits and gradients are those of performer-pytorch in float64; under bf16 autocast they are near."""
    config = ScBertConfig(genes=200, depth=2, stabiliser="head")  # the paper's widths
    single, low = benchmark_jobs.exactness(job, 200, config=config), benchmark_jobs.exactness(job, 200, True, config)
    assert 0 < single["error"] < (1e-5 if job == "forward" else 1e-4)
    assert single["error"] < low["error"]
    if job == "forward":
        assert low["error"] < 1e-2 and single["agreement"] == 1
    else:
        assert single["error_overall"] < 1e-5
        # In the classification head bf16 may switch a ReLU near zero, and with it a part of every gradient behind it.
        assert low["error_overall"] < (0.02 if job == "pretraining step" else 0.5)


def test_preparation_has_the_size_that_is_asked_for():
    """Simulated counts with as many genes a cell as said (sparse and dense tokens agree, asserted inside)."""
    found = benchmark_jobs.preparation(cells=300, measured=4000, genes=2500, detected=100)
    assert 80 < found["detected"] < 120
    assert found.keys() == {"detected", "sparse", "bytes_sparse", "dense", "bytes_dense"}


def test_turns_end_when_the_ratios_are_known(monkeypatch):
    """Two that keep their ratio are done after the fewest turns, whatever the machine does to both; others take the most."""

    class Peer:
        def __init__(self, seconds):
            self.seconds, self.asked = iter(seconds), []

        def send(self, word):
            self.asked.append(word)

        def recv(self):
            return next(self.seconds) if self.asked[-1] else 0

    def took(stock, ours):
        pipes = iter([Peer(stock), Peer(ours)])
        process = types.SimpleNamespace(start=lambda: None, join=lambda: None)
        spawn = types.SimpleNamespace(Pipe=lambda: (next(pipes), types.SimpleNamespace(close=lambda: None)))
        spawn.Process = lambda **_: process
        monkeypatch.setattr(benchmark_turns, "SPAWN", spawn)
        return benchmark_turns.compare("forward", 20, {"stock": 1, "ours": 1}, 1, "cpu", (3, 8))[1]

    steady = took([4, 8, 16, 2], [1, 2.02, 3.98, 9])
    assert steady["turns"] == 3 and steady["ratio"] == pytest.approx(4, rel=0.01)
    logs = np.log([4, 1, 4, 1, 4, 1, 4, 1])
    wild = took(np.exp(logs), [1] * 8)
    mean, half = confidence_interval(logs)
    assert wild["turns"] == 8
    for name, value in (("ratio", mean), ("ratio_low", mean - half), ("ratio_high", mean + half)):
        assert wild[name] == pytest.approx(np.exp(value), rel=1e-5)


def test_what_was_measured_before_an_interruption_is_kept(monkeypatch, tmp_path):
    """A second process goes on where the first was killed; another machine, code or question begins anew."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    first = benchmark_turns.Measured("this machine")
    first("a", lambda: [{"seconds": 1.5}])
    with pytest.raises(KeyboardInterrupt):
        first("b", mock.Mock(side_effect=KeyboardInterrupt))
    again, never = benchmark_turns.Measured("this machine"), mock.Mock()
    assert again("a", never) == [{"seconds": 1.5}] and not never.called
    again("b", lambda: [{"seconds": 2.0}])
    assert again.rows == [{"seconds": 1.5}, {"seconds": 2.0}]
    assert benchmark_turns.Measured("another machine").kept == {}
    again.path.write_text("[broken")
    assert benchmark_turns.Measured("this machine").kept == {}


def test_the_texts_know_the_models_and_jobs():
    """speed has their names of its own, since it needs no torch."""
    assert (speed.MODELS, speed.KEPT, tuple(speed.STEPS)) == (benchmark_jobs.MODELS, benchmark_jobs.KEPT, benchmark_jobs.JOBS)


@pytest.mark.slow
def test_what_is_read_is_said_with_its_size():
    """A data set that needs no download: its cells and genes, seconds and bytes a cell."""
    found = benchmark.apart(benchmark_jobs.reading, "pbmc68k_reduced")
    assert (found["cells"], found["genes"]) == (700, 765) and found.keys() >= {"seconds", "bytes"}


@pytest.mark.slow
def test_benchmark_writes_its_table(tmp_path):
    """``python -m lib.benchmark`` on few genes: a row for each model and job with all that README quotes, and a figure."""
    command = [sys.executable, "-m", "lib.benchmark", "--full", "200", "--genes", "--small", "50", "--turns", "2", "2"]
    where = {"SCBERT_FIGURES": str(tmp_path), "SCBERT_CACHE": str(tmp_path / "cache")}
    subprocess.run([*command, "--cells", "500"], check=True, cwd=ROOT, env=os.environ | where)
    table = pd.read_csv(tmp_path / "benchmark" / "cpu.csv")
    parts = table[table["job"] == "forward: profile"].query("model == 'ours'")["part"]
    assert set(parts) == {"compiled functions", *benchmark_jobs.PARTS, "the rest"}
    assert len(table.loc[table["job"] == "products", "machine"].dropna()) == 2
    table = table.drop_duplicates(["job", "genes", "model"]).set_index(["job", "genes", "model"]).sort_index()
    for job in benchmark_jobs.JOBS:
        kept = {benchmark_jobs.KEPT} if job == "finetuning step" else set()
        for genes, more in ((200, kept), (50, set())):
            assert table.loc[(job, genes, "stock"), "ratio"] == 1
            found = set(table.loc[(job, genes)].index) - {"ours, bf16"}
            assert found == {"stock", "ours", "ours, no gene embedding"} | more
    for job, models in (("feeding", {"ours", "stock"}), ("preparation", {"ours, sparse tokens", "ours, dense tokens"})):
        assert set(table.loc[job].droplevel(0).index) == models
    row = table.loc[("forward", 200, "ours")]
    stock, extremes = table.loc[("forward", 200, "stock")], ("fastest", "slowest")
    assert stock["fastest"] / row["slowest"] <= row["ratio"] <= stock["slowest"] / row["fastest"] and row["turns"] == 2
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"] and row[list(extremes)].is_monotonic_increasing
    assert table.loc[("forward: error", 200, "ours"), "error"] < 1e-5
    assert (tmp_path / "benchmark" / "cpu.png").exists() and not list((tmp_path / "cache" / "benchmark").glob("*"))


@pytest.mark.slow
def test_a_bare_gpu_machine_needs_no_scanpy():
    """Without anndata and scanpy it starts, and a job can be made and done."""
    code = """
import sys
sys.modules |= dict.fromkeys(("anndata", "scanpy"))
from lib.programs import benchmark, benchmark_turns
benchmark_turns.make_job("ours", "finetuning step", 60, 2)()
assert benchmark.find_spec("anndata") is None
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
