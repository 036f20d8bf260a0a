"""A profile's cells: what is selected, stored and read."""

import hashlib

import anndata
import numpy as np
import pytest
import scanpy
import scipy.sparse as sp

from lib.datasets import catalogue, downloads
from lib.errors import DataError
from lib.prepare import cells, preprocess, selection, splits

PREPARED = {"dataset": "pbmc68k_reduced", "label": None, "vocabulary": None, "min_genes": 0, "library_size": None}


@pytest.mark.slow
def test_variable_genes_are_chosen_on_training_cells_alone(raw):
    """Changing the test cells' values changes no gene that is chosen; scanpy chooses the same on the training cells."""
    split = {"test_size": 0.2, "seed": 2022}
    prepared = preprocess.prepare(raw, min_genes=0, library_size="n_counts")
    train, test = splits.holdout(prepared.obs["cell_type"].cat.codes.to_numpy(np.int64), **split)
    chosen = selection._most_variable(prepared, 100, split)
    changed = prepared.copy()
    dense = changed.X.toarray()
    dense[test] = dense[test][:, ::-1]
    changed.X = sp.csr_matrix(dense)
    assert chosen.n_vars == 100 and list(selection._most_variable(changed, 100, split).var_names) == list(chosen.var_names)
    natural = anndata.AnnData(prepared.X[train] * np.log(2), var=prepared.var.copy())
    scanpy.pp.highly_variable_genes(natural, n_top_genes=100)
    assert list(natural.var_names[natural.var["highly_variable"]]) == list(chosen.var_names)
    assert (prepared[:, chosen.var_names].X != chosen.X).nnz == 0
    with pytest.raises(DataError, match="variable_genes is 1000"):
        selection._most_variable(prepared, 1000, split)


def store_cells():
    return cells.store(preprocess.prepare(catalogue.load("pbmc68k_reduced"), min_genes=0, library_size="n_counts"))


@pytest.mark.parametrize("call", [store_cells, lambda: downloads.fetch("vocabulary")], ids=["cells", "downloads"])
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, call):
    """As on a read-only disk: which folder, why, and which setting chooses another."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("SCBERT_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=r"file/cache.* cannot be written .*Point SCBERT_(CACHE|DATA_DIR) to a folder that can"):
        call()


@pytest.mark.parametrize(
    "changes, expected", [({"max_cells_per_type": 15}, "a94b64d324c7ad9e"), ({}, "5e15d52387438d5d")], ids=["smoke", "quick"]
)
def test_the_fingerprint_is_of_what_models_are_fed(tmp_path, monkeypatch, changes, expected):
    """Published runs are found by it: it is that of values, labels and names, as it was before depth was kept beside them."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    adata = selection.prepared(PREPARED | changes)
    assert cells.store(adata) == expected
    digest, x = hashlib.sha256(), adata.X
    for name, array in (("data", x.data), ("indices", x.indices), ("indptr", x.indptr)):
        digest.update(f"{name} ({len(array)},)".encode() + array.tobytes())
    digest.update(b"shape (2,)" + np.array(adata.shape).tobytes() + f"labels ({adata.n_obs},)".encode())
    digest.update(adata.obs["cell_type"].cat.codes.to_numpy(np.int64).tobytes())
    classes = adata.obs["cell_type"].cat.categories
    for name, words in (("classes", classes), ("genes", adata.var_names), ("names", adata.obs_names)):
        digest.update(f"{name} ({len(words)},)".encode() + "\n".join(words).encode())
    assert digest.hexdigest()[:16] == expected


def test_depths_are_kept_beside_the_cells(tmp_path, monkeypatch):
    """Cells that were stored before stay as they are; other totals of the same values are other depths, not other cells."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    adata = selection.prepared(PREPARED)
    name = cells.store(adata)
    [before] = tmp_path.rglob("*.npz")
    written = before.stat().st_mtime_ns
    normalised = adata.copy()
    del normalised.layers["equal_depth"], normalised.obs["total_counts"]
    assert cells.store(normalised) == name and before.stat().st_mtime_ns == written
    full, less = cells.store_depths(adata), cells.store_depths(normalised)
    assert full != less and full == cells.store_depths(adata) and len(list(tmp_path.rglob("*.npz"))) == 3
    cells.read_depths.cache_clear()
    found, uncounted = cells.read_depths(full), cells.read_depths(less)
    np.testing.assert_array_equal(found.total, adata.obs["n_counts"])
    np.testing.assert_array_equal(found.detected, adata.obs["detected_genes"])
    assert (found.equal != adata.layers["equal_depth"]).nnz == 0 and found.equal.shape == adata.shape
    assert uncounted.total is None and uncounted.equal is None and np.array_equal(uncounted.detected, found.detected)
    [path] = tmp_path.rglob(f"*{full}.npz")
    path.write_bytes(path.read_bytes()[:100])
    cells.read_depths.cache_clear()
    with pytest.raises(DataError, match=f"{full}.*damaged.*Load the profile again"):
        cells.read_depths(full)


def test_selecting_cells_and_genes_keeps_their_depth(raw):
    """Total, detected genes and equal depth are those of all measured genes, taken before the selection."""
    split = {"test_size": 0.2, "seed": 2022}
    whole = selection.prepared(PREPARED)
    some = selection.prepared(PREPARED | {"max_cells": 400, "variable_genes": 100, "min_cells_per_type": 20}, split)
    assert some.shape == (some.n_obs, 100) and some.n_obs <= 400
    for name in ("total_counts", "detected_genes"):
        np.testing.assert_array_equal(some.obs[name], whole.obs.loc[some.obs_names, name])
    assert (some.layers["equal_depth"] != whole[some.obs_names, some.var_names].layers["equal_depth"]).nnz == 0
    assert some.uns["alignment"]["equal_depth"] == whole.uns["alignment"]["equal_depth"] == raw.obs["n_counts"].min()
