"""Which cells a model learns from and which it is judged on: one artefact, shared by every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from lib.errors import DataError


def holdout(
    labels: Sequence, test_size: float = 0.2, seed: int = 2022, group: str | None = None, groups: Sequence | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's split: one stratified shuffle, 20 % of the cells held out; or whole groups of cells, such as donors.

    Parameters
    ----------
    labels : sequence, (cells,)
    test_size : float
    seed : int
    group : str, optional
        What ``groups`` are, as a profile's split names it (a column of ``obs``); for refusals.
    groups : sequence, (cells,), optional
        The group of each cell, none of which then has cells on both sides; see :func:`apart`.

    Returns
    -------
    train, test : int arrays
        Indices in the order in which they are drawn (without groups: by scikit-learn); :func:`few_shot` depends on that order.

    Raises
    ------
    DataError
        One class only, or a class with too few cells to stand on both sides; one group only, or ``group`` without ``groups``.
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
    if groups is not None or group is not None:
        if groups is None:
            raise DataError(f"The split keeps {group!r} apart, but the cells came without it. Prepare them with this split.")
        held_out = apart(labels, groups, test_size, seed)
        order = np.random.RandomState(seed).permutation(len(labels))
        return order[~held_out[order]], order[held_out[order]]
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


def apart(labels: Sequence, groups: Sequence, share: float, seed: int, learn_all: bool = False) -> np.ndarray:
    """Hold out whole groups: as many classes on both sides as can be, then about ``share`` of all cells and of each class.

    Up to twelve groups every division is looked at, so that none has more classes on both sides; beyond, divisions drawn at
    random are improved, one group at a time. Of those that are about as good as the best, the seed takes one.

    Parameters
    ----------
    labels, groups : sequence, (cells,)
    share : float
        Of the cells, to be held out.
    learn_all : bool
        Above all, no class may be held out as a whole.

    Returns
    -------
    bool array, (cells,)
        Whether a cell is held out.

    Raises
    ------
    DataError
        There is one group only.
    """
    kinds, of = np.unique(groups, return_inverse=True)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(kinds) < 2:
        raise DataError(
            f"All {len(of)} cells are of one group ({str(kinds[0])!r}): two at least are needed to keep them apart."
        )
    counts = np.zeros((len(kinds), len(classes)))
    np.add.at(counts, (of, codes), 1)
    total, rng = counts.sum(0), np.random.RandomState(seed)

    def score(held_out):  # bool (divisions, groups) -> what is better is larger
        held = held_out @ counts  # (divisions, classes)
        both, learnt = ((held > 0) & (held < total)).sum(1), (held < total).sum(1)
        miss = np.abs(held.sum(1) / total.sum() - share) + np.abs(held / total - share).mean(1)  # below 2
        return (learnt if learn_all else 0) * 2.0 * (len(total) + 1) + 2 * both - miss

    if len(kinds) <= 12:
        divisions = np.arange(1, 2 ** len(kinds) - 1)[:, None] >> np.arange(len(kinds)) & 1 == 1
    else:
        divisions = np.array([_improved(counts.sum(1), share, score, rng) for _ in range(20)])
    scores = score(divisions)
    return divisions[rng.choice(np.flatnonzero(scores >= scores.max() - 0.05))][of]


def _improved(sizes, share, score, rng):
    """A division drawn at random, then changed one group at a time for as long as that makes it better."""
    order, now = rng.permutation(len(sizes)), np.zeros(len(sizes), bool)
    now[order[: 1 + np.searchsorted(np.cumsum(sizes[order]), share * sizes.sum())]] = True
    for _ in range(200):
        others = now ^ np.eye(len(now), dtype=bool)
        others = others[others.any(1) & ~others.all(1)]
        scores = score(others)
        if scores.max() <= score(now[None])[0]:
            break
        now = others[scores.argmax()]
    return now


def draw(labels: Sequence, number: int, least: int, groups: Sequence | None = None, seed: int = 0) -> np.ndarray:
    """Cells drawn at random in the proportion of their types, but ``least`` of each type, or all that there are.

    Parameters
    ----------
    labels : sequence, (cells,)
    number : int
        Of cells; more are drawn where ``least`` of each type are more.
    groups : sequence, (cells,), optional
        Within a type, each group keeps its share, and a cell at least where there is room.

    Returns
    -------
    int array
        Indices, in order.
    """
    order, kept = np.random.RandomState(seed).permutation(len(labels)), []
    types = _parted(order, labels)
    for cells, share in zip(types, _shares([len(cells) for cells in types], number, least)):
        parts = [cells] if groups is None else _parted(cells, groups)
        within = _shares([len(part) for part in parts], share, 1 if len(parts) <= share else 0)
        kept += [part[:size] for part, size in zip(parts, within)]
    return np.sort(np.concatenate(kept))


def _parted(cells, by):
    """Cells in the order they have, by what they are."""
    kinds = np.asarray(by)[cells]
    return [cells[kinds == kind] for kind in np.unique(kinds)]


def _shares(counts, number, least):
    """How many of each: ``number`` in all, in proportion to ``counts``, none below ``least`` or its count."""
    counts = np.asarray(counts)
    floor = np.minimum(counts, least)
    if number <= floor.sum():
        return floor
    low, high = 0.0, 1.0  # the factor by which all are thinned, those at their floor excepted
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(floor, middle * counts).sum() < number else (low, middle)
    wanted = np.maximum(floor, high * counts)
    found = np.floor(wanted + 1e-9).astype(int)
    rest = np.argsort(found - wanted, kind="stable")[: max(0, min(number, counts.sum()) - found.sum())]
    found[rest] += 1
    return found


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
        global state. One draw without strata, as in the paper: rare types may be absent. Where whole groups are held out,
        ``train`` has none of them, and neither has a subset.

    >>> few_shot(np.arange(8), 0.5, seed=0)
    array([6, 2, 1, 7])
    """
    if not 0 < fraction <= 1:
        raise DataError(f"fraction is {fraction}: it must lie in (0, 1].")
    train = np.asarray(train)
    if round(fraction * len(train)) == 0:
        raise DataError(f"A fraction of {fraction} of {len(train)} training cells is no cell at all.")
    return np.random.RandomState(seed).choice(train, round(fraction * len(train)), replace=False)
