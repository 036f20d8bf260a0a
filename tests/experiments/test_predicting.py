"""Cells of a file are named as the run itself named them, whatever the blocks, the order, or an interruption."""

import os
import signal
import subprocess
import sys
import time

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lib import scbert
from lib.datasets import catalogue
from lib.errors import DataError
from lib.experiments import archive, inventory, namers, predicting, runs, specs
from lib.settings import ROOT


@pytest.fixture(scope="module")
def done(profile):
    """Finished runs of the smoke profile, by arm."""
    wanted = specs.cell_types(profile, ["full", "logistic_regression", "majority", "depth"], seeds=[0])
    return {run.spec["arm"]: run for run in runs.complete(wanted)}


@pytest.fixture(scope="module")
def whole(profile):
    """All cells of the data set that the profile takes its own from, as counts."""
    adata = catalogue.load("pbmc68k_reduced")
    return anndata.AnnData(adata.X, obs=adata.obs[["n_counts"]].assign(note="kept"), var=adata.var[[]])


def named(tmp_path, adata, run, block=None, said=None):
    path, out = tmp_path / "cells.h5ad", tmp_path / "named.h5ad"
    adata.write_h5ad(path)
    said = [] if said is None else said
    predicting.predict(path, namers.of_run(run.id), out, block, said.append)
    return anndata.read_h5ad(out)


@pytest.fixture(scope="module")
def stored(profile, done):
    """Names of the test cells."""
    return profile["adata"].obs_names[done["full"].predictions["test"]]


@pytest.mark.parametrize("arm", ["full", "logistic_regression"])
@pytest.mark.slow
def test_test_cells_get_the_probabilities_of_the_run(tmp_path, done, whole, stored, arm):
    """And the file's own entries stay as they were."""
    found = named(tmp_path, whole, done[arm])
    there = found.obsm["scbert_probabilities"][found.obs_names.get_indexer(stored)]
    assert np.abs(there - done[arm].predictions["probabilities"]).max() < 1e-6
    classes = found.uns["scbert_classes"]
    assert (found.obs["scbert_cell_type"].to_numpy(str) == classes[found.obsm["scbert_probabilities"].argmax(1)]).all()
    assert np.array_equal(found.obs["scbert_probability"], found.obsm["scbert_probabilities"].max(1))
    assert (found.X != whole.X).nnz == 0 and (found.obs["note"] == "kept").all() and found.var_names.equals(whole.var_names)


@pytest.mark.slow
def test_neither_blocks_nor_order_matter(tmp_path, done, whole):
    first = named(tmp_path, whole, done["full"])
    again = named(tmp_path, whole, done["full"], block=7)
    assert np.abs(first.obsm["scbert_probabilities"] - again.obsm["scbert_probabilities"]).max() < 1e-6
    rng = np.random.default_rng(0)
    turned = whole[rng.permutation(whole.n_obs), rng.permutation(whole.n_vars)].copy()
    other = named(tmp_path, turned, done["full"])[first.obs_names]
    assert np.abs(first.obsm["scbert_probabilities"] - other.obsm["scbert_probabilities"]).max() < 1e-6


@pytest.mark.parametrize("base", ["ln", "log2"])
def test_logarithms_are_named_as_their_counts(tmp_path, done, whole, base):
    """ln(1 + counts per 10⁴) by the total of all measured genes, which the file keeps; dense as well as sparse."""
    logs = whole.copy()
    per_cell = np.repeat(1e4 / whole.obs["n_counts"].to_numpy(np.float64), np.diff(whole.X.indptr))
    logs.X.data = (np.log1p(whole.X.data * per_cell) / (1 if base == "ln" else np.log(2))).astype(np.float32)
    logs.X = logs.X.toarray() if base == "ln" else logs.X
    here, there = named(tmp_path, whole, done["logistic_regression"]), named(tmp_path, logs, done["logistic_regression"])
    assert np.abs(here.obsm["scbert_probabilities"] - there.obsm["scbert_probabilities"]).max() < 1e-4


