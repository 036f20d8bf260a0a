"""Which cells a model learns from and which it is judged on: one artefact, shared by every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from lib.errors import DataError


def holdout(labels: Sequence, test_size: float = 0.2, seed: int = 2022) -> tuple[np.ndarray, np.ndarray]:
    """The paper's split: one stratified shuffle, 20 % of the cells held out.

    Parameters
    ----------
    labels : sequence, (cells,)
    test_size : float
    seed : int

    Returns
    -------
    train, test : int arrays
        Indices in the order in which scikit-learn draws them; :func:`few_shot` depends on that order.

    Raises
    ------
    DataError
        One class only, or a class with too few cells to stand on both sides.
    """
    missing = np.array([label is None or label != label for label in labels], bool)
    if missing.any():
        raise DataError(f"{missing.sum()} of {len(labels)} labels are missing, first that of cell {missing.argmax()}.")
    labels = np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(
            f"All {len(labels)} cells have the label {classes[0]!r}: two classes at least are needed."
            if len(classes)
            else "There are no labels: load the data with a label column."
        )
    if counts.min() < 2:
        small = [f"{name} ({count})" for name, count in zip(classes, counts) if count < 2]
        raise DataError(f"Classes with too few cells to split: {', '.join(small)}. Merge or drop them; 2 are needed.")
    n_test = int(np.ceil(test_size * len(labels)))
    if min(n_test, len(labels) - n_test) < len(classes):
        raise DataError(
            f"{len(labels)} cells are too few to split {len(classes)} classes at test_size={test_size}: "
            "each side needs a cell of every class. Give more cells or merge classes."
        )
    split = StratifiedShuffleSplit(n_splits=1, test_size=test_size, random_state=seed)
    return next(split.split(np.zeros(len(labels)), labels))


def few_shot(train: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A random subset of the training cells, the same for every model.

    Parameters
    ----------
    train : int array
        Indices of the training cells, in the order of :func:`holdout`.
    fraction : float
        In (0, 1].
    seed : int

    Returns
    -------
    int array, (round(fraction · len(train)),)
        As ``np.random.seed(seed); np.random.choice(train, …, replace=False)`` draws it, without touching NumPy's
        global state. One draw without strata, as in the paper: rare types may be absent.

    >>> few_shot(np.arange(8), 0.5, seed=0)
    array([6, 2, 1, 7])
    """
    if not 0 < fraction <= 1:
        raise DataError(f"fraction is {fraction}: it must lie in (0, 1].")
    train = np.asarray(train)
    if round(fraction * len(train)) == 0:
        raise DataError(f"A fraction of {fraction} of {len(train)} training cells is no cell at all.")
    return np.random.RandomState(seed).choice(train, round(fraction * len(train)), replace=False)
