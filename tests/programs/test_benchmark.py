"""The benchmark compares like with like, and writes what README quotes."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from lib.programs import benchmark, benchmark_jobs
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
@pytest.mark.parametrize("model", benchmark_jobs.MODELS)
def test_every_job_runs(model, job):
    """Each job of each model can be done, also at small sizes."""
    config = ScBertConfig(genes=40, dim=12, depth=2, heads=2, dim_head=6, features=15, classes=3)
    benchmark_jobs.make_job(model, job, 40, 2, config)()


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


@pytest.mark.slow
def test_what_is_read_is_said_with_its_size():
    """A data set that needs no download: its cells and genes, seconds and bytes a cell."""
    found = benchmark.apart(benchmark_jobs.reading, "pbmc68k_reduced")
    assert (found["cells"], found["genes"]) == (700, 765) and found.keys() >= {"seconds", "bytes"}


@pytest.mark.slow
def test_benchmark_writes_its_table(tmp_path):
    """``python -m lib.benchmark`` on few genes: a row for each model and job with all that README quotes, and a figure."""
    command = [sys.executable, "-m", "lib.benchmark", "--full", "200", "--genes", "100", "--repeats", "1", "--cells", "500"]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"SCBERT_FIGURES": str(tmp_path)})
    table = pd.read_csv(tmp_path / "benchmark" / "cpu.csv").drop_duplicates(["job", "genes", "model"])
    table = table.set_index(["job", "genes", "model"]).sort_index()
    for job in benchmark_jobs.JOBS:
        assert table.loc[(job, 200, "stock"), "ratio"] == 1
        assert set(table.loc[(job, 200)].index) - {"ours, bf16"} == {"stock", "ours", "ours, no gene embedding"}
        assert set(table.loc[f"{job}: profile"].droplevel(0).index) == {"matrix products", "exponentials", "the rest"}
    for job, models in (("feeding", {"ours", "stock"}), ("preparation", {"ours, sparse tokens", "ours, dense tokens"})):
        assert set(table.loc[job].droplevel(0).index) == models
    row = table.loc[("forward", 200, "ours")]
    assert np.isclose(row["ratio"], table.loc[("forward", 200, "stock"), "seconds"] / row["seconds"], rtol=1e-3)
    assert table.loc["forward: error", "error"].max() < 1e-5
    assert (tmp_path / "benchmark" / "cpu.png").exists()


def test_a_bare_gpu_machine_needs_no_scanpy():
    """Without anndata and scanpy it starts, and a job can be made and done."""
    code = """
import sys
sys.modules |= dict.fromkeys(("anndata", "scanpy"))
from lib.programs import benchmark
benchmark.make_job("ours", "finetuning step", 60, 2)()
assert benchmark.find_spec("anndata") is None
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