@pytest.mark.slow
def test_missing_genes_and_empty_cells_are_said(tmp_path, done, whole):
    some, said = whole[:, 50:].copy(), []
    some.X = sp.csr_matrix(some.X.multiply((np.arange(some.n_obs) != 3)[:, None]), dtype=np.float32)
    found = named(tmp_path, some, done["full"], said=said)
    assert any(f"{whole.n_vars - 50} of the {whole.n_vars} genes" in line and whole.var_names[0] in line for line in said)
    assert found.obs["scbert_cell_type"].isna().sum() == 1 and np.isnan(found.obs["scbert_probability"].iloc[3])


def test_too_few_genes_are_refused(tmp_path, done, whole):
    with pytest.raises(DataError, match="40 of the 765 genes of the model.*too few"):
        other = whole.copy()
        other.var_names = [*whole.var_names[:40], *(f"GENE{i}A" for i in range(whole.n_vars - 40))]
        named(tmp_path, other, done["full"])
    assert not (tmp_path / "named.h5ad").exists()


def test_runs_that_cannot_name_are_refused(done):
    with pytest.raises(DataError, match="sequenced"):
        namers.of_run(done["depth"].id)
    with pytest.raises(DataError, match="task pretraining, which names no cells"):
        namers.of_run(next(run.id for run in inventory.runs() if run.spec["task"] == "pretraining"))
    with pytest.raises(DataError, match="No run"):
        namers.of_run("zzzz")
    published = archive.names(archive.folder() / "laptop.zip")[0]
    with pytest.raises(DataError, match=r"no weights.*--profile laptop"):
        namers.of_run(published)


def test_an_original_checkpoint_needs_its_genes_and_types(tmp_path, whole):
    genes = whole.var_names[:300].tolist()
    config = scbert.ScBertConfig(dim=8, depth=1, heads=1, dim_head=8, features=8, classes=3)
    model = scbert.CellTypeClassifier(config, np.random.default_rng(0).normal(size=(300, 8))).eval()
    path, cells = tmp_path / "finetuned.pth", tmp_path / "cells.h5ad"
    torch.save({"model_state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    for given, words in (((None, list("abc")), "--genes"), ((genes, None), "--classes"), ((genes, ["a", "b"]), "3 cell types")):
        with pytest.raises(DataError, match=words):
            namers.of_checkpoint(path, *given)
    with pytest.raises(DataError, match="299|300"):
        namers.of_checkpoint(path, genes[:-1], list("abc"))
    whole.write_h5ad(cells)
    out = predicting.predict(cells, namers.of_checkpoint(path, genes, list("abc")), tmp_path / "out.h5ad")
    part = whole.X[:, :300].toarray().astype(np.float64)  # as the authors: divided by the sum over the vocabulary
    tokens = np.minimum(np.log2(1 + 1e4 * part / part.sum(1, keepdims=True)).astype(np.float32), 5).astype(np.int64)
    with torch.no_grad():
        wanted = model(torch.as_tensor(np.pad(tokens, ((0, 0), (0, 1))))).softmax(1).numpy()
    assert np.abs(anndata.read_h5ad(out).obsm["scbert_probabilities"] - wanted).max() < 1e-6


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path, done, whole):
    """SIGKILL after some blocks: no output; called again, it says so and gives the same."""
    many = anndata.concat([whole] * 12, index_unique="-")
    many.obs, path, out = many.obs[["n_counts"]], tmp_path / "many.h5ad", tmp_path / "many.named.h5ad"
    many.write_h5ad(path)
    code = "import sys; from lib.experiments import namers, predicting; _, path, run, out = sys.argv; "
    code += "predicting.predict(path, namers.of_run(run), out, 50)"
    command = [sys.executable, "-c", code, str(path), done["full"].id, str(out)]
    before = inventory.settings.cache() / "predictions"
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"SCBERT_PROGRESS": "off"})
    until = time.time() + 120
    while len(list(before.glob("*/[0-9]*.npy"))) < 3 and process.poll() is None and time.time() < until:
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    again = subprocess.run(command, cwd=ROOT, env=os.environ | {"SCBERT_PROGRESS": "off"}, text=True, capture_output=True)
    assert again.returncode == 0 and "Going on: " in again.stdout, again.stderr
    once = named(tmp_path, whole, done["full"])
    found = anndata.read_h5ad(out).obsm["scbert_probabilities"].reshape(12, whole.n_obs, -1)
    assert np.abs(found - once.obsm["scbert_probabilities"]).max() < 1e-6
    assert not list(before.glob("*/*.npy"))
