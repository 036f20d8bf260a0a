"""Gene names and labels: what is refused, with which remedy, and what is taken."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue
from tests.making import CELLS, FILE, GENES, MARKERS, VOCABULARY, refused, with_genes, with_labels, written


def transposed(rows, columns):
    """Genes × cells: the names of genes in obs."""

    def change(a):
        x = sp.csr_matrix(a.X.T)
        return anndata.AnnData(
            x, obs=pd.DataFrame(index=[rows(i) for i in range(GENES)]), var=a.obs.set_axis([columns(i) for i in range(CELLS)])
        )

    return written(change)


def barcode(i):
    return "".join("ACGT"[i // 4**k % 4] for k in range(12)) + "-1"


BAD = {
    # what is wrong: (how the file is made, arguments of through(), words of the message: what, where, what to do)
    "one class": (with_labels(lambda y: "B"), {}, ["All 40 cells", "'B'", "two classes"]),
    "class too small": (with_labels(lambda y: y.where(y.index != "c5", "NK")), {}, ["NK (1)", "Merge or drop"]),
    "no such label column": (written(lambda a: a), {"label": "type"}, [FILE, "'type'", "cell_type, donor", "Name"]),
    "labels missing": (with_labels(lambda y: y.where(y.index != "c7")), {}, [FILE, "1 of 40", "'cell_type'", "'c7'", "Drop"]),
    "labels blank": (with_labels(lambda y: y.where(y.index != "c9", "  ")), {}, [FILE, "1 of 40", "'c9'", "Drop"]),
    "genes duplicated": (with_genes(lambda i: f"GENE{i % 28}A"), {}, [FILE, "2 gene", "GENE0A, GENE1A", "keep one"]),
    "numeric gene names": (with_genes(str), {}, [FILE, "numbers", "'0'", "symbols"]),
    "transposed, barcodes": (
        transposed(lambda i: f"GENE{i}A", barcode),
        {},
        [FILE, "transposed", "barcodes", barcode(0), "adata.T"],
    ),
    "transposed, Ensembl ids": (
        transposed(lambda i: f"ENSG{i:011d}", lambda i: f"c{i}"),
        {},
        [FILE, "transposed", "Ensembl", "adata.T"],
    ),
    "transposed, symbols": (transposed(lambda i: MARKERS[i], lambda i: f"c{i}"), {}, [FILE, "transposed", "symbols", "'ACTB'"]),
    "transposed, by the vocabulary": (
        written(
            lambda a: anndata.AnnData(
                sp.csr_matrix(a.X[:GENES, :].T),
                obs=a.obs[:GENES].set_axis(a.var_names),
                var=pd.DataFrame(index=a.obs_names[:GENES]),
            )
        ),
        {"genes": VOCABULARY},
        [FILE, "transposed", "'GENE0A'", "adata.T"],
    ),
    "transposed, by the label": (
        transposed(lambda i: f"x{i}", lambda i: f"c{i}"),
        {"label": "cell_type"},
        [FILE, "'cell_type'", "column of var", "adata.T"],
    ),
    "mouse genes": (
        with_genes(lambda i: MARKERS[i].capitalize()),
        {"genes": MARKERS},
        [FILE, "0% of", "100%", "mouse", "'Actb'", "orthologs"],
    ),
    "genes in small letters": (
        with_genes(lambda i: MARKERS[i].lower()),
        {"genes": MARKERS},
        [FILE, "case", "'actb'", "str.upper()"],
    ),
    "labels that say nan": (with_labels(lambda y: y.where(y.index != "c7", "nan")), {}, ["1 of 40", "'c7'", "'nan'", "Drop"]),
    "labels that say NA": (with_labels(lambda y: y.where(y > "B", "NA")), {}, ["20 of 40", "'cell_type'", "'NA'", "Drop"]),
    "labels that say None": (with_labels(lambda y: y.where(y > "B", "None")), {}, [FILE, "20 of 40", "'None'"]),
    "labels missing in a category": (
        with_labels(lambda y: y.where(y.index != "c2").astype("category")),
        {},
        [FILE, "1 of 40", "'c2'", "Drop"],
    ),
    "a class for each cell": (
        with_labels(lambda y: y.index),
        {},
        [FILE, "'cell_type'", "40 different", "an identifier", "label column right"],
    ),
    "10,000 classes": (
        lambda p: anndata.AnnData(
            sp.csr_matrix(np.ones((19_999, 3), np.float32)),
            var=pd.DataFrame(index=list("ABC")),
            obs=pd.DataFrame({"clone": [f"k{i % 10_000}" for i in range(19_999)]}, index=[f"c{i}" for i in range(19_999)]),
        ).write_h5ad(p),
        {"label": "clone"},
        [FILE, "'clone'", "10,000 different values for 19,999 cells", "not a cell type"],
    ),
    "a measurement": (
        lambda p: anndata.AnnData(
            sp.csr_matrix(np.ones((300, 3), np.float32)),
            var=pd.DataFrame(index=list("ABC")),
            obs=pd.DataFrame({"score": np.arange(300) % 60 / 7, "type": ["B", "T"] * 150}, index=[f"c{i}" for i in range(300)]),
        ).write_h5ad(p),
        {"label": "score"},
        [FILE, "'score'", "60 different", "a measurement", "2 to 100 values: score, type"],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(tmp_path, case):
    """DataError, whose message names what is wrong, the file or cell or gene, and the remedy."""
    refused(tmp_path, *BAD[case])


@pytest.mark.parametrize(
    "values, names",
    [
        (np.arange(CELLS) % 3, ["0", "1", "2"]),
        (np.arange(CELLS) % 3 + 9.0, ["10", "11", "9"]),
        (np.arange(CELLS) % 2 / 2, ["0.0", "0.5"]),
        (np.arange(CELLS) % 2 == 0, ["False", "True"]),
        (pd.Categorical(np.arange(CELLS) % 3 + 1.0), ["1", "2", "3"]),
    ],
    ids=["int", "whole floats", "fractions", "bool", "category of floats"],
)
def test_numeric_labels_are_text(tmp_path, values, names):
    """Clusters by number are cell types like others."""
    with_labels(lambda y: values)(tmp_path / FILE)
    labels = catalogue.load(tmp_path / FILE).obs["cell_type"]
    assert list(labels.cat.categories) == names
    assert [float(a) for a in labels] == [float(b) for b in values] if names[0] != "False" else set(labels) == set(names)
