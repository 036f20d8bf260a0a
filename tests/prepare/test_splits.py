"""The splits: scikit-learn's and NumPy's own draws, and refusals."""

import itertools

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from lib.errors import DataError
from lib.prepare.splits import apart, draw, few_shot, holdout


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


def donors(seed):
    """Labels and donors of made cells: few or many donors, of very different sizes, types that not every donor has."""
    rng = np.random.RandomState(seed)
    n_groups, n_types = rng.randint(2, 9), rng.randint(2, 7)
    has = rng.rand(n_groups, n_types) < rng.uniform(0.3, 0.9)
    has[rng.randint(n_groups, size=n_types), np.arange(n_types)] = True
    has[np.arange(n_groups), rng.randint(n_types, size=n_groups)] = True
    sizes = has * rng.randint(1, 40, size=has.shape)
    of = np.repeat(np.arange(sizes.size), sizes.ravel())
    order = rng.permutation(len(of))
    return (of % n_types)[order], np.char.add("donor ", (of // n_types).astype(str))[order]


def on_both(labels, held):
    return len(set(labels[held]) & set(labels[~held]))


@pytest.mark.parametrize("seed", range(60))
def test_no_group_on_two_sides_and_every_type_that_can_be_on_both(seed):
    """Beside all divisions of the groups that there are: none has more types on both sides."""
    labels, groups = donors(seed)
    kinds = np.unique(groups)
    train, test = holdout(labels, 0.2, seed, group="donor", groups=groups)
    assert sorted([*train, *test]) == list(range(len(labels))) and not set(groups[train]) & set(groups[test])
    divisions = (np.isin(groups, kinds[list(chosen)]) for chosen in itertools.product([False, True], repeat=len(kinds)))
    most = max(on_both(labels, held) for held in divisions)
    assert on_both(labels, np.isin(np.arange(len(labels)), test)) == most
    again = holdout(labels, 0.2, seed, groups=groups)
    assert np.array_equal(train, again[0]) and np.array_equal(test, again[1])


@pytest.mark.parametrize("n_groups", [2, 5, 12, 13, 60, 400])
def test_groups_held_out_are_about_a_fifth(n_groups):
    """Where groups are alike: as near to a fifth as they allow, of every type too; another seed holds out others."""
    rng = np.random.RandomState(n_groups)
    labels, groups = rng.randint(0, 5, 2000), np.arange(2000) % n_groups
    sides = [holdout(labels, 0.2, seed, groups=groups) for seed in range(6)]
    for train, test in sides:
        assert not set(groups[train]) & set(groups[test]) and set(labels[train]) == set(labels[test]) == set(range(5))
        assert abs(len(test) / 2000 - 0.2) <= (0.31 if n_groups == 2 else 0.025 + 0.5 / n_groups)
    assert len({tuple(sorted(set(groups[test]))) for _, test in sides}) > 1


def test_every_type_is_learnt_before_any_is_asked():
    """For the cells that choose when training ends: no type may be taken away from those that are learnt from."""
    labels, groups = np.repeat([0, 1, 1, 2, 2], 10), np.repeat(list("abcde"), 10)
    for seed in range(10):
        held = apart(labels, groups, 0.2, seed, learn_all=True)
        assert set(labels[~held]) == {0, 1, 2} and 10 <= held.sum() <= 20


@pytest.mark.parametrize(
    "arguments, message",
    [({"groups": ["a"] * 20}, "All 20 cells are of one group .'a'"), ({"group": "donor"}, "keeps 'donor' apart.*without it")],
)
def test_holdout_refuses_groups(arguments, message):
    """One group alone, or a split that names a group whose values are not there: never another split without a word."""
    with pytest.raises(DataError, match=message):
        holdout([0, 1] * 10, **arguments)


@pytest.mark.parametrize("number", [50, 60, 100, 333, 480, 500])
def test_draw_keeps_some_of_every_type(number):
    """Ten of each type, or all it has, and otherwise in proportion; the number asked for, if that is enough."""
    counts = np.array([4, 12, 30, 154, 300])
    labels = np.random.RandomState(1).permutation(np.repeat(list("abcde"), counts))
    drawn = draw(labels, number, 10)
    found = np.array([np.sum(labels[drawn] == kind) for kind in "abcde"])
    assert len(set(drawn)) == len(drawn) == found.sum() == max(number, 44) and np.all(drawn[:-1] < drawn[1:])
    assert np.all(found >= np.minimum(counts, 10)) and np.all(found <= counts)
    free = found > 10
    thinned = found[free].sum() / counts[free].sum() if free.any() else 0
    assert np.all(np.abs(found[free] - thinned * counts[free]) <= 1) and np.array_equal(drawn, draw(labels, number, 10))


def test_draw_keeps_every_group_of_a_type():
    """Within a type, each group its share, and a cell at least: else a type could lose the donor that it would be asked of."""
    labels, groups = np.repeat(["a", "b"], 500), np.tile(np.repeat(["x", "y", "z"], [470, 20, 10]), 2)
    drawn = draw(labels, 100, 10, groups)
    assert len(drawn) == 100
    for kind in "ab":
        found = [np.sum((labels[drawn] == kind) & (groups[drawn] == group)) for group in "xyz"]
        assert sum(found) == 50 and found[0] >= 46 and found[1] >= 1 and found[2] >= 1
