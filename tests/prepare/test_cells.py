"""A profile's cells: what is selected, stored and read."""

import anndata
import numpy as np
import pytest
import scanpy
import scipy.sparse as sp

from lib.datasets import catalogue, downloads
from lib.errors import DataError
from lib.prepare import cells, preprocess, splits


@pytest.mark.slow
def test_variable_genes_are_chosen_on_training_cells_alone(raw):
    """Changing the test cells' values changes no gene that is chosen; scanpy chooses the same on the training cells."""
    split = {"test_size": 0.2, "seed": 2022}
    prepared = preprocess.prepare(raw, min_genes=0, library_size="n_counts")
    train, test = splits.holdout(prepared.obs["cell_type"].cat.codes.to_numpy(np.int64), **split)
    chosen = cells._most_variable(prepared, 100, split)
    changed = prepared.copy()
    dense = changed.X.toarray()
    dense[test] = dense[test][:, ::-1]
    changed.X = sp.csr_matrix(dense)
    assert chosen.n_vars == 100 and list(cells._most_variable(changed, 100, split).var_names) == list(chosen.var_names)
    natural = anndata.AnnData(prepared.X[train] * np.log(2), var=prepared.var.copy())
    scanpy.pp.highly_variable_genes(natural, n_top_genes=100)
    assert list(natural.var_names[natural.var["highly_variable"]]) == list(chosen.var_names)
    assert (prepared[:, chosen.var_names].X != chosen.X).nnz == 0
    with pytest.raises(DataError, match="variable_genes is 1000"):
        cells._most_variable(prepared, 1000, split)


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
