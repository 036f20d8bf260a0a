"""Counts or logarithms, told from the values: what is recognised, and what is refused."""

import numpy as np
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue
from lib.datasets.scale import value_scale
from tests.making import (
    CELLS,
    FILE,
    GENES,
    clipped,
    good,
    half,
    logs,
    random_fractions,
    refused,
    standardised,
    with_value,
    with_x,
)

BAD = {
    # what is wrong: (how the file is made, arguments of through(), words of the message: what, where, what to do)
    "NaN": (with_value(np.nan), {}, [FILE, "1 values", "nan", "'c3'", "'GENE4A'", "raw counts"]),
    "infinite": (with_value(np.inf), {}, [FILE, "1 values", "inf", "'c3'", "'GENE4A'", "raw counts"]),
    "negative": (with_value(-2), {}, [FILE, "1 values", "-2", "'c3'", "'GENE4A'", "raw counts"]),
    "random fractions": (with_x(random_fractions), {}, [FILE, "neither counts nor log", "raw counts"]),
    "scaled": (with_x(standardised), {}, [FILE, "negative", "scaled", "raw counts"]),
    "scaled and clipped": (with_x(clipped), {}, [FILE, "neither counts nor log", "raw counts"]),
    "all zeros": (with_x(np.zeros_like), {}, [FILE, "zero", "layer"]),
    "negative whole numbers, as floats": (with_value(-32768), {}, [FILE, "-32768", "overflowed", "subtraction"]),
    "two bases of logarithms": (
        with_x(half(logs, lambda x: logs(x, 2))),
        {},
        [FILE, "different scales", "50% are ln", "50% log2", "one scale"],
    ),
    "a tenth of the cells on another base": (
        with_x(lambda x: np.where((np.arange(CELLS) % 10 == 3)[:, None], logs(x, 2), logs(x))),
        {},
        [FILE, "different scales", "4 of 40 cells have another sum", "(c3, c13, c23, c33)", "Were files joined"],
    ),
    "counts and logarithms": (
        with_x(half(lambda x: x, logs)),
        {},
        [FILE, "different scales", "50% are ln", "50% counts", "one scale"],
    ),
    "counts and values of no known scale": (
        with_x(lambda x: np.where((np.arange(CELLS) % 4 == 3)[:, None], random_fractions(x), x)),
        {},
        [FILE, "neither counts nor log", "whole numbers", "raw counts"],
    ),
    "corrected throughout": (
        with_x(lambda x: x * np.random.default_rng(2).uniform(0.5, 1, x.shape)),
        {},
        [FILE, "neither counts nor log", "decontX"],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(tmp_path, case):
    """DataError, whose message names what is wrong, the file or cell or gene, and the remedy."""
    refused(tmp_path, *BAD[case])


@pytest.mark.parametrize("scale, base", [("counts", None), ("ln", np.e), ("log2", 2), ("log10", 10)])
def test_the_scale_of_cells_with_few_molecules(raw, scale, base):
    """Rare genes of real cells, most values one molecule, on each scale: single molecules alone tell nothing."""
    rare = np.asarray((raw.X > 0).mean(0)).ravel() < 0.15
    total = raw.obs["n_counts"].to_numpy(np.float64)
    singles = np.asarray((raw.X[:, rare] == 1).sum(1)).ravel()
    chosen = (singles >= 5) & (total < 8000)  # a molecule is 4 to 14: taken for a logarithm, two are many times one
    x = sp.csr_matrix(raw.X[chosen][:, rare], dtype=np.float64)
    x.data[x.data > 2] = 2
    x.data *= np.repeat(3e4 / total[chosen], np.diff(x.indptr))
    x.data = x.data if base is None else np.log1p(x.data) / np.log(base)
    assert value_scale(x.astype(np.float32)) == scale


def test_counts_with_fractions_are_taken_and_said(tmp_path):
    """As of RSEM, which shares reads among genes: most are whole, and all are used as they are."""
    share = np.where(np.random.default_rng(1).random((CELLS, GENES)) < 0.2, 0.37, 1)
    with_x(lambda x: x * share)(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert np.allclose(adata.X.toarray(), good().X.toarray() * share)
    assert (
        adata.uns["dataset"]["values"] == "counts"
        and "of them with fractions, used as they are" in adata.uns["dataset"]["matrix"]
    )
