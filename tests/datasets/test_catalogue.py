"""Loading by name or path: the contract's form, labels found by themselves, names that are unknown."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue
from lib.errors import DataError
from tests.making import FILE, VOCABULARY, refused, through, with_x, written


def test_an_unknown_name_is_refused(tmp_path):
    """Neither a data set nor a file: both are said, with the names there are."""
    refused(tmp_path, lambda path: None, {}, [FILE, "no file", "pbmc68k_reduced"])


def test_good_input_is_taken(tmp_path):
    """The file all these are made from goes through, dense or sparse, with any of its columns as the label."""
    path = tmp_path / FILE
    written(lambda a: a)(path)
    train, test = through(path, genes=VOCABULARY)
    assert (len(train), len(test)) == (32, 8)
    sparse = catalogue.load(path)
    with_x(lambda x: x)(path)
    dense = catalogue.load(str(path), label="cell_type")
    for adata in (sparse, dense):
        assert sp.isspmatrix_csr(adata.X) and adata.X.dtype == np.float32 and adata.uns["dataset"]["values"] == "counts"
        assert list(adata.obs["cell_type"].cat.categories) == ["B", "T"]
    assert (sparse.X != dense.X).nnz == 0
    assert list(catalogue.load(path, label="donor").obs["cell_type"].unique()) == ["d1"]


def test_a_path_that_cannot_be_one():
    with pytest.raises(DataError, match="no data set named 'x{300}' and no file at that path"):
        catalogue.load("x" * 5000)


def test_unlabelled_input_is_taken_without_a_label(tmp_path):
    """A file without a label column loads unlabelled; ``celltype``, the authors' name, is found by itself."""
    path = tmp_path / FILE
    written(lambda a: anndata.AnnData(a.X, obs=a.obs[["donor"]], var=a.var))(path)
    assert "cell_type" not in catalogue.load(path).obs
    written(lambda a: anndata.AnnData(a.X, obs=a.obs.rename(columns={"cell_type": "celltype"}), var=a.var))(path)
    assert list(catalogue.load(path).obs["cell_type"].cat.categories) == ["B", "T"]
