"""The splits: scikit-learn's and NumPy's own draws, and refusals."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from lib.errors import DataError
from lib.prepare.splits import few_shot, holdout


@pytest.mark.parametrize("test_size, seed", [(0.2, 2022), (0.3, 5)])
def test_holdout_is_stratified_shuffle_split(cells, test_size, seed):
    """Exactly scikit-learn's split, in its order, whatever holds the labels."""
    labels = cells.obs["cell_type"]
    reference = StratifiedShuffleSplit(n_splits=1, test_size=test_size, random_state=seed)
    expected = next(reference.split(np.zeros(len(labels)), labels))
    for kind in (labels, labels.to_numpy(), labels.cat.codes.to_numpy(), list(labels)):
        for got, wanted in zip(holdout(kind, test_size, seed), expected):
            np.testing.assert_array_equal(got, wanted)


def test_holdout_default_is_the_papers(cells):
    """By default 20 % and seed 2022; every cell on one side, every type on both."""
    labels = cells.obs["cell_type"].to_numpy()
    train, test = holdout(labels)
    np.testing.assert_array_equal(test, holdout(labels, 0.2, 2022)[1])
    assert len(test) == 140 and sorted([*train, *test]) == list(range(700))
    assert set(labels[train]) == set(labels[test]) == set(labels)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.75, 1])
@pytest.mark.parametrize("seed", [0, 1, 19])
def test_few_shot_is_the_papers_draw(fraction, seed):
    """Exactly np.random.seed(k); np.random.choice(…), and NumPy's global state is left as it was."""
    train = np.random.RandomState(7).permutation(997)
    before = np.random.get_state()
    subset = few_shot(train, fraction, seed)
    after = np.random.get_state()
    assert before[2:] == after[2:] and np.array_equal(before[1], after[1])
    np.random.seed(seed)
    np.testing.assert_array_equal(subset, np.random.choice(train, round(fraction * len(train)), replace=False))


def test_few_shot_is_a_subset():
    """No cell twice, none from outside, the rounded number; another seed gives another subset."""
    train = np.arange(100, 150)
    subset = few_shot(train, 0.25, 3)
    assert len(subset) == len(set(subset)) == 12 and set(subset) <= set(train)
    assert set(subset) != set(few_shot(train, 0.25, 4))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 1.5, float("nan")])
def test_few_shot_refuses_no_fraction(fraction):
    """A fraction outside (0, 1] is refused and named."""
    with pytest.raises(DataError, match=f"{fraction}.*0, 1"):
        few_shot(np.arange(10), fraction, 0)
    with pytest.raises(DataError, match="no cell at all"):
        few_shot(np.arange(9), 0.01, 0)


@pytest.mark.parametrize(
    "labels, message",
    [
        (["B"] * 30, "'B'.*two classes"),
        (["B"] * 30 + ["T"] * 20 + ["NK"], r"NK \(1\).*Merge or drop"),
        ([], "no labels"),
        ([0, 0, 1, 1, 2, 2], "6 cells are too few.*3 classes"),
        (["a", "b", float("nan")] * 9, "9 of 27 labels are missing"),
    ],
    ids=["one class", "one cell of a class", "no labels", "fewer test cells than classes", "missing labels"],
)
def test_holdout_refuses(labels, message):
    """Labels that cannot be split are refused, with the class and what to do."""
    with pytest.raises(DataError, match=message):
        holdout(labels)
