"""Gene names and labels: what is refused, with which remedy, and what is taken."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue, checks
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
    "no such label column": (
        written(lambda a: a),
        {"label": "type"},
        [FILE, "'type'", "mean 'cell_type'?", "-p label cell_type"],
    ),
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
    "no cell has a label": (
        with_labels(lambda y: y.map({"B": "Unknown", "T": "n/a"})),
        {},
        ["No cell of", FILE, "'cell_type'", "n/a (20)", "Unknown (20)", "Name another column"],
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
        [FILE, "'score'", "60 different", "a measurement", "could be: type (2: B, …)."],
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


@pytest.mark.parametrize(
    "word", [None, "", "  ", "nan", "NA", "None", "Unknown", "UNASSIGNED", "low-quality cells", "B/T doublet", "-"]
)
@pytest.mark.parametrize("kind", ["text", "category"])
def test_labels_that_mean_none_are_no_labels(tmp_path, word, kind):
    """A cell so labelled has no type, and the card counts it; the others keep theirs."""
    change = with_labels(
        lambda y: y.where(~y.index.isin(["c5", "c7", "c8"]), word).astype("category" if kind == "category" else object)
    )
    change(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert list(adata.obs_names[adata.obs["cell_type"].isna()]) == ["c5", "c7", "c8"]
    assert list(adata.obs["cell_type"].cat.categories) == ["B", "T"]
    assert adata.uns["dataset"]["no_label"] == {(word or "").strip() or "(missing)": 3}


def test_numbers_with_gaps(tmp_path):
    """Clusters by number of which some are missing are written as floats; they are text without a decimal, gaps are gaps."""
    with_labels(lambda y: np.where(np.arange(CELLS) < 6, np.nan, np.arange(CELLS) % 3))(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert list(adata.obs["cell_type"].cat.categories) == ["0", "1", "2"] and adata.uns["dataset"]["no_label"] == {
        "(missing)": 6
    }


NONE = ["unknown", "Unknown_12", "Not assigned", "Doublets T-B", "multiplet", "?", "unassigned cells", "N/A"]
TYPES = ["Other", "Mixed", "Unknown T", "NK", "0", "dead end", "Naive", "单核细胞", "None-T", "empty vesicle"]


@pytest.mark.parametrize("name, none", [(name, True) for name in NONE] + [(name, False) for name in TYPES])
def test_what_means_none(name, none):
    """Whole labels, whatever their capitals and signs; a word in a real name does not make it none."""
    assert checks.means_none(name) is none


def test_labels_that_look_like_one(tmp_path):
    """Blanks around a label do not count, and that is said; capitals, blanks and signs within do, and are named."""
    with_labels(lambda y: y.where(y.index != "c3", "T ").where(y.index != "c5", "t").where(y != "B", "B cell"))(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert adata.uns["dataset"]["joined"] == [["T", "T "]] and list(adata.obs["cell_type"].cat.categories) == [
        "B cell",
        "T",
        "t",
    ]
    assert checks.alike(["B cell", "T", "t", "b_cell", "B1", "B  cell"]) == [["B cell", "b_cell", "B  cell"], ["T", "t"]]
